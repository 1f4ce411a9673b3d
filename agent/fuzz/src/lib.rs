//! Fuzz targets, one per parser of foreign bytes, and one for whole PostgreSQL sessions. Each is a function of the fuzzer's bytes
//! that panics when it finds something.
//!
//! `cargo fuzz run NAME` makes libFuzzer programs of them, which needs `--cfg fuzzing` (cargo-fuzz sets it). Built as usual, the
//! programs run the files named on their command lines, and the tests run the corpora: neither needs more than stable Rust.

pub mod analyze;
pub mod client_hello;
pub mod http_masks;
pub mod http_request;
mod input;
pub mod postgres_codec;
pub mod postgres_masks;
pub mod postgres_proxy;
pub mod scp;
pub mod sftp;
pub mod shell;
pub mod terminal;
pub mod websocket;

use std::path::Path;
use std::process::ExitCode;

#[cfg(fuzzing)]
pub use libfuzzer_sys;

/// The program of one target: libFuzzer's, or one that runs the inputs named on its command line.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$name::run(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::run_named(stringify!($name), $crate::$name::run)
        }
    };
}

/// Runs the files and folders named on the command line, and says how many inputs that were.
pub fn run_named(name: &str, target: fn(&[u8])) -> ExitCode {
    let named: Vec<_> = std::env::args_os().skip(1).collect();
    if named.is_empty() {
        eprintln!(
            "usage: {name} FILE-OR-FOLDER ...\nRuns inputs once; `cargo fuzz run {name}` looks for new ones."
        );
        return ExitCode::FAILURE;
    }
    for path in &named {
        match run_all(Path::new(path), target) {
            Ok(inputs) => println!("{}: {inputs} input(s), nothing found", path.to_string_lossy()),
            Err(error) => {
                eprintln!("{}: {error}", path.to_string_lossy());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs a file, or every file of a folder. The one that makes the target panic is named first.
fn run_all(path: &Path, target: fn(&[u8])) -> std::io::Result<usize> {
    if !path.is_dir() {
        let input = std::fs::read(path)?;
        if std::panic::catch_unwind(|| target(&input)).is_err() {
            return Err(std::io::Error::other("the target panicked"));
        }
        return Ok(1);
    }
    let mut inputs = 0;
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        inputs += run_all(&path, target)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    Ok(inputs)
}

/// The text that bytes begin with.
fn text(data: &[u8]) -> &str {
    match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).expect("it is valid so far"),
    }
}

/// A stream and the lengths it comes in, which its first bytes say.
fn cut(data: &[u8]) -> (&[u8], &[u8]) {
    let count = data.first().map_or(0, |count| usize::from(count % 16));
    let rest = data.get(1..).unwrap_or_default();
    let (cuts, stream) = rest.split_at(count.min(rest.len()));
    (stream, cuts)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Runs what `corpus/NAME` holds, and says that it holds something.
    fn replay(name: &str, target: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let inputs = run_all(&folder, target).expect("no input makes it panic");
        assert!(inputs > 50, "{name}: {inputs}");
    }

    #[test]
    fn corpus_of_analyze() {
        replay("analyze", analyze::run);
    }

    #[test]
    fn corpus_of_postgres_codec() {
        replay("postgres_codec", postgres_codec::run);
    }

    #[test]
    fn corpus_of_postgres_masks() {
        replay("postgres_masks", postgres_masks::run);
    }

    #[test]
    fn corpus_of_postgres_proxy() {
        replay("postgres_proxy", postgres_proxy::run);
    }

    /// Targets without a corpus: inputs of every length, each other bytes, the same in each run.
    #[test]
    fn noise() {
        let targets: [fn(&[u8]); 8] = [
            client_hello::run,
            http_masks::run,
            http_request::run,
            scp::run,
            sftp::run,
            shell::run,
            terminal::run,
            websocket::run,
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for length in 0..200 {
            let mut bytes = Vec::with_capacity(length);
            for _ in 0..length {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push((state >> 32) as u8);
            }
            for target in targets {
                target(&bytes);
            }
        }
    }
}
