//! Policies for the HTTP server, in pieces: a head, connections, rules.

use super::{HttpServer, Port};

/// A policy `shop` of these connections and rules (guards, masks, defaults), in TOML.
#[must_use]
pub fn http_policy(connections: &[String], rules: &str) -> String {
    format!(
        "version = 1\nname = \"shop\"\n\n[egress]\ndefault = \"deny\"\n\n{}\n{rules}",
        connections.join("\n")
    )
}

/// A connection `shop-api` to one of the server's ports, which is intercepted and verified.
#[must_use]
pub fn intercepted(server: &HttpServer, port: Port) -> String {
    with_upstream(server, port, "")
}

/// The same with more about the upstream: `, credential = "shop-token", inject = "bearer"`.
#[must_use]
pub fn with_upstream(server: &HttpServer, port: Port, upstream: &str) -> String {
    format!(
        r#"[[connection]]
name = "shop-api-{number}"
to = ["{address}"]
protocol = "http"
upstream = {{ root_cert = "{ca}"{upstream} }}
"#,
        number = port.number(),
        address = server.at(port),
        ca = server.ca().display(),
    )
}

/// A connection whose profile says how TLS is treated: `plain` or `passthrough`.
#[must_use]
pub fn with_tls(server: &HttpServer, port: Port, tls: &str) -> String {
    format!(
        r#"[[connection]]
name = "shop-api-{number}"
to = ["{address}"]
protocol = "http"
tls = "{tls}"
"#,
        number = port.number(),
        address = server.at(port),
    )
}

/// The last guard of most tests: what no other one matched passes.
pub const ALLOW: &str = r#"
[[guard]]
name = "the rest"
on = "http"
effect = ["read", "write", "ddl", "admin", "unknown"]
action = "allow"
"#;

/// Masks for everything that the server plants.
pub const MASKS: &str = r#"
[[mask]]
on = "http"
json = ["$.customers[*].ssn"]
with = "redact"

[[mask]]
on = "http"
detect = ["payment-card", "email"]
with = "partial"
"#;
