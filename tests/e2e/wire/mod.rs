//! The relay as a citizen of the PostgreSQL protocol: clients that speak it to its corners, and either side breaking it.
//!
//! # Wire checklist
//!
//! What a proxy of this protocol gets wrong, and the test that says we do not. Tests without a module are of this one;
//! `agent:` are unit tests. This module and `masks` run against the distribution's server and PostgreSQL 18.
//!
//! | point | test |
//! |---|---|
//! | 1 SSLRequest, once, nothing before TLS; 2 GSSENCRequest first; 3 direct TLS wants ALPN | `start::encryption_is_asked_for_in_every_way` |
//! | 4 TLS upstream is never a downgrade; 5 SCRAM-PLUS upstream | agent: `upstream::failures::{no_tls_is_never_a_downgrade, scram_binds_to_the_tls_channel_when_it_can}`, `errors` |
//! | 6 clients that insist on SCRAM or channel binding are told | `clients::libpq_18` |
//! | 7 protocol 3.2, keys of 4 to 256 bytes; 8 NegotiateProtocolVersion, GREASE | `start::versions_and_options_are_negotiated`, `clients::libpq_18`, agent: `codec::captures::keys_are_of_their_protocols_length` |
//! | 9 CancelRequest, plain, TLS, direct TLS, wrong keys, other runs; of what waits for approval | `start::a_cancel_request_*`, `clients::libpq_18`, `holds::a_cancel_from_psycopg_withdraws` |
//! | 10 start-up parameters are policy's | `start::start_up_parameters_are_judged_as_the_settings_they_are` |
//! | 11 `replication` is refused unless granted; its streams | `replication`, `start::what_is_no_setting_or_decides_how_texts_are_read_is_refused_at_the_start` |
//! | 12 no database is the user's, before rules look | `start::{versions_and_options_are_negotiated, start_up_parameters_are_judged_as_the_settings_they_are}` |
//! | 13 pipelines; 14 refusals in order, skipping to Sync also over a Query | `messages::pipelines_are_answered_in_order` |
//! | 15 a refusal fails its transaction, the status is the server's | `messages::a_transaction_is_what_the_server_says` |
//! | 16, 17 names of both protocols | `messages::names_are_shared_by_both_protocols`, agent: `exchanges::names` |
//! | 18 search path, temporary tables, DDL after Parse; "cached plan must not change result type" | `replanning`, `masks::schema` |
//! | 19 suspended portals keep their masks; 20 Flush | `replanning`, `masks::kinds::portals_are_masked_however_they_are_run`, `messages::names_are_shared_by_both_protocols` |
//! | 21 COPY, stray data, failures in the middle; 22 COPY of masked data | `messages::copies_pass_in_both_protocols`, `masks::copies` |
//! | 23 FunctionCall | `calls`, agent: `exchanges::calls` |
//! | 24 asynchronous messages, also while idle; 25 no fixed set of parameters | `messages::what_the_server_says_by_itself_is_passed_on`, agent: `exchanges::server` |
//! | 26 binary results | `masks::kinds::every_type_decodes_in_both_formats` |
//! | 27 large messages | `bad_client::{messages_that_are_too_long_are_dropped_and_the_session_goes_on, a_client_that_never_reads_costs_little_and_hinders_nobody}`, `masks::large` |
//! | 28 writes are batched | `messages::what_comes_together_is_sent_together` |
//! | 29 the lexer is pinned | `messages::a_transaction_is_what_the_server_says`, `calls`, agent: `upstream::login::pinned_settings_win_over_role_options_and_parameters` |
//! | 30 NUL, lengths, unknown types | `bad_client::malformed_messages_end_their_session_only`, agent: `codec::malformed` |
//! | 31 idle sessions stay, and the end of a token cuts none unless the policy says so | `identity::{an_expired_token_stops_what_is_new_and_a_renewed_one_lets_it_go_on, where_the_policy_says_so_an_expired_token_cuts}`; only the start has a time limit, and no test waits for one that is not there |
//! | W1 `query_to_xml` by FunctionCall | `calls::calls_are_judged_as_their_select_would_be` |
//! | W2 described once, run twice; W4 one row at a time; W5, W6, W7 names across protocols | `replanning`, `masks::kinds::portals_are_masked_however_they_are_run` |
//! | W3 binary | `masks::kinds::every_type_decodes_in_both_formats` |
//! | W8 search path, W9 temporary table after Parse | `replanning` |
//! | W10 the second of three refused; W11 Query while skipping | `messages::pipelines_are_answered_in_order`, `holds::a_refusal_in_the_middle_of_a_pipeline_fails_the_rest` |
//! | W12 cancel over TLS, both lengths of keys; W13 of what waits | as 9 |
//! | W14 3.9999 and `_pq_.x`; W15, W16 encryption | as 8, as 1 |
//! | W17 replication; W18 `options=-c role=…` | as 11, as 10 |
//! | W19 COPY IN refused or failed in the middle | `messages::copies_pass_in_both_protocols` |
//! | W20 200 MB in a cell, a million rows, in memory that does not grow | `bad_client::a_client_that_never_reads_costs_little_and_hinders_nobody` |

use std::time::{Duration, Instant};

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{Finished, NOBODY};

use serde_json::Value;

use crate::spine::server;

mod bad_client;
mod bad_server;
mod calls;
mod clients;
mod differential;
mod messages;
mod replanning;
mod replication;
mod start;

/// A client that sends what it is told to.
const CLIENT: &str = include_str!("pg.py");

/// Schema changes are refused, everything else passes and nothing is masked.
const NO_DDL: &str = r#"
[[guard]]
name = "no schema changes"
on = "postgres"
effect = ["ddl"]
action = "deny"

[[guard]]
name = "the rest"
on = "postgres"
effect = ["read", "write", "admin", "unknown"]
action = "allow"
"#;

/// As [`ALL`], but no result is longer than five rows.
const BOUNDED: &str = r#"
[[guard]]
name = "short ones"
on = "postgres"
effect = ["read", "write", "ddl", "admin", "unknown"]
max_rows = 5
action = "allow"
"#;

/// Everything passes and nothing is masked.
const ALL: &str = r#"
[[guard]]
name = "everything"
on = "postgres"
effect = ["read", "write", "ddl", "admin", "unknown"]
action = "allow"
"#;

/// A daemon with these guards over the shared server.
fn daemon(guards: &str) -> Daemon {
    let policy = format!(
        r#"version = 1
name = "shop"

[[connection]]
name = "shop-db"
to = ["{address}"]
protocol = "postgres"
upstream = {{ user = "{role}", credential = "shop-password", tls = "verify-full", root_cert = "{ca}" }}
{guards}"#,
        address = server().address(),
        role = harness::postgres::ROLE,
        ca = server().ca().display(),
    );
    Daemon::start(&[("shop", &policy)]).unwrap()
}

/// Runs a script with the raw client under the policy; it must succeed.
#[track_caller]
fn raw(daemon: &Daemon, script: &str) -> String {
    let finished = tried(daemon, script);
    assert_eq!(finished.code, 0, "{}\n{}\n{}", finished.stdout, finished.stderr, daemon.log());
    finished.stdout
}

#[track_caller]
fn tried(daemon: &Daemon, script: &str) -> Finished {
    agent::python(daemon, server(), NOBODY, &format!("{CLIENT}\n{script}")).unwrap()
}

/// How each session ended, in the record's own words, once all have.
fn ends(daemon: &Daemon) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sessions = loop {
        let listed = daemon.cli(&["sessions", "list", "--json"]).unwrap().stdout;
        let sessions: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if sessions.iter().all(|session| !session["ended_reason"].is_null()) {
            break sessions;
        }
        assert!(Instant::now() < deadline, "sessions without an end: {listed}\n{}", daemon.log());
        // The record tells nobody that a session has ended; it is looked at until it has.
        std::thread::sleep(Duration::from_millis(20));
    };
    let ids = sessions.iter().map(|session| session["session"].as_str().unwrap());
    ids.map(|id| {
        let shown = daemon.cli(&["sessions", "show", id, "--json"]).unwrap().stdout;
        shown.lines().last().unwrap_or_default().to_owned()
    })
    .collect()
}
