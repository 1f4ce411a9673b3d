//! Signing in, and every way to sign in as somebody else.

use serde_json::json;

use super::provider::query;
use super::*;

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
    let (token, _) = logins.begin("/").unwrap();
    tokio::time::advance(login::LOGIN_TIME_MAX).await;
    assert!(logins.take(&token.digest()).is_none());
    let (token, _) = logins.begin("/").unwrap();
    for _ in 0..login::LOGINS_MAX {
        logins.begin("/").unwrap();
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
