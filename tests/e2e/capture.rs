//! Capture at scale: whatever many agents dial at once, every session is recorded under the right run, process and
//! destination.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harness::daemon::Daemon;
use harness::process::{self, NOBODY, Owned};
use serde_json::Value;

use crate::{fake, wait};

const RUNS: usize = 20;
const PROCESSES_PER_RUN: usize = 10;
const CONNECTIONS_PER_PROCESS: usize = 50;
const CONNECTIONS: usize = RUNS * PROCESSES_PER_RUN * CONNECTIONS_PER_PROCESS;

/// Threads that answer at one address.
const ANSWERING: usize = 4;
/// From the starting shot to the last goodbye.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Forks, waits for the end of its standard input, then all children dial at once. Every connection says on the wire
/// who opened it and what was dialled, and checks that the answer comes from there.
const AGENT: &str = r#"
import os, socket, struct, sys

processes, connections = int(sys.argv[1]), int(sys.argv[2])
targets = [target.split(",") for target in sys.argv[3:]]

def dial(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.settimeout(50)
    made.connect((address, int(port)))
    assert made.getpeername()[:2] == (address, int(port)), made.getpeername()
    return made

def line(made):
    text = b""
    while not text.endswith(b"\n"):
        more = made.recv(100)
        assert more, "closed after %r" % text
        text += more
    return text.decode().strip()

def opaque(made, token):
    made.sendall(token.encode() + b"\n")
    return line(made)

def postgres(made, token):
    words = ["user", "agent", "database", "d", "application_name", token, ""]
    body = b"".join(word.encode() + b"\0" for word in words)
    made.sendall(struct.pack("!II", len(body) + 8, 196608) + body)
    stream = made.makefile("rb")
    answered = None
    while True:
        tag, length = struct.unpack("!cI", stream.read(5))
        body = stream.read(length - 4)
        if tag == b"S" and body.startswith(b"answered_at\0"):
            answered = body.split(b"\0")[1].decode()
        assert tag != b"E", body
        if tag == b"Z":
            made.sendall(b"X\0\0\0\4")
            assert stream.read() == b""
            return answered

def work():
    os.read(0, 1)
    run, me = os.environ["PORTCULLIS_RUN"], os.getpid()
    for number in range(connections):
        kind, address, port, expected = targets[(number + me) % len(targets)]
        with dial(address, port) as made:
            answered = globals()[kind](made, "%s %d %s" % (run, me, expected))
        assert answered == expected, (answered, expected)

children = []
for _ in range(processes):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
    children.append(child)
print("ready", flush=True)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"#;

/// Who opened a connection and where to, in its own words: run id, process id, destination.
type Claims = Arc<Mutex<BTreeMap<String, usize>>>;

#[derive(Clone, Copy)]
enum Speaks {
    Lines,
    Postgres,
}

/// Answers at an address, on a few threads that live as long as the test binary.
fn answer_at(ip: IpAddr, speaks: Speaks, claims: &Claims) -> SocketAddr {
    let listener = Arc::new(TcpListener::bind((ip, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    for _ in 0..ANSWERING {
        let (listener, claims) = (Arc::clone(&listener), Arc::clone(claims));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let answered = match speaks {
                    Speaks::Lines => echo(stream.unwrap()),
                    Speaks::Postgres => greet(stream.unwrap()),
                };
                // A connection that breaks is missed by the count; the agent has its own complaint.
                if let Ok(claim) = answered {
                    *claims.lock().unwrap().entry(claim).or_default() += 1;
                }
            }
        });
    }
    address
}

/// Reads one line and answers with the address at which it came in.
fn echo(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(TIME_MAX))?;
    let mut claim = String::new();
    BufReader::new(&stream).read_line(&mut claim)?;
    writeln!(stream, "{}", stream.local_addr()?)?;
    // The agent closes first.
    stream.read_to_end(&mut Vec::new())?;
    Ok(claim.trim().to_owned())
}

/// Lets a PostgreSQL client in without asking for a password, and tells it in a parameter where it is.
fn greet(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(TIME_MAX))?;
    let words = fake::startup(&mut stream)?;
    let name = words.iter().position(|word| word == "application_name");
    let claim = name.and_then(|at| words.get(at + 1)).cloned().unwrap_or_default();
    let hello = fake::hello(&[("answered_at", &stream.local_addr()?.to_string())]);
    stream.write_all(&hello)?;
    fake::search_path(&mut stream)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(claim)
}

/// What the agents dial: how it is spoken to, and under which name the policies know it.
struct Target {
    kind: &'static str,
    address: SocketAddr,
    /// As the agent spells it; differs from `address` for IPv4-mapped addresses.
    dialled: IpAddr,
    connection: String,
}

fn targets(claims: &Claims) -> Vec<Target> {
    let mut targets = Vec::new();
    for number in 1..=5 {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 77, 1, number));
        let address = answer_at(ip, Speaks::Lines, claims);
        let mapped = Ipv4Addr::new(127, 77, 1, number).to_ipv6_mapped();
        let dialled = if number == 5 { IpAddr::V6(mapped) } else { ip };
        targets.push(Target { kind: "opaque", address, dialled, connection: format!("lines-{number}") });
    }
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let address = answer_at(loopback, Speaks::Lines, claims);
    targets.push(Target { kind: "opaque", address, dialled: loopback, connection: "lines-six".to_owned() });
    // No connection names it: `egress = "record"` does.
    let ip = IpAddr::V4(Ipv4Addr::new(127, 77, 2, 1));
    let address = answer_at(ip, Speaks::Lines, claims);
    targets.push(Target { kind: "opaque", address, dialled: ip, connection: "(unnamed)".to_owned() });
    let ip = IpAddr::V4(Ipv4Addr::new(127, 77, 3, 1));
    let address = answer_at(ip, Speaks::Postgres, claims);
    targets.push(Target { kind: "postgres", address, dialled: ip, connection: "database".to_owned() });
    targets
}

fn policy(name: &str, targets: &[Target]) -> String {
    let mut text = format!("version = 1\nname = \"{name}\"\n\n[egress]\ndefault = \"record\"\n");
    for Target { kind, address, connection, .. } in targets {
        let upstream = match *kind {
            "postgres" => {
                "upstream = { user = \"nobody\", credential = \"shop-password\", tls = \"disable\" }\n"
            }
            _ => "",
        };
        if connection != "(unnamed)" {
            text += &format!(
                "\n[[connection]]\nname = \"{name}-{connection}\"\nto = [\"{address}\"]\nprotocol = \"{kind}\"\n{upstream}"
            );
        }
    }
    text
}

/// One run, about to dial.
fn start(daemon: &Daemon, policy: &str, label: usize, targets: &[Target]) -> Owned {
    let mut run: Command = daemon.command_as(NOBODY).unwrap();
    run.args(["run", "--policy", policy, "--label", &format!("number={label}"), "--"]);
    run.arg(process::python()).args(["-c", AGENT]);
    run.arg(PROCESSES_PER_RUN.to_string()).arg(CONNECTIONS_PER_PROCESS.to_string());
    for Target { kind, address, dialled, .. } in targets {
        run.arg(format!("{kind},{dialled},{},{address}", address.port()));
    }
    Owned::spawn(run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap()
}

/// Sessions as `sessions list --json` has them.
fn sessions(daemon: &Daemon) -> Vec<Value> {
    let limit = (2 * CONNECTIONS).to_string();
    let listed = daemon.cli(&["sessions", "list", "--json", "--limit", &limit]).unwrap();
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ten_thousand_connections_are_each_told_apart() {
    let claims = Claims::default();
    let targets = targets(&claims);
    let policies = ["even", "odd"].map(|name| (name, policy(name, &targets)));
    let policies = policies.each_ref().map(|(name, text)| (*name, text.as_str()));
    let daemon = Daemon::start(&policies).unwrap();

    let mut runs: Vec<Owned> =
        (0..RUNS).map(|number| start(&daemon, ["even", "odd"][number % 2], number, &targets)).collect();
    for run in &mut runs {
        let mut line = String::new();
        BufReader::new(run.child().stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{}", daemon.log());
    }
    let begun = Instant::now();
    for run in &mut runs {
        drop(run.child().stdin.take());
    }
    for run in &mut runs {
        let complaints = process::drain(run.child().stderr.take().unwrap()).unwrap();
        let status = run.child().wait().unwrap();
        assert!(status.success(), "{status}: {complaints}\n{}", daemon.log());
    }
    let took = begun.elapsed();
    assert!(took < TIME_MAX, "{CONNECTIONS} connections took {took:?}");

    // The servers saw what the agents say they did.
    let claims = claims.lock().unwrap();
    assert_eq!(claims.values().sum::<usize>(), CONNECTIONS);
    let processes: std::collections::BTreeSet<_> =
        claims.keys().map(|claim| claim.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(processes.len(), RUNS * PROCESSES_PER_RUN);

    // And so does the recording, which never heard them say it.
    let sessions = wait::until(Duration::from_secs(20), || {
        let sessions = sessions(&daemon);
        let ended = sessions.iter().filter(|session| session["ended_reason"] == "finished").count();
        if ended == CONNECTIONS { Ok(sessions) } else { Err(format!("{ended} of {} ended", sessions.len())) }
    });
    let mut recorded = BTreeMap::<String, usize>::new();
    for session in &sessions {
        let opened = &session["opened"];
        let text = |name: &str| opened[name].as_str().unwrap();
        let claim = format!("{} {} {}", text("run"), opened["pid"], text("destination"));
        *recorded.entry(claim).or_default() += 1;
        let target = targets.iter().find(|target| target.address.to_string() == text("destination")).unwrap();
        let expected = match target.connection.as_str() {
            "(unnamed)" => "(unnamed)".to_owned(),
            name => format!("{}-{name}", text("policy")),
        };
        assert_eq!(text("connection"), expected);
        assert_eq!(opened["uid"], NOBODY.uid);
    }
    assert_eq!(sessions.len(), CONNECTIONS);
    assert!(recorded == *claims, "recorded and claimed differ");
    assert!(daemon.json(&["status"]).unwrap()["problems"].as_array().unwrap().is_empty());
    println!("{CONNECTIONS} connections in {took:.1?}");
}
