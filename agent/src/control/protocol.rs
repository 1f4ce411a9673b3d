//! What is said on the control socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::approval::{Decision, Digest, Entry};
use crate::flow::{ApprovalId, RunId, SessionId, Side};
use crate::policy::rule::PolicyHits;
use crate::record::before::Before;
use crate::run::RunInfo;
use crate::signin::LoginBy;
use std::sync::Arc;

/// Version of this protocol. Client and daemon are one binary, so a difference means that one of them was upgraded
/// without the other.
pub const VERSION: u32 = 1;

/// Longest request line, in bytes: a whole bundle of the caller's own certificates and more.
pub const REQUEST_BYTES_MAX: usize = 512 * 1024;
/// Longest reply line a client accepts, in bytes: as many holds as may be listed, escaped in the worst way.
pub const REPLY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A request and the version it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// The request. Read only once the version is known to be ours.
    pub request: serde_json::Value,
}

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the daemon is. Anybody.
    Status,
    /// Begin a run and move the caller into it. Whoever the policy's `[run]` names.
    Run {
        /// Policy name.
        policy: String,
        /// `--label K=V`.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// `--allow-root`.
        #[serde(default)]
        allow_root: bool,
        /// Certificates that the caller's clients trust and the published bundle lacks, as PEM.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        certificates: String,
        /// An ID token, where the policy asks for one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Token>,
    },
    /// Whose tokens a policy asks for. Anybody.
    Terms {
        /// Policy name.
        policy: String,
    },
    /// Put a fresh token of the same subject in the place of a run's. Whoever started the run.
    Renew {
        /// Which.
        run: RunId,
        /// The token.
        token: Token,
    },
    /// Take a run's permission away, and that of its tokens; its sessions end. Root and operators.
    Withdraw {
        /// Which.
        run: RunId,
        /// Why; its clients are told.
        #[serde(default)]
        reason: String,
    },
    /// Requests that wait or were settled lately, as far as the caller may read them.
    Approvals,
    /// The same, and every change until the caller hangs up.
    Watch,
    /// What the run of one did just before. Whoever may read the request.
    Before {
        /// Which.
        id: ApprovalId,
    },
    /// How often the rules of each policy have decided. Root and operators.
    Hits,
    /// Decide one. Whoever its guard names, but never whoever it acts for.
    Decide {
        /// Which.
        id: ApprovalId,
        /// Digest of what the reviewer was shown.
        digest: Digest,
        /// What they say.
        decision: Decision,
    },
    /// Begin to sign in at the identity provider. Anybody.
    Login {
        /// In which way.
        by: LoginBy,
        /// Prove what the rule behind this request asks of whoever approves it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
    },
    /// Go on with it. Whoever began it.
    LoggedIn {
        /// Which: see [`Reply::LoginAt`].
        login: Token,
        /// What the browser brought to the loopback port, a query; none asks whether another device is done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Token>,
    },
    /// Who is signed in. Anybody, of themselves.
    WhoAmI,
    /// Sign out. Anybody, themselves.
    Logout,
    /// Take back what an approval still covers. Whoever could have decided it, and operators.
    Revoke {
        /// Which.
        id: ApprovalId,
    },
    /// Look at broken glass afterwards. Whoever its guard names, but not who broke it.
    Review {
        /// Which.
        id: ApprovalId,
        /// What they found.
        #[serde(default)]
        note: String,
    },
    /// End a session. Root and operators.
    Kill {
        /// Its id, or a beginning or end of it.
        session: String,
        /// Why; its client is told.
        #[serde(default)]
        reason: String,
    },
    /// End the daemon; agents stay governed and are refused. Root.
    Stop,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Run`: the caller is in the run.
    Started {
        /// The run.
        run: RunId,
        /// What to add to the command's environment.
        environment: BTreeMap<String, String>,
        /// Hosts of the policy's SSH connections, as `known_hosts` names them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ssh_hosts: Vec<String>,
        /// Its cgroup's directory.
        #[serde(default)]
        cgroup: PathBuf,
        /// When its token expires; milliseconds since 1970-01-01T00:00:00Z.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_ms: Option<u64>,
    },
    /// To `Terms`: a token of one of these; none is asked for when there is none.
    Terms(Vec<TokenTerms>),
    /// To `Renew`: the run's token now expires then; milliseconds since 1970-01-01T00:00:00Z.
    Renewed {
        /// See above.
        expires_ms: u64,
    },
    /// To `Withdraw`: so many sessions end.
    Withdrawn {
        /// See above.
        sessions: usize,
    },
    /// To `Approvals`, and first to `Watch` (again when the watcher has lagged behind).
    Approvals(Vec<Arc<Entry>>),
    /// To `Decide`: how it now is. To `Watch`: one change.
    Approval(Arc<Entry>),
    /// To `Login`.
    LoginAt {
        /// Names the sign-in.
        login: Token,
        /// Where to sign in.
        url: String,
        /// What to type there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_code: Option<String>,
        /// Milliseconds between two questions whether it is done.
        interval_ms: u64,
        /// Milliseconds that it may take.
        time_left_ms: u64,
    },
    /// To `LoggedIn`: nobody has signed in yet; ask again in so many milliseconds.
    LoginWaits {
        /// See above.
        interval_ms: u64,
    },
    /// To `LoggedIn` and `WhoAmI`: who is signed in, if anybody is.
    Login(Option<Box<SignedIn>>),
    /// To `Before`: masked as recorded.
    Before(Before),
    /// To `Hits`: by policy name.
    Hits(Vec<PolicyHits>),
    /// To `Kill`: this session ends.
    Killed(SessionId),
    /// To `Stop`: it begins when this is sent.
    Done,
    /// To anything.
    Refused(Refusal),
}

/// Somebody who is signed in by the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    /// What the provider calls them.
    pub user: String,
    /// Their groups there.
    pub groups: Vec<String>,
    /// The provider.
    pub issuer: String,
    /// Who they are for it.
    pub subject: String,
    /// Until when; milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: u64,
}

/// Whose tokens a policy takes.

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTerms {
    /// The issuer.
    pub issuer: String,
    /// What the token's `aud` must name.
    pub audience: String,
}

/// A token or another secret on its way. It is wiped when dropped and does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for whoever verifies it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose fault it is.
    pub side: Side,
    /// What happened and what to do, in one line.
    pub message: String,
}

impl Refusal {
    /// A refusal with one line of text.
    pub fn new(side: Side, message: impl Into<String>) -> Self {
        Self { side, message: message.into() }
    }
}

/// How the daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it began; milliseconds since 1970-01-01T00:00:00Z.
    pub started_ms: u64,
    /// `full`, or `no-lsm` where the kernel has no BPF LSM.
    pub mode: String,
    /// Where redirected connections arrive.
    pub proxy: String,
    /// Name servers that agents' questions are passed on to.
    #[serde(default)]
    pub name_servers: Vec<String>,
    /// Kernel programs.
    pub hooks: Vec<Hook>,
    /// Active runs, oldest first.
    pub runs: Vec<RunBrief>,
    /// Policy files.
    pub policies: Vec<PolicyFile>,
    /// Operations that wait for approval.
    pub holds: usize,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// What is wrong now, one line each; empty when all is well.
    pub problems: Vec<String>,
}

/// A kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Whether it is attached.
    pub attached: bool,
}

/// What anybody may know of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBrief {
    /// The run.
    pub id: RunId,
    /// Its policy.
    pub policy: String,
    /// Who started it; `None` for a matched cgroup.
    pub user: Option<String>,
    /// Whom its token speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When its token expires; milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Who withdrew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_by: Option<String>,
    /// Its cgroup.
    pub cgroup: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub started_ms: u64,
}

impl From<&RunInfo> for RunBrief {
    fn from(run: &RunInfo) -> Self {
        let identity = run.standing.identity();
        Self {
            subject: identity.as_ref().map(|identity| identity.shown()),
            expires_ms: identity.map(|identity| identity.expires_ms),
            withdrawn_by: run.standing.withdrawn().map(|withdrawal| withdrawal.by),
            id: run.id,
            policy: run.policy.clone(),
            user: run.subject.as_ref().map(|subject| subject.user.clone()),
            cgroup: run.cgroup.path.clone(),
            started_ms: run.started_ms,
        }
    }
}

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// File name.
    pub file: String,
    /// Its policy's name, if it could be read.
    pub name: Option<String>,
    /// Its policy's version, if it could be read.
    pub version: Option<String>,
    /// What is wrong with it. Its runs are denied.
    pub error: Option<String>,
}
