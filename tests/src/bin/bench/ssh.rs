//! `bench ssh`: copies of a large file, new connections and keystrokes through Portcullis beside a direct connection to the same
//! sshd. Both have the same cores and the same cipher.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use harness::agent;
use harness::daemon::Daemon;
use harness::process::{self, NOBODY};
use harness::ssh::SshServer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Options, SSH_CORES, report, targets};

/// The server's address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 44, 9, 10);

/// Which cipher both connections use; what OpenSSH is fastest with.
const CIPHER: &str = "aes128-gcm@openssh.com";

/// What is measured, in what unit, and whether more is better.
const SCENARIOS: [Scenario; 8] = [
    Scenario { name: "scp, from the server", unit: "MB/s" },
    Scenario { name: "scp, to the server", unit: "MB/s" },
    Scenario { name: "sftp get", unit: "MB/s" },
    Scenario { name: "sftp put", unit: "MB/s" },
    Scenario { name: "paramiko get, prefetching", unit: "MB/s" },
    Scenario { name: "ssh cat", unit: "MB/s" },
    Scenario { name: "new connections, 4 at once", unit: "connections/s" },
    Scenario { name: "a key and its echo", unit: "ms" },
];

struct Scenario {
    name: &'static str,
    unit: &'static str,
}

/// How much is done in one round.
struct Amounts {
    megabytes: usize,
    connections: usize,
    keys: usize,
}

/// A direct connection, or one through a daemon.
struct Way {
    name: &'static str,
    daemon: Option<Daemon>,
}

/// The server and its files.
struct Bench {
    server: SshServer,
    folder: TempDir,
    amounts: Amounts,
}

/// Runs the whole comparison.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (rounds, megabytes, connections) = if options.quick { (2, 256, 40) } else { (5, 1024, 120) };
    report::progress("starting sshd and the daemon");
    let bench = Bench::prepare(Amounts { megabytes, connections, keys: 400 })?;
    let mut ways =
        [Way { name: "direct", daemon: None }, Way { name: "Portcullis", daemon: Some(bench.daemon()?) }];
    let mut figures = vec![vec![Vec::new(); ways.len()]; SCENARIOS.len()];
    let mut memory = Vec::new();
    for round in 0..=rounds {
        report::progress(&match round {
            0 => "warming up".to_owned(),
            _ => format!("round {round} of {rounds}"),
        });
        for ((number, scenario), series) in SCENARIOS.iter().enumerate().zip(&mut figures) {
            if !options.only.is_empty() && !options.only.iter().any(|word| scenario.name.contains(word)) {
                continue;
            }
            for (way, series) in ways.iter_mut().zip(series) {
                let pid = way.daemon.as_mut().map(Daemon::pid);
                let before = pid.map(begin_peak).transpose()?;
                let figure =
                    bench.measure(way, number).with_context(|| format!("{}, {}", scenario.name, way.name))?;
                if let (Some(pid), Some(before), "MB/s") = (pid, before, scenario.unit) {
                    memory.push((scenario.name, status(pid, "VmHWM")?.saturating_sub(before)));
                }
                if round > 0 {
                    series.push(figure);
                }
            }
        }
    }
    print(&ways, &figures, &memory, options, rounds)
}

impl Bench {
    fn prepare(amounts: Amounts) -> Result<Self> {
        let server = SshServer::start(ADDRESS)?;
        // In memory: a disk would be what is measured.
        let folder = tempfile::Builder::new().prefix("portcullis-bench.").tempdir_in("/dev/shm")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let mut file = fs::File::create(folder.path().join("big"))?;
        let mut block = vec![0_u8; 1 << 20];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in &mut block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
        for _ in 0..amounts.megabytes {
            file.write_all(&block)?;
        }
        fs::copy(server.file("account"), folder.path().join("key"))?;
        fs::set_permissions(folder.path().join("key"), fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(folder.path().join("key"), Some(NOBODY.uid), Some(NOBODY.gid))?;
        let known = format!("[{}]:{} {}\n", ADDRESS, server.at().port(), server.public_key("host_ed25519")?);
        fs::write(folder.path().join("known_hosts"), known)?;
        Ok(Self { server, folder, amounts })
    }

    /// Guards, detectors and recording; what a policy for agents has.
    fn daemon(&self) -> Result<Daemon> {
        let policy = self.server.policy(
            "",
            "",
            "[[guard]]\nname = \"nothing is wiped\"\non = \"ssh\"\nkind = [\"rm -rf\", \"mkfs\"]\naction = \"deny\"\n\
             [[guard]]\nname = \"secrets\"\non = \"ssh\"\nfile = [\"/etc/shadow\", \"**/.ssh/**\"]\naction = \"deny\"\n\
             [[guard]]\nname = \"the rest\"\non = \"ssh\"\neffect = [\"read\", \"write\", \"unknown\"]\naction = \"allow\"\n\
             [[mask]]\ndetect = [\"payment-card\", \"email\", \"jwt\", \"aws-key\", \"private-key\"]\nwith = \"redact\"\n",
        )?;
        let mut daemon = Daemon::prepare(&[("shop", &policy)])?;
        daemon.use_binary(&targets::binary()?);
        daemon.credential("account-key", &self.server.key("account")?)?;
        daemon.launch()?;
        Ok(daemon)
    }

    fn measure(&self, way: &Way, scenario: usize) -> Result<f64> {
        let big = self.folder.path().join("big").display().to_string();
        let back = self.folder.path().join("back").display().to_string();
        let host = format!("root@{ADDRESS}");
        let (from, to) = (format!("{host}:{big}"), format!("{host}:{back}"));
        match scenario {
            0 => self.copied(self.client(way, "scp", &["-q", &from, "/dev/null"])?),
            1 => self.copied(self.client(way, "scp", &["-q", &big, &to])?),
            2 => self.copied(self.sftp(way, &format!("get {big} /dev/null\n"))?),
            3 => self.copied(self.sftp(way, &format!("put {big} {back}\n"))?),
            4 => self.paramiko(way, &big),
            5 => self.copied(self.client(way, "ssh", &[&host, &format!("cat {big}")])?),
            6 => self.connections(way, &host),
            _ => self.keys(way, &host),
        }
    }

    /// A program of an unprivileged user, governed where the way is Portcullis.
    fn program(way: &Way, program: &str) -> Result<Command> {
        match &way.daemon {
            None => Ok(process::as_user(NOBODY, program)),
            Some(daemon) => {
                let mut run = agent::under(daemon, NOBODY, "shop")?;
                run.arg(program);
                Ok(run)
            }
        }
    }

    /// Options that all of OpenSSH's clients take. Governed ones have no key.
    fn options(&self, way: &Way) -> Vec<String> {
        let folder = self.folder.path();
        let known = way
            .daemon
            .as_ref()
            .map_or_else(|| folder.join("known_hosts"), |daemon| daemon.folder().join("run/ssh_known_hosts"));
        let key = if way.daemon.is_some() { Path::new("/dev/null").to_owned() } else { folder.join("key") };
        let options = [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "HostKeyAlgorithms=ssh-ed25519".to_owned(),
            format!("UserKnownHostsFile={}", known.display()),
            format!("IdentityFile={}", key.display()),
            "IdentitiesOnly=yes".to_owned(),
            format!("Ciphers={CIPHER}"),
            format!("Port={}", self.server.at().port()),
            "LogLevel=ERROR".to_owned(),
        ];
        let words = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
        ["-F".to_owned(), "/dev/null".to_owned()].into_iter().chain(words).collect()
    }

    fn client(&self, way: &Way, program: &str, words: &[&str]) -> Result<Command> {
        let mut command = Self::program(way, program)?;
        command.args(self.options(way)).args(words).stdin(Stdio::null());
        Ok(command)
    }

    fn sftp(&self, way: &Way, batch: &str) -> Result<Command> {
        let file = self.folder.path().join("batch");
        fs::write(&file, batch)?;
        let file = file.display().to_string();
        self.client(way, "sftp", &["-q", "-b", &file, &format!("root@{ADDRESS}")])
    }

    /// Megabytes a second of a command that moves the large file.
    fn copied(&self, mut command: Command) -> Result<f64> {
        let begun = Instant::now();
        let status = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
        let took = begun.elapsed().as_secs_f64();
        if !status.status.success() {
            bail!("it ended with {}: {}", status.status, String::from_utf8_lossy(&status.stderr));
        }
        Ok(self.amounts.megabytes as f64 / took)
    }

    fn paramiko(&self, way: &Way, big: &str) -> Result<f64> {
        let key = if way.daemon.is_some() { "" } else { "key" };
        let key = self.folder.path().join(key).display().to_string();
        let script = "import sys, time, socket, paramiko\n\
            host, port, key, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]\n\
            transport = paramiko.Transport(socket.create_connection((host, port)))\n\
            transport.get_security_options().ciphers = ('aes128-ctr',)\n\
            transport.start_client()\n\
            if key.endswith('key'): transport.auth_publickey('root', paramiko.Ed25519Key.from_private_key_file(key))\n\
            else: transport.auth_none('root')\n\
            sftp = paramiko.SFTPClient.from_transport(transport)\n\
            begun = time.monotonic()\n\
            sftp.getfo(path, open('/dev/null', 'wb'))\n\
            print(time.monotonic() - begun)\n\
            transport.close()\n";
        let mut command = Self::program(way, &process::python().display().to_string())?;
        command.args(["-c", script, &ADDRESS.to_string(), &self.server.at().port().to_string(), &key, big]);
        let said = process::run(&mut command)?;
        Ok(self.amounts.megabytes as f64 / said.trim().parse::<f64>()?)
    }

    fn connections(&self, way: &Way, host: &str) -> Result<f64> {
        let each = self.amounts.connections / 4;
        let words: Vec<String> = self.options(way).iter().map(|word| format!("'{word}'")).collect();
        let one = format!("for i in $(seq {each}); do ssh {} {host} true || exit 1; done", words.join(" "));
        let all =
            format!("({one}) & a=$!; ({one}) & b=$!; ({one}) & c=$!; {one} && wait $a && wait $b && wait $c");
        let mut command = Self::program(way, "sh")?;
        command.args(["-c", &all]).stdin(Stdio::null());
        let begun = Instant::now();
        process::run(&mut command)?;
        Ok((each * 4) as f64 / begun.elapsed().as_secs_f64())
    }

    /// Median milliseconds from a key to its echo by the server's terminal.
    fn keys(&self, way: &Way, host: &str) -> Result<f64> {
        let script = "import subprocess, sys, time, os\n\
            rounds, words = int(sys.argv[1]), sys.argv[2:]\n\
            ssh = subprocess.Popen(['ssh', '-tt'] + words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)\n\
            seen = b''\n\
            while b'ready' not in seen: seen += os.read(ssh.stdout.fileno(), 4096)\n\
            times = []\n\
            for _ in range(rounds):\n\
            \x20   time.sleep(0.002)\n\
            \x20   begun = time.perf_counter()\n\
            \x20   os.write(ssh.stdin.fileno(), b'x')\n\
            \x20   while b'x' not in os.read(ssh.stdout.fileno(), 4096): pass\n\
            \x20   times.append(time.perf_counter() - begun)\n\
            ssh.kill()\n\
            print(sorted(times)[rounds // 2] * 1000)\n";
        let mut command = Self::program(way, &process::python().display().to_string())?;
        command.args(["-c", script, &self.amounts.keys.to_string()]).args(self.options(way));
        command.args([host, "echo ready; cat > /dev/null"]);
        Ok(process::run(&mut command)?.trim().parse()?)
    }
}

/// Resets the kernel's mark of the largest resident size (proc(5), clear_refs), and says what it is now, in KiB.
fn begin_peak(pid: u32) -> Result<u64> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    status(pid, "VmRSS")
}

/// A size from `/proc/PID/status`, in KiB.
fn status(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number =
        line.and_then(|rest| rest.split_whitespace().next()).context("no such line in /proc/PID/status")?;
    Ok(number.parse()?)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(
    ways: &[Way],
    figures: &[Vec<Vec<f64>>],
    memory: &[(&str, u64)],
    options: &Options,
    rounds: usize,
) -> Result<()> {
    let grown = memory.iter().map(|(_, grown)| *grown).max().unwrap_or(0);
    if options.json {
        let scenarios: Vec<Value> = SCENARIOS
            .iter()
            .zip(figures)
            .map(|(Scenario { name, unit }, series)| {
                let targets: Vec<Value> = ways
                    .iter()
                    .zip(series)
                    .map(|(way, values)| json!({"target": way.name, "median": median(values), "rounds": values}))
                    .collect();
                json!({"scenario": name, "unit": unit, "targets": targets})
            })
            .collect();
        let all = json!({"rounds": rounds, "scenarios": scenarios, "memory_kib": grown});
        return report::say(&all.to_string());
    }
    report::say(&format!("\n  {:<28} {:>10} {:>12} {:>8}", "", "direct", "Portcullis", "ratio"))?;
    for (Scenario { name, unit }, series) in SCENARIOS.iter().zip(figures) {
        let [direct, through] = series.as_slice() else { continue };
        if direct.is_empty() {
            continue;
        }
        let (direct, through) = (median(direct), median(through));
        report::say(&format!(
            "  {name:<28} {direct:>10.2} {through:>12.2} {:>7.2}x  {unit}",
            through / direct
        ))?;
    }
    report::say(&format!(
        "\nMemory of the daemon grew by {grown} KiB at most during a copy. Medians of {rounds} rounds, both in turn, on cores\n\
         {SSH_CORES} at nice -20, {CIPHER} (paramiko: aes128-ctr) on every leg. Portcullis with guards, detectors and recording."
    ))
}
