//! What the daemon publishes for clients to trust: the CA's certificate, the bundle of it and the system's roots, and
//! bundles for runs whose caller brought certificates of their own.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use russh::keys::PublicKey;
use rustls::pki_types::CertificateDer;

use super::files::new_file;
use crate::config::Config;
use crate::flow::RunId;
use crate::tls::bundle::{self, Bundle};
use crate::tls::variables::{self, ADDING};

/// Folder for the bundles of single runs, beside the published one.
const RUN_BUNDLES: &str = "bundles";

/// Bundles of single runs at once. They lie in memory (`/run`), and whoever may start runs chooses what is in them.
const RUN_BUNDLES_MAX: usize = 256;

/// The published files.
#[derive(Debug)]
pub(super) struct Trust {
    ca: CertificateDer<'static>,
    ca_file: PathBuf,
    bundle: PathBuf,
    run_bundles: PathBuf,
    /// The system's file as it was when the bundle was written.
    written: Mutex<Option<Stamp>>,
    /// Where the system's file is looked for; `/` but in tests.
    system: PathBuf,
}

/// What changes when a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    file: PathBuf,
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of_system(root: &Path) -> Option<Self> {
        let file = bundle::system_file(root)?;
        let found = fs::metadata(&file).ok()?;
        Some(Self { modified: found.modified().ok(), bytes: found.len(), inode: found.ino(), file })
    }
}

impl Trust {
    /// Publishes the CA's certificate and the bundle.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn publish(config: &Config, ca: &CertificateDer<'static>) -> io::Result<Self> {
        Self::publish_from(config, ca, Path::new("/"))
    }

    fn publish_from(config: &Config, ca: &CertificateDer<'static>, system: &Path) -> io::Result<Self> {
        let trust = Self {
            ca: ca.clone(),
            ca_file: config.ca_file(),
            bundle: config.ca_bundle(),
            run_bundles: config.published().join(RUN_BUNDLES),
            written: Mutex::new(None),
            system: system.to_owned(),
        };
        write(&trust.ca_file, &bundle::pem(ca))?;
        trust.write_bundle()?;
        *trust.written.lock().unwrap_or_else(PoisonError::into_inner) = Stamp::of_system(system);
        Ok(trust)
    }

    /// What a run's command finds in its environment, `own` being certificates of the caller's as PEM.
    ///
    /// # Errors
    /// One line for the caller: their own certificates cannot be kept.
    pub(super) fn environment(&self, run: RunId, own: &str) -> Result<BTreeMap<String, String>, String> {
        self.refresh();
        if own.is_empty() {
            return Ok(variables::assignments(&self.ca_file, &self.bundle));
        }
        let path = self.write_run_bundle(run, own).map_err(|error| {
            format!("your own certificates cannot be put beside Portcullis's ({error}); unset the variables that name them")
        })?;
        let mut assigned = variables::assignments(&self.ca_file, &path);
        assigned.insert(ADDING.to_owned(), path.display().to_string());
        Ok(assigned)
    }

    /// Writes the bundle anew when the system's file has changed, or the bundle is gone. What cannot be written stays
    /// as it was: the CA in it is right all the same.
    fn refresh(&self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamp::of_system(&self.system);
        if *written == now && self.bundle.exists() && self.ca_file.exists() {
            return;
        }
        match write(&self.ca_file, &bundle::pem(&self.ca)).and_then(|()| self.write_bundle()) {
            Ok(()) => {
                tracing::info!(bundle = %self.bundle.display(), "the system's roots have changed; the bundle follows");
                *written = now;
            }
            Err(error) => {
                tracing::error!(bundle = %self.bundle.display(), %error, "cannot write the bundle; it stays as it was");
            }
        }
    }

    fn write_bundle(&self) -> io::Result<()> {
        let roots = self.system_roots();
        if roots.is_empty() {
            tracing::warn!(
                bundle = %self.bundle.display(),
                "the system has no root certificates: the bundle holds Portcullis's CA alone, so agents' clients trust \
                 no server that is not intercepted; install ca-certificates"
            );
        }
        write(&self.bundle, &self.joined(roots).pem())
    }

    fn system_roots(&self) -> Bundle {
        match bundle::system_file(&self.system) {
            Some(file) if self.system != Path::new("/") => bundle::read_file(&file).unwrap_or_default(),
            None if self.system != Path::new("/") => Bundle::default(),
            Some(_) | None => bundle::system(),
        }
    }

    fn joined(&self, mut roots: Bundle) -> Bundle {
        roots.add(self.ca.clone());
        roots
    }

    /// A bundle of everything for one run. It lives as long as the run does.
    fn write_run_bundle(&self, run: RunId, own: &str) -> io::Result<PathBuf> {
        match fs::DirBuilder::new().mode(0o755).create(&self.run_bundles) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => fs::set_permissions(&self.run_bundles, fs::Permissions::from_mode(0o755))?,
        }
        // Counted without a lock: runs that start in the same moment may be a few too many.
        if fs::read_dir(&self.run_bundles)?.count() >= RUN_BUNDLES_MAX {
            return Err(io::Error::other(format!("{RUN_BUNDLES_MAX} runs have some already")));
        }
        let mut all = self.joined(self.system_roots());
        all.add_pem(own.as_bytes());
        let path = self.run_bundle(run);
        write(&path, &all.pem())?;
        Ok(path)
    }

    fn run_bundle(&self, run: RunId) -> PathBuf {
        self.run_bundles.join(format!("{run}.pem"))
    }

    /// Removes what was written for a run.
    pub(super) fn forget(&self, run: RunId) {
        match fs::remove_file(self.run_bundle(run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%run, %error, "cannot remove the run's bundle");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Removes what an earlier daemon wrote for runs that are no more.
    pub(super) fn sweep(&self, active: impl Iterator<Item = RunId>) {
        let kept: HashSet<PathBuf> = active.map(|run| self.run_bundle(run)).collect();
        for entry in fs::read_dir(&self.run_bundles).into_iter().flatten().flatten() {
            let path = entry.path();
            if !kept.contains(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an ended run's bundle");
            }
        }
    }
}

/// Writes a whole file for everyone to read, or nothing.
/// Publishes the host key that SSH clients see, as a `known_hosts` file: one plain line for every host. No marker lines: paramiko
/// refuses a file that has one.
///
/// # Errors
/// When the folder cannot be written.
pub(super) fn publish_host_key(config: &Config, key: &PublicKey) -> io::Result<()> {
    let line = key.to_openssh().map_err(io::Error::other)?;
    write(&config.ssh_known_hosts(), &format!("* {line}\n"))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let mut file = new_file(&temporary, 0o644)?;
    file.write_all(text.as_bytes())?;
    // The umask of a hardened service would hide it.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch {
        folder: tempfile::TempDir,
        trust: Trust,
    }

    impl Scratch {
        fn new(roots: &[&[u8]]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("system/etc/ssl/certs")).unwrap();
            fs::create_dir(folder.path().join("run")).unwrap();
            if !roots.is_empty() {
                Self::system(folder.path(), roots);
            }
            let config =
                Config { control_socket: folder.path().join("run/control.sock"), ..Config::default() };
            let ca = CertificateDer::from(b"ours".to_vec());
            let trust = Trust::publish_from(&config, &ca, &folder.path().join("system")).unwrap();
            Self { folder, trust }
        }

        fn system(folder: &Path, roots: &[&[u8]]) {
            let text: String = roots.iter().map(|root| bundle::pem(root)).collect();
            fs::write(folder.join("system").join(bundle::SYSTEM_FILES[0]), text).unwrap();
        }

        fn read(&self, name: &str) -> String {
            let path = self.folder.path().join("run").join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
            fs::read_to_string(path).unwrap()
        }
    }

    fn text(certificates: &[&[u8]]) -> String {
        certificates.iter().map(|certificate| bundle::pem(certificate)).collect()
    }

    #[test]
    fn the_bundle_is_the_systems_roots_and_ours_and_follows_them() {
        let scratch = Scratch::new(&[b"root one", b"root two"]);
        assert_eq!(scratch.read("ca.pem"), text(&[b"ours"]));
        assert_eq!(scratch.read("bundle.pem"), text(&[b"root one", b"root two", b"ours"]));
        let run = RunId::generate();
        let environment = scratch.trust.environment(run, "").unwrap();
        let bundle = scratch.folder.path().join("run/bundle.pem").display().to_string();
        assert_eq!(environment["SSL_CERT_FILE"], bundle);
        let untouched = fs::metadata(&bundle).unwrap().ino();

        scratch.trust.environment(run, "").unwrap();
        assert_eq!(fs::metadata(&bundle).unwrap().ino(), untouched, "nothing changed, nothing is written");
        Scratch::system(scratch.folder.path(), &[b"another root"]);
        scratch.trust.environment(run, "").unwrap();
        assert_eq!(scratch.read("bundle.pem"), text(&[b"another root", b"ours"]));
        fs::remove_file(&bundle).unwrap();
        scratch.trust.environment(run, "").unwrap();
        assert_eq!(scratch.read("bundle.pem"), text(&[b"another root", b"ours"]));
    }

    #[test]
    fn without_system_roots_the_bundle_is_our_ca() {
        let scratch = Scratch::new(&[]);
        assert_eq!(scratch.read("bundle.pem"), text(&[b"ours"]));
    }

    #[test]
    fn the_callers_certificates_live_as_long_as_the_run() {
        let scratch = Scratch::new(&[b"root"]);
        let (run, other) = (RunId::generate(), RunId::generate());
        let environment = scratch.trust.environment(run, &text(&[b"corporate", b"root"])).unwrap();
        scratch.trust.environment(other, &text(&[b"corporate"])).unwrap();
        let path = environment["SSL_CERT_FILE"].clone();
        assert_eq!(environment["NODE_EXTRA_CA_CERTS"], path);
        assert!(environment["PORTCULLIS_CA_FILE"].ends_with("/run/ca.pem"));
        assert_eq!(scratch.read(&format!("bundles/{run}.pem")), text(&[b"root", b"ours", b"corporate"]));

        scratch.trust.sweep([run].into_iter());
        assert!(fs::exists(&path).unwrap());
        assert!(!fs::exists(scratch.folder.path().join(format!("run/bundles/{other}.pem"))).unwrap());
        scratch.trust.forget(run);
        assert!(!fs::exists(&path).unwrap());
        scratch.trust.forget(run);
    }

    #[test]
    fn runs_cannot_fill_the_memory_with_bundles() {
        let scratch = Scratch::new(&[b"root"]);
        let own = text(&[b"corporate"]);
        for _ in 0..RUN_BUNDLES_MAX {
            scratch.trust.environment(RunId::generate(), &own).unwrap();
        }
        let refused = scratch.trust.environment(RunId::generate(), &own).unwrap_err();
        assert!(refused.contains("256 runs have some already"), "{refused}");
        scratch.trust.environment(RunId::generate(), "").unwrap();
    }
}
