//! Logging in to a real server: every method, every refusal, both TLS strengths, protocol versions, cancel.

use std::fs;
use std::time::{Duration, Instant};

use super::server::{HOST, PASSWORD, Server, TestRoot};
use super::{Profile, expect_error, log_in, secret, startup};
use crate::flow::Side;
use crate::policy::rule::{Destination, UpstreamTls};
use crate::secret::Secret;
use crate::upstream::Dialler;
use crate::upstream::cancel::cancel;
use crate::upstream::error::{LoginProblem, UpstreamError};
use crate::upstream::login::{LoggedIn, login};
use crate::upstream::query::{Client, Statement};

fn status<'a>(login: &'a LoggedIn, name: &str) -> &'a str {
    &login.parameter_statuses.iter().find(|(status, _)| status == name).unwrap().1
}

async fn one_value(client: &mut Client, text: &str) -> Result<String, UpstreamError> {
    let mut value = String::new();
    client
        .run(&[Statement::plain(text)], |row| {
            value = String::from_utf8(row[0].clone().unwrap().to_vec()).unwrap();
            Ok(())
        })
        .await?;
    Ok(value)
}

#[tokio::test]
async fn every_method_without_tls() {
    let server = Server::shared();
    for user in ["trusty", "scram", "md5", "clear"] {
        let login = log_in(server.address(), &startup(user, "postgres"), Some(PASSWORD)).await.expect(user);
        assert_eq!(login.minor, 0);
        assert_eq!(login.backend_key.as_ref().unwrap().secret.expose().len(), 4);
        assert_eq!(status(&login, "client_encoding"), "UTF8");
        assert!(login.leftover.is_empty());
        let mut client = Client::new(login, server.address());
        assert_eq!(one_value(&mut client, "SELECT current_user").await.unwrap(), user);
    }
    log_in(server.address(), &startup("trusty", "postgres"), None).await.unwrap();
}

#[tokio::test]
async fn every_method_over_tls() {
    let server = Server::shared();
    for user in ["trusty", "scram", "md5", "clear"] {
        let profile = Profile::verified(UpstreamTls::VerifyFull, server.root_cert(), Some(HOST));
        let dialled = profile.dial(server.address()).await.unwrap();
        let login = login(dialled, &startup(user, "postgres"), Some(&secret(PASSWORD))).await.expect(user);
        let mut client = Client::new(login, server.address());
        let tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(one_value(&mut client, tls).await.unwrap(), "t");
    }
}

#[tokio::test]
async fn a_client_certificate() {
    let server = Server::shared();
    let certificate = Secret::new(server.client_certificate());
    let profile = || Profile::verified(UpstreamTls::VerifyFull, server.root_cert(), Some(HOST));
    let admission = profile().admission(server.address());
    let dial = Dialler::default().dial(&admission, &super::stands_for_nothing, Some(&certificate)).await;
    let logged_in = login(dial.unwrap(), &startup("certified", "postgres"), None).await.unwrap();
    let mut client = Client::new(logged_in, server.address());
    assert_eq!(one_value(&mut client, "SELECT current_user").await.unwrap(), "certified");
    // As nobody else, and not without it.
    let dialled = profile().dial(server.address()).await.unwrap();
    let error = expect_error(login(dialled, &startup("certified", "postgres"), None).await);
    assert!(matches!(error, UpstreamError::Login(LoginProblem::Rejected { .. })), "{error:?}");
    let unusable = Secret::new(b"no certificate".to_vec());
    let dialled = Dialler::default().dial(&admission, &super::stands_for_nothing, Some(&unusable)).await;
    assert!(expect_error(dialled).to_string().starts_with("the client certificate cannot be used"));
}

#[tokio::test]
async fn a_wrong_password_is_ours_to_repair_and_is_not_told() {
    let server = Server::shared();
    for user in ["scram", "md5", "clear"] {
        let error = expect_error(log_in(server.address(), &startup(user, "postgres"), Some("wr0ng")).await);
        assert!(
            matches!(&error, UpstreamError::Login(LoginProblem::Rejected { user: named, .. }) if named == user),
            "{error:?}"
        );
        assert_eq!(error.side(), Side::Portcullis);
        assert_eq!(error.sqlstate(), "08004");
        for text in [error.to_string(), format!("{error:?}"), error.client_text()] {
            assert!(!text.contains("wr0ng"), "{text}");
        }
        assert!(!error.client_text().contains(user), "{}", error.client_text());
        assert!(error.to_string().contains("28P01"), "{error}");
    }
}

#[tokio::test]
async fn a_profile_without_credential_says_so() {
    let server = Server::shared();
    for user in ["scram", "md5", "clear"] {
        let error = expect_error(log_in(server.address(), &startup(user, "postgres"), None).await);
        assert!(matches!(error, UpstreamError::Login(LoginProblem::NoCredential { .. })), "{error:?}");
        assert!(error.to_string().contains("credential"), "{error}");
    }
}

#[tokio::test]
async fn other_refusals_keep_their_names() {
    let server = Server::shared();
    let error =
        expect_error(log_in(server.address(), &startup("rejected", "postgres"), Some(PASSWORD)).await);
    assert!(matches!(error, UpstreamError::Login(LoginProblem::Rejected { .. })), "{error:?}");
    let error = expect_error(log_in(server.address(), &startup("trusty", "nowhere"), None).await);
    assert_eq!(error.sqlstate(), "3D000");
    assert_eq!(error.client_text(), "database \"nowhere\" does not exist");
    assert_eq!(error.side(), Side::Upstream);
}

#[tokio::test]
async fn pinned_settings_win_over_role_options_and_parameters() {
    let server = Server::shared();
    let mut startup = startup("odd", "postgres");
    startup.parameters = [
        ("application_name", "agent"),
        ("options", "-c client_encoding=SJIS -c standard_conforming_strings=off -c work_mem=1234"),
        ("Client_Encoding", "SJIS"),
        ("user", "postgres"),
        ("database", "template1"),
        ("replication", "true"),
        ("_pq_.anything", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let login = log_in(server.address(), &startup, None).await.unwrap();
    assert_eq!(status(&login, "client_encoding"), "UTF8");
    assert_eq!(status(&login, "standard_conforming_strings"), "on");
    assert_eq!(status(&login, "application_name"), "agent");
    let mut client = Client::new(login, server.address());
    let who = "SELECT current_user || ' ' || current_database() || ' ' || current_setting('work_mem')";
    assert_eq!(one_value(&mut client, who).await.unwrap(), "odd postgres 1234kB");
}

#[tokio::test]
async fn protocol_3_2_is_spoken_where_the_server_knows_it() {
    let server = Server::shared();
    let mut startup = startup("trusty", "postgres");
    startup.minor = 2;
    let login = log_in(server.address(), &startup, None).await.unwrap();
    let version: u32 = status(&login, "server_version").split('.').next().unwrap().parse().unwrap();
    let (minor, key_bytes) = if version >= 18 { (2, 32) } else { (0, 4) };
    assert_eq!(login.minor, minor);
    assert_eq!(login.backend_key.unwrap().secret.expose().len(), key_bytes);
}

#[tokio::test]
async fn cancel_stops_the_statement_under_the_sessions_tls_rules() {
    let server = Server::shared();
    for (minor, profile) in
        [(0, Profile::plain()), (2, Profile::verified(UpstreamTls::VerifyCa, server.root_cert(), None))]
    {
        let dialled = profile.dial(server.address()).await.unwrap();
        let target = dialled.target.clone();
        let mut startup = startup("trusty", "postgres");
        startup.minor = minor;
        let login = login(dialled, &startup, None).await.unwrap();
        let key = login.backend_key.clone().unwrap();
        let mut client = Client::new(login, server.address());
        let started = Instant::now();
        let sleeping = one_value(&mut client, "SELECT pg_sleep(30)::text");
        let cancelling = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cancel(&target, &key).await
        };
        let (slept, cancelled) = tokio::join!(sleeping, cancelling);
        cancelled.unwrap();
        assert_eq!(expect_error(slept).sqlstate(), "57014");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(one_value(&mut client, "SELECT 'alive'").await.unwrap(), "alive");
    }
}

#[tokio::test]
async fn verify_full_wants_the_name_and_verify_ca_does_not() {
    let server = Server::shared();
    let profile = |tls, name| Profile::verified(tls, server.root_cert(), name);

    let error =
        expect_error(profile(UpstreamTls::VerifyFull, Some("other.test")).dial(server.address()).await);
    let text = error.to_string();
    assert!(matches!(error, UpstreamError::Certificate { .. }), "{error:?}");
    assert!(text.contains("\"other.test\"") && text.contains(HOST), "{text}");
    assert!(text.contains("server_name"), "{text}");
    assert_eq!(error.client_text(), "the server's certificate is not accepted");

    // Without a name, the address is what is verified.
    let error = expect_error(profile(UpstreamTls::VerifyFull, None).dial(server.address()).await);
    assert!(error.to_string().contains("\"127.0.0.1\""), "{error}");

    profile(UpstreamTls::VerifyCa, Some("other.test")).dial(server.address()).await.unwrap();
    profile(UpstreamTls::VerifyCa, None).dial(server.address()).await.unwrap();
}

#[tokio::test]
async fn the_name_comes_from_the_matching_destination() {
    let server = Server::shared();
    let port = server.address().port();
    let host = |name: &str, port| Destination::Host { name: name.to_owned(), port };
    let profile = || {
        let mut profile = Profile::verified(UpstreamTls::VerifyFull, server.root_cert(), None);
        profile.to = vec![host("other.test", Some(port)), host(HOST, Some(1)), host(HOST, Some(port))];
        profile.admission(server.address())
    };
    let dialler = Dialler::default();
    dialler.dial(&profile(), &|name, _| name == HOST, None).await.unwrap();
    let error = expect_error(dialler.dial(&profile(), &|_, _| true, None).await);
    assert!(error.to_string().contains("\"other.test\""), "the first that stands for it: {error}");

    // The profile's own address: dialled instead of the destination, its host verified.
    let mut profile = Profile::verified(UpstreamTls::VerifyFull, server.root_cert(), None);
    profile.upstream.address = Some(format!("localhost:{port}"));
    let error = expect_error(profile.dial("127.0.0.1:1".parse().unwrap()).await);
    assert!(error.to_string().contains("\"localhost\""), "{error}");
}

#[tokio::test]
async fn only_the_named_root_is_trusted() {
    let server = Server::shared();
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.pem");
    fs::write(&other, TestRoot::new("Other root").issuer.pem()).unwrap();
    for tls in [UpstreamTls::VerifyCa, UpstreamTls::VerifyFull] {
        let error =
            expect_error(Profile::verified(tls, other.clone(), Some(HOST)).dial(server.address()).await);
        assert!(matches!(error, UpstreamError::Certificate { .. }), "{error:?}");
        assert!(error.to_string().contains("root_cert"), "{error}");
    }
    // Not in the system's store either.
    let mut profile = Profile::verified(UpstreamTls::VerifyCa, other.clone(), Some(HOST));
    profile.upstream.root_cert = None;
    assert!(profile.dial(server.address()).await.is_err());

    // The file is read anew when it changes.
    let dialler = Dialler::default();
    let admission = Profile::verified(UpstreamTls::VerifyCa, other.clone(), None).admission(server.address());
    assert!(dialler.dial(&admission, &super::stands_for_nothing, None).await.is_err());
    std::thread::sleep(Duration::from_millis(20));
    fs::copy(server.root_cert(), &other).unwrap();
    dialler.dial(&admission, &super::stands_for_nothing, None).await.unwrap();

    for (contents, reason) in
        [("", "no PEM certificate"), ("-----BEGIN CERTIFICATE-----\nAAAA\n", "root_cert")]
    {
        fs::write(&other, contents).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let error = expect_error(dialler.dial(&admission, &super::stands_for_nothing, None).await);
        assert!(matches!(error, UpstreamError::Trust(_)), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.side(), Side::Portcullis);
    }
    fs::remove_file(&other).unwrap();
    assert!(matches!(
        dialler.dial(&admission, &super::stands_for_nothing, None).await,
        Err(UpstreamError::Trust(_))
    ));
}
