//! Requests that wait for a human: approved, denied, told to come again, given up.

use harness::daemon::Daemon;
use harness::process::{REVIEWER, Talking};
use harness::reviewer::{Reviewer, id_of};
use harness::web::Port;
use harness::web::client::Way;
use serde_json::Value;

use super::{answer, daemon, marker, parsed, python, reached, server, talking};

/// POST waits for `user:daemon`; `more` is how long.
fn holding(more: &str) -> Daemon {
    daemon(&format!(
        "[[guard]]\nname = \"a human looks\"\non = \"http\"\nmethods = [\"POST\"]\naction = \"hold\"\n\
         approvers = [\"user:daemon\"]\n{more}\n"
    ))
}

/// Holds for long enough, and keeps the client waiting for as long.
const PATIENT: &str = "hold = \"60s\"\ninline = \"60s\"";
/// Tells the client soon to come again.
const DEFERRED: &str = "hold = \"60s\"\ninline = \"1s\"";

/// A POST that is waited for, with a head in what it prints.
fn post(daemon: &Daemon, version: &str, target: &str, body: &str) -> Talking {
    let url = format!("https://api.shop.test:PORT{target}");
    let arguments = ["--include", version, "--data", body, &url];
    Talking::spawn(&mut Way::Governed(daemon).curl(server(), Port::Https, &arguments).unwrap()).unwrap()
}

/// What it printed in the end. Lines were read one by one, so their ends are put back.
#[track_caller]
fn printed(curl: Talking) -> super::Answer {
    let seen = curl.finish().unwrap();
    assert_eq!(seen.code, 0, "{}", seen.stdout);
    let (head, body) = seen.stdout.split_once("\n\n").unwrap_or_else(|| panic!("no head: {}", seen.stdout));
    parsed(&format!("{}\r\n\r\n{}", head.replace('\n', "\r\n"), body.trim_end()))
}

#[test]
fn an_approved_request_goes_on_and_its_answer_comes() {
    let daemon = holding(PATIENT);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    for version in ["--http1.1", "--http2"] {
        let mark = marker("approved");
        let curl = post(&daemon, version, &format!("/echo?{mark}"), "amount=17");
        let entry = reviewer.waiting().unwrap();
        assert_eq!(reached(&mark), 0, "nothing is sent before the decision");
        let request = &entry["request"];
        assert_eq!(request["rule"], "a human looks");
        assert_eq!(request["policy"], "shop");
        assert_eq!(request["effect"], "write");
        assert_eq!(request["subject"]["user"], "nobody");
        // The reviewer sees what is asked.
        assert!(request["content"].to_string().contains(&mark), "{request}");
        assert!(request["content"].to_string().contains("POST"), "{request}");
        let decided = reviewer.approve(&id_of(&entry), "fine").unwrap();
        assert_eq!(decided.code, 0, "{}", decided.stderr);
        let seen = printed(curl);
        assert_eq!(seen.status, 200, "{seen:?}");
        assert_eq!(seen.json()["body"], "amount=17");
        assert_eq!(reached(&mark), 1);
        let session = request["session"].as_str().unwrap();
        let events = daemon.json_lines(&["sessions", "show", session]).unwrap();
        let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
        assert_eq!((of("held"), of("decided")), (1, 1), "{}", Value::from(events));
    }
}

#[test]
fn a_denied_request_reaches_nobody() {
    let daemon = holding(PATIENT);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mark = marker("denied");
    let curl = post(&daemon, "--http2", &format!("/echo?{mark}"), "amount=17");
    let id = id_of(&reviewer.waiting().unwrap());
    reviewer.deny(&id, "not on a Friday").unwrap();
    let problem = printed(curl).problem(403);
    assert_eq!(problem["rule"], "a human looks");
    assert_eq!(problem["approval"], id);
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_hold_that_nobody_decides_ends_in_a_denial() {
    let daemon = holding("hold = \"1s\"");
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mark = marker("expired");
    let curl = post(&daemon, "--http1.1", &format!("/echo?{mark}"), "a");
    let id = id_of(&reviewer.waiting().unwrap());
    assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "expired");
    let status = printed(curl).status;
    assert!(status == 403 || status == 423, "{status}");
    assert_eq!(reached(&mark), 0);
}

#[test]
fn an_approval_that_came_after_the_answer_is_for_the_run_that_asked() {
    let daemon = holding(DEFERRED);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    for version in ["--http1.1", "--http2"] {
        let mark = marker("deferred");
        let url = format!("https://api.shop.test:PORT/echo?{mark}");
        let request = [version, "--data", "amount=17", &url];
        let told = answer(&daemon, &request);
        let problem = told.problem(423);
        let wait: u64 = told.header("retry-after").unwrap().parse().unwrap();
        assert!(wait > 0 && wait <= 60, "{wait}");
        assert_eq!(problem["rule"], "a human looks");
        let id = id_of(&reviewer.waiting().unwrap());
        assert_eq!(problem["approval"], id);
        reviewer.approve(&id, "fine").unwrap();
        // Every curl here is a run of its own.
        let other = answer(&daemon, &request).problem(423);
        assert_ne!(other["approval"], id);
        let other = id_of(&reviewer.waiting().unwrap());
        reviewer.deny(&other, "enough").unwrap();
        assert_eq!(reached(&mark), 0);
    }
}

#[test]
fn a_client_that_gives_up_withdraws_its_request() {
    let daemon = holding(PATIENT);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    for version in ["--http1.1", "--http2"] {
        let mark = marker("gone");
        let curl = post(&daemon, version, &format!("/echo?{mark}"), "a");
        let id = id_of(&reviewer.waiting().unwrap());
        drop(curl);
        assert_eq!(reviewer.settled(&id).unwrap()["outcome"], "withdrawn", "{version}");
        assert_ne!(reviewer.approve(&id, "too late").unwrap().code, 0);
        assert_eq!(reached(&mark), 0);
    }
}

#[test]
fn other_streams_of_a_connection_do_not_wait_for_a_held_one() {
    let daemon = holding(PATIENT);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mark = marker("streams");
    let mut client = talking(
        &daemon,
        &format!(
            r#"
import httpx
async def main():
    async with httpx.AsyncClient(verify=context(), http2=True, timeout=60) as client:
        await client.get(f"{{BASE}}/echo")
        held = asyncio.create_task(client.post(f"{{BASE}}/echo?{mark}", content="held"))
        await asyncio.to_thread(sys.stdin.readline)
        others = await asyncio.gather(*[client.get(f"{{BASE}}/echo?n={{n}}") for n in range(20)])
        assert all(other.status_code == 200 for other in others), others
        assert not held.done()
        print("others are through", flush=True)
        print("held", (await held).status_code, flush=True)
asyncio.run(main())
"#
        ),
    );
    let id = id_of(&reviewer.waiting().unwrap());
    client.say("").unwrap();
    client.until_contains("others are through").unwrap();
    assert_eq!(reached(&mark), 0);
    reviewer.approve(&id, "fine").unwrap();
    client.until_contains("held 200").unwrap();
}

#[test]
fn a_held_body_arrives_whole() {
    let daemon = holding(PATIENT);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let mark = marker("held-body");
    let client = talking(
        &daemon,
        &format!(
            r#"
import httpx
body = random.Random(3).randbytes(300_000)
got = httpx.post(f"{{BASE}}/upload?{mark}", content=body, verify=context(), timeout=60)
assert got.json() == {{"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}}, got.text
print("whole")
"#
        ),
    );
    let id = id_of(&reviewer.waiting().unwrap());
    reviewer.approve(&id, "fine").unwrap();
    let seen = client.finish().unwrap();
    assert_eq!((seen.code, seen.stdout.trim()), (0, "whole"), "{}", daemon.log());
    assert_eq!(reached(&mark), 1);
}

#[test]
fn reading_passes_while_something_is_held() {
    let daemon = holding(PATIENT);
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let curl = post(&daemon, "--http1.1", "/echo", "a");
    let id = id_of(&reviewer.waiting().unwrap());
    let seen = python(&daemon, "import httpx\nsay(httpx.get(f'{BASE}/echo', verify=context()).status_code)");
    assert_eq!(seen, 200);
    reviewer.deny(&id, "no").unwrap();
    assert_eq!(printed(curl).status, 403);
}
