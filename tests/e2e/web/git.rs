//! git over HTTPS: clone, fetch, push, and a guard on pushing.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use harness::daemon::Daemon;
use harness::process::{self, Finished, NOBODY};
use harness::web::Port;
use harness::web::client::Way;
use tempfile::TempDir;

use super::{daemon, server};

/// Clones, commits a file of some size and pushes it to a branch; each step's failure ends it.
const SCRIPT: &str = r#"set -e
    export GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_SSL_CAINFO="$PORTCULLIS_CA_FILE" HOME="$1"
    cd "$1"
    git clone --quiet "$2/git/shop.git" shop
    cd shop
    cat README
    head -c 3000000 /dev/urandom > large
    git add large
    git -c user.name=agent -c user.email=agent@shop.test commit --quiet --message=large
    git push --quiet origin "HEAD:$3"
    git fetch --quiet origin "$3"
    git rev-parse HEAD FETCH_HEAD"#;

fn git(way: Way<'_>, branch: &str) -> (Finished, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
    let mut git = way.command(server(), "sh").unwrap();
    git.args(["-c", SCRIPT, "sh"]).arg(folder.path());
    git.arg(format!("https://{}", server().at(Port::Https))).arg(branch);
    (process::finish(&mut git).unwrap(), folder)
}

/// The commit of a branch at the server.
fn branch(name: &str) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(server().repositories().join("shop.git")).args(["rev-parse", "--verify", name]);
    let seen = process::finish(git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent")).unwrap();
    (seen.code == 0).then(|| seen.stdout.trim().to_owned())
}

#[track_caller]
fn assert_pushed(way: Way<'_>, name: &str, log: impl Fn() -> String) {
    let (seen, folder) = git(way, name);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, log());
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!(lines[0], "a shop");
    assert_eq!(lines[1], lines[2], "what was fetched is what was pushed");
    assert_eq!(branch(name).as_deref(), Some(lines[1]));
    assert!(fs::metadata(folder.path().join("shop/large")).is_ok_and(|large| large.len() == 3_000_000));
}

#[test]
fn clone_push_and_fetch() {
    assert_pushed(Way::Direct, "direct", || server().errors());
    let daemon: Daemon = daemon("");
    assert_pushed(Way::Governed(&daemon), "governed", || daemon.log());
}

#[test]
fn cloning_passes_where_pushing_is_denied() {
    let daemon = daemon(
        "[[guard]]\nname = \"no pushing\"\non = \"http\"\nmethods = [\"POST\"]\npaths = [\"/**/git-receive-pack\"]\n\
         action = \"deny\"\n",
    );
    let (seen, folder) = git(Way::Governed(&daemon), "denied");
    assert_ne!(seen.code, 0);
    assert!(seen.stdout.starts_with("a shop\n"), "cloned: {}\n{}", seen.stdout, seen.stderr);
    assert!(seen.stderr.contains("403"), "{}", seen.stderr);
    assert_eq!(branch("denied"), None);
    drop(folder);
}
