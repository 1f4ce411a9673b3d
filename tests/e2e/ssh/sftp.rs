//! SFTP: each file is judged by its path, hashed on its way, and its request answered in the protocol's own terms.

use std::path::Path;
use std::process::Command;

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, Finished, NOBODY, REVIEWER, Talking};
use harness::reviewer::{Reviewer, id_of};
use harness::ssh::SshServer;
use serde_json::Value;

use super::{daemon, last_session, server};

/// Files below `in` may be written, below `secret` nothing may be touched.
fn rules(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "[[guard]]\nname = \"no secrets\"\non = \"ssh\"\nfile = [\"{folder}/secret/**\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"own files\"\non = \"ssh\"\noperation = [\"upload\", \"rename\", \"mkdir\", \"setstat\"]\n\
         file = [\"{folder}/in/**\"]\naction = \"allow\"\n\
         [[guard]]\nname = \"a human looks\"\non = \"ssh\"\noperation = [\"remove\"]\naction = \"hold\"\n\
         approvers = [\"user:daemon\"]\nhold = \"60s\"\n"
    )
}

pub(super) fn folders(name: &str) -> std::path::PathBuf {
    let folder = server().scratch(name).unwrap();
    server().scratch(&format!("{name}/in")).unwrap();
    server().scratch(&format!("{name}/secret")).unwrap();
    folder
}

pub(super) fn at(path: &Path) -> String {
    format!("agent@{}:{}", server().at().ip(), path.display())
}

fn scp(daemon: &Daemon, from: &str, to: &str) -> Finished {
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    run.arg("scp").args(SshServer::options(daemon).unwrap());
    run.args(["-s", "-P", &server().at().port().to_string()]).args([from, to]);
    process::finish(&mut run).unwrap()
}

fn sftp(daemon: &Daemon, folder: &Path, batch: &str) -> Command {
    let file = folder.join("batch");
    std::fs::write(&file, batch).unwrap();
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    run.arg("sftp").args(SshServer::options(daemon).unwrap());
    run.args(["-P", &server().at().port().to_string(), "-b"]).arg(&file);
    run.arg(format!("agent@{}", server().at().ip()));
    run
}

pub(super) fn sha256(path: &Path) -> String {
    let said = process::run(Command::new("sha256sum").arg(path)).unwrap();
    said.split(' ').next().unwrap().to_owned()
}

/// The files of a session: operation and what is recorded of the file.
pub(super) fn moved(events: &[Value]) -> Vec<(String, Value)> {
    let outcomes = events.iter().filter(|event| event["event"] == "outcome");
    outcomes
        .filter(|outcome| !outcome["ssh"]["file"].is_null())
        .map(|outcome| {
            let intent = events
                .iter()
                .find(|event| {
                    event["event"] == "intent" && event["asked"]["operation"] == outcome["operation"]
                })
                .unwrap();
            (
                intent["asked"]["text"]["text"].as_str().unwrap_or_default().to_owned(),
                outcome["ssh"]["file"].clone(),
            )
        })
        .collect()
}

#[test]
fn files_arrive_whole_and_their_hashes_are_on_record() {
    let folder = folders("sftp-hash");
    let daemon = daemon(&rules(&folder));
    let (local, remote, back) = (folder.join("local"), folder.join("in/remote"), folder.join("back"));
    let data: Vec<u8> = (0..40 * 1024 * 1024 + 17_u32).map(|at| (at >> 7) as u8).collect();
    std::fs::write(&local, &data).unwrap();
    for (from, to, operation) in [
        (local.display().to_string(), at(&remote), "upload"),
        (at(&remote), back.display().to_string(), "download"),
    ] {
        let seen = scp(&daemon, &from, &to);
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        let events = last_session(&daemon);
        let moved = moved(&events);
        let [(text, file)] = moved.as_slice() else { panic!("{moved:?}\n{events:?}") };
        assert_eq!(*text, format!("{operation} {}", remote.display()));
        assert_eq!(
            (&file["size"], file["sha256"].as_str()),
            (&data.len().into(), Some(sha256(&local).as_str()))
        );
    }
    assert!(std::fs::read(&back).unwrap() == data);
}

#[test]
fn each_path_is_judged_and_the_channel_goes_on() {
    let folder = folders("sftp-paths");
    let daemon = daemon(&rules(&folder));
    std::fs::write(folder.join("local"), "content").unwrap();
    std::fs::write(folder.join("secret/key"), "secret").unwrap();
    let place = folder.display();
    let batch = format!(
        "-put {place}/local {place}/secret/new\n-get {place}/secret/key {place}/stolen\n-ls {place}/secret\n\
         -put {place}/local {place}/in/../secret/new\n-symlink {place}/secret/key {place}/in/link\n\
         -rename {place}/secret/key {place}/in/key\nput {place}/local {place}/in/new\n\
         rename {place}/in/new {place}/in/newer\nmkdir {place}/in/folder\nchmod 640 {place}/in/newer\nls {place}/in\n"
    );
    let seen = process::finish(&mut sftp(&daemon, &folder, &batch)).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}\n{}", seen.stdout, seen.stderr, daemon.log());
    assert!(seen.stderr.contains("(rule: no secrets)"), "{}", seen.stderr);
    assert!(seen.stdout.contains("newer"), "{}", seen.stdout);
    for absent in ["secret/new", "stolen", "in/link", "in/key"] {
        assert!(!folder.join(absent).exists(), "{absent}");
    }
    assert_eq!(std::fs::read_to_string(folder.join("in/newer")).unwrap(), "content");
    assert!(folder.join("in/folder").is_dir());
    let events = last_session(&daemon);
    let refused: Vec<&str> = events
        .iter()
        .filter(|event| event["event"] == "refused")
        .map(|event| event["asked"]["ssh"]["operation"].as_str().unwrap())
        .collect();
    for operation in ["stat", "upload", "link", "rename"] {
        assert!(refused.contains(&operation), "{operation}: {refused:?}");
    }
}

#[test]
fn a_held_request_waits_for_its_reviewer() {
    let folder = folders("sftp-held");
    let daemon = daemon(&rules(&folder));
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    for (decision, remains) in [("deny", true), ("approve", false)] {
        let victim = folder.join("in/victim");
        std::fs::write(&victim, "x").unwrap();
        let batch = format!("-rm {}\n", victim.display());
        let client = Talking::spawn(&mut sftp(&daemon, &folder, &batch)).unwrap();
        let waiting = reviewer.waiting().unwrap();
        assert!(
            waiting["request"]["content"]["statement"].as_str().unwrap_or_default().contains("remove"),
            "{waiting}"
        );
        assert!(victim.exists());
        let id = id_of(&waiting);
        let decided =
            if decision == "deny" { reviewer.deny(&id, "no") } else { reviewer.approve(&id, "yes") };
        assert_eq!(decided.unwrap().code, 0);
        let seen = client.finish().unwrap();
        assert_eq!(victim.exists(), remains, "{}\n{}", seen.stderr, daemon.log());
    }
}

#[test]
fn paramiko_is_told_why() {
    const SCRIPT: &str = "import paramiko, sys\n\
        host, port, folder = sys.argv[1:]\n\
        transport = paramiko.Transport((host, int(port)))\n\
        transport.connect()\n\
        transport.auth_none('agent')\n\
        sftp = paramiko.SFTPClient.from_transport(transport)\n\
        sftp.put(folder + '/local', folder + '/in/new')\n\
        print(sftp.stat(folder + '/in/new').st_size, sftp.normalize('.') != '')\n\
        sftp.chdir(folder + '/in')\n\
        with sftp.open('appended', 'a') as file: file.write('one'); file.write('two')\n\
        with sftp.open('new', 'r+') as file: print(file.read(3)); file.seek(0); file.write('CON')\n\
        try: sftp.open(folder + '/secret/x', 'w')\n\
        except PermissionError as error: print(error)\n\
        try: sftp.open(folder + '/secret/key')\n\
        except PermissionError as error: print(error)\n\
        try: sftp.remove('/nonexistent/../' + folder + '/secret/x')\n\
        except PermissionError as error: print(error)\n";
    let folder = folders("sftp-paramiko");
    let daemon = daemon(&rules(&folder));
    std::fs::write(folder.join("local"), "content").unwrap();
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    run.arg(process::python()).args(["-c", SCRIPT]);
    run.arg(server().at().ip().to_string()).arg(server().at().port().to_string()).arg(&folder);
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert!(seen.stdout.starts_with("7 True\nb'con'\n"), "{}", seen.stdout);
    assert_eq!(seen.stdout.matches("rule: no secrets").count(), 3, "{}", seen.stdout);
    assert_eq!(std::fs::read_to_string(folder.join("in/new")).unwrap(), "CONtent");
    assert_eq!(std::fs::read_to_string(folder.join("in/appended")).unwrap(), "onetwo");
    // What was read and written in pieces has no hash of the whole, what was appended to a new file has.
    let files = moved(&last_session(&daemon));
    let hashed = |name: &str| {
        let of: Vec<&Value> =
            files.iter().filter(|(text, _)| text.ends_with(name)).map(|(_, file)| file).collect();
        assert!(!of.is_empty(), "{files:?}");
        of.iter().all(|file| !file["sha256"].is_null())
    };
    assert!(hashed("in/appended"), "{files:?}");
}

#[test]
fn the_content_of_files_is_kept_masked_where_the_policy_says_so() {
    let folder = folders("sftp-kept");
    let rules = format!(
        "{}[record]\nfiles = true\n[[mask]]\ndetect = [\"email\"]\nwith = \"redact\"\n",
        rules(&folder)
    );
    let daemon = daemon(&rules);
    let (local, remote, back) = (folder.join("local"), folder.join("in/remote"), folder.join("back"));
    let text = "name,mail\nAda,ada@example.com\n".repeat(3000);
    std::fs::write(&local, &text).unwrap();
    for (from, to, stream) in [
        (local.display().to_string(), at(&remote), "stdin"),
        (at(&remote), back.display().to_string(), "stdout"),
    ] {
        let seen = scp(&daemon, &from, &to);
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        let events = last_session(&daemon);
        let kept: String = events
            .iter()
            .filter(|event| event["event"] == "stream" && event["stream"] == stream)
            .filter_map(|event| event["bytes"].as_str())
            .collect();
        assert!(kept.starts_with("name,mail\nAda,") && !kept.contains("example.com"), "{kept}");
        assert_eq!(kept.matches("Ada").count(), 3000);
    }
    assert_eq!(std::fs::read_to_string(&back).unwrap(), text, "what is moved is not masked");
}
