//! Servers that are down, silent, without TLS, with bad certificates, or that break the protocol.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server};

use super::server::{HOST, PASSWORD, TestRoot, free_address};
use super::{Profile, expect_error, log_in, secret, startup};
use crate::flow::Side;
use crate::policy::rule::UpstreamTls;
use crate::upstream::error::{LoginProblem, Stage, UpstreamError};
use crate::upstream::login::login;

/// A server that does one thing with its first connection.
async fn fake<F: Future<Output = ()> + Send + 'static>(
    behave: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        behave(stream).await;
    });
    address
}

/// Sends bytes after the client's first message, then waits for the client to go.
async fn answering(bytes: Vec<u8>) -> SocketAddr {
    fake(async move |mut stream: TcpStream| {
        let mut asked = [0; 4096];
        assert_ne!(stream.read(&mut asked).await.unwrap(), 0);
        // The client may hang up in the middle of it.
        drop(stream.write_all(&bytes).await);
        while stream.read(&mut asked).await.is_ok_and(|count| count > 0) {}
    })
    .await
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat())
}

/// What a well-behaved server says once it is satisfied, but for what a test leaves out.
fn welcome(statuses: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = authentication(0, &[]);
    for (name, value) in statuses {
        bytes.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    bytes.extend(message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]));
    bytes.extend(message(b'Z', b"I"));
    bytes
}

const PINNED: [(&str, &str); 2] = [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")];

async fn try_login(bytes: Vec<u8>) -> Result<(), UpstreamError> {
    let address = answering(bytes).await;
    log_in(address, &startup("agent", "shop"), Some(PASSWORD)).await.map(|_login| ())
}

#[tokio::test]
async fn down() {
    let error = expect_error(Profile::plain().dial(free_address()).await);
    assert!(matches!(error, UpstreamError::Connect { .. }), "{error:?}");
    assert_eq!(error.side(), Side::Upstream);
    assert_eq!(error.sqlstate(), "08001");
    assert_eq!(error.client_text(), "the server refused the connection");
}

#[tokio::test]
async fn unknown_host() {
    let mut profile = Profile::plain();
    profile.upstream.address = Some("no-such-host.invalid:5432".to_owned());
    let error = expect_error(profile.dial(free_address()).await);
    assert!(matches!(error, UpstreamError::Resolve { .. }), "{error:?}");
    assert!(!error.client_text().contains("no-such-host"), "{}", error.client_text());
}

#[tokio::test(start_paused = true)]
async fn silent() {
    let address = fake(
        async |mut stream: TcpStream| {
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
        },
    )
    .await;
    let error = expect_error(log_in(address, &startup("agent", "shop"), None).await);
    assert!(matches!(error, UpstreamError::TimedOut { stage: Stage::Login, .. }), "{error:?}");
    assert_eq!(error.client_text(), "the server did not answer in time");

    let root = tempfile::NamedTempFile::new().unwrap();
    fs::write(root.path(), TestRoot::new("Root").issuer.pem()).unwrap();
    let address = fake(
        async |mut stream: TcpStream| {
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
        },
    )
    .await;
    let profile = Profile::verified(UpstreamTls::VerifyFull, root.path().to_owned(), Some(HOST));
    let error = expect_error(profile.dial(address).await);
    assert!(matches!(error, UpstreamError::TimedOut { stage: Stage::Tls, .. }), "{error:?}");
}

#[tokio::test]
async fn no_tls_is_never_a_downgrade() {
    let root = tempfile::NamedTempFile::new().unwrap();
    fs::write(root.path(), TestRoot::new("Root").issuer.pem()).unwrap();
    for tls in [UpstreamTls::VerifyCa, UpstreamTls::VerifyFull] {
        let profile = || Profile::verified(tls, root.path().to_owned(), Some(HOST));
        let error = expect_error(profile().dial(answering(b"N".to_vec()).await).await);
        assert!(matches!(error, UpstreamError::TlsNotOffered { .. }), "{error:?}");
        assert!(error.to_string().contains("ssl"), "{error}");

        // An error report in the clear could be anybody's: it is not passed on.
        let report = message(b'E', b"SFATAL\0C28P01\0Msend your password to evil.test\0\0");
        let error = expect_error(profile().dial(answering(report).await).await);
        assert!(matches!(error, UpstreamError::Protocol { .. }), "{error:?}");
        assert!(!error.client_text().contains("evil"), "{}", error.client_text());

        // Bytes slipped in behind the 'S' reach the TLS layer and break it.
        let error = expect_error(profile().dial(answering(b"SR\0\0\0\x08\0\0\0\0".to_vec()).await).await);
        assert!(matches!(error, UpstreamError::Broken { stage: Stage::Tls, .. }), "{error:?}");
    }
}

/// A TLS server with this certificate; what it does after the handshake is up to the test.
async fn tls_server<F: Future<Output = ()> + Send + 'static>(
    (certificate, key): (rcgen::Certificate, KeyPair),
    behave: impl FnOnce(server::TlsStream<TcpStream>) -> F + Send + 'static,
) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    fake(async move |mut stream: TcpStream| {
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream.write_all(b"S").await.unwrap();
        if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            behave(stream).await;
        }
    })
    .await
}

#[tokio::test]
async fn bad_certificates_are_named() {
    let root = TestRoot::new("Root");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), root.issuer.pem()).unwrap();
    let params = || CertificateParams::new([HOST.to_owned()]).unwrap();
    let mut expired = params();
    expired.not_after = rcgen::date_time_ymd(2024, 2, 29);
    let mut early = params();
    early.not_before = rcgen::date_time_ymd(2124, 2, 29);
    let mut authority = params();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for tls in [UpstreamTls::VerifyCa, UpstreamTls::VerifyFull] {
        for (params, expected) in [
            (&expired, "expired on 2024-02-29"),
            (&early, "not valid before 2124-02-29"),
            (&authority, "CA certificate"),
        ] {
            let address = tls_server(root.sign(params.clone()), async |_stream| {}).await;
            let profile = Profile::verified(tls, file.path().to_owned(), Some(HOST));
            let error = expect_error(profile.dial(address).await);
            assert!(matches!(error, UpstreamError::Certificate { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.client_text(), "the server's certificate is not accepted");
        }
    }
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let tag = stream.read_u8().await.unwrap();
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await.unwrap();
    (tag, body)
}

/// Takes a login up to the client's answer to an offer of SASL mechanisms; returns that answer's body.
async fn offer_sasl(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), mechanisms: &str) -> Vec<u8> {
    let length = stream.read_u32().await.unwrap();
    stream.read_exact(&mut vec![0; usize::try_from(length).unwrap() - 4]).await.unwrap();
    stream.write_all(&authentication(10, mechanisms.as_bytes())).await.unwrap();
    let (tag, body) = read_message(stream).await;
    assert_eq!(tag, b'p');
    body
}

#[tokio::test]
async fn scram_binds_to_the_tls_channel_when_it_can() {
    let root = TestRoot::new("Root");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), root.issuer.pem()).unwrap();
    for (offer, expected) in [
        (
            "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
            "SCRAM-SHA-256-PLUS\0\0\0\0\x35p=tls-server-end-point,,n=,r=",
        ),
        (
            "SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0",
            "SCRAM-SHA-256-PLUS\0\0\0\0\x35p=tls-server-end-point,,n=,r=",
        ),
        // Tells the server that its offer reached us without PLUS.
        ("SCRAM-SHA-256\0\0", "SCRAM-SHA-256\0\0\0\0\x20y,,n=,r="),
    ] {
        let (said, heard) = tokio::sync::oneshot::channel();
        let address = tls_server(root.certificate(HOST, IsCa::NoCa), async move |mut stream| {
            said.send(offer_sasl(&mut stream, offer).await).unwrap();
        })
        .await;
        let profile = Profile::verified(UpstreamTls::VerifyFull, file.path().to_owned(), Some(HOST));
        let dialled = profile.dial(address).await.unwrap();
        expect_error(login(dialled, &startup("agent", "shop"), Some(&secret(PASSWORD))).await);
        let heard = String::from_utf8(heard.await.unwrap()).unwrap();
        assert!(heard.starts_with(expected), "{heard:?}");
    }
}

#[tokio::test]
async fn scram_without_tls_claims_no_binding() {
    let (said, heard) = tokio::sync::oneshot::channel();
    let address = fake(async move |mut stream: TcpStream| {
        said.send(offer_sasl(&mut stream, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").await).unwrap();
    })
    .await;
    expect_error(log_in(address, &startup("agent", "shop"), Some(PASSWORD)).await);
    let heard = String::from_utf8(heard.await.unwrap()).unwrap();
    assert!(heard.starts_with("SCRAM-SHA-256\0\0\0\0\x20n,,n=,r="), "{heard:?}");
}

#[tokio::test]
async fn an_impostor_that_skips_its_proof_is_found_out() {
    for ending in
        [authentication(0, &[]), authentication(12, b"v=AAAA"), authentication(11, b"r=mine,s=AAAA,i=1")]
    {
        let mut bytes = authentication(10, b"SCRAM-SHA-256\0\0");
        bytes.extend(ending);
        bytes.extend(welcome(&PINNED));
        let error = expect_error(try_login(bytes).await);
        assert!(
            matches!(
                error,
                UpstreamError::Login(LoginProblem::Unproven { .. }) | UpstreamError::Protocol { .. }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_password_is_not_sent_in_the_clear_over_a_network() {
    // The check is on the address, so it is asked directly: tests dial nothing but loopback.
    use crate::tls::Stream;
    use crate::upstream::auth::Authentication;
    use crate::upstream::wire::{Fields, Message, Wire};
    let address = answering(Vec::new()).await;
    let stream = Profile::plain().dial(address).await.unwrap().stream;
    assert!(matches!(stream, Stream::Plain(_)));
    let elsewhere: SocketAddr = "192.0.2.1:5432".parse().unwrap();
    let mut wire = Wire::new(stream, elsewhere, Stage::Login);
    let password = secret(PASSWORD);
    let mut authentication = Authentication::new("agent", Some(&password), elsewhere);
    let demand = Fields::of(Message { tag: b'R', body: bytes::Bytes::from_static(&[0, 0, 0, 3]) });
    let error = expect_error(authentication.answer(demand, &mut wire).await);
    assert!(matches!(error, UpstreamError::Login(LoginProblem::Cleartext)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_take_the_pinned_settings_is_refused() {
    try_login(welcome(&PINNED)).await.unwrap();
    for statuses in [
        &[("client_encoding", "UTF8")][..],
        &[("client_encoding", "SJIS"), ("standard_conforming_strings", "on")],
        &[
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("standard_conforming_strings", "off"),
        ],
    ] {
        let error = expect_error(try_login(welcome(statuses)).await);
        assert!(matches!(error, UpstreamError::Login(LoginProblem::NotPinned { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn methods_that_are_not_offered_are_named() {
    for (demand, method) in [
        (authentication(2, &[]), "Kerberos V5"),
        (authentication(7, &[]), "GSSAPI"),
        (authentication(9, &[]), "SSPI"),
        (authentication(10, b"OAUTHBEARER\0\0"), "OAUTHBEARER"),
        (authentication(10, b"SCRAM-SHA-256-PLUS\0\0"), "SCRAM-SHA-256-PLUS"),
    ] {
        let error = expect_error(try_login(demand).await);
        assert!(matches!(error, UpstreamError::Login(LoginProblem::Unsupported { .. })), "{error:?}");
        assert!(error.to_string().contains(method), "{error}");
        assert_eq!(error.side(), Side::Upstream);
    }
}

#[tokio::test]
async fn violations_of_the_protocol() {
    let after_ok = |bytes: Vec<u8>| [authentication(0, &[]), bytes].concat();
    for (what, bytes) in [
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a length below its own size", vec![b'R', 0, 0, 0, 3]),
        ("a gigabyte", vec![b'S', 0x40, 0, 0, 0]),
        ("a negative length", vec![b'R', 0xff, 0xff, 0xff, 0xff]),
        ("an empty authentication request", message(b'R', &[])),
        ("an unknown authentication request", authentication(99, &[])),
        ("a short salt", authentication(5, &[1, 2, 3])),
        ("mechanisms without end", authentication(10, b"SCRAM-SHA-256")),
        ("SASL out of turn", authentication(12, b"v=")),
        ("two demands", [authentication(5, &[1, 2, 3, 4]), authentication(5, &[1, 2, 3, 4])].concat()),
        ("data before authentication", message(b'D', &[0, 0])),
        ("ready before authentication", message(b'Z', b"I")),
        ("a version nobody asked for", message(b'v', &[0, 3, 0, 2, 0, 0, 0, 0])),
        ("another major version", message(b'v', &[0, 4, 0, 0, 0, 0, 0, 0])),
        ("a parameter without a value", after_ok(message(b'S', b"client_encoding\0"))),
        ("a short key", after_ok(message(b'K', &[0, 0, 0, 1, 2]))),
        ("a long key in 3.0", after_ok(message(b'K', &[0; 36]))),
        ("ready inside a transaction", after_ok(message(b'Z', b"T"))),
        ("a second authentication", after_ok(authentication(0, &[]))),
        ("parameters without end", after_ok(message(b'S', b"a\0b\0").repeat(300))),
        ("notices without end", message(b'N', &[b'x'; 60_000]).repeat(20)),
    ] {
        let error = expect_error(try_login(bytes).await);
        assert!(matches!(error, UpstreamError::Protocol { .. }), "{what}: {error:?}");
        assert_eq!(error.sqlstate(), "08P01", "{what}");
    }
}

#[tokio::test]
async fn gone_in_the_middle() {
    let address = fake(async |mut stream: TcpStream| {
        stream.read_u8().await.unwrap();
        stream.write_all(&[b'R', 0, 0]).await.unwrap();
    })
    .await;
    let error = expect_error(log_in(address, &startup("agent", "shop"), None).await);
    assert!(matches!(error, UpstreamError::Broken { stage: Stage::Login, .. }), "{error:?}");
}

#[tokio::test]
async fn what_the_server_says_is_kept_and_bounded() {
    let notice = message(b'N', b"SNOTICE\0Mhello\0\0");
    let mut bytes = notice.repeat(100);
    bytes.extend(welcome(&PINNED));
    bytes.extend(&notice);
    let address = answering(bytes).await;
    let login = log_in(address, &startup("agent", "shop"), None).await.unwrap();
    assert_eq!(login.notices.len(), 64);
    assert_eq!(login.notices[0].as_ref(), b"SNOTICE\0Mhello\0\0");
    assert_eq!(login.backend_key.unwrap().process_id, 7);
    assert_eq!(login.parameter_statuses.len(), 2);

    // The last bytes are there already, or on their way.
    let mut rest = login.leftover.to_vec();
    let mut stream = login.stream;
    while rest.len() < notice.len() {
        tokio::time::timeout(Duration::from_secs(5), stream.read_buf(&mut rest)).await.unwrap().unwrap();
    }
    assert_eq!(rest, notice);
}

#[tokio::test]
async fn reports_are_short_and_printable() {
    let long = "x".repeat(5000);
    let report = message(b'E', format!("SFATAL\0C53300\0Mtoo\nmany\x1b[31m {long}\0\0").as_bytes());
    let error = expect_error(try_login(report).await);
    assert_eq!(error.sqlstate(), "53300");
    assert!(error.client_text().starts_with("too many [31m xxx"), "{}", error.client_text());
    assert_eq!(error.client_text().chars().count(), 1024);
    for garbled in [&b""[..], b"\0", b"C\0", b"Cabc\0M", b"\xff\xff\xff"] {
        let error = expect_error(try_login(message(b'E', garbled)).await);
        assert_eq!(error.sqlstate(), "XX000", "{garbled:?}");
    }
}
