//! Files that move as programs like it: paramiko's prefetching, rsync, git.

use std::process::Command;

use harness::agent;
use harness::process::{self, NOBODY};
use harness::ssh::SshServer;

use super::{ALLOW, daemon, server};

/// A plain splice of two connections stops here for ever: the client asks for everything at once.
#[test]
fn paramikos_prefetching_get_comes_to_its_end() {
    const SCRIPT: &str = "import paramiko, sys, hashlib\n\
        host, port, remote, back = sys.argv[1:]\n\
        transport = paramiko.Transport((host, int(port)))\n\
        transport.connect()\n\
        transport.auth_none('agent')\n\
        sftp = paramiko.SFTPClient.from_transport(transport)\n\
        sftp.get(remote, back)\n\
        print(hashlib.sha256(open(back, 'rb').read()).hexdigest())\n";
    let daemon = daemon(ALLOW);
    let folder = server().scratch("paramiko").unwrap();
    let (remote, back) = (folder.join("remote"), folder.join("back"));
    let data: Vec<u8> = (0..64 * 1024 * 1024_u32).map(|at| (at >> 9) as u8).collect();
    std::fs::write(&remote, &data).unwrap();
    let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
    run.arg(process::python()).args(["-c", SCRIPT]);
    run.arg(server().at().ip().to_string()).arg(server().at().port().to_string()).arg(&remote).arg(&back);
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert!(std::fs::read(&back).unwrap() == data);
}

#[test]
fn rsync_and_git_are_what_they_are() {
    let daemon = daemon(
        "[[guard]]\nname = \"files\"\non = \"ssh\"\nkind = [\"rsync download\", \"git fetch\"]\naction = \"allow\"\n\
         [[guard]]\nname = \"nothing back\"\non = \"ssh\"\nkind = [\"rsync upload\", \"git push\"]\naction = \"deny\"\n",
    );
    let folder = server().scratch("rsync").unwrap();
    std::fs::write(folder.join("remote"), "content").unwrap();
    let options = SshServer::options(&daemon).unwrap().join(" ");
    let rsh = format!("ssh {options} -p {}", server().at().port());
    let rsync = |from: String, to: String| {
        let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
        run.args(["rsync", "-e", &rsh, &from, &to]);
        process::finish(&mut run).unwrap()
    };
    let at = |name: &str| format!("agent@{}:{}/{name}", server().at().ip(), folder.display());
    let seen = rsync(at("remote"), format!("{}/back", folder.display()));
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
    assert_eq!(std::fs::read_to_string(folder.join("back")).unwrap(), "content");
    let seen = rsync(format!("{}/back", folder.display()), at("other"));
    assert_ne!(seen.code, 0);
    assert!(seen.stderr.contains("nothing back"), "{}", seen.stderr);
    assert!(!folder.join("other").exists());

    let repository = folder.join("x.git");
    process::run(Command::new("git").args(["init", "-q", "--bare"]).arg(&repository)).unwrap();
    let git = |arguments: &[&str]| {
        let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
        run.args(["env", &format!("GIT_SSH_COMMAND={rsh}"), "HOME=/nonexistent", "git"]).args(arguments);
        process::finish(&mut run).unwrap()
    };
    let url = format!("ssh://agent@{}:{}{}", server().at().ip(), server().at().port(), repository.display());
    let seen = git(&["ls-remote", &url]);
    assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
}
