//! The routes as browsers and attackers use them, without sockets; the provider is one of this test's own.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::approval::{Content, Pending};
use crate::config::Config;
use crate::flow::{OriginalDst, Process, RunId, SessionId};
use crate::request::side_effects::{Reached, SideEffects, Trigger};
use crate::request::{Effect, ObjectName};
use crate::run::{Governor, Subject};

mod chat;
mod provider;
mod requests;
mod sign_in;
mod watch;

use provider::Idp;

const HOST: &str = "gate.example:8443";
const ORIGIN: &str = "https://gate.example:8443";

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// The value of a cookie that was set.
    fn cookie(&self, name: &str) -> Option<String> {
        let set = self.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
        let mut found = set.filter_map(|text| text.strip_prefix(&format!("{name}=")).map(str::to_owned));
        found.next().map(|text| text.split(';').next().unwrap_or_default().to_owned())
    }

    /// The value of a hidden field.
    fn field(&self, name: &str) -> String {
        let after = self.body.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_default();
        after.split('"').next().unwrap_or_default().to_owned()
    }
}

struct Rig {
    web: Arc<Web>,
    idp: Idp,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more in its table.
    async fn start_with(more: &str) -> Self {
        let (folder, idp) = (tempfile::tempdir().unwrap(), Idp::start().await);
        let config = Config { state_dir: folder.path().join("state"), ..Config::default() };
        let governor = Governor {
            govern: Box::new(|_, _| Ok(())),
            release: Box::new(|_| Ok(())),
            governed: Box::new(|| Ok(Vec::new())),
        };
        let text = format!(
            "[web]\nlisten = \"127.0.0.1:8443\"\nurl = \"{ORIGIN}\"\nissuer = \"{}\"\nclient_id = \"page\"\n\
             groups_claim = \"groups\"\nname_claim = \"name\"\n{more}",
            idp.issuer
        );
        let settings = Config::parse(&text, std::path::Path::new("p.toml")).unwrap().web.unwrap();
        let parts = Parts {
            settings,
            approvals: Approvals::new(&config),
            runs: Runs::open(&config, governor, Box::new(|_| ())).unwrap(),
            policies: Arc::new(PolicySet::load_dir(folder.path())),
            credentials: Credentials::new(folder.path()),
            issuers: Arc::new(Issuers::new(Arc::default())),
            operators: "portcullis".to_owned(),
            state_dir: config.state_dir.clone(),
            kill_run: Box::new(|_, _| 0),
            chat: None,
        };
        Self { web: Arc::new(Web::new(parts)), idp, _folder: folder }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let service = TowerToHyperService::new(router(Arc::clone(&self.web)));
        let (head, body) = service.call(request).await.unwrap().into_parts();
        // A stream of events does not end.
        let whole = tokio::time::timeout(Duration::from_millis(500), body.collect()).await;
        let body = whole.map(|body| body.unwrap().to_bytes()).unwrap_or_default();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn get(&self, path: &str, cookies: &str) -> Answer {
        let request = Request::get(path).header("host", HOST).header("cookie", cookies);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// A form as this page's own.
    async fn post(&self, path: &str, cookies: &str, form: &str) -> Answer {
        self.send(posted(path, cookies, form, &[("origin", ORIGIN)])).await
    }

    /// Goes to the provider; the cookie, and where it was sent.
    async fn begin(&self, back: &str) -> (String, String) {
        let begun = self.post("/login", "", &format!("back={back}")).await;
        assert_eq!(begun.status, StatusCode::OK, "{}", begun.body);
        let address = begun.body.split("<a href=\"").find(|part| part.starts_with(&self.idp.issuer)).unwrap();
        let address = address.split('"').next().unwrap().replace("&amp;", "&");
        (format!("__Host-portcullis-login={}", begun.cookie("__Host-portcullis-login").unwrap()), address)
    }

    /// Signs somebody in; their cookie.
    async fn sign_in(&self, name: &str, groups: &[&str]) -> String {
        let (cookie, address) = self.begin("/").await;
        let callback = self.idp.grant(&address, name, groups);
        let back = self.get(&callback, &cookie).await;
        assert_eq!(back.status, StatusCode::SEE_OTHER, "{}", back.body);
        format!("__Host-portcullis={}", back.cookie("__Host-portcullis").unwrap())
    }

    /// Something that waits for the group dba.
    fn ask(&self) -> Pending {
        self.web.approvals.ask(held()).unwrap()
    }

    fn waiting(&self) -> usize {
        self.web.approvals.waiting()
    }
}

fn posted(path: &str, cookies: &str, form: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", HOST)
        .header("cookie", cookies)
        .header("content-type", "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(form.to_owned())).unwrap()
}

fn held() -> crate::approval::Request {
    crate::approval::Request {
        run: RunId::generate(),
        session: SessionId::generate(),
        process: Process { uid: 1500, comm: "<psql>".to_owned(), ..Process::default() },
        subject: Subject { uid: 1500, user: "agent".to_owned(), ..Subject::default() },
        connection: "orders-db".to_owned(),
        destination: OriginalDst("127.9.9.9:5432".parse().unwrap()),
        database: Some("shop".to_owned()),
        content: Content::new(b"DROP TABLE a -- <script>\xe2\x80\xae", &[Some(b"<i>")], &[Some(b"<i>")]),
        kinds: vec!["drop table".to_owned()],
        effect: Effect::Ddl,
        objects: Vec::new(),
        estimated_rows: Some(7),
        rule: "no <b>DDL</b>".to_owned(),
        policy: "crewai".to_owned(),
        policy_version: "v1".to_owned(),
        approvers: vec!["dba".to_owned()],
        in_transaction: false,
        timeout: Duration::from_secs(900),
        quorum: 1,
        distinct_groups: false,
        break_glass: vec!["oncall".to_owned()],
        chat: crate::policy::rule::ChatUse::default(),
        step_up: None,
        shape: Some("DROP TABLE a".to_owned()),
        patience: None,
        side_effects: Some(SideEffects {
            relations: vec![Reached {
                name: ObjectName::outside_schemas("a<script>\u{202e}"),
                kind: "table".to_owned(),
                through: None,
                rows: Some(200),
                bytes: None,
                partitions: 0,
                triggers: vec![Trigger {
                    name: "<b>".to_owned(),
                    timing: "after delete for each row".to_owned(),
                    function: ObjectName::outside_schemas("log"),
                    enabled: "disabled".to_owned(),
                }],
                rules: Vec::new(),
                cascades: Vec::new(),
            }],
            ..SideEffects::default()
        }),
        again: Some(String::new()),
    }
}
