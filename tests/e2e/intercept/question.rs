//! DNS over UDP: every way to send a question ends at the proxy, which is told who asks, and the answer seems to come
//! from the resolver that was asked.

use super::sandbox::{Agent, Sandbox, table};
use portcullis::intercept::OriginError;
use std::time::Duration;

#[test]
fn a_connected_socket_is_answered_by_whom_it_asked() {
    let sandbox = Sandbox::new();
    let agent = sandbox.spawn(
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect(('192.0.2.53', 53))
print('peer', '%s:%d' % s.getpeername())
s.send(b'asked')
data, source = s.recvfrom(9)
print('answer', data.decode()); print('source', '%s:%d' % source)
print('pid', os.getpid())
print('cookie', struct.unpack('Q', s.getsockopt(socket.SOL_SOCKET, 57, 8))[0])
",
    );
    let (asked, origin) = sandbox.answer_v4();
    let origin = origin.expect("origin");
    let printed = agent.finish();
    let printed = table(&printed);
    assert_eq!((asked.as_str(), printed["answer"]), ("asked", "asked"));
    assert_eq!((printed["peer"], printed["source"]), ("192.0.2.53:53", "192.0.2.53:53"));
    assert_eq!((origin.run, origin.destination.to_string()), (sandbox.run, "192.0.2.53:53".to_owned()));
    assert_eq!(origin.process.tgid.to_string(), printed["pid"]);
    assert_eq!(origin.process.comm, "python3");
    assert_eq!(origin.socket_cookie.to_string(), printed["cookie"]);
    assert_eq!((origin.cgroup, origin.governed_by), (sandbox.cgroup.id(), sandbox.cgroup.id()));
    assert!(origin.since_boot > Duration::ZERO);
}

#[test]
fn every_way_to_send_without_connecting_is_caught() {
    let sandbox = Sandbox::new();
    let before = sandbox.kernel().counters().expect("counters").question_redirected;
    let agent = sandbox.spawn(
        "
def ask(family, to, send):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(15)
    send(s, to)
    data, source = s.recvfrom(9)
    print('%s|%d' % source[:2])
sendto = lambda s, to: s.sendto(b'sendto', to)
sendmsg = lambda s, to: s.sendmsg([b'send', b'msg'], [], 0, to)
def bound(s, to):
    s.bind(('127.5.5.5', 0)); s.sendto(b'bound', to)
ask(socket.AF_INET, ('192.0.2.53', 53), sendto)
ask(socket.AF_INET, ('127.0.0.1', 53), sendmsg)
ask(socket.AF_INET, ('0.0.0.0', 53), sendto)
ask(socket.AF_INET, ('192.0.2.53', 53), bound)
ask(socket.AF_INET6, ('::ffff:192.0.2.53', 53), sendto)
ask(socket.AF_INET6, ('2001:db8::53', 53), sendto)
ask(socket.AF_INET6, ('2001:db8::53', 53), lambda s, to: (s.connect(to), s.send(b'connected')))
ask(socket.AF_INET6, ('::ffff:192.0.2.54', 53), lambda s, to: (s.connect(to), s.send(b'connected')))
",
    );
    let seen: Vec<(String, String)> = [false, false, false, false, false, true, true, false]
        .into_iter()
        .map(|v6| if v6 { sandbox.answer_v6() } else { sandbox.answer_v4() })
        .map(|(asked, origin)| (asked, origin.expect("origin").destination.to_string()))
        .collect();
    let expected = [
        ("sendto", "192.0.2.53:53"),
        ("sendmsg", "127.0.0.1:53"),
        ("sendto", "127.0.0.1:53"),
        ("bound", "192.0.2.53:53"),
        ("sendto", "192.0.2.53:53"),
        ("sendto", "[2001:db8::53]:53"),
        ("connected", "[2001:db8::53]:53"),
        ("connected", "192.0.2.54:53"),
    ];
    assert_eq!(seen, expected.map(|(asked, to)| (asked.to_owned(), to.to_owned())));
    let sources = [
        "192.0.2.53|53",
        "127.0.0.1|53",
        "127.0.0.1|53",
        "192.0.2.53|53",
        "::ffff:192.0.2.53|53",
        "2001:db8::53|53",
        "2001:db8::53|53",
        "::ffff:192.0.2.54|53",
    ];
    assert_eq!(agent.finish(), sources.join("\n"));
    let after = sandbox.kernel().counters().expect("counters").question_redirected;
    assert_eq!(after - before, 8);
}

#[test]
fn without_an_ipv6_socket_what_cannot_be_sent_on_is_refused() {
    let sandbox = Sandbox::with(|settings| settings.proxy_v6 = None);
    let agent = sandbox.spawn(
        "
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(15)
print('sendto', errno_of(s.sendto, b'asked', ('2001:db8::53', 53)))
s.connect(('2001:db8::53', 53)); s.send(b'asked')
print('source', s.recvfrom(9)[1][0])
",
    );
    assert_eq!(sandbox.answer_v4().1.expect("origin").destination.to_string(), "[2001:db8::53]:53");
    assert_eq!(agent.finish(), "sendto EPERM\nsource 2001:db8::53");
}

#[test]
fn a_question_belongs_to_whoever_asked_it() {
    let sandbox = Sandbox::new();
    let inner = sandbox.cgroup.child("inner");
    let inner_run = portcullis::flow::RunId::generate();
    sandbox.kernel().govern(inner.id(), inner_run).expect("govern");
    // The same source port and id, one after the other.
    let script = "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.44.0.1', 40053))
s.settimeout(15)
s.sendto(b'asked', ('192.0.2.53', 53)); s.recv(9)
";
    for (cgroup, run) in [(&sandbox.cgroup, sandbox.run), (&inner, inner_run), (&sandbox.cgroup, sandbox.run)]
    {
        let agent = Agent::spawn(&cgroup.path, script);
        assert_eq!(sandbox.answer_v4().1.expect("origin").run, run);
        agent.finish();
    }
    sandbox.kernel().release(inner.id()).expect("release");
}

#[test]
fn a_stranger_cannot_ask_in_an_agents_name() {
    let sandbox = Sandbox::new();
    let script = "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.44.0.2', 40054))
s.settimeout(15)
s.sendto(b'asked', TO); s.recv(9)
";
    let agent = sandbox.spawn(&script.replace("TO", "('192.0.2.53', 53)"));
    assert_eq!(sandbox.answer_v4().1.expect("origin").run, sandbox.run);
    agent.finish();
    // The same source port and id, by somebody else.
    let to = format!("('127.0.0.1', {})", sandbox.settings.proxy_v4.port());
    let stranger = Agent::spawn(&sandbox.settings.cgroup_root, &script.replace("TO", &to));
    let origin = sandbox.answer_v4().1;
    assert!(matches!(origin, Err(OriginError::Missing)), "{origin:?}");
    stranger.finish();
}

#[test]
fn nobody_there_means_refused_at_once() {
    let sandbox = Sandbox::with(|settings| {
        // A port that nobody has: bound and let go.
        let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound");
        settings.proxy_v4.set_port(free.port());
    });
    let printed = sandbox.run(
        "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect(('192.0.2.53', 53)); s.send(b'asked')
print(errno_of(s.recv, 9))
",
    );
    assert_eq!(printed, "ECONNREFUSED");
}
