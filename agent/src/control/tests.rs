//! The control socket with well-meaning and hostile clients.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::protocol::{REQUEST_BYTES_MAX, VERSION};
use super::server::{CLIENTS_MAX, CLIENTS_PER_USER_MAX};
use super::*;
use crate::approval::{Approvals, Content};
use crate::config::Config;
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::request::Effect;
use crate::run::{Governor, Runs, Subject};
use std::sync::Arc;

struct Daemon {
    folder: tempfile::TempDir,
    service: Arc<Service>,
    serving: tokio::task::JoinHandle<()>,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: folder.path().join("state"),
            control_socket: folder.path().join("control.sock"),
            ..Config::default()
        };
        let governor = Governor {
            govern: Box::new(|_, _| Ok(())),
            release: Box::new(|_| Ok(())),
            governed: Box::new(|| Ok(Vec::new())),
        };
        let service = Arc::new(Service {
            runs: Runs::open(&config, governor, Box::new(|_| ())).unwrap(),
            approvals: Approvals::new(&config),
            policy: Box::new(|name| Err(format!("no policy is named `{name}`"))),
            environment: Box::new(|_, _| Ok(std::collections::BTreeMap::new())),
            status: Box::new(|| HostStatus { mode: "no-lsm".to_owned(), ..HostStatus::default() }),
            hits: Box::new(Vec::new),
            kill: Box::new(|session, _| Err(format!("no session {session}"))),
            kill_run: Box::new(|_, _| 0),
            issuers: Arc::new(crate::identity::Issuers::new(Arc::default())),
            accounts: None,
            operators: "portcullis".to_owned(),
            state_dir: config.state_dir.clone(),
            stop: Box::new(|| ()),
        });
        let listener = socket::bind(&config).unwrap();
        let serving = tokio::spawn(serve(listener, Arc::clone(&service)));
        Self { folder, service, serving }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Sends bytes, hangs up the sending side, and reads all that comes back.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        // A refusal may come before everything is written.
        drop(stream.write_all(bytes).await);
        drop(stream.shutdown().await);
        let mut reply = Vec::new();
        // The kernel reports what the daemon left unread as a reset, after its answer.
        if let Err(error) = stream.read_to_end(&mut reply).await {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        String::from_utf8(reply).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn held() -> crate::approval::Request {
    crate::approval::Request {
        run: RunId::generate(),
        session: SessionId::generate(),
        process: Process { uid: 4242, ..Process::default() },
        subject: Subject { uid: 4242, ..Subject::default() },
        connection: "db".to_owned(),
        destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
        database: None,
        content: Content::new(&[b'x'; 16 * 1024], &[], &[]),
        kinds: Vec::new(),
        effect: Effect::Unknown,
        objects: Vec::new(),
        estimated_rows: None,
        rule: "r".to_owned(),
        policy: "p".to_owned(),
        policy_version: "v".to_owned(),
        approvers: Vec::new(),
        in_transaction: false,
        timeout: Duration::from_secs(1_000_000),
        quorum: 1,
        distinct_groups: false,
        break_glass: Vec::new(),
        chat: crate::policy::rule::ChatUse::default(),
        step_up: None,
        shape: None,
        patience: None,
        side_effects: None,
        again: Some(String::new()),
    }
}

fn refusal(reply: &str) -> String {
    match serde_json::from_str(reply).unwrap_or_else(|error| panic!("{error}: {reply:?}")) {
        Reply::Refused(refusal) => refusal.message,
        Reply::Status(_)
        | Reply::Started { .. }
        | Reply::Terms(_)
        | Reply::Renewed { .. }
        | Reply::LoginAt { .. }
        | Reply::LoginWaits { .. }
        | Reply::Login(_)
        | Reply::Withdrawn { .. }
        | Reply::Killed(_)
        | Reply::Before(_)
        | Reply::Hits(_)
        | Reply::Approvals(_)
        | Reply::Approval(_)
        | Reply::Done => {
            panic!("not refused: {reply}")
        }
    }
}

#[tokio::test]
async fn status_is_answered() {
    let daemon = Daemon::start();
    let reply = daemon.say(b"{\"version\":1,\"request\":\"status\"}\n").await;
    let Reply::Status(status) = serde_json::from_str(&reply).unwrap() else { panic!("{reply}") };
    assert_eq!((status.mode.as_str(), status.pid, status.holds), ("no-lsm", std::process::id(), 0));
    assert!(reply.ends_with('\n') && reply.matches('\n').count() == 1);
}

#[tokio::test]
async fn nonsense_is_refused_in_one_line() {
    let daemon = Daemon::start();
    let long = vec![b'a'; REQUEST_BYTES_MAX + 1];
    let deep = format!("{{\"version\":1,\"request\":{}}}\n", "[".repeat(10_000));
    for (bytes, expected) in [
        (&b"\n"[..], "not a request: "),
        (b"hello\n", "not a request: "),
        (b"\xff\xfe\x00\n", "not a request: "),
        (b"GET / HTTP/1.1\r\n\r\n", "not a request: "),
        (b"{\"version\":1,\"request\":\"status\"}", "the request ends before its newline"),
        (b"{\"version\":1,\"request\":\"reboot\"}\n", "not a request: unknown variant `reboot`"),
        (b"{\"version\":1,\"request\":\"status\",\"x\":1}\n", "not a request: unknown field `x`"),
        (
            b"{\"version\":1,\"request\":{\"run\":{\"policy\":\"p\",\"root\":true}}}\n",
            "not a request: unknown field `root`",
        ),
        (b"{\"version\":2,\"request\":{\"future\":{}}}\n", "the client speaks version 2, the daemon 1"),
        (b"{\"version\":1,\"request\":{\"run\":{\"policy\":\"p\"}}}\n", "no policy is named `p`"),
        (&long, "the request is longer than 524288 bytes"),
        (deep.as_bytes(), "not a request: recursion limit exceeded"),
    ] {
        let reply = daemon.say(bytes).await;
        let message = refusal(&reply);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert!(message.starts_with(expected), "{shown}: {message}");
        assert_eq!(reply.matches('\n').count(), 1);
    }
    assert_eq!(daemon.say(b"").await, "", "nothing is said to who says nothing");
    assert_eq!(VERSION, 1, "the texts above speak version 1");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_client_is_told_and_dropped() {
    let daemon = Daemon::start();
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream.write_all(b"{\"version\":1,").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert_eq!(refusal(&reply), "no request arrived in time");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_never_reads_is_dropped() {
    let daemon = Daemon::start();
    let mut deaf = UnixStream::connect(daemon.socket()).await.unwrap();
    deaf.write_all(b"{\"version\":1,\"request\":\"watch\"}\n").await.unwrap();
    deaf.readable().await.unwrap();
    // More than socket buffers hold; whoever asks is not slowed down by it.
    let _holds: Vec<_> = (0..200).map(|_| daemon.service.approvals.ask(held()).unwrap()).collect();
    tokio::time::sleep(server::REPLY_TIME_MAX * 2).await;
    let mut received = Vec::new();
    deaf.read_to_end(&mut received).await.unwrap();
    assert!(received.len() < 200 * 16 * 1024, "the rest was not kept for it: {}", received.len());
}

#[tokio::test]
async fn a_watcher_sees_what_waits_and_what_comes() {
    let daemon = Daemon::start();
    let first = daemon.service.approvals.ask(held()).unwrap();
    let socket = daemon.socket();
    let (connected, mut watching) = tokio::sync::mpsc::channel(8);
    let watcher = tokio::task::spawn_blocking(move || {
        let mut watch = Client::connect(&socket).unwrap().watch().unwrap();
        for _ in 0..3 {
            connected.blocking_send(watch.reply().unwrap()).unwrap();
        }
    });
    let Reply::Approvals(list) = watching.recv().await.unwrap() else { panic!("no list") };
    assert_eq!(list.iter().map(|entry| entry.id).collect::<Vec<_>>(), [first.id()]);
    let second = daemon.service.approvals.ask(held()).unwrap();
    let id = second.id();
    drop(second);
    for outcome in [None, Some(crate::approval::Outcome::Withdrawn)] {
        let Reply::Approval(entry) = watching.recv().await.unwrap() else { panic!("no change") };
        assert_eq!((entry.id, entry.outcome.clone()), (id, outcome));
    }
    watcher.await.unwrap();
}

#[tokio::test]
async fn a_crowd_is_refused_and_the_daemon_goes_on() {
    let daemon = Daemon::start();
    let limit = if rustix::process::geteuid().is_root() { CLIENTS_MAX } else { CLIENTS_PER_USER_MAX };
    let mut crowd = Vec::new();
    for _ in 0..limit {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        stream.write_all(b"{\"version\":1,\"request\":\"watch\"}\n").await.unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        crowd.push(stream);
    }
    let message = refusal(&daemon.say(b"{\"version\":1,\"request\":\"status\"}\n").await);
    assert!(message.starts_with("too many control connections"), "{message}");
    drop(crowd);
    let mut reply = String::new();
    for _ in 0..100 {
        reply = daemon.say(b"{\"version\":1,\"request\":\"status\"}\n").await;
        if reply.starts_with("{\"status\"") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("places are not given back: {reply}");
}

#[tokio::test]
async fn nobody_answering_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::connect(&folder.path().join("none.sock")).unwrap_err().to_string();
    assert!(error.contains("systemctl start portcullis"), "{error}");
}
