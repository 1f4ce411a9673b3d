//! TLS from its first byte: records and messages cut anywhere, names that are none, bytes that are no TLS. Either the client is
//! served, or it is told so or cut off; others are served meanwhile.

use harness::web::Port;
use harness::web::policy::{ALLOW, intercepted, with_tls};
use serde_json::json;

use super::{daemon_of, marker, python, reached, server};

/// A TLS client that sends what it says by hand: `send_as` makes pieces of it.
const CLIENT: &str = r#"
def speak(send_as, trusted=context("http/1.1")):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusted.wrap_bio(incoming, outgoing, server_hostname=NAME)
    plain = socket.create_connection((HOST, HTTPS), timeout=20)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def step(what):
        while True:
            try:
                result = what()
                break
            except ssl.SSLWantReadError:
                for piece in send_as(outgoing.read()):
                    plain.sendall(piece)
                piece = plain.recv(65536)
                if not piece:
                    raise ConnectionError("closed")
                incoming.write(piece)
        for piece in send_as(outgoing.read()):
            plain.sendall(piece)
        return result
    try:
        step(tls.do_handshake)
        step(lambda: tls.write(f"GET /echo?{MARK} HTTP/1.1\r\nHost: {NAME}:{HTTPS}\r\nConnection: close\r\n\r\n".encode()))
        return step(lambda: tls.read(65536)).split(b" ")[1].decode()
    except (ssl.SSLError, OSError) as error:
        return "cut off"
    finally:
        plain.close()
def cut(size):
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]
def records(size):
    """The same messages in more and shorter records; of the first flight, which is in the clear."""
    def again(data):
        if data[:1] != b"\x16":
            return [data]
        length = int.from_bytes(data[3:5], "big")
        body, rest = data[5 : 5 + length], data[5 + length :]
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        return [b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces) + rest]
    return again
def named(name):
    assert len(name) == len(NAME)
    return lambda data: [data.replace(NAME.encode(), name)]
"#;

#[test]
fn records_and_messages_cut_anywhere_are_put_together() {
    for profile in [intercepted(server(), Port::Https), with_tls(server(), Port::Https, "passthrough")] {
        let daemon = daemon_of(&[profile], ALLOW);
        let mark = marker("cut");
        let script = format!(
            r#"MARK = "{mark}"
{CLIENT}
trusted = context("http/1.1")
trusted.load_verify_locations({ca:?})
say([speak(how, trusted) for how in [cut(1), cut(2), cut(5), cut(6), cut(100), records(16), records(100), records(511)]])
"#,
            ca = server().ca().display().to_string(),
        );
        assert_eq!(python(&daemon, &script), json!(vec!["200"; 8]), "{}", daemon.log());
        assert_eq!(reached(&mark), 8);
    }
}

#[test]
fn names_that_are_none_get_no_certificate_and_reach_nobody() {
    for profile in [intercepted(server(), Port::Https), with_tls(server(), Port::Https, "passthrough")] {
        let daemon = daemon_of(&[profile], ALLOW);
        let mark = marker("no-name");
        let script = format!(
            r#"MARK = "{mark}"
{CLIENT}
bad = [b"api shop test", b"api.shop.tes\0", b"api..shop.tes", b"\xff" * 13, b"api/shop/test", b"*.shop.test.x", b"../../../../x"]
seen = [speak(named(name)) for name in bad]
say([seen, speak(cut(65536)) in ("200", "cut off")])
"#
        );
        let seen = python(&daemon, &script);
        assert_eq!(seen, json!([vec!["cut off"; 7], true]), "{}", daemon.log());
    }
}

#[test]
fn what_is_no_tls_is_ended_and_holds_nobody_up() {
    let daemon = daemon_of(&[intercepted(server(), Port::Https)], ALLOW);
    let mark = marker("no-tls");
    let script = format!(
        r#"MARK = "{mark}"
{CLIENT}
seen = []
for said in [b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff" + b"a" * 70000, b"\x16\x02\x00\x00\x04abcd",
             b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", b"\x80\x2e\x01\x03\x01" + b"\0" * 41, b"\x15\x03\x01\x00\x02\x02\x28", b"\0" * 5000]:
    plain = socket.create_connection((HOST, HTTPS), timeout=20)
    send(plain, said)
    try:
        plain.shutdown(socket.SHUT_WR)
    except OSError:
        # Cut off already.
        pass
    until_closed(plain)
    plain.close()
    seen.append(speak(cut(65536)))
say(seen)
"#
    );
    assert_eq!(python(&daemon, &script), json!(vec!["200"; 7]), "{}", daemon.log());
    assert_eq!(reached(&mark), 7);
}
