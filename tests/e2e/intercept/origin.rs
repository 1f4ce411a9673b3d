//! The hand-over of origins under stress: ports used again at once, and a bridge that is full.

use super::sandbox::{Agent, Cgroup, PATIENCE, Sandbox, accept_within, unique};
use aya::maps::{HashMap, Map, MapData};
use ebpf_abi::{HANDSHAKES_MAX, Handshake};
use portcullis::flow::RunId;
use portcullis::intercept::OriginError;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

/// Connections per agent of the flood.
const CONNECTIONS: usize = 3000;

/// Connects again and again from a few source ports, so that each is used again right after a reset, and says in the
/// stream who is talking and where to.
fn flood(name: &str) -> String {
    format!(
        "
linger = struct.pack('ii', 1, 0)
done = 0
while done < {CONNECTIONS}:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    port = 20000 + done % 64
    try:
        s.bind(('127.0.0.1', 22000 + (done * 7) % 61))
        s.connect(('127.77.3.1', port))
    except OSError as e:
        if e.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            raise
        s.close()
        continue
    s.send(('%s %d %d\\n' % ('{name}', port, os.getpid())).encode())
    if done % 3 == 0:
        s.close()
    else:
        s.shutdown(socket.SHUT_WR)
        s.recv(1)
        s.close()
    done += 1
"
    )
}

#[test]
fn a_flood_of_reused_ports_never_confuses_two_agents() {
    let sandbox = Sandbox::new();
    let other = Cgroup::new(&sandbox.settings.cgroup_root.join(unique("portcullis-test")));
    let other_run = RunId::generate();
    sandbox.kernel().govern(other.id(), other_run).expect("govern");
    let before = sandbox.kernel().counters().expect("counters");
    let listener = sandbox.v4.as_ref().expect("listening");
    let (talked, silent) = thread::scope(|scope| {
        let proxy = scope.spawn(|| {
            let (mut talked, mut silent) = (0, 0);
            while let Some(mut stream) = accept_within(listener, Duration::from_secs(2)) {
                let origin = sandbox.kernel().origin(&stream);
                let mut said = String::new();
                // A reset discards the client's bytes or not, as timing has it.
                let whole = stream.read_to_string(&mut said).is_ok() || said.ends_with('\n');
                if !whole || said.is_empty() {
                    silent += 1;
                    continue;
                }
                let origin = origin.expect("every connection that talks has an origin");
                let words: Vec<&str> = said.split_whitespace().collect();
                let run = if words[0] == "one" { sandbox.run } else { other_run };
                assert_eq!(origin.run, run, "the connection of one agent came with the other's run");
                assert_eq!(origin.destination.to_string(), format!("127.77.3.1:{}", words[1]));
                assert_eq!(origin.process.tgid.to_string(), words[2]);
                talked += 1;
            }
            (talked, silent)
        });
        let agents =
            [Agent::spawn(&sandbox.cgroup.path, &flood("one")), Agent::spawn(&other.path, &flood("two"))];
        for agent in agents {
            agent.finish();
        }
        proxy.join().expect("the proxy saw nothing wrong")
    });
    let after = sandbox.kernel().counters().expect("counters");
    assert!(talked >= CONNECTIONS, "{talked} talked, {silent} were reset before they could be read");
    assert_eq!(talked + silent, 2 * CONNECTIONS);
    let unidentified = after.unidentified - before.unidentified;
    assert_eq!(after.identified - before.identified + unidentified, 2 * CONNECTIONS as u64);
    assert!(unidentified <= silent as u64, "{unidentified} without origin, {silent} were reset");
    println!(
        "{talked} talked, {silent} were reset first, {unidentified} of those before the proxy's end was up"
    );
    assert_eq!(after.handshakes_full, before.handshakes_full);
    assert_eq!(handshakes(&sandbox).keys().count(), 0, "nothing stays in the bridge");
}

#[test]
fn a_full_bridge_fails_closed_and_recovers() {
    let sandbox = Sandbox::new();
    let mut bridge = handshakes(&sandbox);
    let strangers = (0..).map(|number| Handshake {
        netns_cookie: u64::MAX,
        client_sequence: number,
        ..Handshake::default()
    });
    let mut filled = Vec::new();
    for key in strangers.take(HANDSHAKES_MAX + 1) {
        if bridge.insert(key, ebpf_abi::Origin::default(), 0).is_err() {
            break;
        }
        filled.push(key);
    }
    assert_eq!(filled.len(), HANDSHAKES_MAX, "the bridge is full");

    let agent = sandbox.spawn("dial(('127.77.3.2', 5432))");
    let (_stream, origin) = sandbox.accept_v4();
    assert!(matches!(origin, Err(OriginError::Missing)), "{origin:?}");
    agent.finish();
    let counters = sandbox.kernel().counters().expect("counters");
    assert_eq!((counters.handshakes_full, counters.unidentified), (1, 1));

    for key in &filled {
        bridge.remove(key).expect("remove");
    }
    let (origin, _) = sandbox.origin_of("dial(('127.77.3.3', 5432))");
    assert_eq!(origin.run, sandbox.run);
}

#[test]
fn a_client_that_gives_up_leaves_nothing_behind() {
    let mut sandbox = Sandbox::new();
    // A proxy that takes nothing over before there are data: the client alone is established.
    sandbox.v4 = None;
    let mut proxy = Agent::spawn(
        &sandbox.settings.cgroup_root,
        &format!(
            "
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
s.bind(('127.0.0.1', {}))
s.listen()
print('listening', flush=True)
sys.stdin.readline()
",
            sandbox.settings.proxy_v4.port()
        ),
    );
    assert_eq!(proxy.line(), "listening");
    let mut agent = sandbox.spawn(
        "
sockets = [dial(('127.77.3.4', 5432)) for _ in range(20)]
for s in sockets:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
print('connected', flush=True)
sys.stdin.readline()
",
    );
    assert_eq!(agent.line(), "connected");
    assert_eq!(handshakes(&sandbox).keys().count(), 20);
    agent.go_on();
    agent.finish();
    let deadline = Instant::now() + PATIENCE;
    while handshakes(&sandbox).keys().count() != 0 {
        assert!(Instant::now() < deadline, "records of closed sockets stay");
        thread::sleep(Duration::from_millis(20));
    }
    proxy.go_on();
    proxy.finish();
}

#[test]
fn a_record_of_the_same_address_is_not_enough() {
    let sandbox = Sandbox::new();
    let (known, _) = sandbox.origin_of("dial(('127.77.3.5', 5432))");
    // As if a connection from this very address and port had left its record behind.
    let stale = Handshake {
        netns_cookie: known.netns_cookie,
        client: ebpf_abi::Endpoint {
            address: ebpf_abi::Address::from_v4(u32::from_ne_bytes([127, 55, 0, 1])),
            port: 22999,
        },
        ..Handshake::default()
    };
    let planted = ebpf_abi::Origin { governed_by: known.governed_by, ..ebpf_abi::Origin::default() };
    handshakes(&sandbox).insert(stale, planted, 0).expect("plant");
    let stranger = Agent::spawn(
        &sandbox.settings.cgroup_root,
        &format!(
            "
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.55.0.1', 22999))
s.connect(('127.0.0.1', {}))
",
            sandbox.settings.proxy_v4.port()
        ),
    );
    let (_stream, origin) = sandbox.accept_v4();
    assert!(matches!(origin, Err(OriginError::Missing)), "{origin:?}");
    stranger.finish();
}

fn handshakes(sandbox: &Sandbox) -> HashMap<MapData, Handshake, ebpf_abi::Origin> {
    let pin = sandbox.settings.pin_dir.join(format!("v{}", ebpf_abi::LAYOUT)).join("HANDSHAKES");
    HashMap::try_from(Map::HashMap(MapData::from_pin(pin).expect("pinned"))).expect("the map's types")
}
