//! Servers that break the protocol: the client is told what can be told, the session ends and is recorded.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use harness::daemon::Daemon;
use harness::process::{self, NOBODY};

/// What the server does, and what the client sees of it after it logged in and asked something.
struct Misdeed {
    /// The database's name selects it.
    name: &'static str,
    /// Sent instead of the log-in.
    login: Option<Vec<u8>>,
    /// Sent right after the log-in.
    unasked: Vec<u8>,
    /// Sent in reply to the first message.
    reply: Vec<u8>,
    /// What the client sees.
    seen: &'static str,
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn description() -> Vec<u8> {
    let field = [0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0];
    message(b'T', &[&[0, 1], &b"x\0"[..], &field].concat())
}

fn replies(name: &'static str, reply: Vec<u8>, seen: &'static str) -> Misdeed {
    Misdeed { name, login: None, unasked: Vec::new(), reply, seen }
}

fn logs_in(name: &'static str, login: Vec<u8>, seen: &'static str) -> Misdeed {
    Misdeed { name, login: Some(login), unasked: Vec::new(), reply: Vec::new(), seen }
}

fn misdeeds() -> Vec<Misdeed> {
    let row = |body: &[u8]| [description(), message(b'D', body)].concat();
    let ready = message(b'Z', b"I");
    vec![
        replies("good", [message(b'C', b"SELECT 0\0"), ready.clone()].concat(), "C(SELECT 0) ZI"),
        replies("garbage", vec![0xff; 64], "E(08006)"),
        replies("text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "E(08006)"),
        replies("short_length", b"C\0\0\0\x03".to_vec(), "E(08006)"),
        replies("negative_length", b"D\xff\xff\xff\xff".to_vec(), "E(08006)"),
        replies("huge_length", b"T\x3f\xff\xff\xff".to_vec(), "E(08006)"),
        replies("huge_error", b"E\x3f\xff\xff\xff".to_vec(), "E(08006)"),
        replies("ready_first", ready.clone(), "ZI E(08006)"),
        replies("ready_status", message(b'Z', b"Q"), "E(08006)"),
        replies(
            "twice_ready",
            [message(b'C', b"X\0"), ready.clone(), ready.clone()].concat(),
            "C(X) ZI E(08006)",
        ),
        replies("copy_both", message(b'W', &[0, 0, 0]), "E(08006)"),
        replies("copy_data", message(b'd', b"x"), "E(08006)"),
        replies("function", message(b'V', &[255; 4]), "E(08006)"),
        replies("parse_complete", message(b'1', b""), "E(08006)"),
        replies("suspended", message(b's', b""), "E(08006)"),
        replies("authentication", message(b'R', &[0, 0, 0, 3]), "E(08006)"),
        replies("key", message(b'K', &[0; 8]), "E(08006)"),
        replies("row_first", message(b'D', &[0, 1, 0, 0, 0, 1, b'x']), "E(08006)"),
        replies("columns_missing", message(b'T', &[0, 9, b'x', 0]), "E(08006)"),
        replies("columns_trailing", message(b'T', &[0, 0, 1]), "E(08006)"),
        replies("row_wider", row(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), "T E(08006)"),
        replies("row_cut", row(&[0, 1, 0, 0, 0, 9, b'x']), "T E(08006)"),
        replies("row_negative", row(&[0, 1, 255, 255, 255, 0]), "T E(08006)"),
        replies("row_unfinished", [description(), b"D\0\0\0\x20\0\x01".to_vec()].concat(), "T E(08006)"),
        replies(
            "row_unfinished_large",
            [description(), b"D\0\x20\0\0\0\x01\0\x1f\xff\xf6xxx".to_vec()].concat(),
            "T",
        ),
        replies("lexer", message(b'S', b"client_encoding\0SJIS\0"), "E(08006)"),
        replies("nothing", Vec::new(), "E(08006)"),
        Misdeed { name: "unasked_ready", login: None, unasked: ready, reply: Vec::new(), seen: "" },
        logs_in("login_garbage", vec![0xff; 64], "E(08P01)"),
        logs_in("login_nothing", Vec::new(), "E(08001)"),
        logs_in("login_kerberos", message(b'R', &[0, 0, 0, 2]), ""),
        logs_in("login_row", message(b'D', &[0, 0]), "E(08P01)"),
        logs_in("login_unpinned", [message(b'R', &[0; 4]), message(b'Z', b"I")].concat(), ""),
        logs_in(
            "login_endless",
            [message(b'R', &[0; 4]), message(b'N', &[b'x'; 60_000]).repeat(30)].concat(),
            "E(08P01)",
        ),
        logs_in("login_refused", message(b'E', b"SFATAL\0VFATAL\0C53300\0Mtoo many\0\0"), "E(53300)"),
    ]
}

/// Serves one connection: `trust` authentication, then the misdeed that the database's name selects.
fn misbehave(mut client: TcpStream, misdeeds: &[Misdeed]) -> std::io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut startup)?;
    let words: Vec<&[u8]> = startup[4..].split(|byte| *byte == 0).collect();
    let named = words.windows(2).find(|pair| pair[0] == b"database").map(|pair| pair[1]);
    let misdeed = misdeeds.iter().find(|misdeed| named == Some(misdeed.name.as_bytes())).unwrap();
    if let Some(login) = &misdeed.login {
        return client.write_all(login);
    }
    let parts = [
        message(b'R', &[0; 4]),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'S', b"standard_conforming_strings\0on\0"),
        message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]),
        message(b'Z', b"I"),
        misdeed.unasked.clone(),
    ];
    client.write_all(&parts.concat())?;
    // Portcullis asks for the search path first; any answer will do.
    if asked(&mut client)? {
        client.write_all(&[message(b'C', b"SHOW\0"), message(b'Z', b"I")].concat())?;
    }
    if asked(&mut client)? {
        client.write_all(&misdeed.reply)?;
    }
    if misdeed.name == "good" {
        // Until the goodbye.
        while asked(&mut client)? {}
    }
    Ok(())
}

/// Reads one message, however it arrives; `false` at the end.
fn asked(client: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = [0; 5];
    if let Err(error) = client.read_exact(&mut head) {
        return if error.kind() == std::io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(error) };
    }
    let [_, length @ ..] = head;
    let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut rest)?;
    Ok(true)
}

fn policy(address: SocketAddr) -> String {
    format!(
        r#"version = 1
name = "shop"

[[connection]]
name = "bad"
to = ["{address}"]
protocol = "postgres"
upstream = {{ user = "anyone", tls = "disable" }}

[[mask]]
detect = ["email"]
with = "partial"
"#
    )
}

#[test]
fn a_server_that_breaks_the_protocol_ends_its_session_only() {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 64 | high, middle, low), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let names: Vec<(&str, &str)> = misdeeds().iter().map(|misdeed| (misdeed.name, misdeed.seen)).collect();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            std::thread::spawn(move || misbehave(client, &misdeeds()));
        }
    });
    let daemon = Daemon::start(&[("shop", &policy(address))]).unwrap();
    let script = format!(
        r#"{client}
for name, wanted in {names}:
    c = Conn().startup(database=name)
    try:
        c.ready()
        c.send(Q("SELECT 1"))
        if name == "good":
            same(short(c.until("Z")), wanted)
            good = c
            continue
        seen = c.closed()
    except AssertionError as error:
        seen = "E(%s)" % error.args[0]["C"]
    except Closed:
        seen = "closed"
    print(name, "|", seen)
    assert "E(" in seen or name == "row_unfinished_large", (name, seen)
    if wanted:
        same((name, seen), (name, wanted))
good.send(X)
"#,
        client = super::CLIENT,
        names = python_pairs(&names),
    );
    let mut run = harness::agent::under(&daemon, NOBODY, "shop").unwrap();
    run.arg(process::python()).args(["-c", &script]);
    run.args([address.ip().to_string(), address.port().to_string()]);
    let finished = process::finish(&mut run).unwrap();
    assert_eq!(finished.code, 0, "{}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
    let ends = super::ends(&daemon);
    assert_eq!(ends.len(), names.len(), "{ends:?}");
    let by_the_server = ends.iter().filter(|end| end.contains("\"upstream\"")).count();
    assert_eq!(by_the_server, names.len() - 1, "{ends:#?}");
}

fn python_pairs(names: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = names.iter().map(|(name, seen)| format!("({name:?}, {seen:?})")).collect();
    format!("[{}]", pairs.join(", "))
}
