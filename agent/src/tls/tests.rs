//! The local CA on disk, its certificates in real handshakes, and the two ways a client opens TLS.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client};

use super::ca::{Ca, CaError, CaSettings, Origin};
use super::client_side::{ClientTlsError, Opening, accept};
use super::provider;
use crate::flow::Side;

fn open(folder: &Path) -> Result<(Ca, Origin), CaError> {
    Ca::open(folder, &CaSettings::default())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn new_ca() -> (tempfile::TempDir, Arc<Ca>) {
    let folder = tempfile::tempdir().unwrap();
    let (ca, origin) = open(folder.path()).unwrap();
    assert_eq!(origin, Origin::Created);
    (folder, Arc::new(ca))
}

#[test]
fn is_made_once_and_then_loaded() {
    let (folder, first) = new_ca();
    assert_eq!(mode(&folder.path().join("ca.key")), 0o600);
    assert_eq!(mode(&folder.path().join("ca.pem")), 0o644);
    let mut files: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["ca.key", "ca.pem"], "nothing else is left behind");
    let (second, origin) = open(folder.path()).unwrap();
    assert_eq!(origin, Origin::Loaded);
    assert_eq!(first.certificate(), second.certificate());
    assert_eq!(first.expires(), second.expires());
}

#[test]
fn two_daemons_starting_at_once_get_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let made: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| open(folder.path()).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|(_, origin)| *origin == Origin::Created).count(), 1);
    assert!(made.iter().all(|(ca, _)| ca.certificate() == made[0].0.certificate()));
}

#[test]
fn an_expired_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let settings = CaSettings { lifetime: Duration::from_secs(2), ..CaSettings::default() };
    let (short, _) = Ca::open(folder.path(), &settings).unwrap();
    let short = Arc::new(short);
    std::thread::sleep(Duration::from_secs(2));
    let name = ServerName::try_from("db.test").unwrap();
    assert!(matches!(short.leaf(&name), Err(CaError::Expired)), "it must not go on signing");
    let (new, origin) = open(folder.path()).unwrap();
    assert_eq!(origin, Origin::Replaced);
    assert_ne!(short.certificate(), new.certificate());
    assert_eq!(open(folder.path()).unwrap().1, Origin::Loaded);
}

#[test]
fn a_lifetime_without_end_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let settings = CaSettings { lifetime: Duration::MAX, name: "Ω".repeat(100) };
    let (ca, _) = Ca::open(folder.path(), &settings).unwrap();
    assert!(ca.expires() <= std::time::SystemTime::now() + super::ca::CA_LIFETIME_MAX);
    assert_eq!(open(folder.path()).unwrap().0.expires(), ca.expires());
}

#[test]
fn a_start_that_was_cut_short_is_repeated() {
    let (folder, _) = new_ca();
    fs::remove_file(folder.path().join("ca.pem")).unwrap();
    fs::write(folder.path().join(".ca.pem.new"), "half").unwrap();
    assert_eq!(open(folder.path()).unwrap().1, Origin::Created);
}

#[test]
fn what_is_not_ours_or_not_safe_is_refused() {
    let (folder, _) = new_ca();
    let (other, _) = new_ca();
    let key = folder.path().join("ca.key");

    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("ca.key") && error.contains("chmod 600"), "{error}");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();

    fs::copy(other.path().join("ca.key"), &key).unwrap();
    let error = open(folder.path()).err().unwrap();
    assert!(matches!(error, CaError::Unusable { .. }), "another CA's key: {error}");
    assert_eq!(error.side(), Side::Portcullis);

    fs::write(&key, "no key").unwrap();
    assert!(matches!(open(folder.path()), Err(CaError::Unusable { .. })));
    fs::remove_file(&key).unwrap();
    assert!(matches!(open(folder.path()), Err(CaError::KeyMissing { .. })));

    fs::write(other.path().join("ca.pem"), "no certificate").unwrap();
    assert!(matches!(open(other.path()), Err(CaError::Unusable { .. })));
    fs::set_permissions(other.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(open(other.path()), Err(CaError::File { .. })));
}

/// What a client that trusts `ca` makes of a server.
fn client_config(ca: &Ca, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

async fn connect(
    stream: DuplexStream,
    config: Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<client::TlsStream<DuplexStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

const BUFFER: usize = 64 * 1024;
const POSTGRES: &[&[u8]] = &[b"postgresql"];

#[tokio::test]
async fn clients_accept_certificates_for_what_they_dialled() {
    let (_folder, ca) = new_ca();
    // (what the flow was going to, what the client verifies): by SNI, by fallback, by address.
    let long = format!("{}.{}.test", "a".repeat(60), "b".repeat(60));
    for (going_to, verified) in [
        ("127.0.0.1", "db.test"),
        ("db.test", "db.test"),
        ("db.test", "other.test"),
        ("127.9.9.9", "127.9.9.9"),
        ("::1", "::1"),
        ("10.0.0.1", long.as_str()),
    ] {
        let (near, far) = duplex(BUFFER);
        let config = ca.leaf(&ServerName::try_from(going_to).unwrap()).unwrap();
        let (server, client) = tokio::join!(
            accept(near, config, Opening::Direct, &[]),
            connect(far, client_config(&ca, POSTGRES), verified),
        );
        let (mut server, mut client) = (server.unwrap(), client.expect(verified));
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
    }
}

#[tokio::test]
async fn certificates_are_made_once_per_name() {
    let (_folder, ca) = new_ca();
    let mut seen = Vec::new();
    for name in ["db.test", "db.test", "other.test"] {
        let (near, far) = duplex(BUFFER);
        let config = ca.leaf(&ServerName::try_from("127.0.0.1").unwrap()).unwrap();
        let (_server, client) = tokio::join!(
            accept(near, config, Opening::Direct, &[]),
            connect(far, client_config(&ca, POSTGRES), name),
        );
        seen.push(client.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone());
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1], seen[2]);
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_apart() {
    let (_folder, ca) = new_ca();
    let (_other_folder, other) = new_ca();
    let (near, far) = duplex(BUFFER);
    let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
    let (server, client) = tokio::join!(
        accept(near, config, Opening::Direct, &[]),
        connect(far, client_config(&other, POSTGRES), "db.test"),
    );
    assert!(client.is_err());
    let error = server.unwrap_err();
    assert!(matches!(error, ClientTlsError::Untrusted(_)), "{error:?}");
    assert!(error.to_string().contains("ca.pem"), "{error}");
}

#[tokio::test]
async fn ssl_request_is_answered_and_needs_no_alpn() {
    let (_folder, ca) = new_ca();
    let (near, mut far) = duplex(BUFFER);
    let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
    let client = async {
        assert_eq!(far.read_u8().await.unwrap(), b'S');
        connect(far, client_config(&ca, &[]), "db.test").await
    };
    let (server, client) = tokio::join!(accept(near, config, Opening::SslRequest, &[]), client);
    server.unwrap();
    client.unwrap();
}

#[tokio::test]
async fn unencrypted_bytes_after_ssl_request_end_the_session() {
    let (_folder, ca) = new_ca();
    let (near, mut far) = duplex(BUFFER);
    let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
    let error = accept(near, config, Opening::SslRequest, b"Q\0\0\0\x0bdrop").await.unwrap_err();
    assert!(matches!(error, ClientTlsError::UnencryptedBytes { count: 9 }), "{error:?}");
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"", "not even an 'S'");
}

#[tokio::test]
async fn direct_tls_requires_the_protocols_name() {
    let (_folder, ca) = new_ca();
    for (alpn, served) in
        [(&[][..], false), (&[&b"h2"[..]][..], false), (&[&b"h2"[..], b"postgresql"][..], true)]
    {
        let (near, far) = duplex(BUFFER);
        let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
        let (server, _client) = tokio::join!(
            accept(near, config, Opening::Direct, &[]),
            connect(far, client_config(&ca, alpn), "db.test"),
        );
        assert_eq!(server.is_ok(), served, "{alpn:?}: {server:?}");
    }
}

#[tokio::test]
async fn a_wrong_alpn_is_refused_after_ssl_request_too() {
    let (_folder, ca) = new_ca();
    let (near, mut far) = duplex(BUFFER);
    let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
    let client = async {
        far.read_u8().await.unwrap();
        connect(far, client_config(&ca, &[b"http/1.1"]), "db.test").await
    };
    let (server, client) = tokio::join!(accept(near, config, Opening::SslRequest, &[]), client);
    assert!(matches!(server, Err(ClientTlsError::Handshake(_))), "{server:?}");
    assert!(client.is_err());
}

#[tokio::test]
async fn the_start_of_the_hello_may_have_been_read_already() {
    let (_folder, ca) = new_ca();
    for read_before in [1, 5, 100, 4096] {
        let (mut near, far) = duplex(BUFFER);
        let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
        let server = async {
            let mut hello = vec![0; read_before];
            let count = near.read(&mut hello).await.unwrap();
            accept(near, config, Opening::Direct, &hello[..count]).await
        };
        let (server, client) = tokio::join!(server, connect(far, client_config(&ca, POSTGRES), "db.test"));
        server.unwrap();
        client.unwrap();
    }
}

#[tokio::test]
async fn garbage_is_an_error_and_not_a_wait() {
    let (_folder, ca) = new_ca();
    let (near, _far) = duplex(BUFFER);
    let config = ca.leaf(&ServerName::try_from("db.test").unwrap()).unwrap();
    let garbage = [0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let error = accept(near, config, Opening::Direct, &garbage).await.unwrap_err();
    assert!(matches!(error, ClientTlsError::Handshake(_)), "{error:?}");
}
