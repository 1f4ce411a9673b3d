//! Unchanged clients: each reads what the server plants, directly in the clear and through Portcullis masked, and else
//! notices nothing.

use std::process::Command;

use harness::daemon::Daemon;
use harness::process::{self, NOBODY, finish};
use harness::web::Port;
use harness::web::client::Way;

use super::{direct, masked, python, server, tried};

/// What a masked customer looks like; the record and the agent see nothing else.
const MASKED: [&str; 3] = ["c***@planted.example", "[redacted]", "**** **** ***"];
const CLEAR: [&str; 3] = ["customer1@planted.example", "918-27-0001", "4929 7183 0000 00"];

/// Fails unless the text has every part of one list and none of the other.
#[track_caller]
fn assert_has(text: &str, wanted: &[&str], unwanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    for part in unwanted {
        assert!(!text.contains(part), "{part:?} in: {text}");
    }
}

/// A script prints the document as it came: clear without Portcullis, masked with it.
#[track_caller]
fn assert_masks(script: &str) {
    let clear = direct(script);
    assert_has(&clear.to_string(), &CLEAR, &["[redacted]"]);
    let daemon = masked();
    let seen = python(&daemon, script);
    assert_has(&seen.to_string(), &MASKED[..2], &CLEAR);
    assert_eq!(seen["customers"][0]["id"], 1);
    assert_eq!(seen["customers"][0]["ssn"], "[redacted]");
    assert_eq!(seen["customers"][2]["name"], "Grace 3");
    let card = seen["customers"][0]["card"].as_str().unwrap();
    assert!(card.starts_with(MASKED[2]) && card.len() == 19, "partial keeps the last four digits: {card}");
}

fn assert_curl_masks(version: &str, expected: &str) {
    let arguments = [
        version,
        "--write-out",
        "\\nHTTP/%{http_version} %{http_code}",
        "https://api.shop.test:PORT/planted?kind=json",
    ];
    let clear = Way::Direct.curled(server(), Port::Https, &arguments).unwrap();
    assert_has(&clear.stdout, &CLEAR, &["[redacted]"]);
    let seen = tried(&masked(), &arguments);
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    assert_has(&seen.stdout, &MASKED, &CLEAR);
    assert!(seen.stdout.ends_with(expected), "{}", seen.stdout);
}

#[test]
fn curl_over_http_1_sees_masked_json() {
    assert_curl_masks("--http1.1", "\nHTTP/1.1 200");
}

#[test]
fn curl_over_http_2_sees_masked_json() {
    assert_curl_masks("--http2", "\nHTTP/2 200");
}

#[test]
fn curl_to_an_address_instead_of_a_name() {
    let arguments = ["https://IP:PORT/planted"];
    let seen = tried(&masked(), &arguments);
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    assert_has(&seen.stdout, &MASKED, &CLEAR);
}

#[test]
fn requests_sees_masked_json() {
    assert_masks(
        r#"
import requests
with requests.Session() as session:
    # Given with each request: a variable would win over the session's own.
    for _ in range(3):
        got = session.get(f"{BASE}/planted", params={"kind": "json"}, verify=CA)
        assert got.status_code == 200, got.status_code
    posted = session.post(f"{BASE}/echo", json={"order": 17}, verify=CA).json()
    assert json.loads(posted["body"]) == {"order": 17}
    say(got.json())
"#,
    );
}

#[test]
fn httpx_over_http_1_sees_masked_json() {
    assert_masks(
        r#"
import httpx
with httpx.Client(verify=context()) as client:
    got = client.get(f"{BASE}/planted")
    assert (got.status_code, got.http_version) == (200, "HTTP/1.1"), got
    say(got.json())
"#,
    );
}

#[test]
fn httpx_over_http_2_sees_masked_json_on_many_streams_at_once() {
    assert_masks(
        r#"
import httpx
async def main():
    async with httpx.AsyncClient(verify=context(), http2=True, timeout=30) as client:
        first = await client.get(f"{BASE}/planted")
        assert (first.status_code, first.http_version) == (200, "HTTP/2"), first
        many = await asyncio.gather(*[client.post(f"{BASE}/echo?n={n}", content=f"body {n}") for n in range(50)])
        for n, got in enumerate(many):
            assert got.json()["body"] == f"body {n}", got.text
            assert got.json()["target"] == f"/echo?n={n}", got.text
        say(first.json())
asyncio.run(main())
"#,
    );
}

#[test]
fn aiohttp_sees_masked_json() {
    assert_masks(
        r#"
import aiohttp
async def main():
    connector = aiohttp.TCPConnector(ssl=context(), resolver=aiohttp.ThreadedResolver())
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(f"{BASE}/planted") as got:
            assert got.status == 200
            document = await got.json()
        async def pieces():
            for n in range(5):
                yield f"piece {n} ".encode()
        async with session.post(f"{BASE}/echo", data=pieces()) as got:
            assert (await got.json())["body"] == "piece 0 piece 1 piece 2 piece 3 piece 4 "
        say(document)
asyncio.run(main())
"#,
    );
}

/// node reads its authorities when it starts, from a variable.
fn node(way: Way<'_>, script: &str) -> Command {
    let mut node = way.command(server(), "sh").unwrap();
    node.args([
        "-c",
        "NODE_EXTRA_CA_CERTS=$PORTCULLIS_CA_FILE exec node --input-type=module --eval \"$1\" \"$2\"",
        "sh",
    ]);
    node.arg(script).arg(format!("https://{}", server().at(Port::Https)));
    node
}

#[test]
fn node_fetch_sees_masked_json() {
    const SCRIPT: &str = "
        const base = process.argv[1];
        const got = await fetch(base + '/planted');
        const echoed = await (await fetch(base + '/echo', { method: 'POST', body: 'from node' })).json();
        if (got.status !== 200 || echoed.body !== 'from node') throw new Error(JSON.stringify(echoed));
        console.log(await got.text());";
    let clear = process::run(&mut node(Way::Direct, SCRIPT)).unwrap();
    assert_has(&clear, &CLEAR, &["[redacted]"]);
    let daemon = masked();
    let seen = finish(&mut node(Way::Governed(&daemon), SCRIPT)).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert_has(&seen.stdout, &MASKED, &CLEAR);
}

/// A client of the agent's own environment: nothing but what `portcullis run` set tells it whom to trust.
fn by_variables(daemon: &Daemon, program: &str, arguments: &[&str]) -> String {
    let mut run = daemon.command_as(NOBODY).unwrap();
    run.args(["run", "--policy", "shop", "--", program]).args(arguments);
    let seen = finish(&mut run).unwrap();
    assert_eq!(seen.code, 0, "{program}: {}\n{}", seen.stderr, daemon.log());
    seen.stdout
}

#[test]
fn clients_trust_by_the_variables_of_the_run_alone() {
    let daemon = masked();
    let url = format!("https://{}/planted", server().at(Port::Https));
    let python = process::venv_python().unwrap().display().to_string();
    let requests = format!("import requests; print(requests.get({url:?}).text)");
    let httpx = format!("import httpx; print(httpx.get({url:?}).text)");
    let urllib = format!("import urllib.request as r; print(r.urlopen({url:?}).read().decode())");
    let node = format!("fetch({url:?}).then(got => got.text()).then(console.log)");
    for (program, arguments) in [
        ("curl", vec!["--silent", "--show-error", &url]),
        (python.as_str(), vec!["-c", &requests]),
        (python.as_str(), vec!["-c", &httpx]),
        (python.as_str(), vec!["-c", &urllib]),
        ("node", vec!["--eval", &node]),
    ] {
        let seen = by_variables(&daemon, program, &arguments);
        assert_has(&seen, &MASKED, &CLEAR);
    }
}

#[test]
fn a_client_that_trusts_only_the_real_authority_is_not_deceived() {
    let daemon = masked();
    let seen = tried(
        &daemon,
        &["--cacert", &server().ca().display().to_string(), "https://api.shop.test:PORT/echo"],
    );
    // CURLE_PEER_FAILED_VERIFICATION: the interception is visible to whoever looks.
    assert_eq!(seen.code, 60, "{}", seen.stderr);
}

#[test]
fn the_agent_sees_the_server_as_it_is_where_nothing_is_masked() {
    const SCRIPT: &str = r#"
with connect() as made:
    made.sendall(b"GET /echo HTTP/1.1\r\nHost: api.shop.test:8443\r\nX-Case: As-Is\r\nX-Twice: 1\r\nX-Twice: 2\r\nAccept: */*\r\n\r\n")
    status, headers, body, trailers = answer(made.makefile("rb"))
    seen = json.loads(body)
    kept = [[name, value] for name, value in seen["headers"] if name in ("x-case", "x-twice", "accept")]
    say([status, headers.get("content-type"), headers.get("x-internal-host"), seen["method"], seen["target"], kept])
"#;
    let clear = direct(SCRIPT);
    assert_eq!(python(&masked(), SCRIPT), clear);
    assert_eq!(clear[5].as_array().map(Vec::len), Some(4), "{clear}");
}

#[test]
fn h2load_and_wrk_get_every_answer() {
    let daemon = masked();
    let url = format!("https://{}/echo", server().at(Port::Https));
    let load = |program: &str, arguments: &[&str]| {
        let mut run = harness::agent::under(&daemon, NOBODY, "shop").unwrap();
        let seen = finish(run.arg(program).args(arguments).arg(&url)).unwrap();
        assert_eq!(seen.code, 0, "{program}: {}\n{}", seen.stdout, seen.stderr);
        seen.stdout
    };
    let seen = load("h2load", &["--requests=2000", "--clients=4", "--max-concurrent-streams=16"]);
    assert!(seen.contains("Application protocol: h2"), "{seen}");
    assert!(seen.contains("2000 succeeded, 0 failed, 0 errored"), "{seen}");
    let seen = load("h2load", &["--h1", "--requests=500", "--clients=4"]);
    assert!(seen.contains("500 succeeded, 0 failed, 0 errored"), "{seen}");
    let seen = load("wrk", &["--threads=1", "--connections=4", "--duration=1s"]);
    assert!(
        seen.contains("requests in") && !seen.contains("Non-2xx") && !seen.contains("Socket errors"),
        "{seen}"
    );
}
