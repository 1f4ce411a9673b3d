//! gRPC (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): every kind of call by grpcio, and guards on methods.

use harness::daemon::Daemon;
use harness::web::Port;
use harness::web::policy::{ALLOW, intercepted};

use super::{daemon_of, direct, python, reached, server};

/// A channel, and calls that take and give bytes.
const CHANNEL: &str = r#"
import grpc
with open(CA, "rb") as pem:
    credentials = grpc.ssl_channel_credentials(pem.read())
channel = grpc.secure_channel(f"{HOST}:{GRPC}", credentials)
def call(kind, method):
    return getattr(channel, kind)(f"/orders.Orders/{method}", None, None)
def error(kind, method, request):
    try:
        got = call(kind, method)(request, timeout=30)
        list(got)
        raise SystemExit(f"no error but {got}")
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
"#;

fn grpc_daemon(rules: &str) -> Daemon {
    daemon_of(&[intercepted(server(), Port::Grpc)], &format!("{rules}\n{ALLOW}"))
}

#[test]
fn every_kind_of_call_works_as_without_portcullis() {
    let script = format!(
        r#"{CHANNEL}
say({{
    "unary": call("unary_unary", "Get")(b"order 17", timeout=30).decode(),
    "large": len(call("unary_unary", "Get")(b"x" * 3_000_000, timeout=30)),
    "empty": call("unary_unary", "Get")(b"", timeout=30).decode(),
    "server stream": [message.decode() for message in call("unary_stream", "List")(b"500", timeout=30)],
    "client stream": call("stream_unary", "Put")((b"%d" % n for n in range(500)), timeout=30).decode(),
    "both": [message.decode() for message in call("stream_stream", "Chat")((b"%d" % n for n in range(100)), timeout=30)],
    "error": error("unary_unary", "Fail", b""),
    "no method": error("unary_unary", "Nowhere", b"")[0],
}})
"#
    );
    let clear = direct(&script);
    assert_eq!(clear["unary"], "got order 17");
    assert_eq!(clear["error"][0], "NOT_FOUND");
    assert_eq!(python(&grpc_daemon(""), &script), clear);
}

#[test]
fn metadata_and_trailers_pass() {
    let script = format!(
        r#"{CHANNEL}
got, called = call("unary_unary", "Meta").with_call(b"m", metadata=[("x-tenant", "seven"), ("x-raw-bin", b"\0\1\xff")], timeout=30)
metadata = lambda pairs: {{key: value for key, value in pairs if key.startswith("x-")}}
say([metadata(called.initial_metadata()), metadata(called.trailing_metadata())])
"#
    );
    let clear = direct(&script);
    assert_eq!(clear[1]["x-trailing"], "two");
    assert_eq!(python(&grpc_daemon(""), &script), clear);
    let requests = server().requests("/orders.Orders/Meta").unwrap();
    let tenants =
        requests.iter().filter(|request| harness::web::header(request, "x-tenant") == Some("seven"));
    assert_eq!(tenants.count(), 2, "directly and through Portcullis");
}

#[test]
fn a_message_is_answered_while_the_call_goes_on() {
    // Each message is sent only when the one before has come back: nothing is held back on the way.
    let script = format!(
        r#"{CHANNEL}
import queue
outbox = queue.SimpleQueue()
echoes = call("stream_stream", "Chat")(iter(outbox.get, None), timeout=30)
for n in range(20):
    outbox.put(b"%d" % n)
    assert next(echoes) == b"echo %d" % n
outbox.put(None)
assert list(echoes) == []
say("done")
"#
    );
    assert_eq!(python(&grpc_daemon(""), &script), "done");
}

#[test]
fn a_denied_method_is_told_in_grpcs_own_words() {
    let daemon = grpc_daemon(
        "[[guard]]\nname = \"no cancelling\"\non = \"http\"\ngrpc = [\"orders.Orders/Cancel*\"]\naction = \"deny\"\n",
    );
    let script = format!(
        r#"{CHANNEL}
say({{
    "denied": error("unary_unary", "Cancel", b"17"),
    "also": error("unary_unary", "CancelAll", b""),
    "other": call("unary_unary", "Get")(b"17", timeout=30).decode(),
}})
"#
    );
    let seen = python(&daemon, &script);
    for key in ["denied", "also"] {
        // Status 7 of <https://grpc.io/docs/guides/status-codes/>.
        assert_eq!(seen[key][0], "PERMISSION_DENIED", "{seen}");
        assert!(seen[key][1].as_str().is_some_and(|message| !message.is_empty()), "{seen}");
    }
    assert_eq!(seen["other"], "got 17");
    assert_eq!(reached("/orders.Orders/Cancel"), 0);
}

#[test]
fn a_method_is_judged_by_its_kind() {
    let daemon = grpc_daemon(
        "[[guard]]\nname = \"no lists\"\non = \"http\"\nkind = [\"grpc orders.Orders/List\"]\naction = \"deny\"\n",
    );
    let script = format!("{CHANNEL}\nsay(error('unary_stream', 'List', b'3'))");
    assert_eq!(python(&daemon, &script)[0], "PERMISSION_DENIED");
}
