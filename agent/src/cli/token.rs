//! Where `portcullis run` takes an ID token from, when the policy asks for one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{Request as HttpRequest, StatusCode, header};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Failure, ask, complain};
use crate::config::Config;
use crate::control::protocol::{Token, TokenTerms};
use crate::control::{ClientError, Reply, Request};
use crate::fetch::Fetch;
use crate::identity::TOKEN_BYTES_MAX;

/// Our own variable: GitLab jobs name theirs in `id_tokens:`.
const VARIABLE: &str = "PORTCULLIS_ID_TOKEN";
/// GitHub Actions, where the job has `permissions: id-token: write`
/// (docs.github.com/actions/reference/security/oidc, "Methods for requesting the OIDC token").
const GITHUB_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const GITHUB_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";
/// Kubernetes: a projected service account token for our audience, and the one that every pod has
/// (kubernetes.io/docs/concepts/storage/projected-volumes, serviceAccountToken).
const PROJECTED: [&str; 2] =
    ["/var/run/secrets/portcullis/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"];

/// What the command line says.
pub(super) enum Named {
    /// `--token-file`.
    File(PathBuf),
    /// `--token-env`.
    Variable(String),
    /// Nothing.
    No,
}

/// Where the token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In a file that somebody keeps fresh.
    File(PathBuf),
    /// In a variable; it cannot be renewed.
    Variable(String),
    /// GitHub Actions mints one when it is asked.
    Github(Service),
}

/// A service that mints ID tokens for whoever has its own token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Where it is.
    url: String,
    /// For the service alone.
    token: Token,
    /// For whom its tokens are.
    audience: String,
}

pub(super) fn named(file: Option<PathBuf>, variable: Option<String>) -> Named {
    match (file, variable) {
        (Some(file), _) => Named::File(file),
        (None, Some(variable)) => Named::Variable(variable),
        (None, None) => Named::No,
    }
}

/// The source for a run under this policy; `None` when it asks for no token.
pub(super) fn find(named: Named, policy: &str, config: &Config) -> Result<Option<Source>, Failure> {
    let Reply::Terms(terms) = ask(config, &Request::Terms { policy: policy.to_owned() })? else {
        return Err(ClientError::NotUnderstood.into());
    };
    match named {
        // The daemon says why, should the policy ask for none.
        Named::File(file) => Ok(Some(Source::File(file))),
        Named::Variable(variable) => Ok(Some(Source::Variable(variable))),
        Named::No if terms.is_empty() => Ok(None),
        Named::No => {
            let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let found = detect(&terms, &value, &|path| path.is_file());
            // What is needed when there is none the daemon says.
            if let Some(source) = &found {
                complain(&format!("the run's token is from {source}"));
            }
            Ok(found)
        }
    }
}

/// Looks where CI systems put tokens.
fn detect(
    terms: &[TokenTerms],
    value: &dyn Fn(&str) -> Option<String>,
    is_file: &dyn Fn(&Path) -> bool,
) -> Option<Source> {
    if value(VARIABLE).is_some() {
        return Some(Source::Variable(VARIABLE.to_owned()));
    }
    if let (Some(url), Some(token)) = (value(GITHUB_URL), value(GITHUB_TOKEN)) {
        let github = |terms: &&TokenTerms| {
            terms.issuer.contains("token.actions.githubusercontent.com")
                || terms.issuer.ends_with("/_services/token")
        };
        // Where another issuer stands in for GitHub's, it does not matter which, if all of them are asked for the same.
        let alike =
            || terms.first().filter(|first| terms.iter().all(|other| other.audience == first.audience));
        let terms = terms.iter().find(github).or_else(alike)?;
        let audience = terms.audience.clone();
        return Some(Source::Github(Service { url, token: Token::new(token), audience }));
    }
    PROJECTED.iter().map(Path::new).find(|path| is_file(path)).map(|path| Source::File(path.to_owned()))
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "${name}"),
            Self::Github(service) => write!(f, "GitHub Actions (audience {})", service.audience),
        }
    }
}

impl Source {
    /// The token as it is now.
    pub(super) fn read(&self) -> Result<Token, Failure> {
        let text = match self {
            Self::File(path) => from_file(path).map_err(|error| {
                Failure::Failed(format!("cannot read the token in {}: {error}", path.display()))
            })?,
            Self::Variable(name) => Zeroizing::new(std::env::var(name).map_err(|_| {
                Failure::Failed(format!(
                    "the variable {name} that shall hold the token is not set, or no text"
                ))
            })?),
            Self::Github(service) => from_github(service)?,
        };
        match text.trim() {
            "" => Err(Failure::Failed(format!("there is no token in {self}"))),
            token => Ok(Token::new(token.to_owned())),
        }
    }

    /// Variables that the command must not have: what is in them speaks for the subject elsewhere, too.
    pub(super) fn variables(&self) -> Vec<OsString> {
        let usual = [VARIABLE, GITHUB_URL, GITHUB_TOKEN].map(OsString::from);
        match self {
            Self::File(_) | Self::Github(_) => usual.to_vec(),
            Self::Variable(name) => usual.into_iter().chain([name.into()]).collect(),
        }
    }
}

fn from_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let limit = TOKEN_BYTES_MAX + 2;
    let mut text = Zeroizing::new(String::with_capacity(limit));
    let read = File::open(path)?.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_string(&mut text)?;
    if read == limit {
        return Err(io::Error::other(format!("it is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Asks GitHub's token service, whose answer is `{"value": "…"}`.
fn from_github(service: &Service) -> Result<Zeroizing<String>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        value: Zeroizing<String>,
    }
    let failed = |why: String| Failure::Failed(format!("GitHub Actions gives no token: {why}"));
    let Service { url, token, audience } = service;
    let audience: String = form_urlencoded::byte_serialize(audience.as_bytes()).collect();
    let separator = if url.contains('?') { '&' } else { '?' };
    let request = HttpRequest::get(format!("{url}{separator}audience={audience}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", token.expose()))
        .header(header::ACCEPT, "application/json")
        .body(Vec::new())
        .map_err(|_| failed(format!("{GITHUB_URL} is no URL")))?;
    let fetch = Fetch::new(Arc::default(), None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(fetch.send(request)).map_err(|error| failed(error.to_string()))?;
    if answer.status() != StatusCode::OK {
        return Err(failed(format!("its token service answers {}", answer.status())));
    }
    let body = Zeroizing::new(answer.into_body());
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| failed("its token service's answer is no token".to_owned()))?;
    Ok(answer.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(issuers: &[&str]) -> Vec<TokenTerms> {
        let terms =
            |issuer: &&str| TokenTerms { issuer: (*issuer).to_owned(), audience: format!("for {issuer}") };
        issuers.iter().map(terms).collect()
    }

    #[test]
    fn tokens_are_found_where_ci_systems_put_them() {
        let github = ["https://gitlab.example", "https://token.actions.githubusercontent.com"];
        let nothing = |_: &str| None;
        let among =
            |names: &'static [&str]| move |name: &str| names.contains(&name).then(|| format!("the {name}"));
        let in_github = among(&[GITHUB_URL, GITHUB_TOKEN]);
        let service = |audience: &str| {
            let (url, token) = (format!("the {GITHUB_URL}"), Token::new(format!("the {GITHUB_TOKEN}")));
            Some(Source::Github(Service { url, token, audience: audience.to_owned() }))
        };
        let no_file = |_: &Path| false;
        assert_eq!(detect(&terms(&github), &nothing, &no_file), None);
        let expected = service("for https://token.actions.githubusercontent.com");
        assert_eq!(detect(&terms(&github), &in_github, &no_file), expected);
        assert_eq!(detect(&terms(&github[..1]), &among(&[GITHUB_URL]), &no_file), None);
        assert_eq!(
            detect(&terms(&["http://127.0.0.1:1"]), &in_github, &no_file),
            service("for http://127.0.0.1:1")
        );
        assert_eq!(detect(&terms(&["https://a", "https://b"]), &in_github, &no_file), None);
        let own = detect(&terms(&github), &among(&[VARIABLE, GITHUB_URL, GITHUB_TOKEN]), &no_file);
        assert_eq!(own, Some(Source::Variable(VARIABLE.to_owned())));
        let pod = detect(&terms(&github), &nothing, &|path| path == Path::new(PROJECTED[1]));
        assert_eq!(pod, Some(Source::File(PROJECTED[1].into())));
    }

    #[test]
    fn a_tokens_file_is_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "abc\n").unwrap();
        let source = Source::File(path.clone());
        assert_eq!(source.read().unwrap().expose(), "abc");
        std::fs::write(&path, vec![b'x'; TOKEN_BYTES_MAX + 10]).unwrap();
        assert!(source.read().is_err());
        std::fs::write(&path, " \n").unwrap();
        assert!(source.read().is_err());
        assert!(Source::Variable("PORTCULLIS_NO_SUCH_VARIABLE".to_owned()).read().is_err());
    }
}
