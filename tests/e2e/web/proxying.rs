//! Clients that are set up for a proxy: absolute-form (RFC 9112, 3.2.2) and CONNECT (RFC 9110, 9.3.6), judged and masked
//! like the rest.

use harness::daemon::Daemon;
use harness::process::Finished;
use harness::web::Port;
use harness::web::policy::{ALLOW, MASKS, intercepted, with_tls};

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
