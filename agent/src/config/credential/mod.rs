//! `[credential.NAME]`: secrets that are kept elsewhere than in files of the credentials folder.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Fault, absolute, checked};

/// How long a command may take, unless the file says.
const COMMAND_TIME_DEFAULT: Duration = Duration::from_secs(10);
/// Shortest and longest time that may be written.
const COMMAND_TIME_MIN: Duration = Duration::from_millis(100);
const COMMAND_TIME_MAX: Duration = Duration::from_mins(1);
/// Longest name of a credential, as in policies.
const NAME_BYTES_MAX: usize = 128;
/// Words that a command may have.
const WORDS_MAX: usize = 64;

/// Where each credential comes from that is no file of the folder, by name.
pub type Sources = BTreeMap<String, Source>;

/// Where one credential comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A credential that systemd hands to the unit (systemd.exec(5), `LoadCredential=`, `LoadCredentialEncrypted=`).
    Systemd {
        /// What it is called there.
        name: String,
    },
    /// A variable of the daemon's own environment.
    Env {
        /// Which.
        variable: String,
    },
    /// What a command prints.
    Exec {
        /// Program by its absolute path, and arguments; no shell.
        command: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
    /// HashiCorp Vault or OpenBao.
    Vault(Box<VaultSource>),
}

/// A secret of HashiCorp Vault or OpenBao (<https://developer.hashicorp.com/vault/api-docs>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSource {
    /// Where it listens, without a slash at the end.
    pub address: String,
    /// What is read, as after `/v1/`.
    pub path: String,
    /// Field of the data that is the secret.
    pub field: String,
    /// How the daemon logs in.
    pub auth: VaultAuth,
    /// PEM file of the roots that may sign its certificate; `None` is the system's store.
    pub root_cert: Option<PathBuf>,
    /// Namespace (`X-Vault-Namespace`).
    pub namespace: Option<String>,
}

/// How the daemon logs in to Vault (<https://developer.hashicorp.com/vault/api-docs/auth>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// By a token.
    Token {
        /// Credential that holds it.
        credential: String,
    },
    /// By a role's id and a secret of it.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// The role's id, which is no secret.
        role_id: String,
        /// Credential that holds the secret id.
        secret_id: String,
    },
    /// By a signed token: `jwt`, or `kubernetes` with the token of a service account.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// Which role.
        role: String,
        /// File with the token, read at each login.
        token_file: PathBuf,
    },
}

/// All tables by their names, as written.
pub(super) type Tables = BTreeMap<Spanned<String>, Spanned<CredentialTable>>;

/// One table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialTable {
    from: Kind,
    name: Option<Spanned<String>>,
    variable: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
    timeout: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    field: Option<Spanned<String>>,
    auth: Option<Spanned<AuthTable>>,
    root_cert: Option<Spanned<PathBuf>>,
    namespace: Option<Spanned<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Systemd,
    Env,
    Exec,
    Vault,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Env => "env",
            Self::Exec => "exec",
            Self::Vault => "vault",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthTable {
    method: Method,
    credential: Option<Spanned<String>>,
    mount: Option<Spanned<String>>,
    role_id: Option<Spanned<String>>,
    secret_id: Option<Spanned<String>>,
    role: Option<Spanned<String>>,
    token_file: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Token,
    AppRole,
    Jwt,
    Kubernetes,
}

impl Method {
    fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AppRole => "approle",
            Self::Jwt => "jwt",
            Self::Kubernetes => "kubernetes",
        }
    }

    fn takes(self, key: &str) -> bool {
        match self {
            Self::Token => key == "credential",
            Self::AppRole => ["mount", "role_id", "secret_id"].contains(&key),
            Self::Jwt | Self::Kubernetes => ["mount", "role", "token_file"].contains(&key),
        }
    }
}

/// Checks all tables. What logs in to Vault must not itself lie in Vault, or each would wait for the other.
pub(super) fn sources(tables: Tables) -> Result<Sources, Fault> {
    let in_vault: Vec<String> = tables
        .iter()
        .filter(|(_, table)| table.get_ref().from == Kind::Vault)
        .map(|(name, _)| name.get_ref().clone())
        .collect();
    let mut sources = Sources::new();
    for (name, table) in tables {
        let name = checked(name, credential_name)?;
        let source = source(&name, table, &in_vault)?;
        sources.insert(name, source);
    }
    Ok(sources)
}

fn source(name: &str, table: Spanned<CredentialTable>, in_vault: &[String]) -> Result<Source, Fault> {
    let span = table.span();
    let table = table.into_inner();
    only_own_keys(&table)?;
    let from = table.from.word();
    let missing =
        |key: &str| Fault { span: span.clone(), message: format!("from = \"{from}\" needs `{key}`") };
    Ok(match table.from {
        Kind::Systemd => Source::Systemd {
            name: table.name.map_or_else(|| Ok(name.to_owned()), |name| checked(name, credential_name))?,
        },
        Kind::Env => {
            let variable = table.variable.ok_or_else(|| missing("variable"))?;
            Source::Env { variable: checked(variable, variable_name)? }
        }
        Kind::Exec => Source::Exec {
            command: checked(table.command.ok_or_else(|| missing("command"))?, words)?,
            timeout: table.timeout.map_or(Ok(COMMAND_TIME_DEFAULT), |time| checked(time, command_time))?,
        },
        Kind::Vault => Source::Vault(Box::new(VaultSource {
            address: checked(table.address.ok_or_else(|| missing("address"))?, vault_address)?,
            path: checked(table.path.ok_or_else(|| missing("path"))?, vault_path)?,
            field: table.field.map_or_else(|| Ok("password".to_owned()), |field| checked(field, plain))?,
            auth: auth(table.auth.ok_or_else(|| missing("auth"))?, in_vault)?,
            root_cert: table.root_cert.map(|path| checked(path, absolute)).transpose()?,
            namespace: table.namespace.map(|namespace| checked(namespace, vault_path)).transpose()?,
        })),
    })
}

/// A key that another source has would be read as if it had an effect.
fn only_own_keys(table: &CredentialTable) -> Result<(), Fault> {
    let keys: [(&str, Kind, Option<Range<usize>>); 10] = [
        ("name", Kind::Systemd, table.name.as_ref().map(Spanned::span)),
        ("variable", Kind::Env, table.variable.as_ref().map(Spanned::span)),
        ("command", Kind::Exec, table.command.as_ref().map(Spanned::span)),
        ("timeout", Kind::Exec, table.timeout.as_ref().map(Spanned::span)),
        ("address", Kind::Vault, table.address.as_ref().map(Spanned::span)),
        ("path", Kind::Vault, table.path.as_ref().map(Spanned::span)),
        ("field", Kind::Vault, table.field.as_ref().map(Spanned::span)),
        ("auth", Kind::Vault, table.auth.as_ref().map(Spanned::span)),
        ("root_cert", Kind::Vault, table.root_cert.as_ref().map(Spanned::span)),
        ("namespace", Kind::Vault, table.namespace.as_ref().map(Spanned::span)),
    ];
    for (key, owner, span) in keys {
        if let (true, Some(span)) = (owner != table.from, span) {
            return Err(Fault { span, message: format!("`{key}` is for from = \"{}\"", owner.word()) });
        }
    }
    Ok(())
}

fn auth(table: Spanned<AuthTable>, in_vault: &[String]) -> Result<VaultAuth, Fault> {
    let span = table.span();
    let table = table.into_inner();
    let method = table.method;
    let word = method.word();
    for (key, span) in [
        ("credential", table.credential.as_ref().map(Spanned::span)),
        ("mount", table.mount.as_ref().map(Spanned::span)),
        ("role_id", table.role_id.as_ref().map(Spanned::span)),
        ("secret_id", table.secret_id.as_ref().map(Spanned::span)),
        ("role", table.role.as_ref().map(Spanned::span)),
        ("token_file", table.token_file.as_ref().map(Spanned::span)),
    ] {
        if let (false, Some(span)) = (method.takes(key), span) {
            return Err(Fault { span, message: format!("`{key}` has no use with method = \"{word}\"") });
        }
    }
    let missing =
        |key: &str| Fault { span: span.clone(), message: format!("method = \"{word}\" needs `{key}`") };
    let elsewhere = |name: String| {
        let name = credential_name(name)?;
        match in_vault.contains(&name) {
            true => {
                Err(format!("`{name}` lies in Vault itself; what logs in there must come from elsewhere"))
            }
            false => Ok(name),
        }
    };
    let mount = table.mount.map_or_else(|| Ok(word.to_owned()), |mount| checked(mount, vault_path))?;
    Ok(match method {
        Method::Token => VaultAuth::Token {
            credential: checked(table.credential.ok_or_else(|| missing("credential"))?, elsewhere)?,
        },
        Method::AppRole => VaultAuth::AppRole {
            mount,
            role_id: checked(table.role_id.ok_or_else(|| missing("role_id"))?, plain)?,
            secret_id: checked(table.secret_id.ok_or_else(|| missing("secret_id"))?, elsewhere)?,
        },
        Method::Jwt | Method::Kubernetes => VaultAuth::Jwt {
            mount,
            role: checked(table.role.ok_or_else(|| missing("role"))?, plain)?,
            token_file: checked(table.token_file.ok_or_else(|| missing("token_file"))?, absolute)?,
        },
    })
}

/// As in policies. The value is not repeated: somebody may have pasted the secret itself.
fn credential_name(name: String) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err("this cannot be the name of a credential; use letters, digits, '.', '-' and '_'".to_owned())
    }
}

fn variable_name(name: String) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err("this cannot be a variable; write its name, without `$`, in letters, digits and '_'".to_owned())
    }
}

fn words(command: Vec<String>) -> Result<Vec<String>, String> {
    if command.len() > WORDS_MAX || command.iter().any(|word| word.contains('\0')) {
        return Err(format!("a command has at most {WORDS_MAX} words, none with a NUL byte"));
    }
    match command.first() {
        Some(program) if program.starts_with('/') => Ok(command),
        Some(_) | None => Err(
            "write the program by its absolute path, then its arguments: command = [\"/usr/local/bin/get-secret\", \
             \"orders\"]"
                .to_owned(),
        ),
    }
}

fn command_time(text: String) -> Result<Duration, String> {
    match humantime::parse_duration(&text) {
        Ok(time) if (COMMAND_TIME_MIN..=COMMAND_TIME_MAX).contains(&time) => Ok(time),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a time for a command; use \"100ms\" to \"1m\"")),
    }
}

fn vault_address(text: String) -> Result<String, String> {
    let wrong = || "write where Vault listens, such as \"https://vault.internal:8200\"".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    match uri.authority() {
        Some(authority) if web && !authority.as_str().contains('@') && uri.query().is_none() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        Some(_) | None => Err(wrong()),
    }
}

/// Segments with single slashes between them, of characters that mean nothing in an URL.
fn vault_path(text: String) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'@' | b':');
    let segment = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain);
    if text.split('/').all(segment) {
        Ok(text)
    } else {
        Err(format!(
            "`{}` is no path in Vault; write it as after /v1/, such as \"secret/data/orders\"",
            text.escape_debug()
        ))
    }
}

fn plain(text: String) -> Result<String, String> {
    if !text.is_empty() && !text.chars().any(char::is_control) {
        Ok(text)
    } else {
        Err("this is empty, or has control characters".to_owned())
    }
}

#[cfg(test)]
mod tests;
