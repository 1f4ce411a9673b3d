//! Signing in, and every way to sign in as somebody else.

use serde_json::json;

use super::provider::query;
use super::*;
use crate::policy::rule::StepUp;
use crate::run::now_ms;

#[tokio::test]
async fn somebody_signs_in_and_out() {
    let rig = Rig::start().await;
    let stranger = rig.get("/approvals/01ABC", "").await;
    assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
    assert_eq!(stranger.field("back"), "/approvals/01ABC");
    let (cookie, address) = rig.begin("/approvals/01ABC").await;
    let back = rig.get(&rig.idp.grant(&address, "ada", &["dba"]), &cookie).await;
    assert_eq!(
        (back.status, &back.headers["location"]),
        (StatusCode::SEE_OTHER, &"/approvals/01ABC".parse().unwrap())
    );
    let set: Vec<_> =
        back.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(set[0].starts_with("__Host-portcullis-login=;") && set[0].ends_with("Max-Age=0"), "{set:?}");
    assert!(set[1].ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{set:?}");
    let session = format!("__Host-portcullis={}", back.cookie("__Host-portcullis").unwrap());
    let inbox = rig.get("/", &session).await;
    assert!(inbox.status == StatusCode::OK && inbox.body.contains("ada"), "{}", inbox.body);
    let out = rig.post("/logout", &session, &format!("csrf={}", inbox.field("csrf"))).await;
    assert!(out.body.contains(&format!("{}/end?client_id=page", rig.idp.issuer)), "{}", out.body);
    assert_eq!(rig.get("/", &session).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_code_and_a_state_count_once_and_for_their_browser() {
    let rig = Rig::start().await;
    let (cookie, address) = rig.begin("/").await;
    let callback = rig.idp.grant(&address, "ada", &[]);
    assert_eq!(rig.get(&callback, "").await.status, StatusCode::BAD_REQUEST, "another browser");
    let (other, _) = rig.begin("/").await;
    assert_eq!(rig.get(&callback, &other).await.status, StatusCode::BAD_REQUEST, "another sign-in's state");
    assert_eq!(rig.get(&callback, &cookie).await.status, StatusCode::SEE_OTHER);
    let again = rig.get(&callback, &cookie).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST, "once");
    assert!(again.cookie("__Host-portcullis").is_none());
    // The code of somebody else's sign-in, slipped into one's own: its verifier is another.
    let (cookie, address) = rig.begin("/").await;
    let (_, elsewhere) = rig.begin("/").await;
    let stolen = query(&format!("http://x{}", rig.idp.grant(&elsewhere, "root", &[])))["code"].clone();
    let slipped = format!("/callback?code={stolen}&state={}", query(&address)["state"]);
    assert_eq!(rig.get(&slipped, &cookie).await.status, StatusCode::FORBIDDEN, "PKCE");
    // A failed try uses the state up.
    assert_eq!(rig.get(&rig.idp.grant(&address, "ada", &[]), &cookie).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_id_token_is_for_this_sign_in_and_this_client() {
    let rig = Rig::start().await;
    for claims in [
        json!({"name": "ada", "nonce": "another"}),
        json!({"name": "ada", "nonce": null}),
        json!({"name": "ada", "aud": "another"}),
        json!({"name": "ada", "azp": "another"}),
        json!({"name": "ada", "iss": "https://evil.example"}),
        json!({"name": "ada", "exp": 1}),
        json!({"name": "ada", "groups": {"no": "list"}}),
    ] {
        let (cookie, address) = rig.begin("/").await;
        let back = rig.get(&rig.idp.grant_claims(&address, &claims), &cookie).await;
        assert_eq!(back.status, StatusCode::FORBIDDEN, "{claims}");
        assert!(back.cookie("__Host-portcullis").is_none(), "{claims}");
    }
    let (cookie, address) = rig.begin("/").await;
    let mixed = format!("{}&iss=https://evil.example", rig.idp.grant(&address, "ada", &[]));
    assert_eq!(rig.get(&mixed, &cookie).await.status, StatusCode::BAD_REQUEST, "RFC 9207");
}

#[tokio::test]
async fn nobody_chooses_anothers_session() {
    let rig = Rig::start().await;
    let planted = Token::generate().unwrap().text().to_string();
    let before = rig.sign_in("mallory", &[]).await;
    for held in [format!("__Host-portcullis={planted}"), before.clone()] {
        let (cookie, address) = rig.begin("/").await;
        let back = rig.get(&rig.idp.grant(&address, "ada", &[]), &format!("{cookie}; {held}")).await;
        let given = back.cookie("__Host-portcullis").unwrap();
        assert!(!held.ends_with(&given), "a new one at each sign-in");
        assert_eq!(rig.get("/", &held).await.status, StatusCode::UNAUTHORIZED, "{held}");
    }
    // One that comes twice is none.
    let own = rig.sign_in("ada", &[]).await;
    let both = format!("{own}; __Host-portcullis={planted}");
    assert_eq!(rig.get("/", &both).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_may_take_ten_minutes() {
    let logins = Logins::default();
    let (token, _) = logins.begin("/", None).unwrap();
    tokio::time::advance(login::LOGIN_TIME_MAX).await;
    assert!(logins.take(&token.digest()).is_none());
    let (token, _) = logins.begin("/", None).unwrap();
    for _ in 0..login::LOGINS_MAX {
        logins.begin("/", None).unwrap();
    }
    assert!(logins.take(&token.digest()).is_none(), "the oldest makes room");
}

#[tokio::test]
async fn who_decides_has_proved_lately_who_they_are() {
    let rig = Rig::start_with("step_up = \"10m\"\n").await;
    let pending = rig.ask();
    let path = format!("/approvals/{}", pending.id());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let sign_in = async |auth_time: serde_json::Value| {
        let (cookie, address) = rig.begin("/").await;
        assert_eq!(query(&address)["max_age"], "600");
        let claims = json!({"name": "ada", "groups": ["dba"], "auth_time": auth_time});
        rig.get(&rig.idp.grant_claims(&address, &claims), &cookie).await
    };
    for auth_time in [json!(null), json!("now"), json!(now - 700)] {
        assert_eq!(sign_in(auth_time.clone()).await.status, StatusCode::FORBIDDEN, "{auth_time}");
    }
    for (auth_time, expected) in [(now - 615, StatusCode::FORBIDDEN), (now - 300, StatusCode::SEE_OTHER)] {
        let session = sign_in(json!(auth_time)).await.cookie("__Host-portcullis").unwrap();
        let session = format!("__Host-portcullis={session}");
        let page = rig.get(&path, &session).await;
        let form = format!("csrf={}&digest={}&answer=deny", page.field("csrf"), page.field("digest"));
        let answer = rig.post(&format!("{path}/decide"), &session, &form).await;
        assert_eq!(answer.status, expected, "{}", answer.body);
        if expected == StatusCode::FORBIDDEN {
            assert_eq!((answer.field("back"), rig.waiting()), (path.clone(), 1), "{}", answer.body);
        }
    }
    assert_eq!(rig.waiting(), 0);
}

/// What asks more of whoever approves it.
fn asks_for_proof(rig: &Rig) -> (Pending, String) {
    let acr = vec!["phr".to_owned(), "urn:x".to_owned()];
    let step_up = Some(StepUp { max_age: Some(Duration::from_mins(5)), acr });
    let pending = rig.web.approvals.ask(crate::approval::Request { step_up, ..held() }).unwrap();
    let path = format!("/approvals/{}", pending.id());
    (pending, path)
}

/// The decision form of a page, filled in.
fn filled(page: &Answer, answer: &str) -> String {
    format!("csrf={}&digest={}&answer={answer}&reason=x", page.field("csrf"), page.field("digest"))
}

#[tokio::test]
async fn the_page_says_what_whoever_approves_must_prove() {
    let rig = Rig::start().await;
    let (_pending, path) = asks_for_proof(&rig);
    let session = rig.sign_in("ada", &["dba", "oncall"]).await;
    let page = rig.get(&path, &session).await;
    for part in
        ["who approves needs a fresh one within 5m with phr or urn:x", "id=\"step-up\"", "id=\"deny\""]
    {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    assert!(
        !page.body.contains("id=\"approve\"") && !page.body.contains("id=\"break-glass\""),
        "{}",
        page.body
    );
    // Sent all the same, it does not count, and the page says what is missing.
    for answer in ["approve", "break-glass"] {
        let refused = rig.post(&format!("{path}/decide"), &session, &filled(&page, answer)).await;
        assert_eq!((refused.status, rig.waiting()), (StatusCode::FORBIDDEN, 1), "{answer}");
        assert!(refused.body.contains("does not say how old yours is"), "{}", refused.body);
    }
    let denied = rig.post(&format!("{path}/decide"), &session, &filled(&page, "deny")).await;
    assert_eq!((denied.status, rig.waiting()), (StatusCode::SEE_OTHER, 0), "a denial needs none of it");
}

#[tokio::test]
async fn who_approves_signs_in_as_the_rule_asks_for() {
    let rig = Rig::start().await;
    let (pending, path) = asks_for_proof(&rig);
    let session = rig.sign_in("ada", &["dba"]).await;
    // The provider is asked for it, on behalf of whoever may see the request alone.
    let begin = async |session: &str| {
        let begun = rig.post("/login", session, &format!("back={path}&approval={}", pending.id())).await;
        let address = begun.body.split("<a href=\"").find(|part| part.starts_with(&rig.idp.issuer)).unwrap();
        let address = address.split('"').next().unwrap().replace("&amp;", "&");
        let cookie = begun.cookie("__Host-portcullis-login").unwrap();
        (format!("__Host-portcullis-login={cookie}; {session}"), address)
    };
    for session in ["", &rig.sign_in("bob", &["dev"]).await] {
        let asked = query(&begin(session).await.1);
        assert!(!asked.contains_key("acr_values") && !asked.contains_key("prompt"), "{asked:?}");
    }
    let come_back = async |auth_time: serde_json::Value, acr: serde_json::Value| {
        let (cookies, address) = begin(&session).await;
        let asked = query(&address);
        let asked = ["max_age", "acr_values", "prompt"].map(|name| asked[name].as_str());
        assert_eq!(asked, ["300", "phr urn:x", "login"]);
        let claims = json!({"name": "ada", "groups": ["dba"], "auth_time": auth_time, "acr": acr});
        rig.get(&rig.idp.grant_claims(&address, &claims), &cookies).await
    };
    let now = now_ms() / 1000;
    for (auth_time, acr, expected) in [
        (json!(now - 1), json!("pwd"), "yours was with pwd"),
        (json!(now - 1), json!(null), "does not say with what yours was"),
        (json!(now - 400), json!("phr"), "yours is 6m 4"),
        (json!(null), json!("phr"), "does not say how old"),
    ] {
        let back = come_back(auth_time, acr).await;
        assert_eq!(back.status, StatusCode::FORBIDDEN, "{expected}");
        assert!(back.body.contains(expected) && back.body.contains(&path), "{}", back.body);
        assert!(back.cookie("__Host-portcullis").is_none(), "{expected}");
        assert_eq!(rig.get(&path, &session).await.status, StatusCode::OK, "signed in as before");
    }
    let back = come_back(json!(now + 4000), json!("urn:x")).await;
    assert_eq!((back.status, back.headers["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, &*path));
    let session = format!("__Host-portcullis={}", back.cookie("__Host-portcullis").unwrap());
    let page = rig.get(&path, &session).await;
    let done = rig.post(&format!("{path}/decide"), &session, &filled(&page, "approve")).await;
    assert_eq!((done.status, rig.waiting()), (StatusCode::SEE_OTHER, 0), "{}", done.body);
    let entry = rig.web.approvals.get(pending.id()).unwrap();
    let proof = entry.votes[0].by.proof.clone().unwrap();
    assert_eq!(proof.acr.as_deref(), Some("urn:x"));
    assert!(proof.auth_time_ms.unwrap() <= now_ms(), "nobody signs in later than now");
}
