//! Other people's clients and servers, unchanged: Dropbear, asyncssh, Fabric, Ansible, git; and hosts that they know by themselves.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, Finished, NOBODY, Owned};
use harness::ssh::SshServer;

use super::{ALLOW, daemon, last_session, server};
use crate::wait;

const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A home of the agent's own.
fn home(name: &str) -> PathBuf {
    let home = server().scratch(name).unwrap();
    std::os::unix::fs::chown(&home, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    home
}

/// A program of an agent whose home is there.
fn at_home(daemon: &Daemon, home: &Path, program: &str, words: &[&str]) -> Finished {
    let mut run = agent::under(daemon, NOBODY, "shop").unwrap();
    run.env("HOME", home).arg(program).args(words);
    process::finish(&mut run).unwrap()
}

/// A script of Debian's Python, with the server's address and port.
fn python(daemon: &Daemon, home: &Path, script: &str) -> Finished {
    let (host, port) = (server().at().ip().to_string(), server().at().port().to_string());
    at_home(daemon, home, &process::python().display().to_string(), &["-c", script, &host, &port])
}

#[test]
fn clients_know_the_hosts_by_what_run_wrote() {
    let daemon = daemon(ALLOW);
    let home = home("known-home");
    let users = "elsewhere.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ\n";
    fs::create_dir(home.join(".ssh")).unwrap();
    fs::write(home.join(".ssh/known_hosts"), users).unwrap();
    for path in [home.join(".ssh"), home.join(".ssh/known_hosts")] {
        std::os::unix::fs::chown(path, Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
    }
    const PARAMIKO: &str = "import paramiko, sys\n\
        client = paramiko.SSHClient()\n\
        client.load_system_host_keys()\n\
        client.set_missing_host_key_policy(paramiko.RejectPolicy())\n\
        client.connect(sys.argv[1], int(sys.argv[2]), 'agent', password='x', allow_agent=False, look_for_keys=False)\n\
        print(client.exec_command('echo paramiko')[1].read().decode(), end='')\n";
    let seen = python(&daemon, &home, PARAMIKO);
    assert_eq!(seen.stdout, "paramiko\n", "{}\n{}", seen.stderr, daemon.log());
    const ASYNCSSH: &str = "import asyncio, asyncssh, sys\n\
        async def main():\n\
        \x20   async with asyncssh.connect(sys.argv[1], int(sys.argv[2]), username='agent', password='x', client_keys=None, config=None) as made:\n\
        \x20       print((await made.run('echo asyncssh', check=True)).stdout, end='')\n\
        \x20       sftp = await made.start_sftp_client()\n\
        \x20       print(await sftp.exists('/etc/hostname'))\n\
        asyncio.run(main())\n";
    let seen = python(&daemon, &home, ASYNCSSH);
    assert_eq!(seen.stdout, "asyncssh\nTrue\n", "{}\n{}", seen.stderr, daemon.log());
    let known = home.join(".ssh/known_hosts");
    let option = format!("UserKnownHostsFile={}", known.display());
    let target = format!("agent@{}", server().at().ip());
    let port = server().at().port().to_string();
    let ssh = [
        "-F",
        "/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        &option,
        "-p",
        &port,
    ];
    let seen = at_home(&daemon, &home, "ssh", &[&ssh[..], &[&target, "echo openssh"]].concat());
    assert_eq!(seen.stdout, "openssh\n", "{}\n{}", seen.stderr, daemon.log());
    let text = fs::read_to_string(&known).unwrap();
    assert!(text.ends_with(users) && text.matches("ssh-ed25519").count() == 3, "{text}");
}

#[test]
fn fabric_runs_commands_and_moves_files() {
    let daemon = daemon(ALLOW);
    let home = home("fabric-home");
    const SCRIPT: &str = "import sys, os\n\
        from fabric import Connection\n\
        made = Connection(sys.argv[1], 'agent', int(sys.argv[2]), connect_kwargs={'password': 'x', 'allow_agent': False, 'look_for_keys': False})\n\
        print(made.run('uname', hide=True).stdout, end='')\n\
        home = os.environ['HOME']\n\
        open(home + '/local', 'w').write('content')\n\
        made.put(home + '/local', home + '/remote')\n\
        made.get(home + '/remote', home + '/back')\n\
        print(open(home + '/back').read())\n\
        print(made.run('false', warn=True, hide=True).exited)\n";
    let seen = python(&daemon, &home, SCRIPT);
    assert_eq!(seen.stdout, "Linux\ncontent\n1\n", "{}\n{}", seen.stderr, daemon.log());
}

#[test]
fn ansible_reaches_a_host() {
    let daemon = daemon(ALLOW);
    let home = home("ansible-home");
    let inventory = format!("{},", server().at().ip());
    for pipelining in ["False", "True"] {
        let common = SshServer::options(&daemon).unwrap().join(" ");
        let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
        run.env("HOME", &home).env("ANSIBLE_PIPELINING", pipelining).env("LC_ALL", "C.UTF-8");
        run.env("ANSIBLE_SSH_ARGS", common)
            .args(["ansible", "all", "-i", &inventory, "-m", "ping", "-u", "agent"]);
        run.args(["-e", &format!("ansible_port={}", server().at().port())]);
        run.args(["-e", "ansible_python_interpreter=/usr/bin/python3"]);
        let seen = process::finish(&mut run).unwrap();
        assert!(
            seen.stdout.contains("\"ping\": \"pong\""),
            "{}\n{}\n{}",
            seen.stdout,
            seen.stderr,
            daemon.log()
        );
    }
}

#[test]
fn git_pushes_and_pulls() {
    let daemon = daemon(
        "[[guard]]\nname = \"the repository\"\non = \"ssh\"\nkind = [\"git fetch\", \"git push\"]\nfile = [\"/**/shop.git\"]\naction = \"allow\"\n",
    );
    let home = home("git-home");
    let bare = home.join("shop.git");
    process::run(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&bare)).unwrap();
    let url = format!("ssh://agent@{}:{}{}", server().at().ip(), server().at().port(), bare.display());
    let options = SshServer::options(&daemon).unwrap().join(" ");
    let git = |folder: &Path, words: &[&str]| {
        let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
        run.env("HOME", &home).env("GIT_SSH_COMMAND", format!("ssh {options}"));
        run.args(["git", "-C"]).arg(folder);
        run.args(["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"])
            .args(words);
        let seen = process::finish(&mut run).unwrap();
        assert_eq!(seen.code, 0, "{words:?}: {}\n{}", seen.stderr, daemon.log());
        seen.stdout
    };
    git(&home, &["clone", "-q", &url, "one"]);
    let one = home.join("one");
    fs::write(one.join("file"), "x".repeat(100_000)).unwrap();
    git(&one, &["add", "file"]);
    git(&one, &["commit", "-q", "-m", "a file"]);
    git(&one, &["push", "-q", "origin", "HEAD:main"]);
    git(&home, &["clone", "-q", "-b", "main", &url, "two"]);
    let two = home.join("two");
    git(&one, &["commit", "-q", "--allow-empty", "-m", "another"]);
    git(&one, &["push", "-q", "origin", "HEAD:main"]);
    git(&two, &["pull", "-q"]);
    assert!(git(&two, &["log", "--oneline"]).contains("another"));
    assert_eq!(fs::read(two.join("file")).unwrap().len(), 100_000);
}

/// Dropbear as a server, with a host key and an account key of its own.
struct Dropbear {
    at: SocketAddrV4,
    host_key: String,
    _server: Owned,
}

impl Dropbear {
    fn start(folder: &Path, kind: &str) -> Self {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        let port = if kind == "ed25519" { 2223 } else { 2224 };
        let at = SocketAddrV4::new(Ipv4Addr::new(127, 128 | (b & 0x3f), c, d), port);
        let key = folder.join(kind);
        let said = process::run(Command::new("dropbearkey").args(["-t", kind, "-f"]).arg(&key)).unwrap();
        let line = said.lines().find(|line| line.starts_with("ssh-") || line.starts_with("ecdsa-")).unwrap();
        let host_key = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        // It looks for keys in the account's home alone: in a mount namespace of its own, a folder of the test stands in for it.
        let home = folder.join(format!("{kind}-home"));
        fs::create_dir_all(home.join(".ssh")).unwrap();
        fs::write(home.join(".ssh/authorized_keys"), server().public_key("account").unwrap() + "\n").unwrap();
        for (path, mode) in [(".", 0o700), (".ssh", 0o700), (".ssh/authorized_keys", 0o600)] {
            fs::set_permissions(home.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut dropbear = Command::new("unshare");
        dropbear.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            "mount --bind \"$0\" /root && exec \"$@\"",
        ]);
        dropbear.arg(&home).args(["/usr/sbin/dropbear", "-F", "-E", "-m", "-s", "-r"]).arg(&key);
        dropbear.args(["-p", &at.to_string(), "-P", "/dev/null"]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Owned::spawn(&mut dropbear).unwrap();
        wait::until(START_TIME_MAX, || TcpStream::connect(at).map(drop));
        Self { at, host_key, _server: server }
    }
}

#[test]
fn dropbear_is_a_server_like_any_other() {
    let folder = server().scratch("dropbear").unwrap();
    for kind in ["ed25519", "ecdsa"] {
        let dropbear = Dropbear::start(&folder, kind);
        let policy = format!(
            "version = 1\nname = \"shop\"\n\n[egress]\ndefault = \"deny\"\n\n[[connection]]\nname = \"box\"\nto = [\"{}\"]\n\
             protocol = \"ssh\"\nupstream = {{ user = \"root\", credential = \"account-key\", host_keys = [\"{}\"] }}\n\n{ALLOW}",
            dropbear.at, dropbear.host_key
        );
        let daemon = server().daemon(&policy).unwrap();
        let port = dropbear.at.port().to_string();
        let run = |options: &[&str], command: &str| {
            let mut run = agent::under(&daemon, NOBODY, "shop").unwrap();
            run.arg("ssh").args(SshServer::options(&daemon).unwrap()).args(["-p", &port]).args(options);
            run.arg(format!("agent@{}", dropbear.at.ip())).arg(command);
            process::finish(&mut run).unwrap()
        };
        let seen = run(&[], "echo out; echo err >&2; exit 3");
        assert_eq!((seen.code, seen.stdout.as_str()), (3, "out\n"), "{}\n{}", seen.stderr, daemon.log());
        let seen = run(&["-tt"], "tty >/dev/null && echo terminal");
        assert!(seen.stdout.contains("terminal"), "{}\n{}", seen.stdout, daemon.log());
        let seen = run(&[], "head -c 20000000 /dev/zero | tr '\\0' x");
        assert_eq!(seen.stdout.len(), 20_000_000, "{}", daemon.log());
        let (local, remote) = (folder.join(format!("{kind}-local")), folder.join(format!("{kind}-remote")));
        fs::write(&local, kind.repeat(100_000)).unwrap();
        let mut scp = agent::under(&daemon, NOBODY, "shop").unwrap();
        scp.arg("scp").args(SshServer::options(&daemon).unwrap()).args(["-O", "-P", &port]).arg(&local);
        scp.arg(format!("agent@{}:{}", dropbear.at.ip(), remote.display()));
        let seen = process::finish(&mut scp).unwrap();
        assert_eq!(seen.code, 0, "{}\n{}", seen.stderr, daemon.log());
        assert!(fs::read(&remote).unwrap() == fs::read(&local).unwrap());
    }
}

#[test]
fn dropbears_client_runs_commands() {
    let daemon = daemon(ALLOW);
    let home = home("dbclient-home");
    let port = server().at().port().to_string();
    let target = format!("agent@{}", server().at().ip());
    let seen =
        at_home(&daemon, &home, "dbclient", &["-y", "-y", "-p", &port, &target, "echo dropbear; exit 4"]);
    let events = last_session(&daemon);
    assert_eq!((seen.code, seen.stdout.as_str()), (4, "dropbear\n"), "{}\n{events:#?}", seen.stderr);
}

#[test]
fn many_channels_share_one_connection() {
    let daemon = daemon(ALLOW);
    let home = home("mux-home");
    let options = SshServer::options(&daemon).unwrap().join(" ");
    let target = format!("agent@{}", server().at().ip());
    let port = server().at().port();
    let mux = format!("ssh {options} -p {port} -o ControlPath={}/mux", home.display());
    let script = format!(
        "{mux} -o ControlMaster=yes -N -f {target} && for i in 1 2 3 4 5 6 7 8; do {mux} {target} \"echo $i\" & done; wait; {mux} -O exit {target}"
    );
    let seen = at_home(&daemon, &home, "sh", &["-c", &script]);
    let mut numbers: Vec<&str> = seen.stdout.split_whitespace().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7", "8"], "{}\n{}", seen.stderr, daemon.log());
}
