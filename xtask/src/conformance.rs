//! `cargo xtask conformance`: PostgreSQL's own regression suite, directly and through Portcullis, compared test by test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, needs, shell};

/// Tests of the suite that differ, and why a reader would accept that.
const DIFFERENT: [(&str, &str); 3] = [
    (
        "largeobject",
        "psql moves large objects with the FunctionCall message, which carries no SQL that could be judged",
    ),
    ("plpgsql", "standard_conforming_strings stays on: statements are judged as they are read under it"),
    ("strings", "likewise"),
];

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// These tests of the suite instead of all, in this order (most need test_setup before them)
    tests: Vec<String>,
}

/// Brings the suite, builds, runs it twice, and says what differs.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    needs::for_conformance()?;
    build_ebpf::build(&shell::root())?;
    let source = source()?;
    let libraries = libraries(&source)?;
    shell::say("building the agent for release (some minutes the first time)");
    for package in ["portcullis", "tests"] {
        shell::run(shell::cargo().args(["build", "--quiet", "--release", "--package", package, "--bins"]))?;
    }
    let out = shell::target_dir().join("conformance");
    let mut suite = Command::new(shell::target_dir().join("release/conformance"));
    suite.env("PORTCULLIS_BIN", shell::target_dir().join("release/portcullis"));
    suite.args([&source, &libraries, &out]).args(&arguments.tests);
    // It says on stderr how far it is.
    let output = suite.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the suite could not be run ({})", output.status);
    }
    report(&String::from_utf8_lossy(&output.stdout), &out)
}

/// The suite's runner prints a test per line that differs, after a line with the totals.
fn report(told: &str, out: &Path) -> Result<()> {
    let mut lines = told.lines();
    shell::print(lines.next().unwrap_or_default());
    let mut unexpected = Vec::new();
    for test in lines {
        match DIFFERENT.iter().find(|(known, _)| *known == test) {
            Some((_, why)) => shell::print(&format!("  {test} differs: {why}")),
            None => unexpected.push(test),
        }
    }
    if unexpected.is_empty() {
        return Ok(());
    }
    let (direct, through) = (out.join("direct/results"), out.join("through/results"));
    bail!(
        "should not differ: {}; compare {} with {}",
        unexpected.join(", "),
        direct.display(),
        through.display()
    )
}

/// PostgreSQL's source from the distribution: of the major version that is installed, the newest that can be had.
pub(crate) fn source() -> Result<PathBuf> {
    let bin = needs::postgres_bin().context("no PostgreSQL server")?;
    let major = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let package = format!("postgresql-{}", major.context("a server of no version")?);
    let folder = shell::target_dir().join("postgresql-source");
    let (parts, lists) = (folder.join("sources"), folder.join("lists"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(&parts)?;
    if let Some(source) = unpacked(&folder)? {
        return Ok(source);
    }
    shell::say("downloading the source of PostgreSQL (the distribution's, 24 MB)");
    fs::write(parts.join("source.sources"), deb_src()?)?;
    let apt = |program: &str, arguments: &[&str]| {
        let mut apt = Command::new(program);
        apt.current_dir(&folder).args(["-qq", "-o", "Dir::Etc::sourcelist=/dev/null"]);
        apt.arg("-o").arg(format!("Dir::Etc::sourceparts={}", parts.display()));
        apt.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        apt.args(["-o", "APT::Sandbox::User=root"]).args(arguments);
        apt
    };
    shell::run(&mut apt("apt-get", &["update"]))?;
    let known = shell::output(&mut apt("apt-cache", &["showsrc", &package]))?;
    let mut versions: Vec<&str> = known.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    versions.dedup();
    for version in versions {
        // A mirror may not have the newest one.
        let wanted = format!("{package}={version}");
        if shell::output(&mut apt("apt-get", &["source", "--download-only", &wanted])).is_ok() {
            let upstream = version.split('-').next().unwrap_or(version);
            let archive = format!("{package}_{upstream}.orig.tar.bz2");
            shell::run(Command::new("tar").current_dir(&folder).args(["--extract", "--file", &archive]))?;
            return unpacked(&folder)?.context("the archive holds no regression suite");
        }
    }
    bail!("the source of {package} cannot be had from the package sources in /etc/apt")
}

/// A source that was unpacked before.
fn unpacked(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(entries.into_iter().find(|path| path.join("src/test/regress/parallel_schedule").is_file()))
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
