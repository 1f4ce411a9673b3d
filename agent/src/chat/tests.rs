//! What tests of chats share: a request that waits, and a service to stand in for a chat.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::approval::{Approvals, Content, Entry, Request, Reviewer};
use crate::config::Config;
use crate::credential::Credentials;
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::policy::rule::ChatUse;
use crate::request::Effect;
use crate::run::Subject;

/// A request of the user `agent`, for the group `dba`.
pub(crate) fn held() -> Request {
    Request {
        run: RunId::generate(),
        session: SessionId::generate(),
        process: Process { uid: 1500, comm: "psql".to_owned(), ..Process::default() },
        subject: Subject { uid: 1500, user: "agent".to_owned(), ..Subject::default() },
        connection: "orders-db".to_owned(),
        destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
        database: Some("shop".to_owned()),
        content: Content::new(b"DROP TABLE a", &[], &[]),
        kinds: vec!["drop table".to_owned()],
        effect: Effect::Ddl,
        objects: Vec::new(),
        estimated_rows: Some(7),
        rule: "no DDL".to_owned(),
        policy: "crewai".to_owned(),
        policy_version: "v1".to_owned(),
        approvers: vec!["dba".to_owned()],
        in_transaction: false,
        timeout: Duration::from_secs(900),
        quorum: 1,
        distinct_groups: false,
        break_glass: Vec::new(),
        step_up: None,
        chat: ChatUse::Decide,
        shape: None,
        patience: None,
        side_effects: None,
        again: Some(String::new()),
    }
}

pub(crate) fn approvals() -> Arc<Approvals> {
    Approvals::new(&Config::default())
}

/// The entry of a request, as its reviewers see it.
pub(crate) fn entry(request: Request) -> Entry {
    let approvals = approvals();
    let pending = approvals.ask(request).unwrap();
    Entry::clone(&approvals.get(pending.id()).unwrap())
}

/// What a stand-in was asked.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A chat service of a test's own: it answers as told, or as a good one does, and hands over what it was asked.
pub(crate) struct Service {
    pub(crate) url: String,
    asked: mpsc::Receiver<Asked>,
    told: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
    serving: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start(usual: impl Fn(&str) -> Value + Send + Sync + 'static) -> Self {
        let usual = Arc::new(usual);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = mpsc::channel(64);
        let told: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>> = Arc::default();
        let answers = Arc::clone(&told);
        let serving = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (sender, answers, usual) = (sender.clone(), Arc::clone(&answers), Arc::clone(&usual));
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (sender, answers, usual) = (sender.clone(), Arc::clone(&answers), Arc::clone(&usual));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes().to_vec();
                        let path = head.uri.path().to_owned();
                        let usual = usual(&path).to_string();
                        drop(sender.send(Asked { path, headers: head.headers, body }).await);
                        let told = answers.lock().unwrap().pop_front();
                        Ok::<_, hyper::Error>(told.unwrap_or_else(|| Response::new(Full::from(usual))))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { url, asked, told, serving }
    }

    /// Answers so, once, before it answers as usual.
    pub(crate) fn answer(&self, status: u16, fields: &[(&'static str, &str)], body: &str) {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        let answer = answer.body(Full::from(body.to_owned())).unwrap();
        self.told.lock().unwrap().push_back(answer);
    }

    /// What it is asked next.
    pub(crate) async fn asked(&mut self) -> Asked {
        tokio::time::timeout(Duration::from_secs(10), self.asked.recv())
            .await
            .expect("nothing was asked")
            .unwrap()
    }

    /// Whether it was asked something that nobody has looked at.
    pub(crate) fn was_asked(&mut self) -> bool {
        self.asked.try_recv().is_ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// As Slack answers, of the workspace T1.
pub(crate) fn slack(path: &str) -> Value {
    match path {
        "/api/auth.test" => json!({"ok": true, "team_id": "T1"}),
        "/api/chat.postMessage" | "/api/chat.update" => {
            json!({"ok": true, "channel": "C1", "ts": "1700000000.000100"})
        }
        _ => json!({"ok": true}),
    }
}

/// A folder with these credentials.
pub(crate) fn credentials(named: &[(&str, &str)]) -> (tempfile::TempDir, Credentials) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for (name, secret) in named {
        let path = folder.path().join(name);
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let credentials = Credentials::new(folder.path());
    (folder, credentials)
}

/// Somebody who signed in, in these groups.
pub(crate) fn person(name: &str, groups: &[&str]) -> Reviewer {
    Reviewer {
        uid: None,
        user: name.to_owned(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        pid: None,
        login_uid: None,
        login_user: None,
        account: None,
        identity: None,
        proof: None,
    }
}
