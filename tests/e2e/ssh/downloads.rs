//! Downloads in which what detectors find is overwritten, whatever asks for them.

use std::path::Path;

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, Finished, NOBODY};
use harness::ssh::SshServer;

use super::sftp::{at, moved, sha256};
use super::{ALLOW, daemon_with, last_session, server};

fn run(daemon: &Daemon, program: &[&str], files: &[&str]) -> Finished {
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    let (name, options) = program.split_first().unwrap();
    run.arg(name).args(SshServer::options(daemon).unwrap());
    run.args(["-P", &server().at().port().to_string()]).args(options).args(files);
    process::finish(&mut run).unwrap()
}

/// What must be of a file that came: its length and lines, none of its secrets, all of its other words.
fn is_masked(came: &Path, original: &str) {
    let came = std::fs::read_to_string(came).unwrap();
    assert_eq!((came.len(), came.lines().count()), (original.len(), original.lines().count()));
    assert!(!came.contains("example.com") && !came.contains("QUJD"), "{came}");
    let words = |text: &str| text.matches("and nothing else").count();
    assert_eq!(words(&came), words(original));
}

#[test]
fn secrets_in_files_are_overwritten_for_every_client() {
    const PARAMIKO: &str = "import paramiko, sys\n\
        host, port, remote, back = sys.argv[1:]\n\
        transport = paramiko.Transport((host, int(port)))\n\
        transport.connect()\n\
        transport.auth_none('agent')\n\
        sftp = paramiko.SFTPClient.from_transport(transport)\n\
        sftp.get(remote, back)\n\
        with sftp.open(remote) as file: print(''.join(file.read(7).decode() for _ in range(300)))\n";
    let rules =
        format!("{ALLOW}[[mask]]\non = \"ssh\"\ndetect = [\"email\", \"private-key\"]\nwith = \"redact\"\n");
    let daemon = daemon_with("ssh = { mask_downloads = true }", &rules);
    let folder = server().scratch("downloads").unwrap();
    let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", "QUJD".repeat(400));
    let lines = "a line of ada@example.com and nothing else\n".repeat(997);
    let text = format!("{lines}{key}{lines}{key}");
    let (remote, back) = (folder.join("remote"), folder.join("back"));
    std::fs::write(&remote, &text).unwrap();
    let name = |path: &Path| path.display().to_string();
    for program in [["scp", "-s"], ["scp", "-O"]] {
        let seen = run(&daemon, &program, &[&at(&remote), &name(&back)]);
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        is_masked(&back, &text);
        let events = last_session(&daemon);
        let moved = moved(&events);
        assert_eq!(moved[0].1["size"], text.len());
        assert_eq!(moved[0].1["sha256"].as_str(), Some(sha256(&back).as_str()), "what the agent got");
        let masked = events.iter().find(|event| !event["masked"]["email"].is_null()).unwrap();
        assert_eq!((&masked["masked"]["email"], &masked["masked"]["private-key"]), (&1994.into(), &2.into()));
        std::fs::remove_file(&back).unwrap();
    }
    let mut paramiko = agent::under(&daemon, NOBODY, "shop").unwrap();
    paramiko.arg(process::python()).args(["-c", PARAMIKO, &server().at().ip().to_string()]);
    paramiko.arg(server().at().port().to_string()).arg(&remote).arg(&back);
    let seen = process::finish(&mut paramiko).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    is_masked(&back, &text);
    assert!(
        seen.stdout.contains("and nothing else") && !seen.stdout.contains("example.com"),
        "{}",
        seen.stdout
    );
    // What goes up goes as it is.
    let up = folder.join("up");
    let seen = run(&daemon, &["scp", "-s"], &[&name(&remote), &at(&up)]);
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    assert_eq!(std::fs::read_to_string(&up).unwrap(), text);
    // Nobody can look into what rsync sends.
    let options = SshServer::options(&daemon).unwrap().join(" ");
    let rsh = format!("ssh {options} -p {}", server().at().port());
    let mut rsync = agent::under(&daemon, NOBODY, "shop").unwrap();
    rsync.args(["rsync", "-e", &rsh, &at(&remote), &name(&folder.join("other"))]);
    let seen = process::finish(&mut rsync).unwrap();
    assert!(seen.code != 0 && seen.stderr.contains("use scp or sftp"), "{}", seen.stderr);
}
