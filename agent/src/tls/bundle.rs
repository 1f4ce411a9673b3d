//! Sets of root certificates as files: the system's, and what they are joined with.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Where distributions keep all their roots in one file, in the order Go tries them (crypto/x509, `root_linux.go`):
/// Debian, Ubuntu, Arch, Gentoo; Fedora, RHEL; SUSE; RHEL 7 and later; Alpine.
pub const SYSTEM_FILES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
];

/// Largest file of certificates that is read, in bytes; the usual one has 220 KB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Characters in a line of PEM (RFC 7468 section 2).
const PEM_LINE_CHARS: usize = 64;

/// Certificates, each once, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    seen: HashSet<Vec<u8>>,
}

impl Bundle {
    /// Adds a certificate; false when it is there already.
    pub fn add(&mut self, certificate: CertificateDer<'static>) -> bool {
        let new = self.seen.insert(certificate.to_vec());
        if new {
            self.certificates.push(certificate);
        }
        new
    }

    /// Adds every `CERTIFICATE` section of a PEM text that can be read; the others are left out, as every TLS library
    /// does. Returns how many were read, new or not.
    pub fn add_pem(&mut self, pem: &[u8]) -> usize {
        let mut read = 0;
        for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
            self.add(certificate);
            read += 1;
        }
        read
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.seen.contains(certificate.as_ref())
    }

    /// In order.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// The text of a bundle file (RFC 7468).
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificates.iter().map(|certificate| pem(certificate)).collect()
    }
}

/// The system's file of roots below a folder (`/` for the real one).
#[must_use]
pub fn system_file(root: &Path) -> Option<PathBuf> {
    SYSTEM_FILES.iter().map(|file| root.join(file)).find(|file| file.is_file())
}

/// The system's roots: of [`system_file`] where there is one, else whatever the TLS libraries' usual places hold.
/// Empty when the system has none.
#[must_use]
pub fn system() -> Bundle {
    let from_file = system_file(Path::new("/")).and_then(|file| read_file(&file).ok());
    from_file.filter(|bundle| !bundle.is_empty()).unwrap_or_else(|| {
        let mut bundle = Bundle::default();
        for certificate in rustls_native_certs::load_native_certs().certs {
            bundle.add(certificate);
        }
        bundle
    })
}

/// The certificates of a PEM file.
///
/// # Errors
/// When it cannot be read or is unreasonably large. One without certificates is an empty bundle.
pub fn read_file(path: &Path) -> io::Result<Bundle> {
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem)?;
    if u64::try_from(pem.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let mut bundle = Bundle::default();
    bundle.add_pem(&pem);
    Ok(bundle)
}

/// The certificates of a PEM file, or of every file in a folder (`REQUESTS_CA_BUNDLE` may name one).
///
/// # Errors
/// When it cannot be read, or holds no certificate.
pub fn read(path: &Path) -> io::Result<Bundle> {
    let bundle = if path.is_dir() {
        let mut bundle = Bundle::default();
        for certificate in rustls_native_certs::load_certs_from_paths(None, Some(path)).certs {
            bundle.add(certificate);
        }
        bundle
    } else {
        read_file(path)?
    };
    if bundle.is_empty() { Err(io::Error::other("it holds no PEM certificate")) } else { Ok(bundle) }
}

/// One certificate as text (RFC 7468 section 5).
#[must_use]
pub fn pem(certificate: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut column = 0;
    for character in certificate.chunks(3).flat_map(base64) {
        text.push(character);
        column += 1;
        if column == PEM_LINE_CHARS {
            text.push('\n');
            column = 0;
        }
    }
    if column > 0 {
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// Up to three bytes as four characters (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> [char; 4] {
    let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
    let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
    let digit =
        |at: usize, shift: u32| if at <= bytes.len() { base64_digit(bits >> shift & 63) } else { '=' };
    [digit(0, 18), digit(1, 12), digit(2, 6), digit(3, 0)]
}

fn base64_digit(value: u32) -> char {
    let (first, offset) = match value {
        0..=25 => ('A', value),
        26..=51 => ('a', value - 26),
        52..=61 => ('0', value - 52),
        62 => return '+',
        _ => return '/',
    };
    char::from_u32(u32::from(first) + offset).unwrap_or('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_survives_the_text() {
        for length in 0..200_u8 {
            let bytes: Vec<u8> = (0..length).map(|at| at.wrapping_mul(151).wrapping_add(length)).collect();
            let text = pem(&bytes);
            assert!(text.lines().all(|line| line.len() <= PEM_LINE_CHARS), "{text}");
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), bytes);
        }
        // RFC 4648 section 10.
        let vectors = [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in vectors {
            assert_eq!(plain.as_bytes().chunks(3).flat_map(base64).collect::<String>(), encoded);
        }
    }

    #[test]
    fn each_certificate_is_kept_once_and_what_is_none_is_left_out() {
        let text = format!(
            "# comment\n{}{}-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n\
             -----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{}{}",
            pem(b"one"),
            pem(b"two"),
            pem(b"one"),
            pem(b"three"),
        );
        let mut bundle = Bundle::default();
        assert_eq!(bundle.add_pem(text.as_bytes()), 4);
        let kept: Vec<&[u8]> = bundle.certificates().iter().map(AsRef::as_ref).collect();
        assert_eq!(kept, [b"one".as_slice(), b"two", b"three"]);
        assert_eq!(bundle.pem(), [pem(b"one"), pem(b"two"), pem(b"three")].concat());
        assert!(bundle.contains(&CertificateDer::from(b"two".to_vec())));
        assert!(!bundle.contains(&CertificateDer::from(b"four".to_vec())));
    }

    #[test]
    fn files_and_folders_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("corporate.pem");
        std::fs::write(&file, pem(b"corporate")).unwrap();
        assert_eq!(read(&file).unwrap().pem(), pem(b"corporate"));
        assert_eq!(read(folder.path()).unwrap().pem(), pem(b"corporate"));
        std::fs::write(&file, "nothing").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("no PEM certificate"));
        assert!(read(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn the_systems_file_is_found_where_distributions_put_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(system_file(root.path()), None);
        for name in SYSTEM_FILES.iter().rev() {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            assert_eq!(system_file(root.path()), Some(file));
        }
    }
}
