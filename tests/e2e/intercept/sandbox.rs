//! One attached kernel side with its own pins, cgroup and proxy listeners; everything goes when it is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::flow::RunId;
use portcullis::intercept::{self, Detach, Kernel, Origin, OriginError, Settings};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything on loopback may take before a test gives up; generous because the machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(1);

/// Functions every agent script may use.
const PRELUDE: &str = "
import errno, os, socket, sys, threading, ctypes, struct
def errno_of(call, *args):
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
    return 'OK'
def dial(to, family=None):
    s = socket.socket(family or (socket.AF_INET6 if ':' in to[0] else socket.AF_INET))
    s.settimeout(15)
    s.connect(to)
    return s
def move_to(cgroup):
    with open(cgroup + '/cgroup.procs', 'w') as f:
        f.write('0')
";

/// See the module.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) kernel: Option<Kernel>,
    pub(super) settings: Settings,
    pub(super) run: RunId,
    /// The governed cgroup.
    pub(super) cgroup: Cgroup,
    /// The proxy.
    pub(super) v4: Option<TcpListener>,
    pub(super) v6: Option<TcpListener>,
    /// Where the proxy takes DNS.
    dns_v4: UdpSocket,
    dns_v6: UdpSocket,
}

impl Sandbox {
    pub(super) fn new() -> Self {
        Self::with(|_settings| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let ((v4, dns_v4), (v6, dns_v6)) = (proxy_at("127.0.0.1:0"), proxy_at("[::1]:0"));
        let (proxy_v4, proxy_v6) = (local(&v4), local(&v6));
        let (SocketAddr::V4(proxy_v4), SocketAddr::V6(proxy_v6)) = (proxy_v4, proxy_v6) else {
            unreachable!()
        };
        let mut settings = Settings {
            pin_dir: Path::new("/sys/fs/bpf").join(unique("portcullis-test")),
            cgroup_root: intercept::cgroup2_root().expect("cgroup v2 is mounted"),
            proxy_v4,
            proxy_v6: Some(proxy_v6),
        };
        change(&mut settings);
        // Made before anything is attached, so that a failure below still cleans up.
        let cgroup = Cgroup::new(&settings.cgroup_root.join(unique("portcullis-test")));
        let run = RunId::generate();
        let (v4, v6) = (Some(v4), Some(v6));
        let mut sandbox = Self { kernel: None, settings, run, cgroup, v4, v6, dns_v4, dns_v6 };
        sandbox.attach();
        sandbox.kernel().govern(sandbox.cgroup.id(), run).expect("govern the test's cgroup");
        sandbox
    }

    /// Attaches, or takes over what is pinned.
    pub(super) fn attach(&mut self) {
        let kernel = Kernel::attach(&self.settings);
        self.kernel =
            Some(kernel.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error))));
    }

    pub(super) fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("attached")
    }

    /// Starts Python in the governed cgroup.
    pub(super) fn spawn(&self, script: &str) -> Agent {
        Agent::spawn(&self.cgroup.path, script)
    }

    /// Runs Python in the governed cgroup to its end and returns what it printed.
    pub(super) fn run(&self, script: &str) -> String {
        self.spawn(script).finish()
    }

    /// The next connection the proxy gets over IPv4 (or mapped IPv4), and its origin.
    pub(super) fn accept_v4(&self) -> (TcpStream, Result<Origin, OriginError>) {
        self.accept(self.v4.as_ref().expect("listening"))
    }

    pub(super) fn accept_v6(&self) -> (TcpStream, Result<Origin, OriginError>) {
        self.accept(self.v6.as_ref().expect("listening"))
    }

    fn accept(&self, listener: &TcpListener) -> (TcpStream, Result<Origin, OriginError>) {
        let stream = accept_within(listener, PATIENCE).expect("the proxy gets a connection");
        let origin = self.kernel().origin(&stream);
        (stream, origin)
    }

    /// Answers the next datagram that the proxy gets over IPv4 with itself, and says who sent it.
    pub(super) fn answer_v4(&self) -> (String, Result<Origin, OriginError>) {
        self.answer(&self.dns_v4)
    }

    pub(super) fn answer_v6(&self) -> (String, Result<Origin, OriginError>) {
        self.answer(&self.dns_v6)
    }

    fn answer(&self, socket: &UdpSocket) -> (String, Result<Origin, OriginError>) {
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).expect("the proxy gets a datagram");
        let asked = &buffer[..length];
        let origin = self.kernel().asker(from, u16::from_be_bytes([asked[0], asked[1]]));
        socket.send_to(asked, from).expect("answer");
        (String::from_utf8_lossy(asked).into_owned(), origin)
    }

    /// Whether the proxy got no datagram that was not answered.
    pub(super) fn nobody_asks(&self) -> bool {
        [&self.dns_v4, &self.dns_v6].into_iter().all(|socket| {
            socket.set_nonblocking(true).expect("set non-blocking");
            let got = socket.recv_from(&mut [0; 512]);
            socket.set_nonblocking(false).expect("set blocking");
            got.is_err()
        })
    }

    /// The only connection a script makes, which must have an origin.
    pub(super) fn origin_of(&self, script: &str) -> (Origin, String) {
        let agent = self.spawn(script);
        let (_stream, origin) = self.accept_v4();
        (origin.expect("an agent's connection has an origin"), agent.finish())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.cgroup.remove();
        self.kernel = None;
        if let Err(error) = intercept::detach(&self.settings.pin_dir, Detach::Force) {
            println!("cannot remove {}: {error}", self.settings.pin_dir.display());
        }
    }
}

/// A process of the agent's.
#[derive(Debug)]
pub(super) struct Agent {
    child: Option<Child>,
}

impl Agent {
    /// Starts Python in a cgroup. The shell moves itself before it becomes Python.
    pub(super) fn spawn(cgroup: &Path, script: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec python3 -u -c \"$1\""])
            .arg(cgroup)
            .arg(format!("{PRELUDE}\n{script}"))
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start python3");
        Self { child: Some(child) }
    }

    /// Lets a script that waits in `sys.stdin.readline()` go on.
    pub(super) fn go_on(&mut self) {
        let stdin = self.child.as_mut().and_then(|child| child.stdin.as_mut()).expect("running");
        stdin.write_all(b"\n").expect("the script reads");
    }

    /// Waits until the script prints a line, and returns it.
    pub(super) fn line(&mut self) -> String {
        let child = self.child.as_mut().expect("running");
        let stdout = child.stdout.as_mut().expect("piped");
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            line.extend(byte.iter().filter(|byte| **byte != 0));
            if stdout.read(&mut byte).expect("read") == 0 {
                let mut said = String::new();
                child.stderr.as_mut().expect("piped").read_to_string(&mut said).expect("text");
                panic!("the agent's script ended early\n{said}");
            }
        }
        String::from_utf8(line).expect("text")
    }

    /// Waits for the end and returns what was printed since. The script must have succeeded.
    pub(super) fn finish(mut self) -> String {
        let output = self.child.take().expect("running").wait_with_output().expect("wait");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "the agent's script failed\n{out}\n{err}");
        out.trim_end().to_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Gone already is as good; both only fail then.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A cgroup that goes with its processes and children.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) path: PathBuf,
}

impl Cgroup {
    pub(super) fn new(path: &Path) -> Self {
        fs::create_dir(path).expect("make a cgroup; this needs root");
        Self { path: path.to_owned() }
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self::new(&self.path.join(name))
    }

    pub(super) fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("the cgroup is there").ino()
    }

    fn remove(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.path.exists() && Instant::now() < deadline {
            remove_tree(&self.path);
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => println!("cannot kill {pid:?}: {error}"),
            }
        }
    }
    // Fails while processes are ending; the caller tries again.
    drop(fs::remove_dir(path));
}

/// Accepts within `limit`.
pub(super) fn accept_within(listener: &TcpListener, limit: Duration) -> Option<TcpStream> {
    listener.set_nonblocking(true).expect("set non-blocking");
    let deadline = Instant::now() + limit;
    loop {
        match listener.accept() {
            Ok((stream, _peer)) => {
                stream.set_nonblocking(false).expect("set blocking");
                stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
                return Some(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return None;
                }
                thread::sleep(PAUSE);
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

pub(super) fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("bound")
}

/// `KEY value` lines of a script, by key.
pub(super) fn table(printed: &str) -> BTreeMap<&str, &str> {
    printed.lines().filter_map(|line| line.rsplit_once(' ')).collect()
}

pub(super) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // A run that was killed leaves its names behind, and process ids come again.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{}-{next}", std::process::id(), now.as_micros() % 1_000_000_000)
}

/// A listener and a UDP socket at the same address.
fn proxy_at(address: &str) -> (TcpListener, UdpSocket) {
    let (tcp, udp) = std::iter::repeat_with(|| TcpListener::bind(address).expect("bind"))
        .take(50)
        .find_map(|tcp| UdpSocket::bind(local(&tcp)).ok().map(|udp| (tcp, udp)))
        .expect("a port that is free for both");
    udp.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    (tcp, udp)
}
