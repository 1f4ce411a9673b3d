//! A real HTTP server with certificates of its own, and the policy that leads to it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;

use crate::process::{self, Guarded};

/// Name in the server's certificate, beside its address.
pub const NAME: &str = "api.shop.test";

/// The token that the daemon holds; the agent never does.
pub const TOKEN: &str = "real-token-of-the-shop";

/// How long the server may take to open its ports.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// Ports of the server.
pub mod port {
    /// HTTP/1.1 without TLS.
    pub const PLAIN: u16 = 8080;
    /// HTTP/1.1 over TLS.
    pub const TLS: u16 = 8443;
    /// HTTP/2 or HTTP/1.1 over TLS, by nginx.
    pub const HTTP2: u16 = 8444;
    /// gRPC over TLS, where Python has the library.
    pub const GRPC: u16 = 8447;
    /// A certificate for another name.
    pub const OTHER_NAME: u16 = 8451;
    /// A certificate that has expired.
    pub const EXPIRED: u16 = 8452;
    /// A certificate of an unknown root.
    pub const UNKNOWN_ROOT: u16 = 8453;
    /// Broken answers by path, without TLS.
    pub const BROKEN: u16 = 8460;
    /// Nobody listens.
    pub const CLOSED: u16 = 8499;
}

/// A running server. Ends with this process.
#[derive(Debug)]
pub struct HttpServer {
    address: Ipv4Addr,
    folder: PathBuf,
    _server: Guarded,
    _nginx: Guarded,
}

impl HttpServer {
    /// Starts it on an address that nobody else uses.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(address: Ipv4Addr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis-http.").tempdir()?.keep();
        certificates(&folder, address)?;
        fs::create_dir(folder.join("git"))?;
        fs::write(folder.join("upstream.py"), include_str!("upstream.py"))?;
        fs::write(folder.join("big"), vec![b'x'; 1024])?;
        let mut python = Command::new(process::python());
        python.arg(folder.join("upstream.py")).arg(address.to_string()).arg(&folder).arg(folder.join("log"));
        let server = Guarded::spawn(&python, &folder.join("none"))?;
        fs::write(folder.join("nginx.conf"), nginx_conf(&folder, address))?;
        let mut nginx = Command::new("/usr/sbin/nginx");
        nginx.arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("nginx.log"));
        let nginx = Guarded::spawn(&nginx, &folder)?;
        let started = Self { address, folder, _server: server, _nginx: nginx };
        for port in [port::PLAIN, port::TLS, port::BROKEN, port::HTTP2] {
            started.await_port(port)?;
        }
        Ok(started)
    }

    fn await_port(&self, port: u16) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        while std::net::TcpStream::connect((self.address, port)).is_err() {
            if Instant::now() > deadline {
                bail!("the HTTP server did not open port {port}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The root of its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Its folder, for files it serves.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A URL at its address.
    #[must_use]
    pub fn url(&self, port: u16, target: &str) -> String {
        let scheme = if matches!(port, port::PLAIN | port::BROKEN) { "http" } else { "https" };
        format!("{scheme}://{}:{port}{target}", self.address)
    }

    /// The requests it got whose target contains `mark`, oldest first.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn requests(&self, mark: &str) -> Result<Vec<Value>> {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let parse =
            |line: &str| serde_json::from_str::<Value>(line).context("a broken line in the server's log");
        let entries: Vec<Value> = log.lines().map(parse).collect::<Result<_>>()?;
        let marked = |entry: &Value| entry["target"].as_str().is_some_and(|target| target.contains(mark));
        Ok(entries.into_iter().filter(marked).collect())
    }

    /// A policy named `web` with this server's connections, and more of the caller's.
    #[must_use]
    pub fn policy(&self, more: &str) -> String {
        let (address, ca) = (self.address, self.ca().display().to_string());
        format!(
            r#"version = 1
name = "web"

[[connection]]
name = "api"
to = ["{address}:8443", "{address}:8444", "{address}:8447", "{address}:8451", "{address}:8452", "{address}:8453", "{address}:8499"]
protocol = "http"
upstream = {{ credential = "shop-token", inject = "bearer", root_cert = "{ca}" }}

[[connection]]
name = "plain"
to = ["{address}:8080", "{address}:8460"]
protocol = "http"
tls = "plain"

{more}
"#
        )
    }
}

fn nginx_conf(folder: &Path, address: Ipv4Addr) -> String {
    let root = folder.display();
    format!(
        "daemon off; worker_processes 1; pid {root}/nginx.pid; user root;
         events {{ worker_connections 512; }}
         http {{
           access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
           uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5; client_max_body_size 0; keepalive_requests 1000000;
           server {{
             listen {address}:8444 ssl http2; ssl_certificate {root}/server.pem; ssl_certificate_key {root}/server.key;
             location /static/ {{ alias {root}/; }}
             location / {{ proxy_pass http://{address}:8080; proxy_http_version 1.1; proxy_buffering off;
               proxy_request_buffering off; proxy_set_header Host $host; }}
           }}
         }}"
    )
}

/// A root, and certificates for the server, some of them wrong.
fn certificates(folder: &Path, address: Ipv4Addr) -> Result<()> {
    let root = |name: &str| -> Result<(rcgen::Certificate, Issuer<'static, KeyPair>)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate, Issuer::new(params, key)))
    };
    let (certificate, issuer) = root("shop root")?;
    let (_, stranger) = root("nobody's root")?;
    fs::write(folder.join("ca.pem"), certificate.pem())?;
    let leaf = |file: &str, names: Vec<String>, expired: bool, issuer: &Issuer<'_, KeyPair>| -> Result<()> {
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        fs::write(folder.join(format!("{file}.pem")), certificate.pem())?;
        Ok(fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?)
    };
    let right = || vec![NAME.to_owned(), address.to_string()];
    leaf("server", right(), false, &issuer)?;
    leaf("other-name", vec!["other.test".to_owned()], false, &issuer)?;
    leaf("expired", right(), true, &issuer)?;
    leaf("unknown-root", right(), false, &stranger)
}
