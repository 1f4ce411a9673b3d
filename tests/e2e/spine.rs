//! The spine: an unchanged psql under a policy is caught, masked, held, refused and recorded.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use harness::agent;
use harness::daemon::{Daemon, shop_policy};
use harness::postgres::Server;
use harness::process::NOBODY;

/// One server for all tests of this binary, on an address that another one running now does not have.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        Server::start(Ipv4Addr::new(127, 64 | (b & 0x3f), c, d), 5432).expect("a PostgreSQL server")
    })
}

/// A daemon with the shop policy.
pub(crate) fn shop() -> Daemon {
    Daemon::start(&[("shop", &shop_policy(server()))]).expect("a daemon")
}

#[test]
fn a_select_comes_back_masked() {
    let daemon = shop();
    let seen = agent::psql(
        &daemon,
        server(),
        NOBODY,
        "SELECT id, name, email, card, ssn FROM customers WHERE id = 1",
    )
    .unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert_eq!(
        seen.stdout.trim(),
        "1|Grace 1|c***@example.com|**** **** **** 0004|[redacted]",
        "{}",
        daemon.log()
    );
}
