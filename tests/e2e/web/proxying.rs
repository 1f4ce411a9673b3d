//! Clients that are set up for a proxy: absolute-form (RFC 9112, 3.2.2) and CONNECT (RFC 9110, 9.3.6), judged and masked
//! like the rest.

use harness::daemon::Daemon;
use harness::process::Finished;
use harness::web::policy::{ALLOW, MASKS, intercepted, with_tls};
use harness::web::{Port, TOKEN};

use super::{answer, daemon_of, marker, reached, server, tried};

/// A daemon over the proxy, which the server's plain port is, and over the intercepted server.
fn proxied(rules: &str) -> Daemon {
    let connections = [with_tls(server(), Port::Plain, "plain"), intercepted(server(), Port::Https)];
    daemon_of(&connections, &format!("{rules}\n{ALLOW}"))
}

/// curl with the server's plain port as its proxy.
fn through_proxy(daemon: &Daemon, arguments: &[&str]) -> Finished {
    let proxy = format!("http://{}", server().at(Port::Plain));
    let mut words = vec!["--proxy", &proxy];
    words.extend(arguments);
    tried(daemon, &words)
}

#[track_caller]
fn assert_masked(seen: &Finished, daemon: &Daemon) {
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    for part in ["[redacted]", "c***@planted.example", "Grace 3"] {
        assert!(seen.stdout.contains(part), "no {part:?} in {}", seen.stdout);
    }
    for part in ["918-27", "customer1@", super::CARD_PREFIX, "4929 7183"] {
        assert!(!seen.stdout.contains(part), "{part:?} in {}", seen.stdout);
    }
}

#[test]
fn an_absolute_target_is_masked() {
    let daemon = proxied(MASKS);
    let url = format!("http://{}/planted", server().at(Port::Plain));
    assert_masked(&through_proxy(&daemon, &[&url]), &daemon);
}

#[test]
fn an_absolute_target_is_judged_by_its_path_and_host() {
    let daemon = proxied(
        "[[guard]]\nname = \"the rule\"\non = \"http\"\npaths = [\"/admin/**\"]\naction = \"deny\"\n",
    );
    let mark = marker("absolute");
    let url = format!("http://{}/admin/users?{mark}", server().at(Port::Plain));
    let proxy = format!("http://{}", server().at(Port::Plain));
    let problem = answer(&daemon, &["--proxy", &proxy, &url]).problem(403);
    assert_eq!(problem["rule"], "the rule");
    assert_eq!(reached(&mark), 0);
}

#[test]
fn what_goes_through_a_tunnel_is_masked() {
    let daemon = proxied(MASKS);
    assert_masked(&through_proxy(&daemon, &["https://IP:PORT/planted"]), &daemon);
}

#[test]
fn what_goes_through_a_tunnel_is_judged() {
    let daemon = proxied(
        "[[guard]]\nname = \"the rule\"\non = \"http\"\npaths = [\"/admin/**\"]\naction = \"deny\"\n",
    );
    let mark = marker("tunnel");
    let url = format!("https://IP:PORT/admin/users?{mark}");
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let denied = through_proxy(&daemon, &[&status[..], &[&url]].concat());
    assert_eq!((denied.code, denied.stdout.as_str()), (0, "403"), "{}\n{}", denied.stderr, daemon.log());
    assert_eq!(reached(&mark), 0);
    let passed = through_proxy(&daemon, &[&status[..], &["https://IP:PORT/echo"]].concat());
    assert_eq!((passed.code, passed.stdout.as_str()), (0, "200"), "{}\n{}", passed.stderr, daemon.log());
}

#[test]
fn a_tunnel_can_be_denied() {
    let daemon =
        proxied("[[guard]]\nname = \"no tunnels\"\non = \"http\"\nkind = [\"connect\"]\naction = \"deny\"\n");
    let mark = marker("no-tunnel");
    let seen = through_proxy(&daemon, &[&format!("https://IP:PORT/echo?{mark}")]);
    assert_ne!(seen.code, 0, "{}", seen.stdout);
    assert!(seen.stderr.contains("403"), "{}", seen.stderr);
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_tunnel_leads_nowhere_that_no_connection_names() {
    let daemon = proxied("");
    // The server listens there; the policy does not say so.
    let target = server().at(Port::UnknownRoot).to_string();
    let mark = marker("elsewhere");
    let seen = through_proxy(&daemon, &["--insecure", &format!("https://{target}/echo?{mark}")]);
    assert_ne!(seen.code, 0, "{}", seen.stdout);
    assert_eq!(reached(&mark), 0);
    assert_eq!(reached(&target), 0, "the tunnel was asked of the server");
}

/// An address that the policy names and where nobody is: only a proxy could answer for it.
const ELSEWHERE: &str = "127.77.1.2:8080";

fn elsewhere(tls: &str) -> String {
    format!("[[connection]]\nname = \"elsewhere\"\nto = [\"{ELSEWHERE}\"]\nprotocol = \"http\"\n{tls}\n")
}

fn plain_proxy(upstream: &str) -> String {
    let proxy = with_tls(server(), Port::Plain, "plain");
    format!("{proxy}upstream = {{ tls = \"disable\"{upstream} }}\n")
}

#[test]
fn an_absolute_target_elsewhere_goes_by_the_proxy_as_a_session_of_its_own() {
    let guard = "[[guard]]\nname = \"no\"\non = \"http\"\nconnections = [\"elsewhere\"]\nmethods = [\"DELETE\"]\n\
                 action = \"deny\"\n";
    let connections = [plain_proxy(""), elsewhere("tls = \"plain\"\nupstream = { tls = \"disable\" }")];
    let daemon = daemon_of(&connections, &format!("{guard}\n{ALLOW}"));
    let mark = marker("elsewhere");
    let url = format!("http://{ELSEWHERE}/echo?{mark}");
    let own = format!("http://{}/echo?{mark}", server().at(Port::Plain));
    let proxy = format!("http://{}", server().at(Port::Plain));
    // Both by one connection, which serves each under its own rules.
    let seen = through_proxy(&daemon, &["--proxy-user", "ada:secret", &url, &own, &url]);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert_eq!(seen.stdout.matches(&format!("\"target\": \"{url}\"")).count(), 2, "{}", seen.stdout);
    assert_eq!(seen.stdout.matches("proxy-authorization").count(), 2, "{}", seen.stdout);
    let denied = answer(&daemon, &["--proxy", &proxy, "--request", "DELETE", &url]).problem(403);
    assert_eq!(denied["rule"], "no");
    assert_eq!(reached(&mark), 3);

    let sessions = daemon
        .until(&["sessions", "list"], |sessions| {
            sessions.len() == 4 && sessions.iter().all(|session| !session["ended_reason"].is_null())
        })
        .unwrap();
    let inner: Vec<_> =
        sessions.iter().filter(|session| session["opened"]["connection"] == "elsewhere").collect();
    assert_eq!(inner.len(), 2, "{sessions:#?}");
    for session in &inner {
        assert_eq!(session["opened"]["destination"], ELSEWHERE);
        let events = daemon.json_lines(&["sessions", "show", session["session"].as_str().unwrap()]).unwrap();
        let through = &events[0]["through"];
        let outer = sessions.iter().find(|outer| outer["session"] == *through);
        let outer = outer.unwrap_or_else(|| panic!("{:#?}", events[0]));
        assert_ne!(outer["opened"]["connection"], "elsewhere");
    }
}

#[test]
fn an_absolute_target_that_no_connection_names_is_refused() {
    let daemon = daemon_of(&[plain_proxy("")], ALLOW);
    let mark = marker("unnamed");
    let proxy = format!("http://{}", server().at(Port::Plain));
    for target in [ELSEWHERE, "nowhere.test", "127.77.1.2"] {
        let url = format!("http://{target}/echo?{mark}");
        let problem = answer(&daemon, &["--proxy", &proxy, &url]).problem(403);
        assert!(problem["detail"].as_str().unwrap().contains("no connection of policy"), "{problem}");
    }
    assert_eq!(reached(&mark), 0);
}

#[test]
fn an_absolute_target_is_no_way_around_tls() {
    let daemon = daemon_of(&[plain_proxy(""), elsewhere("")], ALLOW);
    let mark = marker("no-tls");
    let proxy = format!("http://{}", server().at(Port::Plain));
    let problem =
        answer(&daemon, &["--proxy", &proxy, &format!("http://{ELSEWHERE}/echo?{mark}")]).problem(400);
    assert!(problem["detail"].as_str().unwrap().contains("wants TLS"), "{problem}");
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_proxy_gets_its_own_credential_and_no_other() {
    let inject = ", credential = \"shop-token\", inject = \"header Proxy-Authorization\"";
    let target = server().at(Port::Https).to_string();
    for (upstream, wanted) in [(inject, TOKEN), ("", "Basic YWRhOnNlY3JldA==")] {
        let daemon = daemon_of(&[plain_proxy(upstream), intercepted(server(), Port::Https)], ALLOW);
        let mark = marker("proxy-credential");
        let before = reached(&target);
        let seen =
            through_proxy(&daemon, &["--proxy-user", "ada:secret", &format!("https://IP:PORT/echo?{mark}")]);
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        assert!(
            !seen.stdout.contains("proxy-authorization") && !seen.stdout.contains(TOKEN),
            "{}",
            seen.stdout
        );
        assert_eq!(reached(&mark), 1);
        let asked = server().requests(&target).unwrap();
        assert!(asked.len() > before, "the tunnel was asked of the proxy");
        let fields = asked.last().unwrap()["headers"].to_string();
        assert!(fields.contains(wanted), "{fields}");
    }
}

#[test]
fn a_tunnel_that_the_proxy_cannot_open_is_an_answer_inside_it() {
    let daemon = daemon_of(&[plain_proxy(""), elsewhere("")], ALLOW);
    let proxy = format!("http://{}", server().at(Port::Plain));
    let seen = answer(&daemon, &["--proxy", &proxy, &format!("https://{ELSEWHERE}/echo")]);
    let problem = seen.problem(502);
    assert!(problem["detail"].as_str().unwrap().contains("the proxy opens no tunnel"), "{problem}");
}

#[test]
fn a_proxy_that_echoes_does_not_give_its_credential_away() {
    let inject = ", user = \"shop\", credential = \"shop-token\", inject = \"basic\"";
    let connections = [plain_proxy(inject), elsewhere("tls = \"plain\"\nupstream = { tls = \"disable\" }")];
    let daemon = daemon_of(&connections, ALLOW);
    let mark = marker("proxy-echo");
    let seen =
        through_proxy(&daemon, &["--proxy-user", "ada:secret", &format!("http://{ELSEWHERE}/echo?{mark}")]);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    // What curl would have said, and what was said instead.
    assert!(!seen.stdout.contains("YWRhOnNlY3JldA"), "{}", seen.stdout);
    let basic = "c2hvcDpzaG9wLXRva2VuLWszSnE4MXZYdzBacjV0Qm4=";
    assert!(seen.stdout.contains("[redacted]") && !seen.stdout.contains(basic), "{}", seen.stdout);
    let asked = server().requests(&mark).unwrap();
    assert!(asked[0]["headers"].to_string().contains(basic), "{}", asked[0]);
    super::disk::assert_kept_nowhere(&daemon, &[basic, TOKEN]);
}

#[test]
fn only_http_urls_are_asked_of_a_proxy() {
    let daemon = daemon_of(&[plain_proxy("")], ALLOW);
    let mark = marker("scheme");
    for url in [format!("https://{ELSEWHERE}/echo?{mark}"), format!("ftp://{ELSEWHERE}/{mark}")] {
        let target = ["--request-target", &url, &format!("http://{}/", server().at(Port::Plain))];
        let host = format!("Host: {ELSEWHERE}");
        let words = [&["--header", &host][..], &target].concat();
        let problem = super::answer_at(&daemon, Port::Plain, &words).problem(400);
        assert!(problem["detail"].as_str().unwrap().contains("http://"), "{problem}");
    }
    assert_eq!(reached(&mark), 0);
}
