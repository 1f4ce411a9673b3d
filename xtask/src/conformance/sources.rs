//! Where the suites come from: source packages of the distribution, and source distributions of PyPI.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{needs, shell};

/// What PyPI's source distributions of the drivers are called there; their tests are in them. Versions are those of
/// `requirements.txt`.
const FROM_PYPI: &[&str] = &["asyncpg", "pg8000", "psycopg2", "sqlalchemy"];

/// PostgreSQL's source from the distribution: of the major version that is installed, the newest that can be had.
pub(crate) fn postgresql() -> Result<PathBuf> {
    let bin = needs::postgres_bin().context("no PostgreSQL server")?;
    let major = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let package = format!("postgresql-{}", major.context("a server of no version")?);
    let folder = shell::target_dir().join("postgresql-source");
    debian(&package, &folder, "src/test/regress/parallel_schedule")?.with_context(|| {
        format!("the source of {package} cannot be had from the package sources in /etc/apt")
    })
}

/// The drivers' sources, a folder each, and the names of those that cannot be had.
pub(super) fn drivers() -> Result<(PathBuf, Vec<&'static str>)> {
    let folder = shell::target_dir().join("conformance-sources");
    let mut missing = Vec::new();
    for name in FROM_PYPI {
        pypi(name, &folder)?;
    }
    // PyPI's source distribution of psycopg 3 has no tests, the distribution's has.
    match debian("psycopg3", &folder.join("debian"), "tests/conftest.py")? {
        Some(source) => link(&source, &folder.join("psycopg3"))?,
        None => missing.push("psycopg3"),
    }
    readable(&folder)?;
    Ok((folder, missing))
}

fn link(source: &Path, link: &Path) -> Result<()> {
    drop(fs::remove_file(link));
    Ok(std::os::unix::fs::symlink(source, link)?)
}

/// Unpacks one source distribution in the version that is installed.
fn pypi(name: &str, folder: &Path) -> Result<()> {
    let (unpacked, version) = (folder.join(name), wanted_version(name)?);
    let made_from = unpacked.join(".version");
    if fs::read_to_string(&made_from).is_ok_and(|made| made == version) {
        return Ok(());
    }
    shell::tell(&format!("downloading the source of {name} {version} from PyPI"));
    drop(fs::remove_dir_all(&unpacked));
    let download = folder.join(format!("{name}.download"));
    drop(fs::remove_dir_all(&download));
    fs::create_dir_all(&download)?;
    let mut pip = Command::new(python()?);
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-binary",
        ":all:",
    ]);
    shell::run(pip.arg(format!("{name}=={version}")).arg("--dest").arg(&download))?;
    let archive = fs::read_dir(&download)?.flatten().next().context("pip downloaded nothing")?.path();
    fs::create_dir_all(&unpacked)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--no-same-owner", "--file"]).arg(&archive);
    shell::run(tar.arg("--directory").arg(&unpacked))?;
    // Else the suite would import what is not compiled instead of what is installed. SQLAlchemy's works as it is.
    if name != "sqlalchemy" {
        drop(fs::remove_dir_all(unpacked.join(name)));
    }
    // Last, so that a folder left half made is made again.
    Ok(fs::write(made_from, version)?)
}

fn requirements() -> PathBuf {
    shell::root().join("tests/src/conformance/requirements.txt")
}

fn wanted_version(name: &str) -> Result<String> {
    let list = fs::read_to_string(requirements())?;
    let wanted = list
        .lines()
        .filter_map(|line| line.split_once("=="))
        .find(|(package, _)| package.trim_end_matches("-binary").eq_ignore_ascii_case(name));
    Ok(wanted.with_context(|| format!("requirements.txt names no version of {name}"))?.1.to_owned())
}

/// The Python of a virtual environment below the target folder, with drivers and frameworks.
pub(super) fn python() -> Result<PathBuf> {
    let folder = shell::target_dir().join("conformance-venv");
    let (python, made_from) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let wanted = fs::read(requirements())?;
    if python.is_file() && fs::read(&made_from).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    shell::tell("installing from PyPI drivers, pytest, SQLAlchemy, Alembic and Django (half a minute)");
    shell::run(Command::new(needs::PYTHON).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    shell::run(pip.arg(requirements()))?;
    // Last, so that an environment left half made is made again.
    fs::write(made_from, wanted)?;
    Ok(python)
}

/// A source package of the distribution, unpacked; `marker` is a file in it. None when the mirror has it in no version.
fn debian(package: &str, folder: &Path, marker: &str) -> Result<Option<PathBuf>> {
    let (parts, lists) = (folder.join("sources"), folder.join("lists"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(&parts)?;
    if let Some(source) = unpacked(folder, marker)? {
        return Ok(Some(source));
    }
    shell::tell(&format!("downloading the source of {package} (the distribution's)"));
    fs::write(parts.join("source.sources"), deb_src()?)?;
    let apt = |program: &str, arguments: &[&str]| {
        let mut apt = Command::new(program);
        apt.current_dir(folder).args(["-qq", "-o", "Dir::Etc::sourcelist=/dev/null"]);
        apt.arg("-o").arg(format!("Dir::Etc::sourceparts={}", parts.display()));
        apt.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        apt.args(["-o", "APT::Sandbox::User=root"]).args(arguments);
        apt
    };
    shell::run(&mut apt("apt-get", &["update"]))?;
    let known = shell::output(&mut apt("apt-cache", &["showsrc", package]))?;
    let mut versions: Vec<&str> = known.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    versions.dedup();
    for version in versions {
        // A mirror may not have the newest one.
        let wanted = format!("{package}={version}");
        if shell::output(&mut apt("apt-get", &["source", "--download-only", &wanted])).is_ok() {
            let upstream = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
            let archive = archive(folder, &format!("{package}_{upstream}.orig.tar."))?;
            shell::run(Command::new("tar").current_dir(folder).arg("--extract").arg("--file").arg(&archive))?;
            return unpacked(folder, marker)?.map(Some).context("the archive holds no such suite");
        }
    }
    Ok(None)
}

fn archive(folder: &Path, beginning: &str) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with(beginning) && !name.ends_with(".asc")
        })
    };
    entries.find(is_it).context("apt-get downloaded no archive")
}

/// A source that was unpacked before.
fn unpacked(folder: &Path, marker: &str) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(entries.into_iter().find(|path| path.join(marker).is_file()))
}

/// The system's own package sources, as sources of sources.
fn deb_src() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release names no release")?.trim_matches('"');
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d")?.flatten().map(|entry| entry.path()));
    let texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let is_ours = |suites: &str| {
        suites.split_whitespace().any(|suite| suite == codename || suite.starts_with(&format!("{codename}-")))
    };
    let mut found = String::new();
    for stanza in texts.iter().flat_map(|text| text.split("\n\n")) {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        if field("Types:").is_some() && field("Suites:").is_some_and(is_ours) {
            let kept = stanza.lines().filter(|line| !line.starts_with("Types:") && !line.starts_with('#'));
            found.push_str(&format!("Types: deb-src\n{}\n\n", kept.collect::<Vec<_>>().join("\n")));
        }
    }
    // The format of one line per source (sources.list(5)).
    for line in texts.iter().flat_map(|text| text.lines()) {
        let words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with('[')).collect();
        if let ["deb", uri, suite, components @ ..] = words.as_slice()
            && is_ours(suite)
        {
            let components = components.join(" ");
            found.push_str(&format!(
                "Types: deb-src\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\n\n"
            ));
        }
    }
    if found.is_empty() {
        bail!("no package source of {codename} is configured in /etc/apt")
    } else {
        Ok(found)
    }
}

/// The C functions that the suite loads into the server.
pub(crate) fn libraries(source: &Path) -> Result<PathBuf> {
    let folder = shell::target_dir().join("postgresql-source/libraries");
    fs::create_dir_all(&folder)?;
    let headers = shell::output(Command::new("pg_config").arg("--includedir-server"))?;
    for (name, file) in [
        ("regress", "src/test/regress/regress.c"),
        ("refint", "contrib/spi/refint.c"),
        ("autoinc", "contrib/spi/autoinc.c"),
    ] {
        let library = folder.join(format!("{name}.so"));
        if !library.is_file() {
            let mut compiler = Command::new("cc");
            compiler.args(["-fPIC", "-shared", "-O1", "-w"]).arg(format!("-I{}", headers.trim()));
            shell::run(compiler.arg(source.join(file)).arg("-o").arg(&library))?;
        }
    }
    readable(&shell::target_dir().join("postgresql-source"))?;
    Ok(folder)
}

/// The server reads the suite's data as a user of its own.
fn readable(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    let wanted = if metadata.is_dir() { mode | 0o555 } else { mode | 0o444 };
    fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            readable(&entry?.path())?;
        }
    }
    Ok(())
}
