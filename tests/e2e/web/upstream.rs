//! A server that cannot be trusted, reached or finished with: the client reads what is wrong and whose fault it is, and the
//! next connection works.

use std::time::Duration;

use harness::daemon::Daemon;
use harness::process::{Finished, Talking};
use harness::web::Port;
use harness::web::client::Way;
use harness::web::policy::{ALLOW, MASKS, intercepted, with_tls, with_upstream};

use super::{
    Answer, answer, answer_at, daemon_of, direct, marker, masked, peak_kb, python, reached, reset_peak,
    server,
};
use crate::wait;

/// A daemon over one port besides the good one, with masks, so that bodies are looked into.
fn beside(port: Port) -> Daemon {
    let connections = [intercepted(server(), Port::Https), intercepted(server(), port)];
    daemon_of(&connections, &format!("{MASKS}{ALLOW}"))
}

fn tried_at(daemon: &Daemon, port: Port, arguments: &[&str]) -> Finished {
    Way::Governed(daemon).curled(server(), port, arguments).unwrap()
}

/// Fails unless the good server still answers through this daemon.
#[track_caller]
fn assert_well(daemon: &Daemon) {
    assert_eq!(answer(daemon, &["https://api.shop.test:PORT/status/200"]).status, 200, "{}", daemon.log());
}

/// Fails unless this is a 502 whose text has one of these words.
#[track_caller]
fn assert_blames(answer: &Answer, words: &[&str]) {
    let problem = answer.problem(502);
    let detail = problem["detail"].as_str().unwrap().to_lowercase();
    assert!(words.iter().any(|word| detail.contains(word)), "none of {words:?} in {detail:?}");
}

#[test]
fn a_certificate_that_is_not_accepted_is_told() {
    for port in [Port::WrongName, Port::Expired, Port::UnknownRoot] {
        let daemon = beside(port);
        for version in ["--http1.1", "--http2"] {
            let mark = marker("certificate");
            let url = format!("https://api.shop.test:PORT/echo?{mark}");
            let seen = answer_at(&daemon, port, &[version, &url]);
            assert_blames(&seen, &["certificate"]);
            assert_eq!(reached(&mark), 0, "{port:?}");
        }
        assert_well(&daemon);
    }
}

#[test]
fn a_profile_may_name_the_certificates_name() {
    let connection = with_upstream(server(), Port::WrongName, ", server_name = \"elsewhere.test\"");
    let daemon = daemon_of(&[connection], ALLOW);
    assert_eq!(answer_at(&daemon, Port::WrongName, &["https://api.shop.test:PORT/echo"]).status, 200);
}

#[test]
fn a_server_that_is_down_is_told() {
    let daemon = beside(Port::Nobody);
    for version in ["--http1.1", "--http2"] {
        let seen = answer_at(&daemon, Port::Nobody, &[version, "https://api.shop.test:PORT/echo"]);
        assert_blames(&seen, &["refused", "connect"]);
    }
    assert_well(&daemon);
}

#[test]
fn a_server_that_does_not_speak_tls_is_told() {
    let daemon = beside(Port::Plain);
    assert_blames(&answer_at(&daemon, Port::Plain, &["https://api.shop.test:PORT/echo"]), &["tls"]);
    assert_well(&daemon);
}

/// The head of the answer that `/die` cuts.
const HEAD: usize = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n".len();

#[test]
fn a_server_that_dies_before_its_head_is_whole_is_told() {
    let daemon = beside(Port::H1);
    for version in ["--http1.1", "--http2"] {
        for after in [0, 1, 12, 17, HEAD - 1] {
            let url = format!("https://api.shop.test:PORT/die?after={after}");
            let seen = answer_at(&daemon, Port::H1, &[version, &url]);
            seen.problem(502);
        }
    }
    assert_well(&daemon);
}

#[test]
fn a_body_that_is_cut_never_looks_whole() {
    let daemon = beside(Port::H1);
    for version in ["--http1.1", "--http2"] {
        for after in [HEAD, HEAD + 1, HEAD + 500, HEAD + 999] {
            let url = format!("https://api.shop.test:PORT/die?after={after}");
            let arguments = [version, "--write-out", "\\n%{http_code}", &url];
            let seen = tried_at(&daemon, Port::H1, &arguments);
            // Cut as well, or told instead of sent.
            assert!(seen.code != 0 || seen.stdout.ends_with("\n502"), "{version} {after}: {seen:?}");
        }
        let whole = format!("https://api.shop.test:PORT/die?after={}", HEAD + 1000);
        let seen = tried_at(&daemon, Port::H1, &[version, &whole]);
        assert_eq!((seen.code, seen.stdout.len()), (0, 1000), "{}", seen.stderr);
    }
    assert_well(&daemon);
}

#[test]
fn a_malformed_answer_is_told_and_nothing_of_it_is_believed() {
    let mut daemon = beside(Port::Hostile);
    assert_well(&daemon);
    let pid = daemon.pid();
    let before = reset_peak(pid);
    for version in ["--http1.1", "--http2"] {
        for offence in [
            "two-lengths",
            "bad-length",
            "negative-length",
            "not-http",
            "bad-status",
            "nothing",
            "half-head",
            "header-flood",
            "giant-header",
            "endless-head",
        ] {
            let url = format!("https://api.shop.test:PORT/{offence}");
            let arguments = [version, "--include", &url];
            let seen = tried_at(&daemon, Port::Hostile, &arguments);
            assert_eq!(seen.code, 0, "{version} {offence}: {}", seen.stderr);
            super::parsed(&seen.stdout).problem(502);
            assert!(!seen.stdout.contains("SMUGGLED"), "{version} {offence}: {}", seen.stdout);
        }
    }
    let grown = peak_kb(pid).saturating_sub(before);
    assert!(grown < 32 * 1024, "{before} kB grew by {grown} kB");
    assert_well(&daemon);
}

#[test]
fn a_malformed_body_never_looks_whole() {
    let daemon = beside(Port::Hostile);
    for version in ["--http1.1", "--http2"] {
        for offence in ["bad-chunk", "huge-chunk", "cut-chunk", "no-last-chunk", "short-body"] {
            let url = format!("https://api.shop.test:PORT/{offence}");
            let seen = tried_at(&daemon, Port::Hostile, &[version, "--write-out", "\\n%{http_code}", &url]);
            assert!(seen.code != 0 || seen.stdout.ends_with("\n502"), "{version} {offence}: {seen:?}");
        }
    }
    assert_well(&daemon);
}

#[test]
fn an_answer_that_could_be_read_in_two_ways_smuggles_nothing() {
    let daemon = beside(Port::Hostile);
    for version in ["--http1.1", "--http2"] {
        for offence in ["length-and-chunked", "surplus"] {
            let url = format!("https://api.shop.test:PORT/{offence}");
            // Asked twice over one connection: what was left of the first answer must not become the second.
            let seen = tried_at(&daemon, Port::Hostile, &[version, &url, &url]);
            assert!(!seen.stdout.contains("SMUGGLED"), "{version} {offence}: {seen:?}");
        }
    }
    assert_well(&daemon);
}

#[test]
fn an_answer_that_cannot_be_decoded_shows_nothing_unmasked() {
    let connections = [intercepted(server(), Port::Https), intercepted(server(), Port::Hostile)];
    let rules = format!("[defaults]\nuninspected = \"deny\"\n{MASKS}{ALLOW}");
    let daemon = daemon_of(&connections, &rules);
    let url = "https://api.shop.test:PORT/bad-gzip";
    let seen = tried_at(&daemon, Port::Hostile, &["--write-out", "\\n%{http_code}", url]);
    assert!(!seen.stdout.contains("not gzip"), "{seen:?}");
    assert!(seen.code != 0 || !seen.stdout.ends_with("\n200"), "{seen:?}");
    assert_well(&daemon);
}

#[test]
fn a_status_of_the_servers_own_is_passed_on() {
    let daemon = masked();
    for code in [301, 400, 401, 403, 404, 429, 500, 502, 503] {
        let seen = answer(&daemon, &[&format!("https://api.shop.test:PORT/status/{code}")]);
        assert_eq!((seen.status, seen.body.as_str()), (code, format!("status {code}").as_str()));
    }
}

#[test]
fn a_download_ends_in_an_error_when_the_daemon_dies() {
    let script = |name: &str| {
        format!(
            r#"
import httpx
try:
    with httpx.stream("GET", f"{{BASE}}/gate?name={name}", verify=context(), timeout=30) as got:
        for piece in got.iter_raw():
            print("got", piece, flush=True)
    print("looks whole")
except httpx.TransportError as error:
    print("error", type(error).__name__)
"#
        )
    };
    let mut daemon = masked();
    let name = marker("daemon-dies");
    let mut command = Way::Governed(&daemon).python(server(), &script(&name)).unwrap();
    let mut client = Talking::spawn(&mut command).unwrap();
    client.until_contains("first").unwrap();
    daemon.kill().unwrap();
    client.until_contains("error").unwrap();
    direct(&format!(
        "import httpx\nsay(httpx.get(f'{{BASE}}/open?name={name}', verify=context()).status_code)"
    ));
}

#[test]
fn a_server_is_let_go_when_its_client_leaves() {
    let daemon = masked();
    let name = marker("client-leaves");
    let script = format!(
        r#"
import httpx
with httpx.Client(verify=context(), http2=True, timeout=30) as client:
    with client.stream("GET", f"{{BASE}}/gate?name={name}") as got:
        next(got.iter_raw())
say("left")
"#
    );
    assert_eq!(python(&daemon, &script), "left");
    // The session's end is on record although the server never finished.
    wait::until(Duration::from_secs(20), || {
        let sessions = daemon.json_lines(&["sessions", "list"]).unwrap();
        if sessions.iter().all(|session| !session["ended_reason"].is_null()) {
            Ok(())
        } else {
            Err(daemon.log())
        }
    });
}

#[test]
fn a_plain_server_that_is_down_is_told() {
    let daemon = daemon_of(&[with_tls(server(), Port::Nobody, "plain")], ALLOW);
    assert_blames(
        &answer_at(&daemon, Port::Nobody, &["http://api.shop.test:PORT/echo"]),
        &["refused", "connect"],
    );
}
