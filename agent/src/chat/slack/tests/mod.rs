//! Slack as its API documents it: what messages look like, what a click is worth, and what becomes of both.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinHandle;

use super::blocks::{APPROVE, DENY, Pressed};
use super::clicked::Click;
use super::*;
use crate::approval::{Answer, Content, Decision, Outcome, Pending, Request as Held, Reviewer};
use crate::chat::courier::{ATTEMPTS_MAX, Courier, Service as Served};
use crate::chat::links::Account;
use crate::chat::now;
use crate::chat::tests::{Service, approvals, credentials, entry, held, person, slack as usual};
use crate::policy::rule::ChatUse;

mod socket;

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

struct Rig {
    slack: Arc<Slack>,
    api: Service,
    health: Arc<Health>,
    _folder: tempfile::TempDir,
    courier: Option<JoinHandle<()>>,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(step_up: Option<Duration>) -> Self {
        Self::start_for(step_up, AccountNames::Any).await
    }

    async fn start_for(step_up: Option<Duration>, accounts: AccountNames) -> Self {
        let api = Service::start(usual).await;
        let (folder, credentials) = credentials(&[("bot", "xoxb-1"), ("signing", SECRET)]);
        let settings = Settings {
            accounts,
            channel: "C1".to_owned(),
            bot_token: "bot".to_owned(),
            clicks: Clicks::Signed { signing_secret: "signing".to_owned() },
            api: format!("{}/api", api.url),
            root_cert: None,
            linked: Duration::from_hours(1),
        };
        let parts = Parts {
            words: Words { url: "https://gate".to_owned(), statements: true },
            step_up,
            credentials,
            approvals: approvals(),
            links: Links::new(settings.linked),
        };
        let slack = Slack::new(settings, parts);
        Self { slack, api, health: Health::of("Slack"), _folder: folder, courier: None }
    }

    /// Has messages carried from now on.
    fn carry(&mut self) {
        let served = Served::Slack(Arc::clone(&self.slack));
        let courier = Courier::new(served, Arc::clone(&self.slack.approvals), Arc::clone(&self.health));
        self.courier = Some(tokio::spawn(courier.run()));
    }

    fn ask(&self, request: Held) -> Pending {
        self.slack.approvals.ask(request).unwrap()
    }

    fn value(&self, pending: &Pending) -> String {
        format!("{} {}", pending.id(), self.slack.approvals.get(pending.id()).unwrap().digest)
    }

    /// A click as Slack sends it.
    async fn click(&self, payload: &Value) -> StatusCode {
        let mut payload = payload.clone();
        // No two clicks are alike.
        payload["trigger_id"] = json!(crate::flow::ApprovalId::generate());
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &payload.to_string())
            .finish();
        self.slack.signed(&sign(&body), body.as_bytes()).await
    }

    /// What the user is told of it.
    async fn told(&mut self, payload: &Value) -> Value {
        assert_eq!(self.click(payload).await, StatusCode::OK);
        loop {
            let asked = self.api.asked().await;
            if asked.path == "/api/chat.postEphemeral" {
                return asked.json();
            }
        }
    }

    fn link(&self, user: &str, who: Reviewer, age: Duration) {
        let account = Account { team: "T1".to_owned(), user: user.to_owned(), called: String::new() };
        let code = self.slack.links.code(account).unwrap();
        self.slack.links.link(&code, who, age).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.courier.iter().for_each(JoinHandle::abort);
    }
}

fn sign(body: &str) -> HeaderMap {
    let time = now().as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("v0:{time}:{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    [("x-slack-request-timestamp", time.to_string()), ("x-slack-signature", format!("v0={hex}"))]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect()
}

fn pressed(user: &str, action: &str, value: &str) -> Value {
    json!({
        "type": "block_actions",
        "user": {"id": user, "username": "ada", "team_id": "T1"},
        "team": {"id": "T1", "domain": "acme"},
        "channel": {"id": "C1"},
        "container": {"type": "message", "channel_id": "C1", "message_ts": "1700000000.000100"},
        "response_url": "http://169.254.169.254/never",
        "actions": [{"type": "button", "action_id": action, "block_id": "b", "value": value}],
    })
}

/// Every text object and element of a message, and the limits that Slack documents for it.
fn check(blocks: &Value) {
    let blocks = blocks.as_array().unwrap();
    assert!((1..=50).contains(&blocks.len()));
    for block in blocks {
        match block["type"].as_str().unwrap() {
            "header" => text(&block["text"], 150),
            "section" if block.get("fields").is_some() => {
                let fields = block["fields"].as_array().unwrap();
                assert!((1..=10).contains(&fields.len()));
                fields.iter().for_each(|field| text(field, 2000));
            }
            "section" => text(&block["text"], 3000),
            "context" => block["elements"].as_array().unwrap().iter().for_each(|element| text(element, 3000)),
            "actions" => block["elements"].as_array().unwrap().iter().for_each(|button| {
                assert_eq!(button["type"], "button");
                text(&button["text"], 75);
                assert!(button["value"].as_str().unwrap_or_default().len() <= 2000);
                assert!(button["url"].as_str().unwrap_or_default().len() <= 3000);
                assert!(button["action_id"].as_str().unwrap().len() <= 255);
            }),
            "rich_text" => {
                let inside = &block["elements"][0];
                assert_eq!(
                    (&inside["type"], &inside["elements"][0]["type"]),
                    (&json!("rich_text_preformatted"), &json!("text"))
                );
                assert!(inside["elements"][0]["text"].as_str().unwrap().chars().count() <= 3000);
            }
            other => panic!("{other}"),
        }
    }
}

fn text(object: &Value, longest: usize) {
    assert_eq!((&object["type"], &object["emoji"]), (&json!("plain_text"), &json!(false)), "no formatting");
    let text = object["text"].as_str().unwrap();
    assert!((1..=longest).contains(&text.chars().count()), "{text}");
    assert!(!text.contains(['<', '>']), "{text}");
}

#[test]
fn messages_keep_to_slacks_limits_and_agents_words_stay_words() {
    let words = Words { url: "https://gate".to_owned(), statements: true };
    let hostile = "``` <!channel> <https://evil|Approve> *b* @here :tada:\n\u{202e}";
    let long = "<&>".repeat(10_000);
    for statement in [hostile, &long, ""] {
        let request = Held {
            content: Content::new(statement.as_bytes(), &[Some(long.as_bytes())], &[Some(long.as_bytes())]),
            connection: long.clone(),
            rule: hostile.to_owned(),
            in_transaction: true,
            approvers: vec![long.clone()],
            ..held()
        };
        let entry = entry(request);
        let said = words.said(&entry);
        check(&blocks::message(&said, &entry));
        assert!(!blocks::notification(&said).contains(['<', '>']));
    }
    let entry = entry(Held { content: Content::new(hostile.as_bytes(), &[], &[]), ..held() });
    let message = blocks::message(&words.said(&entry), &entry);
    let shown = &message[1]["elements"][0]["elements"][0];
    assert_eq!(shown["text"], "``` <!channel> <https://evil|Approve> *b* @here :tada:\n\\u{202e}");
    let ids = |message: &Value| {
        let buttons = message.as_array().unwrap().last().unwrap()["elements"].as_array().unwrap().clone();
        buttons.iter().map(|button| button["action_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&message), [APPROVE, DENY, "portcullis_page"]);
    let linked = Held { chat: ChatUse::Link, ..held() };
    for request in [linked, Held { content: Content::new(long.as_bytes(), &[], &[]), ..held() }] {
        let entry = crate::chat::tests::entry(request);
        assert_eq!(ids(&blocks::message(&words.said(&entry), &entry)), ["portcullis_page"], "a link alone");
    }
}

#[test]
fn a_click_is_one_press_of_one_of_our_buttons() {
    let entry = entry(held());
    let value = format!("{} {}", entry.id, entry.digest);
    let good = pressed("U1", APPROVE, &value);
    let click = Click::parse(&good.to_string()).unwrap();
    assert_eq!(click.pressed, Pressed { answer: Answer::Approve, id: entry.id, seen: entry.digest });
    assert!(click.account.is("T1", "U1") && click.channel == "C1");
    let changed = |path: &str, to: Value| {
        let mut payload = good.clone();
        *payload.pointer_mut(path).unwrap() = to;
        Click::parse(&payload.to_string())
    };
    let action = good["actions"][0].clone();
    for (path, to) in [
        ("/type", json!("view_submission")),
        ("/actions", json!([])),
        ("/actions", json!([action, action])),
        ("/actions/0/action_id", json!("portcullis_page")),
        ("/actions/0/value", json!("")),
        ("/actions/0/value", json!(format!("{value} "))),
        ("/actions/0/value", json!(entry.id.to_string())),
        ("/actions/0/value", json!(format!("{} {}", entry.id, "0".repeat(2000)))),
        ("/user/id", json!("")),
        ("/user/id", json!("U1/../U2")),
        ("/user/id", json!("U".repeat(65))),
        ("/user/team_id", json!("T 1")),
        ("/channel", json!(null)),
        ("/channel/id", json!("#general")),
    ] {
        assert_eq!(changed(path, to.clone()), None, "{path} {to}");
    }
    assert!(
        changed("/user/team_id", json!("T2")).unwrap().account.is("T2", "U1"),
        "the user's own workspace counts"
    );
    for payload in ["", "[]", "{}", "{\"type\":\"block_actions\"}"] {
        assert_eq!(Click::parse(payload), None, "{payload}");
    }
}

#[tokio::test]
async fn an_unknown_user_gets_a_link_and_decides_once_linked() {
    let mut rig = Rig::start().await;
    let pending = rig.ask(held());
    let approve = pressed("U1", APPROVE, &rig.value(&pending));
    let told = rig.told(&approve).await;
    assert_eq!((&told["channel"], &told["user"]), (&json!("C1"), &json!("U1")), "to the user alone");
    check(&told["blocks"]);
    let url = told["blocks"][1]["elements"][0]["url"].as_str().unwrap();
    let code = url.strip_prefix("https://gate/chat/link/").unwrap();
    assert_eq!(rig.slack.approvals.waiting(), 1);
    // Of two links the newer one counts, and somebody else's group does not.
    assert!(rig.slack.links.link(code, person("bob", &["dev"]), Duration::ZERO).is_some());
    let told = rig.told(&approve).await;
    assert_eq!(told["text"], "Nothing was decided: only group dba may decide this.");
    rig.link("U1", person("ada", &["dba"]), Duration::ZERO);
    let elsewhere = pressed("U1", APPROVE, &format!("{} {}", pending.id(), "ab".repeat(32)));
    assert!(
        rig.told(&elsewhere).await["text"]
            .as_str()
            .unwrap()
            .contains("what you were shown is not what waits")
    );
    let told = rig.told(&approve).await;
    assert_eq!(told["text"], "Done, as ada: approved by ada: in Slack, as U1.");
    let entry = rig.slack.approvals.get(pending.id()).unwrap();
    assert!(matches!(&entry.outcome, Some(Outcome::Approved { by, .. }) if by.user == "ada"), "{entry:?}");
    let again = pressed("U1", DENY, &rig.value(&pending));
    assert_eq!(rig.told(&again).await["text"], "Nothing was decided: approved by ada already.");
}

#[tokio::test]
async fn who_asks_does_not_decide_nor_another_workspace_nor_an_old_proof() {
    let step_up = Duration::from_mins(10);
    let mut rig = Rig::start_with(Some(step_up)).await;
    let pending = rig.ask(held());
    let value = rig.value(&pending);
    rig.link("U1", person("agent", &["dba"]), Duration::ZERO);
    let told = rig.told(&pressed("U1", APPROVE, &value)).await;
    assert!(told["text"].as_str().unwrap().contains("this run acts for user agent"), "{told}");
    rig.link("U2", person("ada", &["dba"]), step_up + Duration::from_secs(1));
    let told = rig.told(&pressed("U2", APPROVE, &value)).await;
    assert!(told["text"].as_str().unwrap().contains("Sign in on its page"), "{told}");
    let mut foreign = pressed("U2", APPROVE, &value);
    foreign["user"]["team_id"] = json!("T2");
    let told = rig.told(&foreign).await;
    assert!(told["text"].as_str().unwrap().contains("Only members of the workspace"), "{told}");
    let linked = rig.ask(Held { chat: ChatUse::Link, ..held() });
    rig.link("U3", person("ada", &["dba"]), Duration::ZERO);
    let told = rig.told(&pressed("U3", APPROVE, &rig.value(&linked))).await;
    assert_eq!(told["text"], "This is decided on the page alone.", "whatever a message once showed");
    assert_eq!(rig.slack.approvals.waiting(), 2);
}

#[tokio::test]
async fn a_request_counts_once_and_when_slack_has_signed_it() {
    let mut rig = Rig::start().await;
    let pending = rig.ask(held());
    let payload = pressed("U1", APPROVE, &rig.value(&pending)).to_string();
    let form = |payload: &str| {
        form_urlencoded::Serializer::new(String::new()).append_pair("payload", payload).finish()
    };
    let (body, other) = (form(&payload), form("{}"));
    let slack = Arc::clone(&rig.slack);
    assert_eq!(slack.signed(&HeaderMap::new(), body.as_bytes()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(slack.signed(&sign(&other), body.as_bytes()).await, StatusCode::UNAUTHORIZED);
    let signed = sign(&body);
    assert_eq!(slack.signed(&signed, body.as_bytes()).await, StatusCode::OK);
    assert_eq!(slack.signed(&signed, body.as_bytes()).await, StatusCode::CONFLICT, "replayed");
    let twice = format!("{body}&{other}");
    assert_eq!(slack.signed(&sign(&twice), twice.as_bytes()).await, StatusCode::BAD_REQUEST);
    assert_eq!(slack.signed(&sign("x=y"), b"x=y").await, StatusCode::BAD_REQUEST);
    assert_eq!(slack.signed(&sign(&other), other.as_bytes()).await, StatusCode::OK, "none of our buttons");
    // One click was taken: who it is, and the link.
    assert_eq!(rig.api.asked().await.path, "/api/auth.test");
    assert_eq!(rig.api.asked().await.path, "/api/chat.postEphemeral");
    assert!(!rig.api.was_asked());
}

#[tokio::test]
async fn a_message_follows_its_request() {
    let mut rig = Rig::start().await;
    let early = rig.ask(Held { quorum: 2, ..held() });
    let silent = rig.ask(Held { chat: ChatUse::None, ..held() });
    rig.carry();
    let posted = rig.api.asked().await;
    assert_eq!(
        (posted.path.as_str(), &posted.headers["authorization"]),
        ("/api/chat.postMessage", &"Bearer xoxb-1".parse().unwrap())
    );
    let message = posted.json();
    check(&message["blocks"]);
    assert_eq!(
        (&message["channel"], &message["text"]),
        (&json!("C1"), &json!("ddl on orders-db: an approval waits"))
    );
    let decide = |user: &str, answer| {
        let entry = rig.slack.approvals.get(early.id()).unwrap();
        rig.slack
            .approvals
            .decide(entry.id, entry.digest, person(user, &["dba"]), Decision::plain(answer, "ok"))
            .unwrap();
    };
    let buttons = |message: &Value| {
        message["blocks"].as_array().unwrap().last().unwrap()["elements"].as_array().unwrap().len()
    };
    decide("ada", Answer::Approve);
    let voted = rig.api.asked().await;
    assert_eq!((voted.path.as_str(), &voted.json()["ts"]), ("/api/chat.update", &json!("1700000000.000100")));
    assert!(
        voted.json()["blocks"].to_string().contains("waits, 1 of 2 approvals: ada")
            && buttons(&voted.json()) == 3
    );
    let decide = |user: &str, answer| {
        let entry = rig.slack.approvals.get(early.id()).unwrap();
        rig.slack
            .approvals
            .decide(entry.id, entry.digest, person(user, &["dba"]), Decision::plain(answer, "ok"))
            .unwrap();
    };
    decide("eve", Answer::Deny);
    let settled = rig.api.asked().await.json();
    assert!(
        settled["blocks"].to_string().contains("denied by eve: ok") && buttons(&settled) == 1,
        "{settled}"
    );
    drop(silent);
    // Nothing of the one that chats are not told of.
    let last = rig.ask(held());
    assert!(rig.api.asked().await.json()["blocks"].to_string().contains(&last.id().to_string()));
    assert_eq!(rig.health.problem(), None);
}

#[tokio::test]
async fn a_service_that_is_slow_or_down_is_asked_again_and_given_up() {
    let mut rig = Rig::start().await;
    let soon = [("retry-after", "0")];
    rig.api.answer(429, &soon, "");
    rig.api.answer(500, &soon, "");
    rig.api.answer(200, &soon, "{\"ok\":false,\"error\":\"ratelimited\"}");
    let first = rig.ask(held());
    rig.carry();
    for _ in 0..4 {
        let asked = rig.api.asked().await.json();
        assert!(
            asked["blocks"].to_string().contains(&first.id().to_string()),
            "the same one, until it is taken"
        );
    }
    for _ in 0..ATTEMPTS_MAX {
        rig.api.answer(503, &soon, "");
    }
    let lost = rig.ask(held());
    for _ in 0..ATTEMPTS_MAX {
        assert!(rig.api.asked().await.json()["blocks"].to_string().contains(&lost.id().to_string()));
    }
    rig.api.answer(200, &[], "{\"ok\":false,\"error\":\"invalid_blocks\"}");
    let refused = rig.ask(held());
    assert!(rig.api.asked().await.json()["blocks"].to_string().contains(&refused.id().to_string()));
    // Looked at while the next one is on its way, so that the last has been noted.
    rig.api.answer(429, &[("retry-after", "60")], "");
    drop(rig.ask(held()));
    let waits = rig.ask(held());
    let asked = rig.api.asked().await.json();
    let problem = rig.health.problem();
    assert!(asked["blocks"].to_string().contains("approval"), "{asked}");
    assert!(
        problem.as_ref().is_some_and(
            |problem| problem.contains("chat: Slack: ") && problem.contains("2 messages were not sent")
        ),
        "{problem:?}"
    );
    drop(waits);
}

#[tokio::test]
async fn a_slack_user_is_linked_to_whom_slack_knows_by_their_address() {
    let rig = Rig::start_for(None, AccountNames::Matching).await;
    let account = Account { team: "T1".to_owned(), user: "U1".to_owned(), called: "ada".to_owned() };
    let known =
        |id: &str, profile: Value| json!({"ok": true, "user": {"id": id, "profile": profile}}).to_string();
    for (answer, who, expected) in [
        (known("U1", json!({"email": "Ada@acme.example"})), "ada", Some(true)),
        (known("U1", json!({"email": "alice@acme.example"})), "ada", Some(false)),
        (known("U2", json!({"email": "ada@acme.example"})), "ada", None),
        (known("U1", json!({})), "ada", None),
        (json!({"ok": false, "error": "missing_scope"}).to_string(), "ada", None),
    ] {
        rig.api.answer(200, &[], &answer);
        assert_eq!(rig.slack.is_same_person(&account, &person(who, &[])).await.ok(), expected, "{answer}");
    }
    let any = Rig::start().await;
    assert_eq!(any.slack.is_same_person(&account, &person("bob", &[])).await, Ok(true), "nobody is asked");
}
