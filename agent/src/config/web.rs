//! `[web]`: where the approvals page is served, and whose sign-in it takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::sign_in::{ClientTable, ProviderClient, is_loopback, provider_client, time};
use super::{Fault, absolute, checked};

/// How long somebody stays signed in without asking for anything, unless the file says.
const IDLE_DEFAULT: Duration = Duration::from_mins(30);
/// How long somebody stays signed in at all, unless the file says.
const ABSOLUTE_DEFAULT: Duration = Duration::from_hours(8);
/// The approvals page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its origin as browsers see it: scheme, host and port, without a slash at the end.
    pub url: String,
    /// Certificate chain and key, PEM files; `None` serves plain HTTP, on loopback alone.
    pub tls: Option<TlsFiles>,
    /// The provider that signs people in, and what it knows the page by.
    pub client: ProviderClient,
    /// A session without a request ends after this time.
    pub idle: Duration,
    /// A session ends after this time.
    pub absolute: Duration,
    /// Who decides has proved within this time who they are; `None`: when the session began is enough.
    pub step_up: Option<Duration>,
}

/// What the page's TLS is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the page's own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Web {
    /// Whether browsers come by TLS: then cookies are for TLS alone.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Host and port as they stand in `Host` (RFC 9110 section 7.2).
    #[must_use]
    pub fn authority(&self) -> &str {
        self.url.split_once("://").map_or("", |(_, authority)| authority)
    }
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebTable {
    listen: Spanned<String>,
    url: Spanned<String>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    issuer: Spanned<String>,
    client_id: Spanned<String>,
    client_secret: Option<Spanned<String>>,
    groups_claim: Option<Spanned<String>>,
    name_claim: Option<Spanned<String>>,
    root_cert: Option<Spanned<PathBuf>>,
    scopes: Option<Spanned<Vec<String>>>,
    idle: Option<Spanned<String>>,
    absolute: Option<Spanned<String>>,
    step_up: Option<Spanned<String>>,
}

pub(super) fn web(table: WebTable) -> Result<Web, Fault> {
    let (listen_span, url_span) = (table.listen.span(), table.url.span());
    let fault = |span: std::ops::Range<usize>, message: &str| Fault { span, message: message.to_owned() };
    let listen = checked(table.listen, address)?;
    let url = checked(table.url, origin)?;
    let tls = match (table.certificate, table.key) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: checked(certificate, absolute)?, key: checked(key, absolute)? })
        }
        (Some(one), None) | (None, Some(one)) => {
            return Err(fault(one.span(), "certificate and key belong together; write both or none"));
        }
        (None, None) => None,
    };
    if tls.is_none() && !listen.ip().is_loopback() {
        return Err(fault(
            listen_span,
            "without certificate and key the page is for this host alone; listen on 127.0.0.1 or ::1",
        ));
    }
    if tls.is_some() && url.starts_with("http://") {
        return Err(fault(url_span, "with a certificate the url begins with https://"));
    }
    let time_or =
        |value: Option<Spanned<String>>, default| value.map_or(Ok(default), |value| checked(value, time));
    let client = provider_client(
        ClientTable {
            issuer: Some(table.issuer),
            client_id: Some(table.client_id),
            client_secret: table.client_secret,
            groups_claim: table.groups_claim,
            name_claim: table.name_claim,
            root_cert: table.root_cert,
            scopes: table.scopes,
        },
        None,
    )?;
    Ok(Web {
        listen,
        url,
        tls,
        client,
        idle: time_or(table.idle, IDLE_DEFAULT)?,
        absolute: time_or(table.absolute, ABSOLUTE_DEFAULT)?,
        step_up: table.step_up.map(|value| checked(value, time)).transpose()?,
    })
}

fn address(text: String) -> Result<SocketAddr, String> {
    let wrong = || format!("`{}` is not where to listen; write ADDRESS:PORT", text.escape_debug());
    text.parse().map_err(|_| wrong())
}

/// Scheme, host and port alone: that is what cookies, redirects and the same-origin check are about (RFC 6454 section 4).
fn origin(text: String) -> Result<String, String> {
    let wrong = |why: &str| format!("`{}` cannot be the page's url: {why}", text.escape_debug());
    let uri: Uri = text.parse().map_err(|_| wrong("it is none; write https://HOST or https://HOST:PORT"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("write https://HOST or https://HOST:PORT"));
    };
    if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(wrong("write scheme, host and port alone"));
    }
    match scheme {
        "https" => {}
        "http" if is_loopback(authority.host()) => {}
        _ => return Err(wrong("plain HTTP is for a loopback address (127.0.0.1, ::1) alone")),
    }
    // Browsers leave the scheme's own port out of Host and Origin.
    let usual = if scheme == "https" { ":443" } else { ":80" };
    let authority = authority.as_str().to_ascii_lowercase();
    Ok(format!("{scheme}://{}", authority.strip_suffix(usual).unwrap_or(&authority)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("p.toml")).map_err(|error| error.to_string())
    }

    const REST: &str = "issuer = \"https://idp.example\"\nclient_id = \"page\"\n";
    const TLS: &str = "certificate = \"/c.pem\"\nkey = \"/k.pem\"\n";

    #[test]
    fn a_table_says_where_and_by_whom() {
        let text =
            format!("[web]\nlisten = \"10.0.0.1:8443\"\nurl = \"https://Gate.example:8443/\"\n{REST}{TLS}");
        let web = parse(&text).unwrap().web.unwrap();
        assert_eq!((web.url.as_str(), web.authority()), ("https://gate.example:8443", "gate.example:8443"));
        assert!(web.is_secure() && web.client.scopes == ["openid", "profile"] && web.idle.as_secs() == 1800);
        let text = format!("[web]\nlisten = \"[::1]:80\"\nurl = \"http://[::1]:80\"\nidle = \"5m\"\n{REST}");
        let web = parse(&text).unwrap().web.unwrap();
        assert!(!web.is_secure() && web.url == "http://[::1]", "{}", web.url);
        assert_eq!(parse("").unwrap().web, None, "nothing is served unless the file says so");
    }

    #[test]
    fn what_would_be_unsafe_is_refused_with_its_place() {
        for (listen, url, more, expected) in [
            ("0.0.0.0:80", "https://gate", "", "p.toml:2:10: without certificate and key"),
            (
                "127.0.0.1:80",
                "http://gate",
                "",
                "p.toml:3:7: `http://gate` cannot be the page's url: plain HTTP",
            ),
            ("127.0.0.1:80", "http://127.0.0.1", TLS, "p.toml:3:7: with a certificate"),
            ("127.0.0.1:80", "https://gate/x", "", "p.toml:3:7: `https://gate/x` cannot"),
            ("127.0.0.1:80", "https://a@gate", "", "p.toml:3:7: `https://a@gate` cannot"),
            ("here", "https://gate", "", "p.toml:2:10: `here` is not where to listen"),
            ("127.0.0.1:80", "https://gate", "key = \"/k\"\n", "p.toml:6:7: certificate and key"),
            ("127.0.0.1:80", "https://gate", "scopes = [\"profile\"]\n", "p.toml:6:10: the scope \"openid\""),
            ("127.0.0.1:80", "https://gate", "idle = \"1s\"\n", "p.toml:6:8: `1s` is out of range"),
            ("127.0.0.1:80", "https://gate", "secret = \"x\"\n", "p.toml:6:1: unknown field `secret`"),
        ] {
            let text = format!("[web]\nlisten = \"{listen}\"\nurl = \"{url}\"\n{REST}{more}");
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let error = parse("[web]\nlisten = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(error.contains("missing field"), "{error}");
    }
}
