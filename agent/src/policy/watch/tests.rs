//! A folder of policies through everything that happens to folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{PolicySet, Problem, Snapshot};

fn text(name: &str, extra: &str) -> String {
    format!("version = 1\nname = \"{name}\"\n{extra}")
}

fn write(folder: &Path, file: &str, text: &str) {
    fs::write(folder.join(file), text).unwrap();
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.policies.keys().map(String::as_str).collect()
}

fn problem(set: &PolicySet, path: &Path) -> String {
    set.snapshot().problems.get(path).map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_folder_of_good_and_other_files() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.toml", &text("a", ""));
    write(folder.path(), "b.toml", &text("b", "[match]\nunits = [\"x\", \"x\"]\n"));
    write(folder.path(), "broken.toml", "version = 1\nnaem = \"x\"\n");
    write(folder.path(), ".hidden.toml", "nonsense");
    write(folder.path(), "a.cases", "nonsense");
    let set = PolicySet::load_dir(folder.path());
    assert_eq!(names(&set.snapshot()), ["a", "b"]);
    assert_eq!(set.get("a").unwrap().name, "a");
    assert!(set.get("broken").is_none());
    assert_eq!(set.snapshot().warnings.len(), 1);
    assert_eq!(set.snapshot().problems.len(), 1);
    let text = problem(&set, &folder.path().join("broken.toml"));
    assert!(
        text.starts_with("1:1: error: a policy needs the key \"name\"") && text.ends_with("(and 1 more)"),
        "{text}"
    );
}

#[test]
fn a_broken_file_keeps_its_last_good_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    write(folder.path(), "a.toml", &text("a", ""));
    let set = PolicySet::load_dir(folder.path());
    let first = set.get("a").unwrap();
    write(folder.path(), "a.toml", "version = 9\nname = \"a\"\n");
    set.reload();
    assert!(Arc::ptr_eq(&first, &set.get("a").unwrap()));
    assert!(problem(&set, &path).contains("version 9 is unknown here"));
    write(folder.path(), "a.toml", &text("a", "[egress]\ndefault = \"record\"\n"));
    set.reload();
    assert_ne!(first.version, set.get("a").unwrap().version);
    assert_eq!(problem(&set, &path), "");
}

#[test]
fn a_removed_file_takes_its_policy_away_also_when_it_was_broken() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.toml", &text("a", ""));
    let set = PolicySet::load_dir(folder.path());
    write(folder.path(), "a.toml", "broken");
    set.reload();
    fs::remove_file(folder.path().join("a.toml")).unwrap();
    set.reload();
    assert!(set.get("a").is_none());
    assert!(set.snapshot().problems.is_empty());
}

#[test]
fn a_renamed_policy_is_gone_under_its_old_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.toml", &text("a", ""));
    let set = PolicySet::load_dir(folder.path());
    write(folder.path(), "a.toml", &text("b", ""));
    set.reload();
    assert_eq!(names(&set.snapshot()), ["b"]);
}

#[test]
fn of_two_files_with_one_name_the_first_is_used() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "1.toml", &text("a", ""));
    write(folder.path(), "2.toml", &text("a", "[egress]\ndefault = \"record\"\n"));
    let set = PolicySet::load_dir(folder.path());
    assert_eq!(set.get("a").unwrap().egress, crate::policy::rule::Egress::Deny);
    let text = problem(&set, &folder.path().join("2.toml"));
    assert!(text.contains("already defined by") && text.contains("1.toml"), "{text}");
    fs::remove_file(folder.path().join("1.toml")).unwrap();
    set.reload();
    assert_eq!(set.get("a").unwrap().egress, crate::policy::rule::Egress::Record);
    assert!(set.snapshot().problems.is_empty());
}

#[test]
fn a_file_that_everyone_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    write(folder.path(), "a.toml", &text("a", ""));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    let set = PolicySet::load_dir(folder.path());
    assert!(set.get("a").is_none());
    assert!(problem(&set, &path).starts_with("everyone may write to it"));
}

#[test]
fn a_folder_that_everyone_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.toml", &text("a", ""));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let set = PolicySet::load_dir(folder.path());
    assert!(set.get("a").is_none());
    assert!(problem(&set, folder.path()).starts_with("everyone may write to it"));
}

#[test]
fn what_is_no_text_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("dir.toml")).unwrap();
    fs::write(folder.path().join("latin.toml"), b"name = \"\xe9\"").unwrap();
    let set = PolicySet::load_dir(folder.path());
    assert!(problem(&set, &folder.path().join("dir.toml")).starts_with("this is not a regular file"));
    assert_eq!(problem(&set, &folder.path().join("latin.toml")), "cannot be read");
}

#[test]
fn a_folder_that_is_not_there_permits_nothing_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("policies");
    let set = PolicySet::load_dir(&missing);
    assert!(set.snapshot().policies.is_empty());
    assert!(matches!(set.snapshot().problems.get(&missing), Some(Problem::Read(_))));
    fs::create_dir(&missing).unwrap();
    write(&missing, "a.toml", &text("a", ""));
    set.reload();
    assert_eq!(names(&set.snapshot()), ["a"]);
    fs::remove_dir_all(&missing).unwrap();
    set.reload();
    assert_eq!(names(&set.snapshot()), ["a"], "a folder that cannot be listed takes nothing away");
    assert_eq!(set.snapshot().problems.len(), 1);
}

#[test]
fn subscribers_hear_of_changes_only() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.toml", &text("a", ""));
    let set = PolicySet::load_dir(folder.path());
    let mut told = set.subscribe();
    set.reload();
    assert!(!told.has_changed().unwrap());
    write(folder.path(), "a.toml", "broken");
    set.reload();
    assert!(told.has_changed().unwrap());
    told.mark_unchanged();
    set.reload();
    assert!(!told.has_changed().unwrap(), "the same error is no news");
}

/// Far longer than a change takes to be seen, so that a slow machine does not fail the test.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until(
    told: &mut tokio::sync::watch::Receiver<Arc<Snapshot>>,
    what: &str,
    holds: impl Fn(&Snapshot) -> bool,
) {
    let seen = timeout(PATIENCE, told.wait_for(|snapshot| holds(snapshot))).await;
    assert!(seen.is_ok(), "{what} was not seen in {PATIENCE:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let set = Arc::new(PolicySet::load_dir(&policies));
    let follower = tokio::spawn(Arc::clone(&set).follow());
    let mut told = set.subscribe();
    write(&policies, "a.toml", &text("a", ""));
    until(&mut told, "a new file", |now| now.policies.contains_key("a")).await;
    write(&policies, "a.toml", "broken");
    until(&mut told, "a broken file", |now| now.problems.len() == 1 && now.policies.contains_key("a")).await;
    write(&policies, ".a.toml.swp", &text("b", ""));
    fs::rename(policies.join(".a.toml.swp"), policies.join("a.toml")).unwrap();
    until(&mut told, "a file moved into place", |now| {
        now.problems.is_empty() && now.policies.contains_key("b")
    })
    .await;
    fs::remove_file(policies.join("a.toml")).unwrap();
    until(&mut told, "a removed file", |now| now.policies.is_empty()).await;
    fs::rename(&policies, folder.path().join("old")).unwrap();
    until(&mut told, "a removed folder", |now| now.problems.len() == 1).await;
    follower.abort();
}
