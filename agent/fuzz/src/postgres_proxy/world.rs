//! Everything a session needs besides its two peers, as the daemon would make it: policies, gate, store, dialler. No kernel
//! programs: the client's socket is handed over as if it had been redirected.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use portcullis::approval::Approvals;
use portcullis::config::Config;
use portcullis::credential::Credentials;
use portcullis::flow::{Flow, OriginalDst, Process, RunId, SessionId};
use portcullis::gate::{Admission, Admitted, Gate};
use portcullis::identity::Issuers;
use portcullis::mask::HashKey;
use portcullis::policy::PolicySet;
use portcullis::record::{Recorder, RecorderConfig};
use portcullis::relay::http::{MaskCache, ROOM_KIB};
use portcullis::relay::ssh::proxy_key;
use portcullis::relay::{Relay, Shutdown, ShutdownTrigger};
use portcullis::request::sql::AnalysisCache;
use portcullis::request::{Effect, Statement};
use portcullis::run::cgroup::Hierarchy;
use portcullis::run::{CgroupRef, Governor, How, RunInfo, Runs, Standing, Subject};
use portcullis::tls::ca::{Ca, CaSettings};
use portcullis::upstream::{Dialler, SideConnections};
use zeroize::Zeroizing;

/// Sessions until everything is made anew, so that the store stays small.
const SESSIONS_MAX: u32 = 10_000;

/// What every policy begins with.
const HEAD: &str = r#"
version = 1
name = "NAME"

[record]
durable = ["admin"]

[[connection]]
name = "db"
to = ["ADDRESS"]
protocol = "postgres"
replication = REPLICATION
upstream = { user = "app", tls = "disable" }
"#;

const MASKS: &str = r#"
[[mask]]
on = "postgres"
columns = ["customers.ssn"]
with = "redact"

[[mask]]
detect = ["email", "payment-card"]
with = "redact"
"#;

/// Names of the policies, with what they say, and whether they have [`MASKS`].
const POLICIES: [(&str, &str, bool); 4] = [
    (
        "strict",
        r#"
[[guard]]
name = "no changes"
on = "postgres"
effect = ["write", "ddl", "admin", "unknown"]
action = "deny"
"#,
        true,
    ),
    (
        "wide",
        r#"
[[guard]]
name = "closed"
on = "postgres"
objects = ["*.secret_table"]
action = "deny"

[[guard]]
name = "changes"
on = "postgres"
effect = ["write", "ddl", "unknown"]
action = "allow"
"#,
        true,
    ),
    (
        "bounded",
        r#"
[defaults]
max_rows = 2
timeout = "5m"

[[guard]]
name = "somebody looks"
on = "postgres"
effect = ["ddl", "unknown"]
action = "hold"
approvers = ["dba"]

[[guard]]
name = "not too many"
on = "postgres"
effect = ["write"]
estimated_rows = "> 10"
action = "deny"

[[guard]]
name = "orders are kept"
on = "postgres"
effect = ["write"]
objects = ["*.orders"]
action = "allow"

[[guard]]
name = "never"
on = "postgres"
effect = ["write", "admin"]
action = "deny"
"#,
        true,
    ),
    (
        "open",
        r#"
[[guard]]
name = "closed"
on = "postgres"
objects = ["*.secret_table"]
action = "deny"

[[guard]]
name = "all else"
on = "postgres"
effect = ["read", "write", "ddl", "unknown"]
action = "allow"
"#,
        false,
    ),
];

/// What sessions share.
pub struct World {
    pub relay: Arc<Relay>,
    pub shutdown: Shutdown,
    /// Where the relay finds the server.
    pub server: TcpListener,
    /// Where clients connect to, for want of a kernel that would redirect them.
    pub front: TcpListener,
    /// For the target's own questions.
    pub analyses: AnalysisCache,
    runs: Vec<Arc<RunInfo>>,
    address: SocketAddr,
    sessions: Cell<u32>,
    folder: PathBuf,
    _trigger: ShutdownTrigger,
}

impl World {
    pub fn new() -> Self {
        let server = listener();
        let address = server.local_addr().expect("an address");
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = base.join(format!("portcullis-fuzz-{}-{}", std::process::id(), address.port()));
        let config = Config {
            state_dir: folder.join("state"),
            policies_dir: folder.join("policies"),
            credentials_dir: folder.join("credentials"),
            ..Config::default()
        };
        for folder in [&config.state_dir.join("ca"), &config.policies_dir, &config.credentials_dir] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        for (name, rules, masked) in POLICIES {
            let head = HEAD.replace("NAME", name).replace("ADDRESS", &address.to_string());
            // What is replicated cannot be masked.
            let head = head.replace("REPLICATION", if masked { "false" } else { "true" });
            // Tables of TOML come after the keys at the top, guards after defaults.
            let text = format!("{head}{rules}{}", if masked { MASKS } else { "" });
            std::fs::write(config.policies_dir.join(format!("{name}.toml")), text).expect("a policy");
        }
        let policies = Arc::new(PolicySet::load_dir(&config.policies_dir));
        let runs = POLICIES.map(|(name, ..)| run(&policies, name)).into_iter().collect();
        let (trigger, shutdown) = Shutdown::new();
        let relay = Arc::new(relay(&config, policies));
        Self {
            relay,
            shutdown,
            server,
            front: listener(),
            analyses: AnalysisCache::default(),
            runs,
            address,
            sessions: Cell::new(0),
            folder,
            _trigger: trigger,
        }
    }

    pub fn is_worn(&self) -> bool {
        self.sessions.get() >= SESSIONS_MAX
    }

    /// What the gate says to a new connection under one of the policies.
    pub async fn admit(&self, policy: usize) -> Admission {
        self.sessions.set(self.sessions.get() + 1);
        let run = &self.runs[policy];
        let flow = Arc::new(Flow {
            session: SessionId::generate(),
            run: run.id,
            destination: OriginalDst(self.address),
            process: Process::default(),
            socket_cookie: 0,
        });
        let subject = run.subject.clone().unwrap_or_default();
        match self.relay.gate.admit(&flow, run, subject).await {
            Admitted::Yes(admission) => *admission,
            Admitted::No(denial) => panic!("not admitted: {}", denial.reason),
            Admitted::Asks(_) => panic!("nobody asks for tokens"),
        }
    }

    /// Panics if a text may not reach the server under a policy. What its names stand for is the session's affair and not
    /// looked at.
    pub fn assert_permitted(&self, policy: usize, text: &str) {
        let analysis = self.analyses.analyze(text);
        let closed = |statement: &Statement| {
            let mut objects = statement.reads.iter().chain(&statement.writes);
            objects.any(|object| object.name == "secret_table")
        };
        let only_orders = |statement: &Statement| {
            !statement.writes.is_empty() && statement.writes.iter().all(|object| object.name == "orders")
        };
        for statement in &analysis.statements {
            let denied = match policy {
                2 if only_orders(statement) => {
                    statement.effect > Effect::Write && statement.effect != Effect::Unknown
                }
                0 | 2 => matches!(statement.effect, Effect::Write | Effect::Ddl | Effect::Admin),
                _ => statement.effect == Effect::Admin || closed(statement),
            };
            assert!(!denied, "{} reached the server: {text:?}", statement.kind);
        }
    }

    /// Whether a policy masks.
    pub fn masks(policy: usize) -> bool {
        POLICIES[policy].2
    }

    /// Whether a policy needs nothing but a statement's text.
    pub fn judges_texts(policy: usize) -> bool {
        !POLICIES[policy].1.contains("estimated_rows")
    }

    /// Whether a policy denies everything that writes.
    pub fn judges_effects(policy: usize) -> bool {
        policy == 0 || policy == 2
    }

    /// How many there are.
    pub const POLICIES: usize = POLICIES.len();
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever is left is in a folder for what is temporary.
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a listener that does not block");
    listener
}

fn run(policies: &PolicySet, name: &str) -> Arc<RunInfo> {
    let policy = policies
        .get(name)
        .unwrap_or_else(|| panic!("policy {name} does not load: {:?}", policies.snapshot().problems));
    Arc::new(RunInfo {
        id: RunId::generate(),
        policy: name.to_owned(),
        policy_version: policy.version.clone(),
        subject: Some(Subject { uid: 1000, user: "agent".to_owned(), gid: 1000, ..Subject::default() }),
        standing: Standing::default(),
        labels: BTreeMap::new(),
        started_ms: 0,
        how: How::Started { pid: 1 },
        cgroup: CgroupRef { path: "/fuzz".to_owned(), id: 1 },
    })
}

fn relay(config: &Config, policies: Arc<PolicySet>) -> Relay {
    let state = &config.state_dir;
    let key = || Arc::new(HashKey::new(Zeroizing::new([7; 32])));
    let recorder = RecorderConfig { min_free_bytes: 0, ..RecorderConfig::default() };
    let governor = Governor {
        govern: Box::new(|_cgroup, _run| Ok(())),
        release: Box::new(|_cgroup| Ok(())),
        governed: Box::new(|| Ok(Vec::new())),
    };
    let credentials = Credentials::new(config.credentials_dir.clone());
    let approvals = Approvals::open(config).expect("approvals");
    Hierarchy::find().expect("cgroup v2 is mounted");
    Relay {
        analyses: Arc::default(),
        ca: Arc::new(Ca::open(&state.join("ca"), &CaSettings::default()).expect("a CA").0),
        cancels: Arc::default(),
        credentials: credentials.clone(),
        dialler: Dialler::default(),
        gate: Arc::new(Gate::new(policies, approvals)),
        http_pool: Arc::default(),
        http_room: Arc::new(tokio::sync::Semaphore::new(ROOM_KIB)),
        http_masks: MaskCache::new(key()),
        postgres_masks: Arc::new(portcullis::relay::postgres::MaskCache::new(key())),
        issuers: Arc::new(Issuers::new(Arc::default())),
        runs: Runs::open(config, governor, Box::new(|_event| {})).expect("runs"),
        live: Arc::default(),
        recorder: Recorder::open(state, recorder).expect("a store"),
        sides: SideConnections::new(credentials),
        ssh_key: Arc::new(proxy_key::load_or_create(state).expect("a key")),
    }
}
