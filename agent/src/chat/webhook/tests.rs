//! What is sent, and what an answer that comes back is worth.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::signed::Signed;
use super::*;
use crate::approval::{Decision, Outcome, Pending, Request as Held};
use crate::chat::courier::{Courier, Health, Service as Served};
use crate::chat::tests::{Asked, Service, approvals, credentials, entry, held, person};
use crate::config::Config;
use crate::identity::tests::Key as Signer;
use crate::policy::rule::ChatUse;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Rig {
    webhook: Arc<Webhook>,
    receiver: Service,
    issuer: Service,
    signer: Signer,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start(more: &str) -> Self {
        let (receiver, signer) = (Service::start(|_| json!({})).await, Signer::new("1"));
        let keys = json!({"keys": [signer.public()]});
        let issuer = Service::start(move |_| keys.clone()).await;
        let (folder, credentials) = credentials(&[("hook", SECRET)]);
        let text = format!(
            "[web]\nlisten = \"127.0.0.1:1\"\nurl = \"https://gate\"\nissuer = \"{}\"\nclient_id = \"page\"\n\
             groups_claim = \"groups\"\nname_claim = \"name\"\n{more}\n\
             [chat.webhook]\nurl = \"{}/hook\"\nsecret = \"hook\"\n",
            issuer.url, receiver.url
        );
        let config = Config::parse(&text, std::path::Path::new("p.toml")).unwrap();
        let (page, chat) = (config.web.unwrap(), config.chat.unwrap());
        // Keys are looked for where the issuer says, which is asked first.
        issuer.answer(
            200,
            &[],
            &json!({"issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url)}).to_string(),
        );
        let parts = Parts {
            words: Words { url: page.url.clone(), statements: true },
            step_up: page.step_up,
            credentials,
            approvals: approvals(),
            issuers: Arc::new(Issuers::new(Arc::default())),
            rules: crate::signin::rules(&page.client),
        };
        let webhook = Webhook::new(chat.webhook.unwrap(), parts);
        Self { webhook, receiver, issuer, signer, _folder: folder }
    }

    fn ask(&self, request: Held) -> Pending {
        self.webhook.approvals.ask(request).unwrap()
    }

    fn token(&self, name: &str, groups: &[&str], more: &Value) -> String {
        let time = now().as_secs();
        let mut claims = json!({
            "iss": self.issuer.url, "aud": "page", "sub": name, "name": name, "groups": groups, "iat": time, "exp": time + 300,
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.signer.token(&claims)
    }

    /// The same for one answer to one request.
    fn word(&self, pending: &Pending, answer: &str, name: &str, groups: &[&str], more: &Value) -> String {
        let entry = self.webhook.approvals.get(pending.id()).unwrap();
        let mut more = more.clone();
        more["nonce"] = payload(&self.webhook.words, &entry)["data"]["nonce"][answer].clone();
        self.token(name, groups, &more)
    }

    fn says(&self, pending: &Pending, answer: &str, token: &str) -> Value {
        let digest = self.webhook.approvals.get(pending.id()).unwrap().digest;
        json!({"approval": pending.id(), "digest": digest, "answer": answer, "reason": "CHG-1", "id_token": token})
    }

    /// A delivery of this id.
    async fn called(&self, id: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.webhook.called(&sign(id, &body), body.as_bytes()).await
    }
}

fn sign(id: &str, body: &str) -> HeaderMap {
    let time = now().as_secs().to_string();
    let signature = Key::parse(SECRET).unwrap().sign(id, &time, body.as_bytes());
    [("webhook-id", id), ("webhook-timestamp", &time), ("webhook-signature", &signature)]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect()
}

/// What was sent, which has to be signed.
fn sent(asked: &Asked) -> (String, Value) {
    let signed = Signed::of(&asked.headers, now()).unwrap();
    let id = Key::parse(SECRET).unwrap().verify(&signed, &asked.body).unwrap();
    (id.to_owned(), asked.json())
}

#[tokio::test]
async fn what_waits_and_what_became_of_it_is_sent_and_signed() {
    let mut rig = Rig::start("").await;
    let health = Health::of("webhook");
    let served = Served::Webhook(Arc::clone(&rig.webhook));
    let courier = tokio::spawn(Courier::new(served, Arc::clone(&rig.webhook.approvals), health).run());
    rig.receiver.answer(503, &[("retry-after", "0")], "");
    let pending = rig.ask(held());
    let ((first, _), (again, waiting)) =
        (sent(&rig.receiver.asked().await), sent(&rig.receiver.asked().await));
    assert_eq!(first, again, "the same message, tried again");
    let data = &waiting["data"];
    let known = rig.webhook.approvals.get(pending.id()).unwrap();
    assert_eq!(waiting["type"], "approval.waiting");
    assert_eq!(
        (&data["approval"], &data["digest"], &data["run"]),
        (&json!(known.id), &json!(known.digest), &json!(known.request.run))
    );
    assert_eq!(
        (&data["rule"], &data["policy"], &data["effect"], &data["statement"], &data["decide"]),
        (&json!("no DDL"), &json!("crewai"), &json!("ddl"), &json!("DROP TABLE a"), &json!(true))
    );
    assert_eq!(
        (&data["who"]["user"], &data["url"]),
        (&json!("agent"), &json!(format!("https://gate/approvals/{}", known.id)))
    );
    let deny = Decision::plain(Word::Deny, "no");
    rig.webhook.approvals.decide(known.id, known.digest, person("ada", &["dba"]), deny).unwrap();
    let (id, settled) = sent(&rig.receiver.asked().await);
    assert_ne!(id, first);
    assert_eq!(settled["type"], "approval.settled");
    assert_eq!(settled["data"]["outcome"], json!({"state": "denied", "by": "ada", "reason": "no"}));
    courier.abort();
    let silent = Words { url: "https://gate".to_owned(), statements: false };
    let data = &payload(&silent, &entry(held()))["data"];
    assert!(
        data.get("statement").is_none() && data.get("parameters").is_none() && data["decide"] == json!(false)
    );
}

#[tokio::test]
async fn an_answer_needs_the_receiver_and_the_person() {
    let rig = Rig::start("").await;
    let pending = rig.ask(held());
    let ada = rig.word(&pending, "approve", "ada", &["dba"], &json!({"jti": "1"}));
    let good = rig.says(&pending, "approve", &ada);
    let body = good.to_string();
    let unsigned = rig.webhook.called(&HeaderMap::new(), body.as_bytes()).await;
    assert_eq!((unsigned.status, &unsigned.body["status"]), (StatusCode::UNAUTHORIZED, &json!(401)));
    assert_eq!(
        rig.webhook.called(&sign("msg_0", "{}"), body.as_bytes()).await.status,
        StatusCode::UNAUTHORIZED
    );
    let other = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let time = now().as_secs();
    for (id, body, expected, detail) in [
        ("msg_1", json!([]), StatusCode::BAD_REQUEST, "as JSON"),
        ("msg_2", other("more", json!(1)), StatusCode::BAD_REQUEST, "as JSON"),
        ("msg_3", other("answer", json!("perhaps")), StatusCode::BAD_REQUEST, "as JSON"),
        ("msg_4", other("id_token", json!("")), StatusCode::FORBIDDEN, "the ID token does not count"),
        (
            "msg_5",
            other("id_token", json!(rig.token("ada", &["dba"], &json!({"aud": "another"})))),
            StatusCode::FORBIDDEN,
            "not for this gate",
        ),
        (
            "msg_6",
            other("id_token", json!(rig.token("ada", &["dba"], &json!({"exp": time - 300})))),
            StatusCode::FORBIDDEN,
            "expired",
        ),
        (
            "msg_7",
            other("id_token", json!(rig.word(&pending, "approve", "bob", &["dev"], &json!({})))),
            StatusCode::FORBIDDEN,
            "only group dba may decide this",
        ),
        (
            "msg_8",
            other("id_token", json!(rig.word(&pending, "approve", "agent", &["dba"], &json!({})))),
            StatusCode::FORBIDDEN,
            "this run acts for user agent",
        ),
        // Their word, put to another use: another digest, another answer, and a token that was for signing in.
        ("msg_9", other("digest", json!("ab".repeat(32))), StatusCode::FORBIDDEN, "its nonce is not"),
        ("msg_10", other("answer", json!("deny")), StatusCode::FORBIDDEN, "its nonce is not"),
        (
            "msg_11",
            other("id_token", json!(rig.token("ada", &["dba"], &json!({"nonce": "of a sign-in"})))),
            StatusCode::FORBIDDEN,
            "its nonce is not",
        ),
        ("msg_11", good.clone(), StatusCode::CONFLICT, "this delivery has come before"),
    ] {
        let answer = rig.called(id, &body).await;
        assert_eq!(answer.status, expected, "{id} {}", answer.body);
        assert_eq!(
            (&answer.body["type"], &answer.body["status"]),
            (&json!("about:blank"), &json!(expected.as_u16()))
        );
        assert!(answer.body["detail"].as_str().unwrap().contains(detail), "{id} {}", answer.body);
    }
    assert_eq!(rig.webhook.approvals.waiting(), 1);
}

#[tokio::test]
async fn a_person_s_answer_decides() {
    let rig = Rig::start("").await;
    let pending = rig.ask(held());
    let fresh = rig.word(&pending, "approve", "ada", &["dba"], &json!({"jti": "2"}));
    let answer = rig.called("msg_11", &rig.says(&pending, "approve", &fresh)).await;
    assert_eq!(
        (answer.status, &answer.body["state"]),
        (StatusCode::OK, &json!("approved")),
        "{}",
        answer.body
    );
    let entry = rig.webhook.approvals.get(pending.id()).unwrap();
    let Some(Outcome::Approved { by, reason, .. }) = &entry.outcome else { panic!("{entry:?}") };
    assert_eq!((by.user.as_str(), reason.as_str()), ("ada", "CHG-1"));
    assert_eq!(by.identity.as_ref().unwrap().issuer, rig.issuer.url);
    let again = rig.called("msg_12", &rig.says(&pending, "approve", &fresh)).await;
    assert!(
        again.body["detail"].as_str().unwrap().contains("this ID token has come before"),
        "{}",
        again.body
    );
}

#[tokio::test]
async fn what_the_page_would_refuse_is_refused_here() {
    let rig = Rig::start("step_up = \"10m\"").await;
    let (pending, linked) = (rig.ask(held()), rig.ask(Held { chat: ChatUse::Link, ..held() }));
    let time = now().as_secs();
    for (number, at) in [json!(null), json!(time - 700)].into_iter().enumerate() {
        let token = rig.word(&pending, "deny", "ada", &["dba"], &json!({"auth_time": at}));
        let answer = rig.called(&format!("msg_{number}"), &rig.says(&pending, "deny", &token)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(
            answer.body["detail"].as_str().unwrap().contains("lately enough (auth_time)"),
            "{}",
            answer.body
        );
    }
    let token = rig.word(&linked, "approve", "ada", &["dba"], &json!({"auth_time": time - 60}));
    let answer = rig.called("msg_5", &rig.says(&linked, "approve", &token)).await;
    assert!(answer.body["detail"].as_str().unwrap().contains("decided on the page alone"), "{}", answer.body);
    let token = rig.word(&pending, "deny", "ada", &["dba"], &json!({"auth_time": time - 60}));
    assert_eq!(rig.called("msg_6", &rig.says(&pending, "deny", &token)).await.body["state"], "denied");
}

#[tokio::test]
async fn a_delivery_that_failed_by_the_provider_may_come_again() {
    let rig = Rig::start("").await;
    let pending = rig.ask(held());
    let says = rig.says(&pending, "approve", &rig.word(&pending, "approve", "ada", &["dba"], &json!({})));
    // In the place of what was to be answered first.
    rig.issuer.answer(500, &[], "");
    let answers = [rig.called("msg_1", &says).await.status, rig.called("msg_1", &says).await.status];
    assert_eq!(answers[0], StatusCode::BAD_GATEWAY);
    assert_ne!(answers[1], StatusCode::CONFLICT, "it is not held against the sender");
}
