//! Credential files: what is read, and every reason for which one is refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::{CREDENTIAL_BYTES_MAX, Credentials, Problem};

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

fn problem(credentials: &Credentials, name: &str) -> Problem {
    match credentials.read(name) {
        Ok(_) => panic!("{name} was read"),
        Err(error) => {
            assert!(!error.to_string().contains(SECRET), "the error tells the secret: {error}");
            error.problem
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
        assert_eq!(credentials.read("db").unwrap().expose(), expected.as_bytes(), "{written:?}");
    }
}

#[test]
fn a_rotated_file_is_used_at_once() {
    let (folder, credentials) = folder();
    write(&folder.path().join("db"), "old");
    assert_eq!(credentials.read("db").unwrap().expose(), b"old");
    write(&folder.path().join("db"), "new");
    assert_eq!(credentials.read("db").unwrap().expose(), b"new");
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
    assert_eq!(credentials.read("link").unwrap().expose(), b"inside");
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
    assert_eq!(credentials.read("most").unwrap().expose().len(), CREDENTIAL_BYTES_MAX);
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
    assert_eq!(credentials.read("db").unwrap().expose(), SECRET.as_bytes());
    let missing = Credentials::new(folder.path().join("missing"));
    assert!(matches!(problem(&missing, "db"), Problem::Folder { .. }));
}
