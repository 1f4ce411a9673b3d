//! Whose sign-in is taken: the client that this host is of an OpenID provider, on the approvals page and for `portcullis login`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::{Fault, absolute, checked};

/// How long somebody stays signed in by `portcullis login`, unless the file says.
const LOGIN_TIME_DEFAULT: Duration = Duration::from_hours(8);
/// What is asked of the provider, unless the file says (OpenID Connect Core 1.0 sections 3.1.2.1 and 5.4).
const SCOPES_DEFAULT: [&str; 2] = ["openid", "profile"];
/// Scopes that may be written.
const SCOPES_MAX: usize = 16;
/// Shortest and longest time that somebody may stay signed in.
const TIME_MIN: Duration = Duration::from_mins(1);
const TIME_MAX: Duration = Duration::from_hours(24);
/// Longest text of a value, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// A provider, and what it knows this host by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderClient {
    /// The provider's `iss`, and where it describes itself (OpenID Connect Discovery 1.0).
    pub issuer: String,
    /// What the provider knows the client by.
    pub client_id: String,
    /// Credential with the client's secret; `None`: a public client.
    pub client_secret: Option<String>,
    /// Claim of the ID token with the person's groups.
    pub groups_claim: Option<String>,
    /// Claim with what the person is called; without it, by the subject.
    pub name_claim: Option<String>,
    /// PEM file of the roots that may sign the provider's certificate; `None` is the system's store.
    pub root_cert: Option<PathBuf>,
    /// Scopes asked for; `openid` is among them.
    pub scopes: Vec<String>,
}

/// `[login]`: who signs in by the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The provider that signs people in, and what it knows this host by.
    pub client: ProviderClient,
    /// How long it lasts.
    pub absolute: Duration,
    /// Whether nobody decides by the command line who is not signed in.
    pub required: bool,
    /// Whom the provider may sign in for which account of this host.
    pub accounts: AccountNames,
    /// Whether a code may be typed on another device. Whoever gets somebody to type one is signed in as them.
    pub device: bool,
}

/// Which people may sign in for an account of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountNames {
    /// Those whom the provider calls as the host calls the account, or who logged in to it: by the claim of `name_claim`, or
    /// another that names people (of an address, what stands before the @). The default.
    Matching,
    /// Anybody: names differ here. Whoever gets a reviewer to follow a link is signed in as them.
    Any,
}

/// The keys that speak of a provider, as written.
#[derive(Default)]
pub(super) struct ClientTable {
    pub(super) issuer: Option<Spanned<String>>,
    pub(super) client_id: Option<Spanned<String>>,
    pub(super) client_secret: Option<Spanned<String>>,
    pub(super) groups_claim: Option<Spanned<String>>,
    pub(super) name_claim: Option<Spanned<String>>,
    pub(super) root_cert: Option<Spanned<PathBuf>>,
    pub(super) scopes: Option<Spanned<Vec<String>>>,
}

/// `[login]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginTable {
    client_id: Spanned<String>,
    issuer: Option<Spanned<String>>,
    client_secret: Option<Spanned<String>>,
    groups_claim: Option<Spanned<String>>,
    name_claim: Option<Spanned<String>>,
    root_cert: Option<Spanned<PathBuf>>,
    scopes: Option<Spanned<Vec<String>>>,
    absolute: Option<Spanned<String>>,
    #[serde(default)]
    required: bool,
    accounts: Option<AccountNames>,
    device: Option<bool>,
}

/// `[login]`, where what is not written is as for the page.
pub(super) fn login(table: LoginTable, page: Option<&ProviderClient>) -> Result<Login, Fault> {
    let LoginTable { absolute, required, accounts, device, .. } = table;
    let accounts = accounts.unwrap_or(AccountNames::Matching);
    let device = device.unwrap_or(accounts == AccountNames::Matching);
    let client = ClientTable {
        issuer: table.issuer,
        client_id: Some(table.client_id),
        client_secret: table.client_secret,
        groups_claim: table.groups_claim,
        name_claim: table.name_claim,
        root_cert: table.root_cert,
        scopes: table.scopes,
    };
    let absolute = absolute.map_or(Ok(LOGIN_TIME_DEFAULT), |value| checked(value, time))?;
    Ok(Login { client: provider_client(client, page)?, absolute, required, accounts, device })
}

/// A client of a provider. What is not written is as `usual` has it, but for the client's own id and secret; of another provider
/// nothing is.
pub(super) fn provider_client(
    table: ClientTable,
    usual: Option<&ProviderClient>,
) -> Result<ProviderClient, Fault> {
    let text = |value: Option<Spanned<String>>| value.map(|value| checked(value, plain)).transpose();
    let at = table.client_id.as_ref().map_or(0..0, Spanned::span);
    let missing = |message: &str| Fault { span: at.clone(), message: message.to_owned() };
    let written = table.issuer.map(|value| checked(value, issuer)).transpose()?;
    let usual = usual.filter(|usual| written.as_ref().is_none_or(|issuer| *issuer == usual.issuer));
    let issuer = written.or_else(|| usual.map(|usual| usual.issuer.clone()));
    Ok(ProviderClient {
        issuer: issuer.ok_or_else(|| missing("the issuer is missing; write it here or have [web]"))?,
        client_id: text(table.client_id)?.ok_or_else(|| missing("client_id is missing"))?,
        client_secret: text(table.client_secret)?,
        groups_claim: text(table.groups_claim)?.or_else(|| usual?.groups_claim.clone()),
        name_claim: text(table.name_claim)?.or_else(|| usual?.name_claim.clone()),
        root_cert: table
            .root_cert
            .map(|path| checked(path, absolute))
            .transpose()?
            .or_else(|| usual?.root_cert.clone()),
        scopes: match (table.scopes, usual) {
            (Some(wanted), _) => checked(wanted, scopes)?,
            (None, Some(usual)) => usual.scopes.clone(),
            (None, None) => SCOPES_DEFAULT.map(str::to_owned).to_vec(),
        },
    })
}

fn issuer(text: String) -> Result<String, String> {
    let uri: Option<Uri> = text.parse().ok();
    let good = uri.is_some_and(|uri| match uri.scheme_str() {
        Some("https") => uri.host().is_some() && uri.query().is_none(),
        Some("http") => uri.host().is_some_and(is_loopback) && uri.query().is_none(),
        Some(_) | None => false,
    });
    if good && text.len() <= TEXT_BYTES_MAX {
        return Ok(text);
    }
    Err(format!(
        "`{}` is not an issuer; write its https:// address as in the token's iss",
        text.escape_debug()
    ))
}

pub(super) fn is_loopback(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn plain(text: String) -> Result<String, String> {
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(format!("`{}` cannot stand here; write 1 to {TEXT_BYTES_MAX} plain characters", text.escape_debug()))
}

/// RFC 6749 section 3.3.
fn scopes(wanted: Vec<String>) -> Result<Vec<String>, String> {
    let token = |scope: &String| {
        !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
    };
    if wanted.len() > SCOPES_MAX || !wanted.iter().all(token) {
        return Err(format!("write at most {SCOPES_MAX} scopes, each without spaces and quotes"));
    }
    if !wanted.iter().any(|scope| scope == "openid") {
        return Err("the scope \"openid\" is missing; without it there is no ID token".to_owned());
    }
    Ok(wanted)
}

/// How long somebody stays signed in.
pub(super) fn time(text: String) -> Result<Duration, String> {
    let time = humantime::parse_duration(&text).map_err(|_| {
        format!(
            "`{}` is not a length of time; write a number and a unit, such as \"30m\"",
            text.escape_debug()
        )
    })?;
    if (TIME_MIN..=TIME_MAX).contains(&time) {
        return Ok(time);
    }
    Err(format!("`{text}` is out of range; use \"1m\" to \"24h\""))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::AccountNames;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("p.toml")).map_err(|error| error.to_string())
    }

    const WEB: &str = "[web]\nlisten = \"127.0.0.1:1\"\nurl = \"http://127.0.0.1:1\"\nissuer = \"https://idp.example\"\n\
                       client_id = \"page\"\nclient_secret = \"s\"\ngroups_claim = \"groups\"\n";

    #[test]
    fn a_login_is_as_the_pages_where_nothing_else_is_written() {
        let login = parse(&format!("{WEB}[login]\nclient_id = \"cli\"\n")).unwrap().login.unwrap();
        let client = &login.client;
        assert_eq!((client.issuer.as_str(), client.client_id.as_str()), ("https://idp.example", "cli"));
        assert_eq!((client.groups_claim.as_deref(), client.client_secret.as_deref()), (Some("groups"), None));
        assert!(!login.required && login.absolute.as_secs() == 8 * 3600);
        assert!(login.accounts == AccountNames::Matching && login.device);
        let any = parse(&format!("{WEB}[login]\nclient_id = \"cli\"\naccounts = \"any\"\n"))
            .unwrap()
            .login
            .unwrap();
        assert!(any.accounts == AccountNames::Any && !any.device, "a code would be anybody's");
        let other =
            format!("{WEB}[login]\nclient_id = \"cli\"\nissuer = \"https://b.example\"\nrequired = true\n");
        let login = parse(&other).unwrap().login.unwrap();
        assert!(login.required && login.client.groups_claim.is_none(), "claims are another provider's");
        assert_eq!(parse("").unwrap().login, None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_with_its_place() {
        for (text, expected) in [
            ("[login]\nclient_id = \"cli\"\n", "p.toml:2:13: the issuer is missing"),
            ("[login]\nissuer = \"https://a\"\n", "p.toml:1:1: missing field `client_id`"),
            (
                "[login]\nclient_id = \"cli\"\nissuer = \"http://a\"\n",
                "p.toml:3:10: `http://a` is not an issuer",
            ),
            (
                "[login]\nclient_id = \"cli\"\nissuer = \"https://a\"\nabsolute = \"2d\"\n",
                "p.toml:4:12: `2d` is out of range",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
