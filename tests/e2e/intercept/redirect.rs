//! Every way to open a TCP connection ends at the proxy, with the destination that was asked for.

use super::sandbox::{Agent, Sandbox, accept_within, local, table};
use std::net::TcpListener;
use std::time::Duration;

/// Long enough for a connection that should not come.
const NOTHING_COMES: Duration = Duration::from_millis(300);

#[test]
fn ipv4_arrives_with_destination_run_and_process() {
    let sandbox = Sandbox::new();
    let (origin, printed) = sandbox.origin_of(
        "
s = dial(('127.77.0.1', 5432))
print('pid', os.getpid())
print('cookie', struct.unpack('Q', s.getsockopt(socket.SOL_SOCKET, 57, 8))[0])
print('peer', '%s:%d' % s.getpeername())
",
    );
    let printed = table(&printed);
    assert_eq!(origin.destination.to_string(), "127.77.0.1:5432");
    assert_eq!(origin.run, sandbox.run);
    assert_eq!(origin.process.tgid.to_string(), printed["pid"]);
    assert_eq!(origin.process.uid, rustix::process::getuid().as_raw());
    assert_eq!(origin.process.gid, rustix::process::getgid().as_raw());
    assert_eq!(origin.process.comm, "python3");
    assert_eq!(origin.socket_cookie.to_string(), printed["cookie"]);
    assert_eq!((origin.cgroup, origin.governed_by), (sandbox.cgroup.id(), sandbox.cgroup.id()));
    assert!(origin.since_boot > Duration::ZERO && origin.netns_cookie != 0);
    assert_eq!(printed["peer"], "127.77.0.1:5432", "the client sees the address it dialled");
}

#[test]
fn ipv6_arrives_even_from_ipv6_only_sockets() {
    let sandbox = Sandbox::new();
    for v6_only in [0, 1] {
        let agent = sandbox.spawn(&format!(
            "
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, {v6_only})
s.connect(('::1', 5432))
print('peer', '%s:%d' % s.getpeername()[:2])
"
        ));
        let (_stream, origin) = sandbox.accept_v6();
        assert_eq!(origin.expect("origin").destination.to_string(), "[::1]:5432");
        assert_eq!(agent.finish(), "peer ::1:5432");
    }
}

#[test]
fn ipv6_goes_to_an_ipv4_listener_when_there_is_no_other() {
    let sandbox = Sandbox::with(|settings| settings.proxy_v6 = None);
    let (origin, printed) = sandbox.origin_of(
        "
s = dial(('::1', 5432))
print('peer', '%s:%d' % s.getpeername()[:2])
only = socket.socket(socket.AF_INET6)
only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
print('only', errno_of(only.connect, ('::1', 5432)))
",
    );
    assert_eq!(origin.destination.to_string(), "[::1]:5432");
    assert_eq!(printed, "peer ::1:5432\nonly ENETUNREACH");
}

#[test]
fn mapped_ipv4_is_ipv4() {
    let sandbox = Sandbox::new();
    let (origin, printed) = sandbox.origin_of(
        "
s = dial(('::ffff:127.77.0.2', 5433))
print('peer', '%s:%d' % s.getpeername()[:2])
",
    );
    assert_eq!(origin.destination.to_string(), "127.77.0.2:5433");
    assert_eq!(printed, "peer ::ffff:127.77.0.2:5433");
}

#[test]
fn the_unspecified_address_means_loopback() {
    let sandbox = Sandbox::new();
    let (origin, _) = sandbox.origin_of("dial(('0.0.0.0', 5432))");
    assert_eq!(origin.destination.to_string(), "127.0.0.1:5432");
    let _agent = sandbox.spawn("dial(('::', 5432))");
    assert_eq!(sandbox.accept_v6().1.expect("origin").destination.to_string(), "[::1]:5432");
}

#[test]
fn a_bound_source_address_and_non_blocking_connect_change_nothing() {
    let sandbox = Sandbox::new();
    let (origin, printed) = sandbox.origin_of(
        "
import select
s = socket.socket()
s.bind(('127.5.5.5', 0))
s.setblocking(False)
print('connect', errno_of(s.connect, ('127.77.0.3', 5432)))
select.select([], [s], [], 15)
print('error', s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
print('source', s.getsockname()[0])
",
    );
    assert_eq!(origin.destination.to_string(), "127.77.0.3:5432");
    assert_eq!(printed, "connect EINPROGRESS\nerror 0\nsource 127.5.5.5");
}

#[test]
fn a_thread_is_its_process() {
    let sandbox = Sandbox::new();
    let (origin, printed) = sandbox.origin_of(
        "
def work():
    dial(('127.77.0.4', 5432))
    print('tid', threading.get_native_id())
t = threading.Thread(target=work); t.start(); t.join()
print('pid', os.getpid())
",
    );
    let printed = table(&printed);
    assert_eq!(origin.tid.to_string(), printed["tid"]);
    assert_eq!(origin.process.tgid.to_string(), printed["pid"]);
    assert_ne!(origin.tid, origin.process.tgid);
}

#[test]
fn a_child_cgroup_made_later_is_governed() {
    let sandbox = Sandbox::new();
    let inner = sandbox.cgroup.child("inner");
    let innermost = inner.child("innermost");
    let agent = Agent::spawn(&innermost.path, "dial(('127.77.0.5', 5432))");
    let origin = sandbox.accept_v4().1.expect("origin");
    agent.finish();
    assert_eq!((origin.run, origin.governed_by), (sandbox.run, sandbox.cgroup.id()));
    assert_eq!(origin.cgroup, innermost.id());
}

#[test]
fn the_deepest_governed_cgroup_decides() {
    let sandbox = Sandbox::new();
    let inner = sandbox.cgroup.child("inner");
    let inner_run = portcullis::flow::RunId::generate();
    sandbox.kernel().govern(inner.id(), inner_run).expect("govern");
    let agent = Agent::spawn(&inner.path, "dial(('127.77.0.6', 5432))");
    assert_eq!(sandbox.accept_v4().1.expect("origin").run, inner_run);
    agent.finish();
}

#[test]
fn reconnecting_after_af_unspec_is_a_new_origin() {
    let sandbox = Sandbox::new();
    let mut agent = sandbox.spawn(
        "
s = dial(('127.77.0.7', 1111))
libc = ctypes.CDLL(None, use_errno=True)
unspec = struct.pack('HHI8x', socket.AF_UNSPEC, 0, 0)
assert libc.connect(s.fileno(), unspec, len(unspec)) == 0
s.connect(('127.77.0.8', 2222))
print('peer', '%s:%d' % s.getpeername())
sys.stdin.readline()
",
    );
    let first = sandbox.accept_v4().1.expect("origin");
    let second = sandbox.accept_v4().1.expect("origin");
    assert_eq!(first.destination.to_string(), "127.77.0.7:1111");
    assert_eq!(second.destination.to_string(), "127.77.0.8:2222");
    assert_eq!(first.socket_cookie, second.socket_cookie, "it was one socket");
    assert_eq!(agent.line(), "peer 127.77.0.8:2222");
    agent.go_on();
    agent.finish();
}

#[test]
fn a_socket_from_outside_is_governed_inside() {
    let sandbox = Sandbox::new();
    let script = format!(
        "
s = socket.socket()
move_to('{}')
s.connect(('127.77.0.9', 5432))
",
        sandbox.cgroup.path.display()
    );
    let agent = Agent::spawn(&sandbox.settings.cgroup_root, &script);
    let origin = sandbox.accept_v4().1.expect("origin");
    agent.finish();
    assert_eq!((origin.run, origin.destination.to_string()), (sandbox.run, "127.77.0.9:5432".into()));
}

#[test]
fn a_socket_from_inside_stays_governed_outside() {
    let sandbox = Sandbox::new();
    let direct = TcpListener::bind("127.77.0.10:0").expect("bind");
    let to = local(&direct);
    let script = format!(
        "
born_inside = socket.socket()
move_to('{}')
born_inside.settimeout(15)
born_inside.connect(('{}', {}))
dial(('{}', {}))
",
        sandbox.settings.cgroup_root.display(),
        to.ip(),
        to.port(),
        to.ip(),
        to.port()
    );
    let agent = sandbox.spawn(&script);
    let origin = sandbox.accept_v4().1.expect("origin");
    assert_eq!((origin.run, origin.destination.0), (sandbox.run, to));
    assert_ne!(origin.cgroup, sandbox.cgroup.id(), "the process itself was outside by then");
    // The second socket was made outside by a process outside: nothing of ours.
    accept_within(&direct, super::sandbox::PATIENCE).expect("the second connection is direct");
    agent.finish();
    assert!(accept_within(&direct, NOTHING_COMES).is_none(), "the first connection must not come as well");
}

#[test]
fn strangers_are_untouched() {
    let sandbox = Sandbox::new();
    let before = sandbox.kernel().counters().expect("counters");
    let direct = TcpListener::bind("127.77.0.11:0").expect("bind");
    let port = local(&direct).port();
    let script = format!(
        "
s = dial(('127.77.0.11', {port}))
print('peer', '%s:%d' % s.getpeername())
dial(('::ffff:127.77.0.11', {port}))
print('raw', errno_of(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print('udp', errno_of(u.sendto, b'x', ('127.77.0.11', 9)))
print('bind', errno_of(socket.socket().bind, ('0.0.0.0', 0)))
"
    );
    let agent = Agent::spawn(&sandbox.settings.cgroup_root, &script);
    accept_within(&direct, super::sandbox::PATIENCE).expect("direct");
    accept_within(&direct, super::sandbox::PATIENCE).expect("direct");
    let expected = format!("peer 127.77.0.11:{port}\nraw OK\nudp OK\nbind OK");
    assert_eq!(agent.finish(), expected);
    assert_eq!(sandbox.kernel().counters().expect("counters"), before);
}

#[test]
fn a_network_namespace_of_its_own_does_not_help() {
    let sandbox = Sandbox::new();
    // The redirect lands on that namespace's own loopback, where nobody listens.
    let printed = sandbox.run(
        "
assert ctypes.CDLL(None).unshare(0x40000000) == 0
import subprocess
subprocess.check_call(['ip', 'link', 'set', 'lo', 'up'])
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
print('own', errno_of(dial, server.getsockname()))
",
    );
    assert_eq!(printed, "own ECONNREFUSED");
}
