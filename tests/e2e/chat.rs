//! Approvals by chat, against a stand-in that checks what it is sent: real statements wait, messages come, people say on the
//! page who they are, and click.

use std::net::TcpListener;

use harness::chat::{CREDENTIALS, ChatStandIn};
use harness::daemon::shop_policy;
use harness::process::REVIEWER;
use harness::reviewer::{Reviewer, id_of};
use serde_json::{Value, json};

use crate::spine::server;
use crate::web_page::{Browser, Page, exists, table};

fn policy() -> String {
    shop_policy(server()).replace("user:daemon", "dba").replace("30s", "120s")
}

/// A page with chats of the stand-in.
fn start(policy: &str, tables: &str, chats: &ChatStandIn) -> Page {
    let teams = chats.teams_url();
    let credentials = [&CREDENTIALS[..], &[("teams-url", teams.as_str())]].concat();
    Page::start_with(false, policy, tables, &credentials)
}

fn buttons(message: &Value) -> Vec<&str> {
    let last = message["blocks"].as_array().unwrap().last().unwrap();
    last["elements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|button| button["text"]["text"].as_str().unwrap())
        .collect()
}

/// Follows the link that a Slack user was shown, as a person.
fn link(browser: &mut Browser, whispered: &Value, name: &str) {
    let url = &whispered["blocks"][1]["elements"][0]["url"];
    browser.tell(&json!({"do": "sign_in", "with": [url, name]}));
    browser.until("it is their Slack user that would decide in your name");
    browser.tell(&json!({"do": "click", "with": ["#link button"]}));
    browser.until("Go back to Slack and click again.");
}

#[test]
fn a_slack_user_says_who_they_are_and_approves() {
    let mut chats = ChatStandIn::start().unwrap();
    let page = start(&policy(), &chats.slack_table("app_token = \"slack-app\""), &chats);
    chats.until("socket").unwrap();
    table("chat_approved");
    let mut psql = page.agent("DROP TABLE chat_approved -- <!channel>");
    let posted = chats.until("posted").unwrap();
    assert_eq!(
        posted["blocks"][1]["elements"][0]["elements"][0]["text"],
        "DROP TABLE chat_approved -- <!channel>"
    );
    assert_eq!(buttons(&posted), ["Approve once", "Deny", "Decide on the page"]);
    let message = &posted["posted"];

    let whispered = chats.click("U0ADA", "Approve once", message).unwrap();
    assert_eq!(whispered["whispered"], "U0ADA");
    assert!(exists("chat_approved"), "nobody has said who that is");
    let mut ada = Browser::start();
    link(&mut ada, &whispered, "ada+dba");
    let whispered = chats.click("U0ADA", "Approve once", message).unwrap();
    assert_eq!(whispered["text"], "Done, as ada: approved by ada: in Slack, as U0ADA.");
    psql.until_contains("DROP TABLE").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0, "{}", page.daemon.log());
    assert!(!exists("chat_approved"));
    let updated = chats.until("updated").unwrap();
    assert_eq!((&updated["updated"], buttons(&updated)), (message, vec!["See it on the page"]));
    assert!(updated["blocks"].to_string().contains("approved by ada"), "{updated}");
    let settled = page.daemon.json(&["approvals", "list"]).unwrap();
    assert_eq!(settled[0]["outcome"]["approved"]["by"]["identity"]["subject"], "ada+dba");

    // Slack takes its socket away; the next one was there before, and brings the next click.
    assert!(chats.refresh().unwrap());
    let psql = page.agent("DROP TABLE chat_approved_no_more");
    let posted = chats.until("posted").unwrap();
    let whispered = chats.click("U0ADA", "Deny", &posted["posted"]).unwrap();
    assert!(whispered["text"].as_str().unwrap().contains("denied by ada"), "{whispered}");
    assert_ne!(psql.finish().unwrap().code, 0);
    assert!(
        !page.daemon.log().contains("xoxb") && !page.daemon.log().contains("xapp"),
        "no token is in the log"
    );
}

#[test]
fn who_asks_does_not_approve_in_slack_and_a_forged_click_is_none() {
    let mut chats = ChatStandIn::start().unwrap();
    let page = start(&policy(), &chats.slack_table("signing_secret = \"slack-signing\""), &chats);
    let url = format!("{}/chat/slack", page.url);
    table("chat_own");
    let psql = page.agent("DROP TABLE chat_own");
    let posted = chats.until("posted").unwrap();
    let message = &posted["posted"];
    let mut click =
        |user: &str, secret| chats.click_by_request(user, "Approve once", message, &url, secret).unwrap();
    assert_eq!(click("U0EVE", Some("guessed")), json!([401, 401]));
    assert_eq!(click("U0NOBODY", None), json!([200, 409]), "a signature counts once");
    let whispered = chats.until("whispered").unwrap();
    // The run is nobody's, and so is this sign-in.
    link(&mut Browser::start(), &whispered, "nobody+dba");
    chats.click_by_request("U0NOBODY", "Approve once", message, &url, None).unwrap();
    let whispered = chats.until("whispered").unwrap();
    assert!(
        whispered["text"]
            .as_str()
            .unwrap()
            .contains("this run acts for user nobody; somebody else must decide")
    );
    assert!(exists("chat_own"));
    // They may take it back.
    drop(psql);
    assert!(chats.until("updated").unwrap()["blocks"].to_string().contains("withdrawn"));
}

#[test]
fn teams_gets_a_card_and_any_system_a_webhook_that_it_answers() {
    let mut chats = ChatStandIn::start().unwrap();
    let page = start(&policy(), &chats.other_tables(), &chats);
    table("chat_webhook");
    let mut psql = page.agent("DROP TABLE chat_webhook");
    // They come in either order.
    let (mut card, mut hook) = (None, None);
    while card.is_none() || hook.is_none() {
        let said = chats.until("type").unwrap();
        card = said.get("card").cloned().or(card);
        hook = said.get("hook").cloned().or(hook);
    }
    let (card, waiting) = (card.unwrap(), hook.unwrap());
    let data = &waiting["data"];
    let id = data["approval"].as_str().unwrap();
    assert_eq!(card["actions"][0]["url"], format!("{}/approvals/{id}", page.url));
    assert!(card["body"].to_string().contains("DROP TABLE chat_webhook"), "{card}");
    assert_eq!(
        (&waiting["type"], &data["statement"]),
        (&json!("approval.waiting"), &json!("DROP TABLE chat_webhook"))
    );

    let url = format!("{}/chat/webhook", page.url);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |name: &str| {
        let claims = json!({"sub": name, "preferred_username": name, "groups": ["dba"], "auth_time": now, "nonce": data["nonce"]["approve"]});
        let wanted = json!({"aud": "portcullis-page-confidential", "claims": claims});
        page.provider.mint(&wanted).unwrap()
    };
    let says = |token: String| json!({"approval": id, "digest": data["digest"], "answer": "approve", "reason": "CHG-7", "id_token": token});
    let own = says(token("nobody"));
    let (status, problem) = chats.answer(&url, "msg_1", &own, false).unwrap();
    assert_eq!((status, &problem["status"]), (403, &json!(403)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("somebody else must decide"), "{problem}");
    let ada = says(token("ada"));
    assert_eq!(chats.answer(&url, "msg_2", &ada, true).unwrap().0, 401, "not signed by the receiver");
    let mut made_up = ada.clone();
    made_up["id_token"] = json!("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.");
    assert_eq!(chats.answer(&url, "msg_3", &made_up, false).unwrap().0, 403, "nobody is made up");
    assert!(exists("chat_webhook"));
    let (status, body) = chats.answer(&url, "msg_4", &ada, false).unwrap();
    assert_eq!((status, &body["state"]), (200, &json!("approved")), "{body}");
    psql.until_contains("DROP TABLE").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0, "{}", page.daemon.log());
    let settled = chats.until("hook").unwrap()["hook"].clone();
    assert_eq!(settled["type"], "approval.settled");
    assert_eq!(settled["data"]["outcome"], json!({"state": "approved", "by": "ada", "reason": "CHG-7"}));
    assert_eq!(chats.answer(&url, "msg_4", &ada, false).unwrap().0, 409);
    assert!(
        !page.daemon.log().contains("eyJ") && !page.daemon.log().contains("teams-secret"),
        "no secret is in the log"
    );
}

#[test]
fn a_rule_may_keep_decisions_on_the_page_and_a_chat_that_is_down_holds_nothing_up() {
    let mut chats = ChatStandIn::start().unwrap();
    let policy = shop_policy(server()).replacen("action = \"hold\"", "action = \"hold\"\nchat = \"link\"", 1);
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("[chat.webhook]\nurl = \"http://{closed}/hook\"\nsecret = \"hook-secret\"\n");
    let tables = chats.slack_table("app_token = \"slack-app\"") + &down;
    let page = start(&policy, &tables, &chats);
    table("chat_linked");
    let mut reviewer = Reviewer::watch(&page.daemon, REVIEWER).unwrap();
    let mut psql = page.agent("DROP TABLE chat_linked");
    assert_eq!(buttons(&chats.until("posted").unwrap()), ["Decide on the page"]);
    let told =
        |answers: &[Value]| answers.iter().any(|status| status.to_string().contains("chat: webhook: "));
    page.daemon.until(&["status"], told).unwrap();
    let entry = reviewer.waiting().unwrap();
    assert_eq!(reviewer.approve(&id_of(&entry), "ok").unwrap().code, 0);
    psql.until_contains("DROP TABLE").unwrap();
    assert_eq!(psql.finish().unwrap().code, 0, "{}", page.daemon.log());
    assert_eq!(buttons(&chats.until("updated").unwrap()), ["See it on the page"]);
}
