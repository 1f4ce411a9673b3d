//! Which Slack user is whom: said by the person, on this page, and by nobody else. And the way in for signed requests.

use super::*;
use crate::chat::Parts as ChatParts;
use crate::chat::tests::credentials;

const CHAT: &str = "[chat.slack]\nchannel = \"C1\"\nbot_token = \"bot\"\naccounts = \"any\"\nsigning_secret = \"signing\"\nlinked = \"12h\"\n\
                    [chat.webhook]\nurl = \"https://itsm.example/hook\"\nsecret = \"hook\"\n";

/// A page with chats, and the folder of their credentials.
async fn start(more: &str) -> (Rig, tempfile::TempDir) {
    let rig = Rig::start_with(more).await;
    let (folder, credentials) =
        credentials(&[("signing", "s"), ("hook", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]);
    let page = Settings::clone(&rig.web.settings);
    let text = format!(
        "[web]\nlisten = \"127.0.0.1:1\"\nurl = \"{ORIGIN}\"\nissuer = \"https://i\"\nclient_id = \"c\"\n{CHAT}"
    );
    let settings = Config::parse(&text, std::path::Path::new("p.toml")).unwrap().chat.unwrap();
    let approvals = Arc::clone(&rig.web.approvals);
    let issuers = Arc::new(Issuers::new(Arc::default()));
    let chat = Chat::new(ChatParts { settings, page, approvals, credentials, issuers });
    let Rig { web, idp, _folder } = rig;
    let web = Arc::into_inner(web).unwrap();
    (Rig { web: Arc::new(Web { chat: Some(chat), ..web }), idp, _folder }, folder)
}

fn code(rig: &Rig, user: &str) -> String {
    let links = rig.web.chat.as_ref().unwrap().links();
    links.code_for_tests("T1", user).to_string()
}

fn linked(rig: &Rig, user: &str) -> Vec<String> {
    let who = crate::chat::tests::person(user, &[]);
    let identity = crate::run::Identity {
        issuer: rig.idp.issuer.clone(),
        subject: format!("sub-\"{user}\""),
        name: None,
        groups: Vec::new(),
        groups_claim: None,
        claims: crate::policy::rule::Claims::new(),
        expires_ms: 0,
        token: String::new(),
        meaning: String::new(),
    };
    let who = Reviewer { identity: Some(Arc::new(identity)), ..who };
    let links = rig.web.chat.as_ref().unwrap().links().of(&who);
    links.into_iter().map(|(account, _)| account.user).collect()
}

#[tokio::test]
async fn a_person_says_which_slack_user_is_theirs() {
    let (rig, _folder) = start("").await;
    let code = code(&rig, "U1");
    let path = format!("/chat/link/{code}");
    let asked = rig.get(&path, "").await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED);
    assert_eq!(asked.field("back"), path, "a sign-in leads back there");
    let ada = rig.sign_in("ada", &["dba"]).await;
    let page = rig.get(&path, &ada).await;
    for part in ["U1", "T1", "&lt;b&gt;", "ada", "12h 0m", "If somebody sent you this link"] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    let confirm = format!("{path}/confirm");
    let form = format!("csrf={}", page.field("csrf"));
    assert_eq!(rig.post(&confirm, &ada, "csrf=x").await.status, StatusCode::FORBIDDEN);
    assert_eq!(rig.post(&confirm, "", &form).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        rig.send(posted(&confirm, &ada, &form, &[("origin", "https://evil.example")])).await.status,
        StatusCode::FORBIDDEN
    );
    assert!(linked(&rig, "ada").is_empty(), "looking and forging link nobody");
    let done = rig.post(&confirm, &ada, &form).await;
    assert_eq!(
        (done.status, done.body.contains("decides as ada now")),
        (StatusCode::OK, true),
        "{}",
        done.body
    );
    assert_eq!(linked(&rig, "ada"), ["U1"]);
    for path in [&path, &confirm] {
        let again =
            if *path == confirm { rig.post(path, &ada, &form).await } else { rig.get(path, &ada).await };
        assert_eq!((again.status, again.body.contains("this link is over")), (StatusCode::NOT_FOUND, true));
    }
    let eve = rig.sign_in("eve", &[]).await;
    let theirs = rig.get("/chat/links", &eve).await;
    assert!(theirs.body.contains("None."), "{}", theirs.body);
    let end = |page: &Answer| format!("csrf={}&team=T1&user=U1", page.field("csrf"));
    assert_eq!(rig.post("/chat/links/end", &eve, &end(&page)).await.status, StatusCode::FORBIDDEN);
    let own = rig.get("/chat/links", &ada).await;
    assert!(own.body.contains("user U1 of workspace T1"), "{}", own.body);
    assert_eq!(rig.post("/chat/links/end", &ada, &end(&own)).await.status, StatusCode::SEE_OTHER);
    assert!(linked(&rig, "ada").is_empty());
}

#[tokio::test]
async fn what_is_signed_needs_no_origin_and_everything_else_does() {
    let (rig, _folder) = start("").await;
    for path in ["/chat/slack", "/chat/webhook"] {
        let mut request = posted(path, "", "payload=x", &[("origin", "https://evil.example")]);
        let refused = rig.send(request).await;
        assert_eq!(
            refused.status,
            StatusCode::UNAUTHORIZED,
            "{path}: by its signature, not by where it comes from"
        );
        request = posted(path, "", &"x".repeat(crate::chat::BODY_BYTES_MAX + 1), &[]);
        assert_eq!(rig.send(request).await.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        let mut request = posted(path, "", "", &[]);
        request.headers_mut().insert("host", "evil.example".parse().unwrap());
        assert_eq!(rig.send(request).await.status, StatusCode::MISDIRECTED_REQUEST, "{path}");
    }
    for path in ["/chat/slack/", "/chat/slackx", "/chat/links/end", "/chat", "/login"] {
        let refused = rig.send(posted(path, "", "", &[])).await;
        assert_eq!(
            (refused.status, refused.body.contains("another site")),
            (StatusCode::FORBIDDEN, true),
            "{path}"
        );
    }
    let problem = rig.send(posted("/chat/webhook", "", "{}", &[])).await;
    assert_eq!(problem.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn without_chats_there_is_nothing() {
    let rig = Rig::start().await;
    let ada = rig.sign_in("ada", &["dba"]).await;
    for path in ["/chat/links", "/chat/link/x"] {
        assert_eq!(rig.get(path, &ada).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/chat/slack", "/chat/webhook", "/chat/links/end", "/chat/link/x/confirm"] {
        assert_eq!(rig.post(path, &ada, "").await.status, StatusCode::NOT_FOUND, "{path}");
    }
}
