//! Certificates that the caller's own variables name, such as a company's CA: they must not be lost when the variables
//! come to name Portcullis's bundle.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::tls::bundle::{self, Bundle};
use crate::tls::variables::{ADDING, REPLACING};

/// What the caller's variables name.
#[derive(Debug, Default)]
pub(in crate::cli) struct Own {
    /// Certificates that the published bundle lacks.
    pub(in crate::cli) pem: String,
    /// What could not be read, one line each.
    pub(in crate::cli) warnings: Vec<String>,
}

/// Reads the files that this process's variables name.
pub(in crate::cli) fn of_caller(config: &Config) -> Own {
    read(config, |name| std::env::var_os(name))
}

fn read(config: &Config, variable: impl Fn(&str) -> Option<OsString>) -> Own {
    let published = [config.ca_file(), config.ca_bundle()];
    let mut known = Bundle::default();
    for file in &published {
        add(&mut known, bundle::read_file(file).unwrap_or_default());
    }
    let mut own = Own::default();
    let mut seen: Vec<PathBuf> = Vec::from(published);
    for name in REPLACING.iter().chain(&[ADDING]) {
        let Some(path) = variable(name).filter(|value| !value.is_empty()).map(PathBuf::from) else {
            continue;
        };
        if seen.contains(&path) {
            continue;
        }
        match bundle::read(&path) {
            Ok(found) => own.pem.push_str(&add(&mut known, found)),
            Err(error) => own.warnings.push(unreadable(name, &path, &error)),
        }
        seen.push(path);
    }
    own
}

/// Adds what is new, and returns it as text.
fn add(known: &mut Bundle, found: Bundle) -> String {
    let new = found.certificates().iter().filter(|certificate| known.add((*certificate).clone()));
    new.map(|certificate| bundle::pem(certificate)).collect()
}

fn unreadable(name: &str, path: &Path, error: &std::io::Error) -> String {
    format!(
        "{name} names {}, which cannot be used ({error}); Portcullis's bundle takes its place",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_the_bundle_lacks_is_the_callers_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let config = Config { control_socket: path("control.sock"), ..Config::default() };
        fs::write(config.ca_file(), bundle::pem(b"ours")).unwrap();
        fs::write(config.ca_bundle(), bundle::pem(b"root") + &bundle::pem(b"ours")).unwrap();
        fs::write(path("corporate.pem"), bundle::pem(b"root") + &bundle::pem(b"corporate")).unwrap();
        fs::write(path("node.pem"), bundle::pem(b"node")).unwrap();
        fs::write(path("empty.pem"), "").unwrap();
        let set = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> =
                pairs.iter().map(|(name, file)| ((*name).to_owned(), path(file).into_os_string())).collect();
            read(&config, move |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.clone()))
        };

        let own = set(&[("SSL_CERT_FILE", "bundle.pem"), ("NODE_EXTRA_CA_CERTS", "ca.pem")]);
        assert_eq!((own.pem.as_str(), own.warnings.len()), ("", 0));
        let own = set(&[
            ("SSL_CERT_FILE", "corporate.pem"),
            ("CURL_CA_BUNDLE", "corporate.pem"),
            ("NODE_EXTRA_CA_CERTS", "node.pem"),
        ]);
        assert_eq!(own.pem, bundle::pem(b"corporate") + &bundle::pem(b"node"));
        let own = set(&[("PIP_CERT", "absent.pem"), ("GIT_SSL_CAINFO", "empty.pem")]);
        assert_eq!(own.pem, "");
        let [first, second] = own.warnings.as_slice() else { panic!("{own:?}") };
        assert!(
            first.starts_with("GIT_SSL_CAINFO names ") && first.contains("no PEM certificate"),
            "{first}"
        );
        assert!(second.starts_with("PIP_CERT names ") && second.contains("absent.pem"), "{second}");
    }

    #[test]
    fn an_empty_variable_is_none() {
        let own = read(&Config::default(), |_| Some(OsString::new()));
        assert_eq!((own.pem.as_str(), own.warnings.len()), ("", 0));
    }
}
