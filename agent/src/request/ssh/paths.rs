//! Files that rule a host or its accounts: whoever writes them can do more than write a file.

/// Ends of paths that decide who may log in, or what runs when somebody does.
const LOGIN_FILES: [&str; 12] = [
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    ".ssh/config",
    ".ssh/rc",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".netrc",
];

/// Ends of paths that programs run, or read options from, when they start.
const START_FILES: [&str; 8] =
    [".psqlrc", ".sqliterc", ".my.cnf", ".vimrc", ".gitconfig", ".inputrc", ".screenrc", ".tmux.conf"];

/// Folders of the system's own files.
const SYSTEM_FOLDERS: [&str; 13] = [
    "/etc",
    "/boot",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr",
    "/root",
    "/sys",
    "/proc",
    "/var/spool/cron",
    "/var/lib/dpkg",
    "/dev",
];

/// Parts of paths in home folders that are run by the session's own service manager.
const UNIT_FOLDERS: [&str; 2] = ["/.config/systemd/", "/.config/autostart/"];

/// Why writing or removing this path is administration; `None` when it is a file like others.
#[must_use]
pub fn sensitive(path: &str) -> Option<&'static str> {
    let path = normal(path);
    // `../../etc/passwd`: how deep the folder is where it begins, nobody knows.
    if let Some((_, rest)) = path.rsplit_once("../") {
        return sensitive(&format!("/{rest}"));
    }
    if LOGIN_FILES.iter().any(|end| path == *end || path.ends_with(&format!("/{end}")))
        || format!("/{path}/").contains("/.ssh/")
    {
        return Some("writes a file that decides about logins");
    }
    if START_FILES.iter().any(|end| path == *end || path.ends_with(&format!("/{end}"))) {
        return Some("writes a file that programs run when they start");
    }
    if UNIT_FOLDERS.iter().any(|part| format!("/{path}/").contains(part))
        || format!("/{path}").ends_with("/.config")
    {
        return Some("writes a file that is run by the system");
    }
    if glob_may_find(&path) {
        return Some("may write a file of the system");
    }
    let below = |folder: &&str| {
        let folder: &str = folder;
        path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    let local = ["/usr/local", "/usr/src", "/dev/shm", "/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty"];
    let system = path == "/" || SYSTEM_FOLDERS.iter().any(below);
    (system && !local.iter().any(below)).then_some("writes a file of the system")
}

/// Why giving a folder another name, or making this name lead to another folder, is administration: in a home are files that
/// decide about logins. Beside what `sensitive` says of the path itself.
pub(super) fn holds_ruling_files(path: &str) -> Option<&'static str> {
    let path = normal(path);
    let home = path == "/home" || path.strip_prefix("/home/").is_some_and(|rest| !rest.contains('/'));
    let above = path == "/var"
        || path == "/var/spool"
        || path == "/var/lib"
        || path.starts_with('~') && !path.contains('/');
    (home || above || path.is_empty()).then_some("moves files that decide about logins or the system")
}

/// Whether a path is a door to another one, as `/proc/self/root` is to `/`: what stands after it says nothing.
#[must_use]
pub fn is_door(path: &str) -> bool {
    let path = normal(path);
    let parts = || path.split('/').filter(|part| !part.is_empty());
    let doors = ["root", "cwd", "fd", "exe", "map_files"];
    path == "/dev/fd"
        || path.starts_with("/dev/fd/")
        || parts().next() == Some("proc") && parts().any(|part| doors.contains(&part))
}

/// Whether a glob (`/e*/passwd`, `~/.bash*`) may find one of these files.
fn glob_may_find(path: &str) -> bool {
    let wild = ['*', '?', '[', '{'];
    let Some((beginning, _)) = path.split_once(wild) else { return false };
    let system = path.starts_with('/') && SYSTEM_FOLDERS.iter().any(|folder| folder.starts_with(beginning));
    // Without a dot of its own a glob finds no hidden file.
    let mut hidden = path.split('/').filter_map(|part| part.split_once(wild)).map(|(stem, _)| stem);
    let login = hidden.any(|stem| {
        stem.starts_with('.')
            && LOGIN_FILES.iter().any(|file| file.split('/').any(|part| part.starts_with(stem)))
    });
    system || login
}

/// Without empty, `.` and `..` parts, as far as the text says.
#[must_use]
pub fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(last) if *last != ".." && !last.starts_with('~') => drop(parts.pop()),
                Some(_) => parts.push(part),
                None if path.starts_with('/') => {}
                None => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    if path.starts_with('/') { format!("/{joined}") } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_rule_are_known_however_they_are_written() {
        for path in [
            "/etc/passwd",
            "/etc//passwd",
            "/srv/../etc/passwd",
            "~/.ssh/authorized_keys",
            ".ssh/authorized_keys",
            "/home/a/.ssh/authorized_keys",
            "~/.bashrc",
            "/usr/bin/ls",
            "/",
            "/root/x",
            "~/.config/systemd/user/x.service",
            "../../etc/passwd",
            "/e?c/passwd",
            "/*/passwd",
            "/var/sp*/cron/x",
            "~/.bash*",
            "/home/a/.s*/authorized_keys",
            "~/../../etc/passwd",
            "/home/a/.ssh",
            ".ssh",
            "~/.config",
            "~/.psqlrc",
            "/home/a/.config/systemd",
            "/home/a/.config/autostart",
        ] {
            assert!(sensitive(path).is_some(), "{path}");
        }
        for path in [
            "/srv/*",
            "*.txt",
            "/home/*/x",
            "/srv/app/x",
            "/tmp/etc/passwd",
            "notes.txt",
            "/usr/local/bin/x",
            "~/x",
            "/dev/null",
            "/var/www",
        ] {
            assert!(sensitive(path).is_none(), "{path}");
        }
        for path in ["/home", "/home/a", "/home/a/", "~", "", "/var"] {
            assert!(holds_ruling_files(path).is_some(), "{path}");
        }
        assert!(holds_ruling_files("/home/a/x").is_none());
        for path in [
            "/proc/self/root/etc/shadow",
            "/proc/1/cwd/x",
            "/proc/self/fd/3",
            "/dev/fd/3",
            "/proc/self/task/1/root",
        ] {
            assert!(is_door(path), "{path}");
        }
        assert!(!is_door("/proc/cpuinfo") && !is_door("/srv/root/fd"));
        assert_eq!(normal("/a/./b/../../c//d"), "/c/d");
        assert_eq!(normal("../a/.."), "..");
    }
}
