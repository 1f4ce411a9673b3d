//! Builds the kernel programs: finds a compiler with a core library for BPF, checks the linker, runs cargo.
//!
//! The agent's build script includes this file, so that both build the same object in the same way. It uses nothing
//! but the standard library.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt, fs};

/// File name of the object, which is the name of the programs' binary target.
pub(crate) const OBJECT_NAME: &str = "portcullis-ebpf";

/// The BPF target of this host's byte order.
const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// The profile of the workspace's `Cargo.toml` made for the kernel programs.
const PROFILE: &str = "ebpf";

const LINKER: &str = "bpf-linker";

/// Debian's compiler for targets without an operating system; its packages carry a ready-made core for BPF.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const SYSTEM_CARGO: &str = "/usr/bin/cargo";

const GET_COMPILER: &str = "apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf (or: rustup toolchain install nightly -c rust-src)";

/// What cargo tells its children about the outer build. The inner one is another compiler for another target.
const OUTER_BUILD: [&str; 9] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
];

/// Why there is no object.
#[derive(Debug)]
pub(crate) enum BuildError {
    /// Something must be installed first; says what and how.
    Missing(String),
    /// The tools are there and the build failed.
    Failed(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for BuildError {}

/// A compiler that can build for BPF.
#[derive(Debug)]
enum Toolchain {
    /// A rustup nightly with `rust-src`, which builds core itself.
    Nightly { name: String, llvm: String },
    /// A system compiler with core ready-made.
    System { llvm: String },
}

impl Toolchain {
    fn llvm(&self) -> &str {
        match self {
            Self::Nightly { llvm, .. } | Self::System { llvm } => llvm,
        }
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Nightly { name, .. } => {
                let mut cargo = clean_command("rustup");
                cargo.args(["run", name, "cargo", "build", "-Zbuild-std=core"]);
                cargo
            }
            Self::System { .. } => {
                let mut cargo = clean_command(SYSTEM_CARGO);
                // The target needs unstable features, which a distribution's compiler has under lock and key.
                cargo.arg("build").env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { name, llvm } => write!(f, "{name} (LLVM {llvm}, core from rust-src)"),
            Self::System { llvm } => write!(f, "{SYSTEM_RUSTC} (LLVM {llvm}, ready-made core)"),
        }
    }
}

/// Builds the programs of the workspace at `root` and returns the object's path.
///
/// # Errors
/// [`BuildError::Missing`] with what to install, or [`BuildError::Failed`].
pub(crate) fn build(root: &Path) -> Result<PathBuf, BuildError> {
    let linker = find_linker()?;
    let toolchain = find_toolchain(linker_llvm(&linker).as_deref())?;
    let target_dir =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("ebpf");
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(root)
        .args([
            "--locked",
            "--quiet",
            "--package",
            "ebpf",
            "--profile",
            PROFILE,
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker))
        .stdin(Stdio::null());
    let output =
        cargo.output().map_err(|error| BuildError::Failed(format!("cannot run {cargo:?}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(BuildError::Failed(format!(
            "building the kernel programs with {toolchain} failed:\n{said}"
        )));
    }
    let object = target_dir.join(TARGET).join(PROFILE).join(OBJECT_NAME);
    if object.is_file() {
        Ok(object)
    } else {
        Err(BuildError::Failed(format!("no object at {}", object.display())))
    }
}

fn rustflags(linker: &Path) -> OsString {
    let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{}\"\x1f", env::consts::ARCH));
    flags.push("-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Clinker=");
    flags.push(linker);
    flags
}

fn find_linker() -> Result<PathBuf, BuildError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|directory| directory.join(LINKER))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| BuildError::Missing(format!("{LINKER} is missing: {}", get_linker("22"))))
}

fn get_linker(llvm: &str) -> String {
    format!(
        "apt-get install llvm-{llvm}-dev libzstd-dev zlib1g-dev && LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install \
         {LINKER} --version 0.13.0 --locked --force --no-default-features --features llvm-{llvm}"
    )
}

/// Major version of the LLVM library that the linker loads, from the name in its dynamic section. `None` when LLVM is
/// built into it; a mismatch then shows as a link error.
fn linker_llvm(linker: &Path) -> Option<String> {
    let binary = fs::read(linker).ok()?;
    [&b"libLLVM.so."[..], &b"libLLVM-"[..]].into_iter().find_map(|prefix| {
        let start = binary.windows(prefix.len()).position(|window| window == prefix)? + prefix.len();
        let digits: String = binary
            .get(start..)?
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .map(|byte| char::from(*byte))
            .collect();
        (!digits.is_empty()).then_some(digits)
    })
}

/// The first compiler that can build for BPF and whose bitcode the linker reads.
fn find_toolchain(linker_llvm: Option<&str>) -> Result<Toolchain, BuildError> {
    let found: Vec<Toolchain> = nightlies().into_iter().chain(system()).collect();
    let Some(first) = found.first() else {
        return Err(BuildError::Missing(format!(
            "no Rust compiler with a core library for BPF: {GET_COMPILER}"
        )));
    };
    let Some(wanted) = linker_llvm else {
        return found.into_iter().next().ok_or_else(|| BuildError::Missing(GET_COMPILER.into()));
    };
    let mismatch = format!(
        "{LINKER} has LLVM {wanted}, but {first} writes LLVM {}: {}",
        first.llvm(),
        get_linker(first.llvm())
    );
    found.into_iter().find(|toolchain| toolchain.llvm() == wanted).ok_or(BuildError::Missing(mismatch))
}

fn nightlies() -> Vec<Toolchain> {
    let Some(list) = output(clean_command("rustup").args(["toolchain", "list"])) else { return Vec::new() };
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .filter_map(|name| {
            let sysroot = output(clean_command("rustup").args(["run", name, "rustc", "--print", "sysroot"]))?;
            if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
                return None;
            }
            let llvm = llvm_of(clean_command("rustup").args(["run", name, "rustc"]))?;
            Some(Toolchain::Nightly { name: name.to_owned(), llvm })
        })
        .collect()
}

fn system() -> Option<Toolchain> {
    let sysroot = output(clean_command(SYSTEM_RUSTC).args(["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    let has_core = fs::read_dir(libraries)
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("libcore-")));
    if !has_core || !Path::new(SYSTEM_CARGO).is_file() {
        return None;
    }
    Some(Toolchain::System { llvm: llvm_of(&mut clean_command(SYSTEM_RUSTC))? })
}

fn llvm_of(rustc: &mut Command) -> Option<String> {
    let version = output(rustc.arg("-vV"))?;
    let number = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    number.split('.').next().map(str::to_owned)
}

/// Standard output of a command that succeeded.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _value) in env::vars_os() {
        let text = name.to_string_lossy();
        if OUTER_BUILD.contains(&&*text)
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_PROFILE_")
        {
            command.env_remove(&name);
        }
    }
    command
}
