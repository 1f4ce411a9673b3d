//! The real program against a real control socket: governed runs, exit codes, approvals. The kernel side is pretended,
//! cgroups are not, so this needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failing test says so by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::approval::{Approvals, Content, Outcome, Request, Settled};
use portcullis::config::Config;
use portcullis::control::{HostStatus, Service, serve, socket};
use portcullis::flow::{OriginalDst, Process, RunId, SessionId};
use portcullis::policy::Policy;
use portcullis::policy::rule::{Defaults, Egress, Matches, RecordRules, RunRules, UnknownOrigin};
use portcullis::request::Effect;
use portcullis::run::{Governor, Runs, Subject};

/// An unprivileged user of every Linux host (nobody).
const AGENT: u32 = 65534;
const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

struct Daemon {
    folder: tempfile::TempDir,
    config: Config,
    runs: Arc<Runs>,
    approvals: Arc<Approvals>,
    kernel: Arc<Mutex<HashMap<u64, RunId>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Daemon {
    fn start(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes cgroups; run it as root: sudo -E env PATH=$PATH cargo test -p portcullis"
        );
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // The program must be where the agent's user may run it, whatever the build folder's modes are.
        // Copied by another process: a descriptor of ours open for writing would be inherited by whatever other tests start
        // meanwhile, and a file that is being written cannot be executed (ETXTBSY).
        let copied = Command::new("cp").arg(PROGRAM).arg(folder.path().join("portcullis")).status().unwrap();
        assert!(copied.success());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "[paths]\nstate = {:?}\n[control]\nsocket = {:?}\n[runs]\ncgroup = \"portcullis-cli-{name}-{}\"\n",
            path("state"),
            path("run/control.sock"),
            std::process::id()
        );
        let file = folder.path().join("portcullis.toml");
        fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        let kernel = Arc::<Mutex<HashMap<u64, RunId>>>::default();
        let (governing, releasing) = (Arc::clone(&kernel), Arc::clone(&kernel));
        let governor = Governor {
            govern: Box::new(move |id, run| {
                governing.lock().unwrap().insert(id, run);
                Ok(())
            }),
            release: Box::new(move |id| {
                releasing.lock().unwrap().remove(&id);
                Ok(())
            }),
            governed: Box::new(|| Ok(Vec::new())),
        };
        let runs = Runs::open(&config, governor, Box::new(|_| ())).unwrap();
        let approvals = Approvals::open(&config).unwrap();
        let service = Service {
            runs: Arc::clone(&runs),
            approvals: Arc::clone(&approvals),
            policy: Box::new(|name| match name {
                "open" => Ok(policy(name, &[])),
                "closed" => Ok(policy(name, &["somebody-else"])),
                other => Err(format!("no policy is named `{other}`; there are: closed, open")),
            }),
            environment: Box::new(|_, _| {
                Ok(BTreeMap::from([("PORTCULLIS_CA_FILE".to_owned(), "/ca.pem".to_owned())]))
            }),
            status: Box::new(HostStatus::default),
            hits: Box::new(Vec::new),
            kill: Box::new(|session, _| Err(format!("no session {session}"))),
            kill_run: Box::new(|_, _| 0),
            issuers: Arc::new(portcullis::identity::Issuers::new(Arc::default())),
            accounts: None,
            operators: "portcullis".to_owned(),
            state_dir: config.state_dir.clone(),
            stop: Box::new(|| ()),
        };
        let listener = socket::bind(&config).unwrap();
        let serving = tokio::spawn(serve(listener, Arc::new(service)));
        Self { folder, config, runs, approvals, kernel, serving }
    }

    /// The program with its configuration, as some user, away from our standard streams.
    fn program(&self, uid: u32) -> Command {
        let mut command = Command::new(self.folder.path().join("portcullis"));
        command.uid(uid).gid(uid).current_dir("/").stdin(Stdio::null());
        // A folder in PATH that the user may not enter would turn "not found" into "not runnable", as for env(1).
        command.env("PATH", "/usr/bin:/bin");
        command.env("PORTCULLIS_CONFIG", self.folder.path().join("portcullis.toml"));
        command
    }

    fn run(&self, uid: u32, words: &[&str]) -> Output {
        self.program(uid).args(words).output().unwrap()
    }

    /// A governed shell script of the agent.
    fn agent(&self, script: &str) -> Output {
        self.run(AGENT, &["run", "--policy", "open", "--label", "job=42", "--", "sh", "-c", script])
    }

    async fn until_idle(&self) {
        for _ in 0..1000 {
            if self.runs.list().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("runs do not end: {:?}", self.runs.list());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
        let removed = self.runs.hierarchy().remove(&format!("/{}", self.config.runs_cgroup));
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn policy(name: &str, users: &[&str]) -> Arc<Policy> {
    Arc::new(Policy {
        hits: Arc::default(),
        name: name.to_owned(),
        version: "0123456789abcdef".to_owned(),
        mode: portcullis::policy::rule::Mode::Enforce,
        matches: Matches::default(),
        run: RunRules { users: users.iter().map(|&user| user.to_owned()).collect(), groups: Vec::new() },
        identity: Vec::new(),
        egress: Egress::Deny,
        connections: Vec::new(),
        guards: Vec::new(),
        masks: Vec::new(),
        defaults: Defaults {
            unmatched: BTreeMap::new(),
            terms: portcullis::policy::rule::HoldTerms::default(),
            limits: portcullis::policy::rule::Limits::default(),

            unknown_origin: UnknownOrigin::Mask,
            inspect_bytes: 0,
            uninspected: portcullis::policy::rule::Uninspected::Hold,
        },
        postgres: portcullis::policy::rule::PostgresRules::default(),
        record: RecordRules {
            durable: Vec::new(),
            gather: false,
            result_bytes_max: 0,
            files: false,
            typed: false,
        },
    })
}

fn held() -> Request {
    Request {
        run: RunId::generate(),
        session: SessionId::generate(),
        process: Process { uid: AGENT, tgid: 77, comm: "psql".to_owned(), ..Process::default() },
        subject: Subject { uid: AGENT, user: "agent".to_owned(), gid: AGENT, ..Subject::default() },
        connection: "orders-db".to_owned(),
        destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
        database: Some("shop".to_owned()),
        content: Content::new(b"DROP DATABASE shop", &[], &[]),
        kinds: vec!["drop database".to_owned()],
        effect: Effect::Admin,
        objects: Vec::new(),
        estimated_rows: None,
        rule: "no destructive DDL".to_owned(),
        policy: "open".to_owned(),
        policy_version: "0123456789abcdef".to_owned(),
        approvers: Vec::new(),
        in_transaction: false,
        timeout: Duration::from_secs(600),
        quorum: 1,
        distinct_groups: false,
        break_glass: Vec::new(),
        chat: portcullis::policy::rule::ChatUse::default(),
        step_up: None,
        shape: None,
        patience: None,
        side_effects: None,
        again: Some(String::new()),
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_becomes_the_command_in_a_governed_cgroup() {
    let daemon = Daemon::start("becomes");
    let output = daemon.agent(
        "echo $PORTCULLIS_RUN $PORTCULLIS_CA_FILE; grep ^0:: /proc/self/cgroup; grep NoNewPrivs /proc/self/status; exit 7",
    );
    assert_eq!(output.status.code(), Some(7), "{}", err(&output));
    let text = out(&output);
    let (run, rest) = text.split_once(" /ca.pem\n").unwrap();
    let expected = format!("0::/{}/{run}\nNoNewPrivs:\t1\n", daemon.config.runs_cgroup);
    assert_eq!(rest, expected);
    daemon.until_idle().await;
    let ended = daemon.runs.find(run.parse().unwrap()).unwrap();
    assert_eq!(ended.subject.as_ref().unwrap().uid, AGENT);
    assert_eq!(ended.labels.get("job").map(String::as_str), Some("42"));
    assert!(daemon.kernel.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_streams_and_signals_pass_through() {
    let daemon = Daemon::start("codes");
    for (script, code) in [("true", 0), ("exit 3", 3)] {
        assert_eq!(daemon.agent(script).status.code(), Some(code), "{script}");
    }
    assert_eq!(daemon.agent("kill -TERM $$").status.signal(), Some(15));
    let missing = daemon.run(AGENT, &["run", "--policy", "open", "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127), "{}", err(&missing));
    let not_a_program = daemon.run(AGENT, &["run", "--policy", "open", "--", "/etc/passwd"]);
    assert_eq!(not_a_program.status.code(), Some(126), "{}", err(&not_a_program));
    let mut piped = daemon.program(AGENT);
    piped.args(["run", "--policy", "open", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut piped = piped.spawn().unwrap();
    std::io::Write::write_all(&mut piped.stdin.take().unwrap(), b"through stdin").unwrap();
    assert_eq!(out(&piped.wait_with_output().unwrap()), "through stdin");
    daemon.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_lasts_until_its_last_process_though_the_command_is_gone() {
    let daemon = Daemon::start("lasts");
    let output = daemon.agent("sleep 0.5 >/dev/null 2>&1 & echo $PORTCULLIS_RUN");
    let run: RunId = out(&output).trim().parse().unwrap();
    assert!(daemon.runs.get(run).is_some(), "its background process is still governed");
    daemon.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_says_why_and_starts_nothing() {
    let daemon = Daemon::start("refused");
    let run = |uid, words: &[&str]| {
        let output =
            daemon.run(uid, &[&["run"], words, &["--", "touch", "/tmp/must-not-be-touched"]].concat());
        (output.status.code(), err(&output))
    };
    for (uid, words, code, expected) in [
        (
            AGENT,
            &["--policy", "none"][..],
            1,
            "portcullis: no policy is named `none`; there are: closed, open\n",
        ),
        (AGENT, &["--policy", "closed"], 1, "lets only user somebody-else start runs"),
        (0, &["--policy", "open"], 1, "an agent must not be root"),
        (
            AGENT,
            &["--policy", "open", "--label", "a b=c"],
            1,
            "portcullis: label key `a b` is not acceptable",
        ),
        (AGENT, &["--policy", "open", "--label", "a=b", "--label", "a=c"], 2, "--label a is given twice"),
        (AGENT, &[], 2, "--policy <NAME>"),
    ] {
        let (found, message) = run(uid, words);
        assert_eq!(found, Some(code), "{words:?}: {message}");
        assert!(message.contains(expected), "{words:?}: {message}");
    }
    assert!(!Path::new("/tmp/must-not-be-touched").exists());
    assert!(daemon.runs.list().is_empty());
    let root = daemon.run(0, &["run", "--policy", "open", "--allow-root", "--", "id", "-u"]);
    assert_eq!(out(&root), "0\n", "{}", err(&root));
    daemon.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reaches_nothing_on_the_control_socket() {
    let daemon = Daemon::start("agent");
    let pending = daemon.approvals.ask(held()).unwrap();
    let program = daemon.folder.path().join("portcullis");
    for words in [
        "status",
        "approvals",
        &format!("approvals approve {}", pending.id()),
        "run --policy open -- true",
        "detach",
    ] {
        // Nested cgroups of the run are the run's, too; root inside a run is an agent, too.
        for (uid, options) in [(AGENT, &[][..]), (0, &["--allow-root"][..])] {
            let script = format!("{} {words}", program.display());
            let words = [&["run", "--policy", "open"], options, &["--", "sh", "-c", &script]].concat();
            let output = daemon.run(uid, &words);
            assert_eq!(output.status.code(), Some(1), "{script}: {}", out(&output));
            assert!(err(&output).contains("may not use the control socket"), "{script}: {}", err(&output));
        }
    }
    assert_eq!(daemon.approvals.waiting(), 1);
    daemon.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_inherits_files_and_pipes_but_no_sockets() {
    let daemon = Daemon::start("sockets");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let inet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let numbers = [socket.as_raw_fd(), inet.as_raw_fd(), pipe.as_raw_fd()];
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    rustix::io::fcntl_setfd(&inet, rustix::io::FdFlags::empty()).unwrap();
    rustix::io::fcntl_setfd(&pipe, rustix::io::FdFlags::empty()).unwrap();
    let inherited = numbers.map(|number| {
        let script = format!("test -e /proc/self/fd/{number}");
        daemon.agent(&script).status.success()
    });
    assert_eq!(inherited, [false, false, true]);

    let stdin = std::os::fd::OwnedFd::from(inet);
    let output =
        daemon.program(AGENT).args(["run", "--policy", "open", "--", "true"]).stdin(stdin).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("stdin is a network connection"), "{}", err(&output));
    daemon.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_shown_and_decided_by_somebody_else() {
    let daemon = Daemon::start("holds");
    let mut pending = daemon.approvals.ask(held()).unwrap();
    let id = pending.id().to_string();
    let short = id.get(id.len() - 6..).unwrap();

    let listed = out(&daemon.run(0, &["approvals"]));
    assert!(listed.contains(short) && listed.contains("DROP DATABASE shop"), "{listed}");
    let json = out(&daemon.run(0, &["approvals", "--json"]));
    assert!(json.starts_with('[') && json.contains(&id), "{json}");

    // Its own user sees it and cannot decide it; a stranger does not even see it.
    let own = daemon.run(AGENT, &["approvals", "approve", short]);
    assert_eq!(own.status.code(), Some(1));
    assert!(err(&own).contains("somebody else must decide"), "{}", err(&own));
    let stranger = daemon.run(54321, &["approvals", "deny", short]);
    assert!(err(&stranger).contains("no request"), "{}", err(&stranger));
    assert_eq!(daemon.approvals.waiting(), 1);

    let approved = daemon.run(0, &["approvals", "approve", short, "--reason", "ticket 12"]);
    assert_eq!(approved.status.code(), Some(0), "{}", err(&approved));
    assert!(out(&approved).contains("statement:\n  DROP DATABASE shop\n"), "{}", out(&approved));
    let Settled::As(Outcome::Approved { by, reason, .. }) = pending.outcome().await else {
        panic!("not approved")
    };
    assert_eq!((by.user.as_str(), reason.as_str()), ("root", "ticket 12"));

    let again = daemon.run(0, &["approvals", "deny", short]);
    assert_eq!((again.status.code(), err(&again).trim()), (Some(1), "portcullis: approved by root already"));
}

#[test]
fn systemd_accepts_the_unit_file() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/portcullis.service");
    let folder = tempfile::tempdir().unwrap();
    // The check wants the program to exist where the unit says.
    let text = fs::read_to_string(unit).unwrap().replace("/usr/bin/portcullis", PROGRAM);
    let copy = folder.path().join("portcullis.service");
    fs::write(&copy, text).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&copy).output();
    let output = output.unwrap_or_else(|error| panic!("{error}; install it: apt-get install systemd"));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", err(&output));
}
