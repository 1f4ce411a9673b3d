//! The system's store of trusted certificates, as each family of distributions keeps it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use super::restart;
use crate::cli::Failure;
use crate::cli::text::{line, summary};
use crate::config::Config;
use crate::control::with_causes;
use crate::tls::bundle::{self, Bundle};
use crate::tls::ca::CERTIFICATE_FILE;

/// Our file in the store, whatever the CA in it is: a new one replaces the old. Debian takes `.crt` only.
const FILE: &str = "portcullis.crt";

/// Characters of an update command's complaint that are repeated.
const COMPLAINT_CHARS_MAX: usize = 200;

/// Where update commands are when `PATH` does not say.
const TOOL_FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// One family's way.
struct Family {
    name: &'static str,
    /// What there is on such a system and on no other; one is enough.
    marks: &'static [&'static str],
    /// Where anchors go.
    anchors: &'static str,
    /// Update commands, the first that is there is run.
    update: &'static [&'static [&'static str]],
    /// The same after a removal, where that takes more: these tools leave links to what is gone otherwise. Where it is
    /// not understood, `update` is run.
    update_fresh: &'static [&'static [&'static str]],
}

/// In this order: some have an empty folder of another family, too.
const FAMILIES: [Family; 4] = [
    // update-ca-trust(8)
    Family {
        name: "fedora",
        marks: &["etc/pki/ca-trust/source/anchors"],
        anchors: "etc/pki/ca-trust/source/anchors",
        update: &[&["update-ca-trust"]],
        update_fresh: &[],
    },
    // https://github.com/openSUSE/ca-certificates
    Family {
        name: "suse",
        marks: &["etc/pki/trust/anchors"],
        anchors: "etc/pki/trust/anchors",
        update: &[&["update-ca-certificates"]],
        update_fresh: &[&["update-ca-certificates", "--fresh"]],
    },
    // trust(1) of p11-kit; update-ca-trust is Arch's wrapper of it.
    Family {
        name: "arch",
        marks: &["etc/ca-certificates/trust-source/anchors"],
        anchors: "etc/ca-certificates/trust-source/anchors",
        update: &[&["update-ca-trust"], &["trust", "extract-compat"]],
        update_fresh: &[],
    },
    // update-ca-certificates(8); Alpine's has the same folders.
    Family {
        name: "debian",
        marks: &["etc/ca-certificates.conf", "usr/local/share/ca-certificates"],
        anchors: "usr/local/share/ca-certificates",
        update: &[&["update-ca-certificates"]],
        update_fresh: &[&["update-ca-certificates", "--fresh"]],
    },
];

/// How the store is.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// The family of distributions whose store it is.
    store: &'static str,
    /// Our file in it.
    file: PathBuf,
    /// Whether that is there.
    installed: bool,
    /// Whether it is the CA in use; null when that cannot be read.
    current: Option<bool>,
    /// The system's bundle, if there is one.
    bundle: Option<PathBuf>,
    /// Whether that holds the certificate of our file.
    in_effect: bool,
}

impl Status {
    pub(super) fn text(&self) -> String {
        let installed = match (self.installed, self.current) {
            (false, _) => "no -> sudo portcullis trust install".to_owned(),
            (true, Some(true)) => "yes".to_owned(),
            (true, Some(false)) => {
                "another CA than the one in use -> sudo portcullis trust install".to_owned()
            }
            (true, None) => {
                "yes, but whether it is the CA in use cannot be told: no daemon has made one here".to_owned()
            }
        };
        let bundle =
            self.bundle.as_ref().map_or_else(|| "no bundle".to_owned(), |path| path.display().to_string());
        let holds = if self.in_effect { "yes" } else { "no" };
        format!(
            "store: {}\nfile: {}\ninstalled: {installed}\nin effect ({bundle}): {holds}\n",
            self.store,
            self.file.display()
        )
    }
}

/// The store below a root, and what is in it of ours.
struct Store<'a> {
    root: &'a Path,
    family: &'static Family,
    file: PathBuf,
}

impl<'a> Store<'a> {
    fn find(root: &'a Path) -> Result<Self, Failure> {
        let exists = |family: &&Family| family.marks.iter().any(|mark| root.join(mark).exists());
        let family = FAMILIES.iter().find(exists).ok_or_else(|| {
            Failure::Failed(
                "this system has no store that is known here (Debian's, Alpine's, Fedora's, SUSE's, Arch's); install \
                 its package ca-certificates, or add the CA by hand: see $PORTCULLIS_CA_FILE"
                    .to_owned(),
            )
        })?;
        Ok(Self { root, family, file: root.join(family.anchors).join(FILE) })
    }

    fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// What our file holds; empty when it is not there.
    fn installed(&self) -> Bundle {
        bundle::read_file(&self.file).unwrap_or_default()
    }

    fn bundle(&self) -> Option<PathBuf> {
        bundle::system_file(self.root)
    }

    /// Whether the system's bundle holds all of these, or any.
    fn holds(&self, certificates: &Bundle) -> (bool, bool) {
        let roots = self.bundle().and_then(|file| bundle::read_file(&file).ok()).unwrap_or_default();
        let held =
            certificates.certificates().iter().filter(|certificate| roots.contains(certificate)).count();
        (held > 0 && held == certificates.certificates().len(), held > 0)
    }

    /// Root may change the real store.
    fn check_root(&self, command: &str) -> Result<(), Failure> {
        if self.is_real() && !rustix::process::geteuid().is_root() {
            return Err(Failure::Failed(format!(
                "only root may change the system's store: sudo portcullis trust {command}"
            )));
        }
        Ok(())
    }

    /// An update command's program: where the real root's `PATH` or the usual folders have it, or where another root
    /// does. The host's own is never run for another root.
    fn tool(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").filter(|_| self.is_real()).unwrap_or_default();
        let usual = TOOL_FOLDERS.iter().map(|folder| self.root.join(folder));
        std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|file| file.is_file())
    }

    /// Runs the first of these commands that is there. Returns what was run.
    fn update(&self, commands: &[&[&str]]) -> Result<Option<String>, Failure> {
        for command in commands {
            let Some((program, arguments)) = command.split_first() else { continue };
            let Some(file) = self.tool(program) else { continue };
            let words = command.join(" ");
            let output = Command::new(&file)
                .args(arguments)
                .stdin(Stdio::null())
                .output()
                .map_err(|error| Failure::Failed(format!("cannot run {}: {error}", file.display())))?;
            if !output.status.success() {
                let complaint = summary(&String::from_utf8_lossy(&output.stderr), COMPLAINT_CHARS_MAX);
                return Err(Failure::Failed(format!("`{words}` failed ({}): {complaint}", output.status)));
            }
            return Ok(Some(words));
        }
        Ok(None)
    }

    fn no_tool(&self) -> Failure {
        let names: Vec<&str> =
            self.family.update.iter().filter_map(|command| command.first().copied()).collect();
        Failure::Failed(format!(
            "there is no {}, so that {} is not in effect; install the package ca-certificates and ask again",
            names.join(" or "),
            self.file.display()
        ))
    }
}

/// Puts the CA in. Says what it did.
pub(super) fn install(config: &Config, root: &Path) -> Result<String, Failure> {
    let store = Store::find(root)?;
    store.check_root("install")?;
    let ca = ca_in_use(config)?;
    let before = store.installed();
    if before.pem() == ca.pem() && store.holds(&ca).0 {
        return Ok(format!("already installed as {}; nothing to do\n", store.file.display()));
    }
    write(&store.file, &ca.pem())
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", store.file.display())))?;
    let mut told = String::new();
    let verb = if before.is_empty() || before.pem() == ca.pem() { "wrote" } else { "replaced the CA in" };
    line(&mut told, format_args!("{verb} {}", store.file.display()));
    let ran = store.update(store.family.update)?.ok_or_else(|| store.no_tool())?;
    line(&mut told, format_args!("ran {ran}"));
    if !store.holds(&ca).0 {
        return Err(Failure::Failed(format!(
            "{} is there and `{ran}` was run, but the system's bundle does not hold the CA; see what `{ran}` says",
            store.file.display()
        )));
    }
    finish(told, &store)
}

/// Takes the CA out. Says what it did.
pub(super) fn remove(config: &Config, root: &Path) -> Result<String, Failure> {
    let store = Store::find(root)?;
    store.check_root("remove")?;
    let mut gone = store.installed();
    // What an update has left in the bundle although our file is gone.
    for certificate in ca_in_use(config).unwrap_or_default().certificates() {
        gone.add(certificate.clone());
    }
    let was_there = match fs::remove_file(&store.file) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(Failure::Failed(format!("cannot remove {}: {error}", store.file.display())));
        }
    };
    if !was_there && !store.holds(&gone).1 {
        return Ok(format!("{} is not there; nothing to do\n", store.file.display()));
    }
    let mut told = String::new();
    if was_there {
        line(&mut told, format_args!("removed {}", store.file.display()));
    }
    let fresh = store.update(store.family.update_fresh);
    let ran = match fresh {
        Ok(Some(ran)) => Some(ran),
        Ok(None) | Err(_) => store.update(store.family.update)?,
    };
    let ran = ran.ok_or_else(|| store.no_tool())?;
    line(&mut told, format_args!("ran {ran}"));
    if store.holds(&gone).1 {
        return Err(Failure::Failed(format!(
            "`{ran}` was run, but the system's bundle still holds the CA: another file of the store must have it, too"
        )));
    }
    finish(told, &store)
}

fn finish(mut told: String, store: &Store<'_>) -> Result<String, Failure> {
    if store.is_real() {
        told.push_str(&restart::advice());
    }
    Ok(told)
}

/// Looks.
pub(super) fn status(config: &Config, root: &Path) -> Result<Status, Failure> {
    let store = Store::find(root)?;
    let installed = store.installed();
    let current = ca_in_use(config).ok().map(|ca| ca.pem() == installed.pem());
    Ok(Status {
        store: store.family.name,
        installed: !installed.is_empty(),
        current,
        bundle: store.bundle(),
        in_effect: store.holds(&installed).0,
        file: store.file,
    })
}

/// Whether the system's bundle holds the CA in use; false when either cannot be read.
pub(in crate::cli) fn in_effect(config: &Config) -> bool {
    let root = Path::new("/");
    let roots = bundle::system_file(root).and_then(|file| bundle::read_file(&file).ok()).unwrap_or_default();
    ca_in_use(config).is_ok_and(|ca| ca.certificates().iter().all(|certificate| roots.contains(certificate)))
}

/// The CA's certificate: the daemon's own, which outlives a reboot, or the published one.
fn ca_in_use(config: &Config) -> Result<Bundle, Failure> {
    let own = config.state_dir.join("ca").join(CERTIFICATE_FILE);
    let published = config.ca_file();
    let found = bundle::read_file(&own).or_else(|_| bundle::read_file(&published)).map_err(|error| {
        Failure::Failed(format!(
            "cannot read {}: {}; the daemon makes it: systemctl start portcullis",
            published.display(),
            with_causes(&error)
        ))
    })?;
    match found.certificates() {
        [_] => Ok(found),
        certificates => Err(Failure::Failed(format!(
            "{} holds {} certificates, not one; restart the daemon",
            own.display(),
            certificates.len()
        ))),
    }
}

/// Writes a whole file for everyone to read, or nothing.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{FILE}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
