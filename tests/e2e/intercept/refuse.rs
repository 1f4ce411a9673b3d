//! What a governed process is refused, each with the error it sees and the counter that tells.

use super::sandbox::{Agent, Cgroup, Sandbox, table};
use portcullis::intercept::{Counters, OriginError};
use std::net::{TcpStream, UdpSocket};

fn counters(sandbox: &Sandbox) -> Counters {
    sandbox.kernel().counters().expect("counters")
}

/// Tries each kind of socket and prints one line per kind.
const MAKE_SOCKETS: &str = "
kinds = [
    ('raw icmp', socket.SOCK_RAW, 1), ('raw tcp', socket.SOCK_RAW, 6), ('raw', socket.SOCK_RAW, 255),
    ('ping', socket.SOCK_DGRAM, 1), ('udp-lite', socket.SOCK_DGRAM, 136),
    ('sctp', socket.SOCK_STREAM, 132), ('sctp-seq', socket.SOCK_SEQPACKET, 132), ('mptcp', socket.SOCK_STREAM, 262),
    ('tcp', socket.SOCK_STREAM, 0), ('udp', socket.SOCK_DGRAM, 0)]
for name, kind, protocol in kinds:
    print('v4', name, errno_of(socket.socket, socket.AF_INET, kind, protocol))
    v6_protocol = 58 if protocol == 1 else protocol
    print('v6', name, errno_of(socket.socket, socket.AF_INET6, kind, v6_protocol))
print('unix', errno_of(socket.socketpair))
";

#[test]
fn no_protocol_but_tcp_and_udp() {
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let inside = sandbox.run(MAKE_SOCKETS);
    let outside = Agent::spawn(&sandbox.settings.cgroup_root, MAKE_SOCKETS).finish();
    let (inside, outside) = (table(&inside), table(&outside));
    let allowed = ["v4 tcp", "v6 tcp", "v4 udp", "v6 udp", "unix"];
    let mut refused = 0;
    for (kind, outcome) in &inside {
        if allowed.contains(kind) {
            assert_eq!(*outcome, "OK", "{kind}");
        } else if outside[kind] == "OK" {
            assert_eq!(*outcome, "EPERM", "{kind}");
            refused += 1;
        } else {
            assert_ne!(*outcome, "OK", "{kind}");
        }
    }
    // Whatever this kernel lacks, it has these.
    for kind in ["v4 raw icmp", "v6 raw icmp", "v4 raw tcp", "v4 raw"] {
        assert_eq!(outside[kind], "OK", "{kind}");
    }
    assert_eq!(counters(&sandbox).protocol_refused - before.protocol_refused, refused);
}

#[test]
fn no_datagram_but_dns() {
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let port = sandbox.settings.proxy_v4.port();
    let printed = sandbox.run(&format!(
        "
v4 = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v6 = lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
print('send4', errno_of(v4().sendto, b'x', ('127.77.1.1', 443)))
print('send6', errno_of(v6().sendto, b'x', ('::1', 443)))
print('sendmapped', errno_of(v6().sendto, b'x', ('::ffff:127.77.1.1', 443)))
print('sendmsg', errno_of(v4().sendmsg, [b'x'], [], 0, ('127.77.1.1', 443)))
print('connect4', errno_of(v4().connect, ('127.77.1.1', 443)))
print('connect6', errno_of(v6().connect, ('::1', 443)))
print('connectmapped', errno_of(v6().connect, ('::ffff:127.77.1.1', 443)))
print('proxy', errno_of(v4().sendto, b'x', ('127.0.0.1', {port})))
"
    ));
    for (what, outcome) in table(&printed) {
        assert_eq!(outcome, "EPERM", "{what}");
    }
    assert_eq!(counters(&sandbox).datagram_refused - before.datagram_refused, 8);
    assert!(sandbox.nobody_asks());
}

#[test]
fn a_stranger_cannot_ask_the_proxy() {
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
    stranger.send_to(b"asked", sandbox.settings.proxy_v4).expect("send");
    let (asked, origin) = sandbox.answer_v4();
    assert!(asked == "asked" && matches!(origin, Err(OriginError::Missing)), "{origin:?}");
    assert_eq!(counters(&sandbox).question_unidentified - before.question_unidentified, 1);

    // What an agent asks in a network namespace of its own does not arrive, nor is it taken for a question of ours.
    let printed = sandbox.run(
        "
assert ctypes.CDLL(None).unshare(0x40000000) == 0
import subprocess
subprocess.check_call(['ip', 'link', 'set', 'lo', 'up'])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect(('192.0.2.53', 53))
s.send(b'asked')
print('answer', errno_of(s.recv, 9), s.getsockname()[1])
",
    );
    let (answer, port) = printed.rsplit_once(' ').expect("two words");
    assert_eq!(answer, "answer ECONNREFUSED");
    assert!(sandbox.nobody_asks());
    let from = format!("127.0.0.1:{port}").parse().expect("an address");
    let origin = sandbox.kernel().asker(from, u16::from_be_bytes(*b"as"));
    assert!(matches!(origin, Err(OriginError::Missing)), "{origin:?}");
}

#[test]
fn nobody_dials_the_proxy_itself() {
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let (v4, v6) = (sandbox.settings.proxy_v4.port(), sandbox.settings.proxy_v6.expect("set").port());
    let printed = sandbox.run(&format!(
        "
for to in [('127.0.0.1', {v4}), ('0.0.0.0', {v4}), ('::ffff:127.0.0.1', {v4}), ('::1', {v6}), ('::', {v6})]:
    print(to[0], errno_of(dial, to))
"
    ));
    assert_eq!(printed, "127.0.0.1 EPERM\n0.0.0.0 EPERM\n::ffff:127.0.0.1 EPERM\n::1 EPERM\n:: EPERM");
    assert_eq!(counters(&sandbox).proxy_dial_refused - before.proxy_dial_refused, 5);

    let _stranger = TcpStream::connect(sandbox.settings.proxy_v4).expect("a stranger reaches the listener");
    let (_stream, origin) = sandbox.accept_v4();
    assert!(matches!(origin, Err(OriginError::Missing)), "{origin:?}");
    assert_eq!(counters(&sandbox).unidentified - before.unidentified, 1);
}

#[test]
fn nobody_listens_for_others() {
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let (v4, v6) = (sandbox.settings.proxy_v4.port(), sandbox.settings.proxy_v6.expect("set").port());
    let printed = sandbox.run(&format!(
        "
def bind(address, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET6 if ':' in address[0] else socket.AF_INET, kind)
    return errno_of(s.bind, address)
for address in [('127.0.0.1', 0), ('127.9.9.9', 0), ('0.0.0.0', 0), ('::1', 0), ('::', 0), ('::ffff:127.0.0.1', 0)]:
    print('allowed', address, bind(address))
    print('allowed udp', address, bind(address, socket.SOCK_DGRAM))
for address in [('0.0.0.0', 18080), ('::', 18080), ('::ffff:0.0.0.0', 18080), ('10.11.12.13', 0), ('2001:db8::1', 0),
                ('127.0.0.1', {v4}), ('0.0.0.0', {v4}), ('::1', {v6}), ('::', {v4})]:
    print('refused', address, bind(address))
    print('refused udp', address, bind(address, socket.SOCK_DGRAM))
"
    ));
    let mut refused = 0;
    for (what, outcome) in table(&printed) {
        if what.starts_with("allowed") {
            assert_eq!(outcome, "OK", "{what}");
        } else {
            assert_eq!(outcome, "EPERM", "{what}");
            refused += 1;
        }
    }
    assert_eq!((refused, counters(&sandbox).bind_refused - before.bind_refused), (18, 18));
}

#[test]
fn a_server_of_its_own_is_reached_through_the_proxy_alone() {
    let sandbox = Sandbox::new();
    let (origin, printed) = sandbox.origin_of(
        "
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
dial(server.getsockname())
server.settimeout(0.3)
print('accepted', errno_of(server.accept))
print('port', server.getsockname()[1])
",
    );
    let printed = table(&printed);
    assert_eq!(printed["accepted"], "None", "a timeout, which has no errno");
    assert_eq!(origin.destination.0.port().to_string(), printed["port"]);
}

#[test]
fn a_socket_outlives_its_run_but_is_of_no_use() {
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let mut agent = sandbox.spawn(&format!(
        "
tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.connect(('192.0.2.53', 53))
move_to('{}')
print('moved', flush=True)
sys.stdin.readline()
print('connect', errno_of(tcp.connect, ('127.77.1.2', 5432)))
print('send', errno_of(udp.sendto, b'x', ('192.0.2.53', 53)))
print('send connected', errno_of(asked.send, b'x'))
print('bind', errno_of(tcp.bind, ('127.0.0.1', 0)))
",
        sandbox.settings.cgroup_root.display(),
    ));
    assert_eq!(agent.line(), "moved");
    sandbox.kernel().release(sandbox.cgroup.id()).expect("release");
    agent.go_on();
    assert_eq!(agent.finish(), "connect EPERM\nsend EPERM\nsend connected EPERM\nbind EPERM");
    assert_eq!(counters(&sandbox).orphan_refused - before.orphan_refused, 4);
    assert!(sandbox.nobody_asks());
}

/// A network namespace with a cable, and `seen`, which tells whether a packet with these bytes came out at its end.
const WIRE: &str = "
import subprocess
assert ctypes.CDLL(None).unshare(0x40000000) == 0
subprocess.check_call('''
ip link set lo up
ip link add name near type veth peer name far
ip addr add 192.0.2.1/24 dev near
ip addr add 2001:db8::1/64 dev near nodad
ip link set near up
ip link set far up
ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near
ip neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev near
''', shell=True)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('far', 0))
wire.settimeout(0.3)
def seen(token):
    try:
        while True:
            if token in wire.recv(2048):
                return 'seen'
    except TimeoutError:
        return 'nothing'
";

#[test]
fn a_socket_bound_to_a_device_sends_nothing_there() {
    let sandbox = Sandbox::new();
    // The redirect makes it 127.0.0.1 at the proxy's port; told to use the cable, the kernel would put that on it.
    let script = format!(
        "{WIRE}
subprocess.check_call('ip route add 127.0.0.0/8 dev near table 7 && ip rule add oif near table 7 pref 0 && '
                      'ip neigh add 127.0.0.1 lladdr 02:00:00:00:00:02 dev near && '
                      'echo 1 >/proc/sys/net/ipv4/conf/near/route_localnet', shell=True)
token = struct.pack('!H', {})
def connect():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'near')
    s.settimeout(1)
    s.connect(('127.0.0.1', PORT))
",
        sandbox.settings.proxy_v4.port()
    );
    let outside = format!(
        "{}
errno_of(connect); print('outside', seen(token))",
        script.replace("PORT", &sandbox.settings.proxy_v4.port().to_string())
    );
    let outside = Agent::spawn(&sandbox.settings.cgroup_root, &outside).finish();
    assert_eq!(outside, "outside seen", "the test can see such a packet");
    let before = counters(&sandbox);
    let inside = sandbox.run(&format!(
        "{}
errno_of(connect); print('inside', seen(token))",
        script.replace("PORT", "5432")
    ));
    assert_eq!(inside, "inside nothing");
    assert!(counters(&sandbox).egress_dropped > before.egress_dropped);
}

#[test]
fn connections_older_than_the_run_are_cut() {
    // A unit that is found running has sockets which no hook has seen. Both are connected before the cgroup is
    // governed, to the other end of a veth pair in a namespace of their own.
    let sandbox = Sandbox::new();
    let before = counters(&sandbox);
    let late = Cgroup::new(&sandbox.settings.cgroup_root.join(super::sandbox::unique("portcullis-test")));
    let mut agent = Agent::spawn(
        &late.path,
        &format!(
            "{WIRE}
v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v4.connect(('192.0.2.2', 9))
v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); v6.connect(('2001:db8::2', 9))
v4.send(b'before4'); print('v4 before', seen(b'before4'))
v6.send(b'before6'); print('v6 before', seen(b'before6'), flush=True)
sys.stdin.readline()
print('v4 send', errno_of(v4.send, b'after4')); print('v4 after', seen(b'after4'))
print('v6 send', errno_of(v6.send, b'after6')); print('v6 after', seen(b'after6'))
"
        ),
    );
    let first = [agent.line(), agent.line()];
    assert_eq!(first, ["v4 before seen", "v6 before seen"]);
    sandbox.kernel().govern(late.id(), sandbox.run).expect("govern");
    agent.go_on();
    let printed = agent.finish();
    let printed = table(&printed);
    assert_eq!((printed["v4 after"], printed["v6 after"]), ("nothing", "nothing"), "{printed:?}");
    // More than these two: the namespace's own ICMPv6 socket was made by this process as well.
    assert!(counters(&sandbox).egress_dropped - before.egress_dropped >= 2);
    sandbox.kernel().release(late.id()).expect("release");
}
