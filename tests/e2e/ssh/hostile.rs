//! Clients and servers that break the protocol, flood, or vanish: a clear end, on record, and the others go on.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, Finished, NOBODY, REVIEWER, Talking};
use harness::reviewer::Reviewer;

use super::{ALLOW, daemon, last_session, server, ssh};

/// A script of an agent's, with the server's address and port.
fn python(daemon: &Daemon, script: &str) -> Finished {
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    run.arg(process::python()).args(["-c", script]);
    run.arg(server().at().ip().to_string()).arg(server().at().port().to_string());
    process::finish(&mut run).unwrap()
}

/// The daemon is there for others.
fn goes_on(daemon: &Daemon) {
    let seen = ssh(daemon, "echo fine");
    assert_eq!(seen.stdout, "fine\n", "{}\n{}", seen.stderr, daemon.log());
}

/// Connects, says something, and sees the connection end.
fn raw(daemon: &Daemon, says: &str) -> String {
    let script = format!(
        "import socket, sys, struct\n\
         made = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
         made.settimeout(60)\n\
         {says}\n\
         seen = b''\n\
         while True:\n\
         \x20   try: part = made.recv(65536)\n\
         \x20   except ConnectionError: break\n\
         \x20   if not part: break\n\
         \x20   seen += part\n\
         print(seen)\n"
    );
    let seen = python(daemon, &script);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    seen.stdout
}

#[test]
fn what_is_no_ssh_is_ended() {
    let daemon = daemon(ALLOW);
    raw(&daemon, "made.sendall(b'\\x00\\x01\\x02 no greeting at all\\r\\n' * 100)");
    raw(&daemon, "made.sendall(b'SSH-2.0-hostile\\r\\n' + b'\\xff' * 65536)");
    raw(&daemon, "made.sendall(b'SSH-2.0-' + b'x' * 100000)");
    // A packet of four gigabytes, and one of none.
    raw(&daemon, "made.sendall(b'SSH-2.0-hostile\\r\\n' + struct.pack('>IB', 0xffffffff, 4) + b'x' * 1000)");
    raw(&daemon, "made.sendall(b'SSH-2.0-hostile\\r\\n' + struct.pack('>IB', 0, 0) + b'x' * 1000)");
    goes_on(&daemon);
}

/// A client library that does as it is told.
const PARAMIKO: &str = "import paramiko, socket, sys, time\n\
    transport = paramiko.Transport((sys.argv[1], int(sys.argv[2])))\n\
    transport.connect()\n\
    transport.auth_none('agent')\n";

#[test]
fn floods_are_bounded_and_what_nobody_knows_is_refused() {
    let daemon = daemon(ALLOW);
    let script = format!(
        "{PARAMIKO}\
         paramiko.util.logging.disable()\n\
         opened, refused = [], 0\n\
         for _ in range(100):\n\
         \x20   try: opened.append(transport.open_session(timeout=20))\n\
         \x20   except paramiko.SSHException: refused += 1\n\
         print(len(opened), refused)\n\
         for channel in opened: channel.close()\n\
         print(transport.global_request('nonsense@example.com', wait=True))\n\
         try: transport.open_channel('nonsense@example.com')\n\
         except paramiko.ChannelException as error: print('refused', error.code)\n\
         channel = transport.open_session()\n\
         for number in range(10000): channel.set_environment_variable('LC_' + str(number), 'x' * 100)\n\
         channel.exec_command('env | grep -c ^LC_')\n\
         print(channel.makefile().read().decode().strip())\n"
    );
    let seen = python(&daemon, &script);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!(lines[0], "64 36", "{lines:?}");
    assert_eq!(lines[1], "None");
    assert!(lines[2].starts_with("refused"), "{lines:?}");
    assert!(lines[3].parse::<u32>().unwrap() <= 128, "{lines:?}");
    goes_on(&daemon);
}

#[test]
fn data_beyond_the_window_ends_the_connection() {
    let daemon = daemon(ALLOW);
    let script = format!(
        "{PARAMIKO}\
         channel = transport.open_session()\n\
         channel.exec_command('sleep 60')\n\
         channel.out_window_size = 1 << 30\n\
         try:\n\
         \x20   for _ in range(1000): channel.sendall(b'x' * 32768)\n\
         except (socket.error, EOFError, paramiko.SSHException): pass\n\
         transport.join(30)\n\
         print(transport.is_active())\n"
    );
    let seen = python(&daemon, &script);
    assert_eq!(seen.stdout, "False\n", "{}\n{}", seen.stderr, daemon.log());
    let events = last_session(&daemon);
    let closed = events.last().unwrap();
    assert_eq!(closed["reason"], "failed", "{closed}");
    goes_on(&daemon);
}

#[test]
fn a_client_that_vanishes_withdraws_its_question() {
    let daemon = daemon(
        "[[guard]]\nname = \"a human looks\"\non = \"ssh\"\nkind = [\"rm\"]\naction = \"hold\"\n\
         approvers = [\"user:daemon\"]\nhold = \"10m\"\n",
    );
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let client = Talking::spawn(&mut server().ssh(&daemon, &[], &["rm /nonexistent"]).unwrap()).unwrap();
    let id = harness::reviewer::id_of(&reviewer.waiting().unwrap());
    client.process().signal("KILL").unwrap();
    assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "withdrawn");
    drop(client);
    let events = last_session(&daemon);
    assert!(events.iter().any(|event| event["event"] == "decided"), "{events:?}");
}

#[test]
fn a_server_that_is_lost_is_told() {
    let daemon = daemon(ALLOW);
    // Whoever serves the connection dies in the middle of the command.
    let seen = ssh(&daemon, "echo begun; sleep 1; kill -9 $PPID; sleep 60");
    assert_eq!((seen.code, seen.stdout.as_str()), (255, "begun\n"), "{}", seen.stderr);
    assert!(seen.stderr.contains("the connection to the server was lost"), "{}", seen.stderr);
    goes_on(&daemon);
}

#[test]
fn a_server_that_does_not_speak_is_told() {
    for (number, says) in
        [&b""[..], b"SSH-2.0-gone\r\n", b"no ssh\r\n\r\n", b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff"]
            .into_iter()
            .enumerate()
    {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        let port = 2230 + u16::try_from(number).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::new(127, 128 | (b & 0x3f), c, d), port)).unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Said, and gone.
                drop(stream.and_then(|mut stream| stream.write_all(says)));
            }
        });
        let upstream = format!(
            "address = \"{at}\", credential = \"account-key\", host_keys = [\"{}\"]",
            server().public_key("host_ed25519").unwrap()
        );
        let daemon = server().daemon(&server().policy_with(&upstream, "", ALLOW)).unwrap();
        let seen = ssh(&daemon, "echo here");
        assert_eq!((seen.code, seen.stdout.as_str()), (255, ""), "{says:?}: {}", seen.stderr);
        assert!(seen.stderr.contains("portcullis: "), "{says:?}: {}", seen.stderr);
        assert!(!last_session(&daemon).is_empty());
    }
}

#[test]
fn noise_on_a_terminal_passes_as_it_is() {
    let daemon =
        daemon(&format!("{ALLOW}\n[[mask]]\ndetect = [\"email\", \"payment-card\"]\nwith = \"redact\"\n"));
    let seen =
        ssh(&daemon, "head -c 3000000 /dev/urandom | sha256sum -b; head -c 3000000 /dev/zero | sha256sum");
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    let mut run = server()
        .ssh(&daemon, &["-tt"], &["stty raw; head -c 2000000 /dev/urandom; echo end-of-noise"])
        .unwrap();
    let out = run.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", daemon.log());
    assert!(out.stdout.len() > 1_990_000, "{}", out.stdout.len());
    goes_on(&daemon);
}

#[test]
fn a_client_that_vanishes_while_keys_are_exchanged_is_gone() {
    let daemon = daemon(ALLOW);
    for when in ["", "time.sleep(0.02)\n"] {
        let script = format!(
            "{PARAMIKO}\
             channel = transport.open_session()\n\
             channel.exec_command('cat /dev/zero')\n\
             channel.recv(100000)\n\
             transport._send_kex_init()\n\
             {when}\
             transport.sock.close()\n\
             print('gone')\n"
        );
        let seen = python(&daemon, &script);
        assert_eq!(seen.stdout, "gone\n", "{}\n{}", seen.stderr, daemon.log());
        let events = last_session(&daemon);
        assert_eq!(events.last().unwrap()["event"], "session_closed", "{events:?}");
        let outcome = events.iter().find(|event| event["event"] == "outcome").unwrap();
        assert_eq!(outcome["operation"], 1, "{outcome}");
    }
    goes_on(&daemon);
}
