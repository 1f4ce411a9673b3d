//! Puts the kernel programs into the agent: builds them as `cargo xtask build-ebpf` does.
//!
//! Without a compiler for BPF, or with `PORTCULLIS_SKIP_EBPF=1`, an empty object takes their place, so that the agent
//! can be checked anywhere. `intercept` refuses to start with it.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;

use std::path::{Path, PathBuf};
use std::{env, fs};

use build_ebpf::{BuildError, OBJECT_NAME};

const SKIP: &str = "PORTCULLIS_SKIP_EBPF";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("not run by cargo")?).join("..");
    let root = root.canonicalize()?;
    println!("cargo::rerun-if-env-changed={SKIP}");
    for path in ["ebpf", "Cargo.lock", "xtask/src/build_ebpf.rs", "agent/build.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("not run by cargo")?).join(OBJECT_NAME);
    if env::var_os(SKIP).is_some_and(|value| value == "1") {
        return Ok(leave_empty(&out, &format!("{SKIP}=1"))?);
    }
    match build_ebpf::build(&root) {
        Ok(object) => fs::copy(object, out).map(drop).map_err(Into::into),
        Err(BuildError::Missing(what)) => {
            // A path that never exists makes cargo look again next time.
            println!("cargo::rerun-if-changed={}", out.with_extension("missing").display());
            Ok(leave_empty(&out, &what)?)
        }
        Err(error @ BuildError::Failed(_)) => Err(error.into()),
    }
}

fn leave_empty(out: &Path, why: &str) -> std::io::Result<()> {
    println!("cargo::warning=the agent is built without kernel programs: {why}");
    fs::write(out, [])
}
