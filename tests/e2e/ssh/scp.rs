//! scp's old protocol: each file is judged where it is named, and nobody can say something to one side that the other did not hear.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, Finished, NOBODY};
use harness::ssh::SshServer;

use super::sftp::{at, folders, moved, sha256};
use super::{daemon, last_session, server};

/// Files below `in` may be written, but for two of them; nothing of `secret` may be touched.
fn rules(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "[[guard]]\nname = \"no secrets\"\non = \"ssh\"\naction = \"deny\"\n\
         file = [\"{folder}/secret/**\", \"{folder}/in/protected\", \"{folder}/in/**/no.txt\"]\n\
         [[guard]]\nname = \"own files\"\non = \"ssh\"\noperation = [\"upload\", \"mkdir\"]\n\
         file = [\"{folder}/in\", \"{folder}/in/**\"]\naction = \"allow\"\n\
         [[guard]]\nname = \"nothing else\"\non = \"ssh\"\neffect = [\"write\", \"ddl\", \"admin\", \"unknown\"]\naction = \"deny\"\n"
    )
}

fn scp(daemon: &Daemon, more: &[&str], from: &[&str], to: &str) -> Finished {
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    run.arg("scp").args(SshServer::options(daemon).unwrap());
    run.args(["-O", "-P", &server().at().port().to_string()]).args(more).args(from).arg(to);
    process::finish(&mut run).unwrap()
}

/// Says all of it at once to the server's scp, as no scp does.
fn said(daemon: &Daemon, command: &str, words: &[u8]) -> Finished {
    let folder = server().scratch("said").unwrap();
    let file = folder.join(format!("{:?}", std::thread::current().id()));
    std::fs::write(&file, words).unwrap();
    let options = SshServer::options(daemon).unwrap().join(" ");
    let (host, port) = (server().at().ip().to_string(), server().at().port());
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    let line = format!("ssh {options} -p {port} agent@{host} '{command}' < '{}'", file.display());
    process::finish(run.args(["sh", "-c", &line])).unwrap()
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn prepared(test: &str) -> (PathBuf, Daemon) {
    let folder = folders(test);
    std::fs::write(folder.join("secret/key"), "the secret").unwrap();
    let daemon = daemon(&rules(&folder));
    (folder, daemon)
}

#[test]
fn files_arrive_whole_and_their_hashes_are_on_record() {
    let (folder, daemon) = prepared("scp-hash");
    let (local, remote, back) = (folder.join("local"), folder.join("in/remote"), folder.join("back"));
    let data: Vec<u8> = (0..20 * 1024 * 1024 + 17_u32).map(|at| (at >> 7) as u8).collect();
    std::fs::write(&local, &data).unwrap();
    for (from, to, operation) in
        [(name(&local), at(&remote), "upload"), (at(&remote), name(&back), "download")]
    {
        let seen = scp(&daemon, &["-p"], &[&from], &to);
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        let moved = moved(&last_session(&daemon));
        let [(text, file)] = moved.as_slice() else { panic!("{moved:?}") };
        assert!(text.starts_with(&format!("{operation} {}", remote.display())), "{text}");
        assert_eq!(
            (&file["size"], file["sha256"].as_str()),
            (&data.len().into(), Some(sha256(&local).as_str()))
        );
    }
    assert!(std::fs::read(&back).unwrap() == data);
}

#[test]
fn a_tree_goes_but_for_what_is_denied() {
    let (folder, daemon) = prepared("scp-tree");
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    for file in ["one", "a/two", "a/no.txt", "a/b/three", "empty"] {
        std::fs::write(tree.join(file), if file == "empty" { "" } else { file }).unwrap();
    }
    let seen = scp(&daemon, &["-r", "-p"], &[&name(&tree)], &at(&folder.join("in")));
    assert_eq!(seen.code, 1, "{}\n{}", seen.stderr, daemon.log());
    assert!(seen.stderr.contains("rule: no secrets"), "{}", seen.stderr);
    let there = |file: &str| std::fs::read_to_string(folder.join("in/tree").join(file)).ok();
    for file in ["one", "a/two", "a/b/three"] {
        assert_eq!(there(file).as_deref(), Some(file));
    }
    assert_eq!((there("empty").as_deref(), there("a/no.txt")), (Some(""), None));
    let back = folder.join("back");
    std::fs::write(folder.join("in/tree/a/no.txt"), "not for you").unwrap();
    let seen = scp(&daemon, &["-r"], &[&at(&folder.join("in/tree"))], &name(&back));
    assert_eq!(seen.code, 1, "{}", seen.stderr);
    assert!(back.join("a/b/three").exists() && !back.join("a/no.txt").exists());
    // What the server cannot open is its own error, and the next file comes.
    let both = [at(&folder.join("in/absent")), at(&folder.join("in/tree/one"))];
    let seen = scp(&daemon, &[], &[&both[0], &both[1]], &name(&folder));
    assert_eq!(seen.code, 1, "{}", seen.stderr);
    assert!(seen.stderr.contains("No such file"), "{}", seen.stderr);
    assert_eq!(std::fs::read_to_string(folder.join("one")).unwrap(), "one");
}

#[test]
fn what_follows_a_refused_file_is_not_taken_for_its_content() {
    let (folder, daemon) = prepared("scp-smuggle");
    std::fs::write(folder.join("in/plain"), "").unwrap();
    let sink = format!("scp -r -t {}", folder.join("in").display());
    let long = "A".repeat(300);
    let hidden = "C0644 4 protected\nevil\0";
    let filler = "F".repeat(2047);
    for words in [
        format!("C0644 {} {long}\n{hidden}\0", hidden.len()),
        format!("C0644 {} plain/\n{hidden}\0", hidden.len()),
        format!("D0755 0 plain\n{hidden}E\n"),
        format!("D0755 0 {long}\n{hidden}E\n"),
        format!("C0644 1 a\nx\0\x01{filler}{hidden}"),
        format!("C0644 1 {}\n{hidden}", "B".repeat(2047)),
        format!("T1 0 1 0\n{hidden}"),
        format!("C0644 18446744073709551615 x\n{hidden}"),
        "D0755 0 sub\nE\nE\nC0644 4 ../protected\nevil\0".to_owned(),
    ] {
        let seen = said(&daemon, &sink, words.as_bytes());
        assert!(!folder.join("in/protected").exists(), "{words}\n{}\n{}", seen.stderr, daemon.log());
    }
    // The same as an honest client says it.
    let seen = said(&daemon, &sink, b"C0644 4 fine\ngood\0");
    assert_eq!(std::fs::read_to_string(folder.join("in/fine")).unwrap(), "good", "{}", seen.stderr);
}

#[test]
fn a_client_that_refuses_one_file_does_not_get_another_for_it() {
    let (folder, daemon) = prepared("scp-evade");
    std::fs::write(folder.join("in/large"), vec![b'x'; 4096]).unwrap();
    let place = folder.display();
    let asked = format!("scp -f {place}/in/large {place}/secret/key");
    let answers: [&[u8]; 3] = [b"\0\x01no\n\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0", b"\0\0\x01no\n\0\0\0\0"];
    for answers in answers {
        let seen = said(&daemon, &asked, answers);
        assert!(!seen.stdout.contains("the secret"), "{}\n{}", seen.stdout, daemon.log());
        assert!(seen.stdout.contains("rule: no secrets"), "{}\n{}", seen.stdout, seen.stderr);
    }
}

#[test]
fn no_protocol_of_files_is_spoken_on_a_terminal() {
    let (folder, daemon) = prepared("scp-terminal");
    let command = format!("scp -t {}", folder.join("in").display());
    for options in [["-tt", &command].as_slice(), &["-tt", "-s", "sftp"]] {
        let mut run = server().ssh(&daemon, &options[..1], &options[1..]).unwrap();
        let seen = process::finish(run.stdin(std::process::Stdio::null())).unwrap();
        assert_eq!(seen.code, 126, "{options:?}\n{}\n{}", seen.stdout, seen.stderr);
    }
}

/// The server gives the handle of a file that is closed to the next one at once.
#[test]
fn a_handle_that_is_being_closed_is_no_handle_any_more() {
    const SCRIPT: &str = r#"
import struct, subprocess, sys
folder, *ssh = sys.argv[1:]
server = subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
string = lambda b: struct.pack('>I', len(b)) + b
packet = lambda kind, body: string(bytes([kind]) + body)
def reply():
    length, = struct.unpack('>I', server.stdout.read(4))
    return server.stdout.read(length)
def say(*packets):
    server.stdin.write(b''.join(packets)); server.stdin.flush()
say(packet(1, struct.pack('>I', 3))); reply()
say(packet(3, struct.pack('>I', 1) + string(f'{folder}/in/own'.encode()) + struct.pack('>II', 2 | 8, 0)))
opened = reply()
assert opened[0] == 102, opened
handle = opened[9:]
mode = struct.pack('>II', 4, 0o777)
say(packet(4, struct.pack('>I', 2) + string(handle)),
    packet(3, struct.pack('>I', 3) + string(f'{folder}/other'.encode()) + struct.pack('>II', 1, 0)),
    packet(10, struct.pack('>I', 4) + string(handle) + mode),
    packet(6, struct.pack('>I', 5) + string(handle) + struct.pack('>Q', 0) + string(b'evil')))
replies = {}
for _ in range(4):
    said = reply()
    replies[struct.unpack('>I', said[1:5])[0]] = said
print(replies[2][5:9] == b'\0\0\0\0', replies[3][0] == 102 and replies[3][9:] == handle, replies[4][5:9] != b'\0\0\0\0', replies[5][5:9] != b'\0\0\0\0')
"#;
    let (folder, daemon) = prepared("sftp-handle");
    std::fs::write(folder.join("other"), "content").unwrap();
    process::run(Command::new("chmod").arg("600").arg(folder.join("other"))).unwrap();
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    run.arg(process::python()).args(["-c", SCRIPT, &name(&folder), "ssh"]);
    run.args(SshServer::options(&daemon).unwrap()).args(["-p", &server().at().port().to_string()]);
    run.args([&format!("agent@{}", server().at().ip()), "-s", "sftp"]);
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.stdout, "True True True True\n", "{}\n{}", seen.stderr, daemon.log());
    let mode = process::run(Command::new("stat").args(["-c", "%a"]).arg(folder.join("other"))).unwrap();
    assert_eq!(
        (mode.trim(), std::fs::read_to_string(folder.join("other")).unwrap().as_str()),
        ("600", "content")
    );
}

/// Whoever is not there any more is noticed also by a side that waits to be read.
#[test]
fn a_copy_ends_with_either_of_its_programs() {
    let (folder, daemon) = prepared("scp-gone");
    std::fs::write(folder.join("in/file"), "content").unwrap();
    // A client that has no more to say while its answer is waited for.
    let seen = said(&daemon, &format!("scp -f {}", folder.join("in/file").display()), b"\0");
    assert_ne!(seen.code, 0, "{}", seen.stderr);
    let moved = moved(&last_session(&daemon));
    assert!(moved.iter().all(|(_, file)| file["size"] == 0), "{moved:?}");
    // A server whose scp takes nothing, and is killed while more waits than a window holds.
    let target = folder.join("in/big");
    let local = folder.join("local");
    std::fs::write(&local, vec![b'x'; 64 * 1024 * 1024]).unwrap();
    let stop = format!(
        "while ! pid=$(pgrep -xf \"scp -t {0}\"); do sleep 0.05; done; kill -STOP $pid; sleep 2; kill -KILL $pid",
        target.display()
    );
    let mut killer = Command::new("sh").args(["-c", &stop]).spawn().unwrap();
    let seen = scp(&daemon, &["-l", "200000"], &[&name(&local)], &at(&target));
    killer.wait().unwrap();
    assert_ne!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    let events = last_session(&daemon);
    let text = serde_json::to_string(&events).unwrap();
    assert!(text.contains("the channel ended within the file"), "{text}");
}
