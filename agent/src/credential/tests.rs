//! Credentials: what is read from which source, and every reason for which one is refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::{CREDENTIAL_BYTES_MAX, Credentials, Fault, Problem, Source, SystemdFolder, Variables};

const SECRET: &str = "s3cret-value";

fn folder() -> (tempfile::TempDir, Credentials) {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::new(folder.path());
    (folder, credentials)
}

fn write(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// None of these sources makes us wait for anything but a child, so a small runtime serves.
fn read(credentials: &Credentials, name: &str) -> Result<Vec<u8>, super::CredentialError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(credentials.named(name)).map(|secret| secret.expose().to_vec())
}

fn problem(credentials: &Credentials, name: &str) -> Problem {
    let Fault::File(problem) = fault(credentials, name) else { panic!("{name} is no file's fault") };
    problem
}

fn fault(credentials: &Credentials, name: &str) -> Fault {
    match read(credentials, name) {
        Ok(_) => panic!("{name} was read"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(SECRET), "the error tells the secret: {text}");
            assert!(text.starts_with(&format!("credential \"{name}\" (")), "{text}");
            error.fault
        }
    }
}

#[test]
fn reads_without_one_trailing_newline() {
    let (folder, credentials) = folder();
    for (written, expected) in
        [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), ("pw\n\n", "pw\n"), ("p w \n", "p w ")]
    {
        write(&folder.path().join("db"), written);
        assert_eq!(read(&credentials, "db").unwrap(), expected.as_bytes(), "{written:?}");
    }
}

#[test]
fn a_rotated_file_is_used_at_once() {
    let (folder, credentials) = folder();
    write(&folder.path().join("db"), "old");
    assert_eq!(read(&credentials, "db").unwrap(), b"old");
    write(&folder.path().join("db"), "new");
    assert_eq!(read(&credentials, "db").unwrap(), b"new");
}

#[test]
fn names_that_are_paths_are_refused() {
    let (folder, credentials) = folder();
    fs::create_dir(folder.path().join("sub")).unwrap();
    write(&folder.path().join("sub/db"), SECRET);
    for name in ["", ".", "..", "sub/db", "/etc/shadow", "../db", ".hidden", "a\0b"] {
        assert!(matches!(problem(&credentials, name), Problem::Name), "{name:?}");
    }
}

#[test]
fn files_that_others_can_read_are_refused() {
    let (folder, credentials) = folder();
    let path = folder.path().join("db");
    for mode in [0o640, 0o604, 0o620, 0o601, 0o644] {
        write(&path, SECRET);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let problem = problem(&credentials, "db");
        assert!(matches!(problem, Problem::Mode { mode: found } if found == mode), "{problem}");
        assert!(problem.to_string().contains("chmod 600"), "{problem}");
    }
}

#[test]
fn files_of_others_are_refused() {
    let (folder, credentials) = folder();
    let path = folder.path().join("db");
    write(&path, SECRET);
    chown(&path, Some(65534), None).expect("run the tests as root: this one gives a file away");
    assert!(matches!(problem(&credentials, "db"), Problem::Owner { uid: 65534 }));
}

#[test]
fn links_may_not_leave_the_folder() {
    let (folder, credentials) = folder();
    let elsewhere = tempfile::tempdir().unwrap();
    write(&elsewhere.path().join("db"), SECRET);
    symlink(elsewhere.path().join("db"), folder.path().join("absolute")).unwrap();
    symlink("../../etc/passwd", folder.path().join("relative")).unwrap();
    symlink("loop", folder.path().join("loop")).unwrap();
    for name in ["absolute", "relative", "loop"] {
        assert!(matches!(problem(&credentials, name), Problem::Leaves), "{name}");
    }
    write(&folder.path().join("real"), "inside");
    symlink("real", folder.path().join("link")).unwrap();
    assert_eq!(read(&credentials, "link").unwrap(), b"inside");
}

#[test]
fn what_is_no_credential_is_refused() {
    let (folder, credentials) = folder();
    assert!(matches!(problem(&credentials, "missing"), Problem::Unreadable(_)));
    for nothing in ["", "\n", "\r\n"] {
        write(&folder.path().join("nothing"), nothing);
        assert!(matches!(problem(&credentials, "nothing"), Problem::Empty), "{nothing:?}");
    }
    write(&folder.path().join("most"), vec![b'x'; CREDENTIAL_BYTES_MAX]);
    assert_eq!(read(&credentials, "most").unwrap().len(), CREDENTIAL_BYTES_MAX);
    write(&folder.path().join("more"), vec![b'x'; CREDENTIAL_BYTES_MAX + 1]);
    assert!(matches!(problem(&credentials, "more"), Problem::TooLarge { limit: CREDENTIAL_BYTES_MAX }));
    fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(matches!(problem(&credentials, "folder"), Problem::NotRegular));
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(problem(&credentials, "pipe"), Problem::NotRegular));
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    let (folder, credentials) = folder();
    write(&folder.path().join("db"), SECRET);
    for mode in [0o777, 0o770, 0o702] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        assert!(matches!(problem(&credentials, "db"), Problem::Folder { .. }), "{mode:o}");
    }
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(read(&credentials, "db").unwrap(), SECRET.as_bytes());
    let missing = Credentials::new(folder.path().join("missing"));
    assert!(matches!(problem(&missing, "db"), Problem::Folder { .. }));
}

fn with(sources: &[(&str, Source)], variables: Variables, systemd: SystemdFolder) -> Credentials {
    let sources = sources.iter().map(|(name, source)| ((*name).to_owned(), source.clone())).collect();
    Credentials::with_sources("/nonexistent", sources, variables, systemd)
}

fn exec(script: &str) -> Source {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Source::Exec { command, timeout: std::time::Duration::from_secs(20) }
}

#[test]
fn systemd_hands_files_over() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("there"), "pw\n");
    fs::set_permissions(folder.path().join("there"), Permissions::from_mode(0o400)).unwrap();
    let source = Source::Systemd { name: "there".to_owned() };
    let missing = Source::Systemd { name: "missing".to_owned() };
    let sources = [("here", source.clone()), ("missing", missing)];
    let credentials = with(&sources, Variables::default(), SystemdFolder::of(folder.path()));
    assert_eq!(read(&credentials, "here").unwrap(), b"pw");
    assert!(matches!(problem(&credentials, "missing"), Problem::Unreadable(_)));
    let without = with(&sources, Variables::default(), SystemdFolder::default());
    let error = read(&without, "here").unwrap_err().to_string();
    assert!(error.contains("systemd's credential there") && error.contains("LoadCredential="), "{error}");
}

#[test]
fn variables_hold_secrets() {
    let source = |name: &str| Source::Env { variable: name.to_owned() };
    let sources = [("set", source("SHOP_TOKEN")), ("unset", source("OTHER"))];
    let credentials = with(&sources, Variables::of("SHOP_TOKEN", "s3cret-value\n"), SystemdFolder::default());
    assert_eq!(read(&credentials, "set").unwrap(), SECRET.as_bytes());
    assert!(matches!(fault(&credentials, "unset"), Fault::Unset));
    let empty = with(&sources, Variables::of("SHOP_TOKEN", ""), SystemdFolder::default());
    assert!(matches!(problem(&empty, "set"), Problem::Empty));
    let large = "x".repeat(CREDENTIAL_BYTES_MAX + 1);
    let large = with(&sources, Variables::of("SHOP_TOKEN", &large), SystemdFolder::default());
    assert!(matches!(problem(&large, "set"), Problem::TooLarge { .. }));
}

#[test]
fn commands_print_secrets() {
    let sources = [
        ("good", exec("echo s3cret-value")),
        ("lines", exec("printf 's3cret-value\\n\\n'")),
        ("nothing", exec("echo")),
        ("nul", exec("printf 's3cret-value\\000'")),
        ("fails", exec("echo s3cret-value; exit 1")),
    ];
    let credentials = with(&sources, Variables::default(), SystemdFolder::default());
    assert_eq!(read(&credentials, "good").unwrap(), SECRET.as_bytes());
    assert_eq!(read(&credentials, "lines").unwrap(), b"s3cret-value\n", "one newline is taken off");
    assert!(matches!(problem(&credentials, "nothing"), Problem::Empty));
    assert!(matches!(fault(&credentials, "nul"), Fault::Nul));
    assert!(matches!(fault(&credentials, "fails"), Fault::Command(_)));
}

#[test]
fn a_name_without_a_table_stays_a_file() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("db"), "pw");
    let sources = [("other".to_owned(), exec("echo other"))].into();
    let credentials =
        Credentials::with_sources(folder.path(), sources, Variables::default(), SystemdFolder::default());
    assert_eq!(read(&credentials, "db").unwrap(), b"pw");
    assert_eq!(read(&credentials, "other").unwrap(), b"other");
}
