//! Which running processes have read the system's store already.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;

use crate::cli::text::shown;

/// Libraries by which a process speaks TLS, as they are named in its memory map.
const TLS_LIBRARIES: [&str; 4] = ["/libssl.so", "/libssl-", "/libgnutls.so", "/libnss3.so"];

/// Bytes of a process's memory map that are looked through.
const MAP_BYTES_MAX: u64 = 4 << 20;

/// Programs named before the rest is only counted.
const NAMED_MAX: usize = 20;

/// Advice on what to restart after a change, for the end of a report.
pub(super) fn advice() -> String {
    say(&users_of_tls())
}

/// Processes that have loaded a TLS library, by name.
fn users_of_tls() -> BTreeMap<String, Vec<u32>> {
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let mut map = Vec::new();
        // A process that ends meanwhile has nothing to restart.
        let Ok(file) = fs::File::open(format!("/proc/{pid}/maps")) else { continue };
        if file.take(MAP_BYTES_MAX).read_to_end(&mut map).is_err()
            || !speaks_tls(&String::from_utf8_lossy(&map))
        {
            continue;
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.entry(shown(name.trim(), false)).or_default().push(pid);
    }
    found
}

fn speaks_tls(map: &str) -> bool {
    TLS_LIBRARIES.iter().any(|library| map.contains(library))
}

fn say(programs: &BTreeMap<String, Vec<u32>>) -> String {
    const UNSEEN: &str =
        "programs that carry TLS in themselves (Go, Java, Rust) cannot be told apart: restart them, too\n";
    if programs.is_empty() {
        return format!("running programs have read the store when they started; {UNSEEN}");
    }
    let named: Vec<String> = programs
        .iter()
        .take(NAMED_MAX)
        .map(|(name, pids)| {
            let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
            format!("{name} ({})", pids.join(", "))
        })
        .collect();
    let more = match programs.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "running programs that may have read the store already and need a restart: {}{more}\n{UNSEEN}",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_with_their_processes() {
        assert!(speaks_tls("7f00-7f01 r-xp 0 08:01 1 /usr/lib/x86_64-linux-gnu/libssl.so.3\n"));
        assert!(!speaks_tls("7f00-7f01 r-xp 0 08:01 1 /usr/lib/x86_64-linux-gnu/libcrypto.so.3\n"));
        let few = BTreeMap::from([("nginx".to_owned(), vec![7, 8]), ("python3".to_owned(), vec![9])]);
        assert!(say(&few).contains("restart: nginx (7, 8), python3 (9)\n"), "{}", say(&few));
        let many: BTreeMap<_, _> = (0..30).map(|at| (format!("p{at:02}"), vec![at])).collect();
        assert!(say(&many).contains("p19 (19) and 10 more\n"), "{}", say(&many));
        assert!(say(&BTreeMap::new()).contains("Go, Java, Rust"));
    }
}
