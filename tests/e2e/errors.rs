//! What can go wrong around a session, one at a time: each is told to the client in its own protocol, to the operator
//! in the recording with what to do, and leaves the daemon working.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::time::Duration;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::process::{BYSTANDER, Finished, NOBODY, REVIEWER, Talking, finish};
use harness::reviewer::{Reviewer, id_of};
use serde_json::Value;

use crate::spine::{server, shop};
use crate::wait;

/// The shop's policy with one of its lines changed.
fn policy(from: &str, to: &str) -> String {
    let policy = shop_policy(server());
    assert!(policy.contains(from), "{from} in {policy}");
    policy.replace(from, to)
}

fn connect(daemon: &Daemon) -> Finished {
    agent::psql(daemon, server(), NOBODY, "SELECT 1").unwrap()
}

/// The end of a session; `last` for the only one.
fn closed(daemon: &Daemon, session: &str) -> Value {
    let events = daemon
        .until(&["sessions", "show", session], |events| {
            events.iter().any(|event| event["event"] == "session_closed")
        })
        .unwrap();
    events.last().unwrap().clone()
}

/// A session that could not be opened: psql says `client`; the recording blames `side` and says `operator`.
fn assert_unopened(daemon: &Daemon, client: &str, side: &str, operator: &[&str]) {
    let seen = connect(daemon);
    assert_eq!(seen.code, 2, "{}", seen.stdout);
    assert!(seen.stderr.contains(&format!("FATAL:  portcullis: {client}")), "{}", seen.stderr);
    let (_, hint) = seen.stderr.split_once("HINT:  `portcullis sessions show ").unwrap();
    let closed = closed(daemon, hint.split('`').next().unwrap());
    assert_eq!((&closed["reason"], &closed["side"]), (&"failed".into(), &side.into()), "{closed}");
    let detail = closed["detail"].as_str().unwrap();
    for part in operator {
        assert!(detail.contains(part), "{part:?} in {detail:?}");
        assert!(daemon.log().contains(part), "{part:?} in\n{}", daemon.log());
    }
    assert_eq!(daemon.json(&["status"]).unwrap()["problems"], Value::Array(Vec::new()));
}

#[test]
fn a_server_that_is_down() {
    // Bound and never listening: nobody else can take the port meanwhile.
    let taken = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let taken = taken.unwrap();
    rustix::net::bind(&taken, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address: SocketAddr = rustix::net::getsockname(&taken).unwrap().try_into().unwrap();
    let upstream = format!("upstream = {{ address = \"{address}\",");
    let daemon = Daemon::start(&[("shop", &policy("upstream = {", &upstream))]).unwrap();
    let advice = format!("cannot connect to {address}: is the server running, and listening there?");
    assert_unopened(&daemon, "the server refused the connection", "upstream", &[&advice]);
}

#[test]
fn a_wrong_credential() {
    let daemon = shop();
    daemon.credential("shop-password", "Tr0ub4dor&3").unwrap();
    assert_unopened(
        &daemon,
        "the server does not accept the credential Portcullis holds for it",
        "portcullis",
        &["the server does not accept the profile's credential for user \"shop_agent\"", "correct the"],
    );
    assert!(!daemon.log().contains("Tr0ub4dor"), "no secret in the log");
    // Put right, it works with the next connection.
    daemon.credential("shop-password", harness::postgres::PASSWORD).unwrap();
    assert_eq!(connect(&daemon).stdout.trim(), "1");
}

#[test]
fn a_credential_that_is_missing_or_open_to_others() {
    let daemon = shop();
    let file = daemon.folder().join("credentials/shop-password");
    let client = "the connection's credential cannot be used";
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let path = file.display().to_string();
    assert_unopened(&daemon, client, "portcullis", &[&path, "run `chmod 600` on it"]);
    fs::remove_file(&file).unwrap();
    assert_unopened(&daemon, client, "portcullis", &[&path, "cannot be read: No such file or directory"]);
}

#[test]
fn a_certificate_of_another_authority() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), ca.self_signed(&key).unwrap().pem()).unwrap();
    let ours = file.path().display().to_string();
    let daemon = Daemon::start(&[("shop", &policy(&server().ca().display().to_string(), &ours))]).unwrap();
    assert_unopened(
        &daemon,
        "the server's certificate is not accepted",
        "upstream",
        &["no trusted root signed it; name the file of its root in the profile's root_cert"],
    );
}

#[test]
fn a_certificate_for_another_name() {
    let text = policy("tls = \"verify-full\"", "tls = \"verify-full\", server_name = \"db.example.com\"");
    let daemon = Daemon::start(&[("shop", &text)]).unwrap();
    assert_unopened(
        &daemon,
        "the server's certificate is not accepted",
        "upstream",
        &["it is not for \"db.example.com\" but for", "db.internal", "server_name"],
    );
}

#[test]
fn a_server_without_tls() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, served) = mpsc::sync_channel(2);
    // libpq tries a second time; the thread ends with the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"N").unwrap();
            // What comes next: nothing, not even a start-up message in the clear.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            sender.send((request, rest)).unwrap();
        }
    });
    let upstream = format!("upstream = {{ address = \"{address}\", server_name = \"db.internal\",");
    let daemon = Daemon::start(&[("shop", &policy("upstream = {", &upstream))]).unwrap();
    let advice = format!("{address} offers no TLS: switch ssl on there");
    assert_unopened(&daemon, "the server offers no TLS, which the policy requires", "upstream", &[&advice]);
    let (request, rest) = served.recv().unwrap();
    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "an SSLRequest");
    assert_eq!(rest, b"");
}

#[test]
fn a_database_that_does_not_exist_is_the_servers_answer() {
    let daemon = shop();
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    run.args(agent::psql_arguments(server(), "no_such_shop")).args(["-c", "SELECT 1"]);
    let seen = finish(&mut run).unwrap();
    assert!(seen.stderr.contains("database \"no_such_shop\" does not exist"), "{}", seen.stderr);
}

#[test]
fn a_destination_that_no_connection_names() {
    let daemon = shop();
    let script = "
import socket, sys, psycopg
try:
    psycopg.connect('host=127.99.0.1 port=5432 user=agent dbname=shop', sslmode=sys.argv[3])
except psycopg.OperationalError as e:
    print(e)
s = socket.create_connection(('127.99.0.1', 80))
s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
print('HTTP', s.recv(100))
";
    for sslmode in ["prefer", "require", "disable"] {
        let mut python = agent::python_command(&daemon, server(), NOBODY, "shop", script).unwrap();
        let seen = finish(python.arg(sslmode)).unwrap();
        let no = "portcullis: no connection of policy `shop` names 127.99.0.1:5432";
        assert!(seen.stdout.contains(no), "{sslmode}: {}{}", seen.stdout, seen.stderr);
        assert!(seen.stdout.contains("HINT:  ask the operator to add a [[connection]] for it"));
        // Plain HTTP is told so in its own words.
        assert!(seen.stdout.contains("HTTP b'HTTP/1.0 403 Forbidden"), "{}", seen.stdout);
    }
    let closed = closed(&daemon, "last");
    assert_eq!((&closed["reason"], &closed["side"]), (&"refused".into(), &"policy".into()));
    // Each attempt is on record once its recorder is done; with `prefer`, libpq makes a second one without TLS.
    let sessions = wait::until(Duration::from_secs(20), || {
        let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
        let ended = sessions.iter().filter(|session| !session["ended_reason"].is_null()).count();
        if ended >= 6 && ended == sessions.len() { Ok(sessions) } else { Err(format!("{sessions:#?}")) }
    });
    for session in sessions {
        assert_eq!(session["ended_reason"], "refused");
        assert_eq!(session["opened"]["connection"], Value::Null);
    }
}

#[test]
fn recorded_egress_is_relayed_unread_and_counted() {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 99, 0, 2), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&b"!".repeat(200_000)).unwrap();
        got.len()
    });
    let daemon = Daemon::start(&[("shop", &policy("default = \"deny\"", "default = \"record\""))]).unwrap();
    let script = format!(
        "import socket
s = socket.create_connection(('{}', {}))
peer = s.getpeername()[0]
s.sendall(b'?' * 100000); s.shutdown(socket.SHUT_WR)
n = 0
while chunk := s.recv(65536): n += len(chunk)
print(n, peer)",
        address.ip(),
        address.port()
    );
    let seen = agent::python(&daemon, server(), NOBODY, &script).unwrap();
    assert_eq!(seen.stdout.trim(), "200000 127.99.0.2", "{}", seen.stderr);
    assert_eq!(served.join().unwrap(), 100_000);
    closed(&daemon, "last");
    let session = &daemon.json_lines(&["sessions", "list"]).unwrap()[0];
    assert_eq!(
        (&session["bytes_to_upstream"], &session["bytes_to_client"]),
        (&100_000.into(), &200_000.into())
    );
    assert_eq!(session["opened"]["protocol"], "opaque");
    assert_eq!(session["opened"]["destination"], address.to_string());
    assert_eq!(session["ended_reason"], "finished");
}

/// `portcullis serve` with a configuration like another daemon's, which must not start.
fn second(daemon: &Daemon, from: &str, to: &str) -> Finished {
    let text = fs::read_to_string(daemon.config()).unwrap();
    assert!(from.is_empty() || text.contains(from), "{from} in {text}");
    let config = daemon.folder().join("second.toml");
    fs::write(&config, if from.is_empty() { text } else { text.replace(from, to) }).unwrap();
    let mut serve = daemon.command().unwrap();
    let seen =
        finish(serve.env_remove("PORTCULLIS_CONFIG").arg("--config").arg(config).arg("serve")).unwrap();
    assert_eq!(seen.code, 1, "{}", seen.stderr);
    seen
}

#[test]
fn two_daemons_do_not_share_anything() {
    let mut daemon = shop();
    let pid = daemon.pid();
    let same = second(&daemon, "", "").stderr;
    assert!(same.contains(&format!("another portcullis (process {pid}) uses ")), "{same}");
    assert!(same.contains("stop it, or give this one its own folder (paths.state)"), "{same}");
    let socket = second(&daemon, "/state\"", "/state-2\"").stderr;
    assert!(socket.contains("another portcullis answers at "), "{socket}");
    assert!(socket.contains("give this one its own socket (control.socket)"), "{socket}");
    let both = format!("{}/run/control.sock", daemon.folder().display());
    let text = fs::read_to_string(daemon.config()).unwrap();
    fs::write(daemon.config(), text.replace("/state\"", "/state-3\"")).unwrap();
    let pins = second(&daemon, &both, &both.replace("control.sock", "control-2.sock")).stderr;
    fs::write(daemon.config(), text).unwrap();
    assert!(pins.contains("is in use by another portcullis: stop that one first"), "{pins}");
    // The first does not notice.
    assert_eq!(connect(&daemon).stdout.trim(), "1");
}

#[test]
fn a_daemon_that_is_not_root_or_cannot_read_its_configuration() {
    let mut daemon = Daemon::prepare(&[]).unwrap();
    let seen = finish(daemon.command_as(NOBODY).unwrap().arg("serve")).unwrap();
    assert_eq!(seen.code, 1);
    assert!(seen.stderr.contains("the daemon must run as root"), "{}", seen.stderr);
    let text = fs::read_to_string(daemon.config()).unwrap();
    fs::write(daemon.config(), format!("{text}\n[recrod]\n")).unwrap();
    let seen = daemon.cli(&["serve"]).unwrap();
    assert_eq!(seen.code, 1);
    let at = format!("{}:{}:", daemon.config().display(), text.lines().count() + 2);
    assert!(seen.stderr.contains(&at) && seen.stderr.contains("recrod"), "{}", seen.stderr);
    fs::write(daemon.config(), text).unwrap();
    daemon.launch().unwrap();
    // Without any policy it runs, and says what is missing to whoever asks for one.
    let run = finish(agent::under(&daemon, BYSTANDER, "shop").unwrap().arg("true")).unwrap();
    assert!(run.stderr.contains("there is no policy `shop`"), "{}", run.stderr);
}

#[test]
fn a_daemon_that_is_stopped_says_goodbye() {
    let mut daemon = shop();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let script = "
import sys, psycopg
dsn = f'host={sys.argv[1]} port={sys.argv[2]} user=agent dbname=shop'
idle, holding = psycopg.connect(dsn, autocommit=True), psycopg.connect(dsn, autocommit=True)
print('idle', idle.execute('SELECT 1').fetchone())
for what in (lambda: holding.execute('CREATE TABLE errors_held (id int)'), lambda: idle.execute('SELECT 2'), lambda: psycopg.connect(dsn)):
    try:
        print(what())
    except psycopg.Error as e:
        print('SAW', e.sqlstate, str(e).replace('\\n', ' '))
";
    let mut command = agent::python_command(&daemon, server(), NOBODY, "shop", script).unwrap();
    let mut agent = Talking::spawn(&mut command).unwrap();
    agent.until_contains("idle (1,)").unwrap();
    let held = reviewer.waiting().unwrap();
    drop(reviewer);
    let mut psql =
        Talking::spawn(&mut agent::psql_shell(&daemon, server(), NOBODY, "shop").unwrap()).unwrap();
    psql.say("SELECT 'psql ' || 1;").unwrap();
    psql.until_contains("psql 1").unwrap();
    daemon.signal("TERM").unwrap();
    for _ in ["held", "idle"] {
        let seen = agent.until_contains("SAW").unwrap();
        assert!(seen.contains("portcullis: the daemon is stopping"), "{seen}");
    }
    let refused = agent.until_contains("SAW").unwrap();
    assert!(refused.contains("Connection refused"), "closed, not open: {refused}");
    assert!(daemon.wait().unwrap(), "{}", daemon.log());
    let finished = agent.finish().unwrap();
    assert_eq!(finished.code, 0, "{}", finished.stdout);
    psql.say("SELECT 1;").unwrap();
    psql.until_contains("FATAL:  57P01: portcullis: the daemon is stopping").unwrap();

    // The recording is readable without a daemon.
    let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
    assert_eq!(sessions.len(), 3);
    for session in &sessions {
        assert_eq!(session["ended_reason"], "drained", "{session}");
    }
    let session = held["request"]["session"].as_str().unwrap();
    let events = daemon.json_lines(&["sessions", "show", session]).unwrap();
    let decided = events.iter().find(|event| event["event"] == "decided").unwrap();
    assert_eq!(
        (&decided["approval"]["id"], &decided["approval"]["outcome"]),
        (&id_of(&held).into(), &"withdrawn".into())
    );
    assert_eq!(server().psql("shop", "SELECT to_regclass('errors_held') IS NULL").unwrap().trim(), "t");
}

#[test]
fn a_client_gone_in_the_middle_of_a_query_is_on_record() {
    let daemon = shop();
    let running = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(59)%'";
    let mut command = agent::psql_shell(&daemon, server(), NOBODY, "shop").unwrap();
    let mut psql = Talking::spawn(&mut command).unwrap();
    psql.say("SELECT pg_sleep(59);").unwrap();
    daemon
        .until(&["sessions", "show", "last"], |events| events.iter().any(|event| event["event"] == "intent"))
        .unwrap();
    let mut backend = String::new();
    while backend.is_empty() {
        backend = server().psql("postgres", running).unwrap().trim().to_owned();
    }
    psql.process().signal("KILL").unwrap();
    let closed = closed(&daemon, "last");
    assert_eq!((&closed["reason"], &closed["side"]), (&"lost".into(), &"client".into()), "{closed}");
    let events = daemon.json_lines(&["sessions", "show", "last"]).unwrap();
    let outcome = events.iter().find(|event| event["event"] == "outcome").unwrap();
    assert_eq!(outcome["status"], "unknown");
    server().psql("postgres", &format!("SELECT pg_terminate_backend({backend})")).unwrap();
}

#[test]
fn a_server_that_ends_a_session_is_told_apart_from_us() {
    let daemon = shop();
    let mut command = agent::psql_shell(&daemon, server(), NOBODY, "shop").unwrap();
    let mut psql = Talking::spawn(&mut command).unwrap();
    psql.say("SELECT 'backend ' || pg_backend_pid();").unwrap();
    let line = psql.until_contains("backend ").unwrap();
    let backend = line.rsplit(' ').next().unwrap().to_owned();
    server().psql("postgres", &format!("SELECT pg_terminate_backend({backend})")).unwrap();
    let closed = closed(&daemon, "last");
    assert_eq!((&closed["reason"], &closed["side"]), (&"lost".into(), &"upstream".into()), "{closed}");
    psql.say("SELECT 1;").unwrap();
    psql.until_contains("57P01: terminating connection due to administrator command").unwrap();
    psql.finish().unwrap();
}
