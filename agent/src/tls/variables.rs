//! The environment variables by which clients are told whom to trust.

use std::collections::BTreeMap;
use std::path::Path;

/// Names the file with the local CA's certificate alone.
pub const CA_FILE: &str = "PORTCULLIS_CA_FILE";
/// Names the file with the system's roots and the local CA's certificate.
pub const CA_BUNDLE: &str = "PORTCULLIS_CA_BUNDLE";

/// Variables whose file takes the place of the client's own roots, so that it must hold those, too. Never
/// `PGSSLROOTCERT`: with it set, libpq's default `sslmode=prefer` falls back to plaintext on servers that another
/// authority signed.
pub const REPLACING: [&str; 10] = [
    // OpenSSL's default paths: urllib, aiohttp, httpx, Ruby, PHP; Go; rustls-native-certs.
    "SSL_CERT_FILE",
    // requests, and with it pip's vendored copy and botocore.
    "REQUESTS_CA_BUNDLE",
    // curl, and requests when REQUESTS_CA_BUNDLE is not set.
    "CURL_CA_BUNDLE",
    // AWS's command line and botocore.
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    // gRPC's C core: C++, Python, Ruby, PHP.
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CODEX_CA_CERTIFICATE",
    // Deno adds the file to its own roots; the bundle's do no harm.
    "DENO_CERT",
];

/// The variable whose file is added to the client's own roots (Node.js).
pub const ADDING: &str = "NODE_EXTRA_CA_CERTS";

/// Every variable with its file.
#[must_use]
pub fn assignments(ca_file: &Path, bundle: &Path) -> BTreeMap<String, String> {
    let (ca_file, bundle) = (ca_file.display().to_string(), bundle.display().to_string());
    let replacing = REPLACING.iter().chain(&[CA_BUNDLE]).map(|name| ((*name).to_owned(), bundle.clone()));
    let alone = [CA_FILE, ADDING].map(|name| (name.to_owned(), ca_file.clone()));
    replacing.chain(alone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replaces_gets_the_bundle_and_what_adds_gets_the_ca() {
        let assigned = assignments(Path::new("/ca"), Path::new("/bundle"));
        assert_eq!(assigned.len(), REPLACING.len() + 3);
        let of_ca: Vec<&str> =
            assigned.iter().filter(|(_, value)| *value == "/ca").map(|(name, _)| name.as_str()).collect();
        assert_eq!(of_ca, ["NODE_EXTRA_CA_CERTS", "PORTCULLIS_CA_FILE"]);
        assert_eq!(assigned["SSL_CERT_FILE"], "/bundle");
        assert!(!assigned.keys().any(|name| name.starts_with("PG")));
    }
}
