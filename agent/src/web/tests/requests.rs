//! What is shown to whom, what a POST needs, and that a GET changes nothing.

use super::*;
use crate::approval::{Entry, Outcome};
use crate::record::Recorder;
use crate::record::event::Intent;
use crate::record::tests::{CONFIG, SHARE, asked, finished, opened};

/// Every route of the router, from its source, with ids in the place of names.
fn routes(id: &str) -> Vec<(bool, String)> {
    let source = include_str!("../mod.rs");
    let lines = source.lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
    let routes: Vec<_> = lines
        .map(|rest| {
            let (path, handler) = rest.split_once("\", ").unwrap();
            (handler.starts_with("post("), path.replace("{id}", id).replace("{code}", "A"))
        })
        .collect();
    assert!(routes.len() > 10, "{routes:?}");
    routes
}

#[tokio::test]
async fn what_a_statement_sets_off_is_shown_as_text() {
    let rig = Rig::start().await;
    let pending = rig.ask();
    let session = rig.sign_in("ada", &["dba"]).await;
    let page = rig.get(&format!("/approvals/{}", pending.id()), &session).await.body;
    assert!(page.contains("What it sets off") && page.contains("table a&lt;script&gt;"), "{page}");
    assert!(page.contains("~200 rows"), "{page}");
    let trigger = "trigger &lt;b&gt; after delete for each row runs log (disabled)";
    assert!(page.contains(trigger) && !page.contains('\u{202e}'), "{page}");
}

#[tokio::test]
async fn every_answer_is_fenced_in_and_no_get_changes_anything() {
    let rig = Rig::start().await;
    let pending = rig.ask();
    let session = rig.sign_in("ada", &["dba", "portcullis"]).await;
    let before: Vec<Arc<Entry>> = rig.web.approvals.list();
    let mut paths = routes(&pending.id().to_string());
    paths.push((false, "/nowhere".to_owned()));
    for (_, path) in &paths {
        for cookies in ["", &session] {
            for answer in [
                rig.get(path, cookies).await,
                rig.get(&format!("{path}?answer=approve&csrf=x"), cookies).await,
                rig.post(path, cookies, "answer=approve").await,
                rig.send(posted(path, cookies, "", &[])).await,
            ] {
                let header = |name: &str| answer.headers[name].to_str().unwrap();
                let policy = header("content-security-policy");
                for part in
                    ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
                {
                    assert!(policy.contains(part) && !policy.contains("unsafe"), "{path}: {policy}");
                }
                assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
                assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
                assert_eq!(header("cache-control"), "no-store", "{path}");
                assert!(header("strict-transport-security").starts_with("max-age="), "{path}");
                assert!(!answer.body.contains(" style=") && !answer.body.contains("<script>"), "{path}");
            }
        }
    }
    assert_eq!(rig.web.approvals.list(), before);
    for (is_post, path) in &paths {
        if *is_post {
            assert_eq!(rig.get(path, &session).await.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
}

#[tokio::test]
async fn what_waits_is_shown_to_whom_it_concerns_and_deceives_nobody() {
    let rig = Rig::start().await;
    let pending = rig.ask();
    let path = format!("/approvals/{}", pending.id());
    let ada = rig.sign_in("ada", &["dba"]).await;
    for path in ["/", &path] {
        let page = rig.get(path, &ada).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(
            page.body.contains("<span class=\"k\">DROP</span> <span class=\"k\">TABLE</span> a"),
            "{}",
            page.body
        );
        for part in ["&lt;script&gt;\\u{202e}", "no &lt;b&gt;DDL", "&lt;psql&gt;", "~7", "orders-db"] {
            assert!(page.body.contains(part), "{part}: {}", page.body);
        }
        assert!(!page.body.contains("<b>DDL") && !page.body.contains('\u{202e}'));
    }
    let bob = rig.sign_in("bob", &["dev"]).await;
    assert!(rig.get("/", &bob).await.body.contains("Nothing waits for you"));
    for path in [path.clone(), format!("/live{path}"), "/approvals/x".to_owned()] {
        assert_eq!(rig.get(&path, &bob).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let operator = rig.sign_in("eve", &["portcullis"]).await;
    let page = rig.get(&path, &operator).await;
    assert!(page.body.contains("only group dba may decide this") && !page.body.contains("id=\"approve\""));
}

#[tokio::test]
async fn who_may_see_a_request_sees_what_its_run_did_before() {
    let rig = Rig::start().await;
    let recorder = Recorder::open(&rig.web.state_dir, CONFIG).unwrap();
    let mut opened = opened();
    opened.flow.run = RunId::generate();
    let mut record = recorder.session(&opened, SHARE).unwrap();
    for text in ["SELECT 'one' -- <script>\u{202e}", "SELECT 'two'"] {
        let asked = asked(record.next_operation(), text);
        record.intent(&Intent { asked, rule: "default".to_owned(), approval: None, shadow: None }).unwrap();
    }
    record.close(finished()).unwrap();
    drop(recorder);
    // Asked in a later millisecond than what is on record.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let request = crate::approval::Request { run: opened.flow.run, ..held() };
    let (of_run, of_another) = (rig.web.approvals.ask(request).unwrap(), rig.ask());
    for (name, groups) in [("ada", &["dba"][..]), ("eve", &["portcullis"])] {
        let session = rig.sign_in(name, groups).await;
        let page = rig.get(&format!("/approvals/{}", of_run.id()), &session).await;
        let (one, two) = (page.body.find("SELECT &#39;one"), page.body.find("SELECT &#39;two"));
        assert!(one.is_some() && one < two, "{}", page.body);
        assert!(page.body.contains("allowed (rule default)") && !page.body.contains("<script>\u{202e}"));
        let other = rig.get(&format!("/approvals/{}", of_another.id()), &session).await;
        assert!(other.body.contains("Nothing is on record."), "{}", other.body);
    }
    let bob = rig.sign_in("bob", &["dev"]).await;
    let hidden = rig.get(&format!("/approvals/{}", of_run.id()), &bob).await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND);
}

/// The form that a page has, filled in.
fn form(page: &Answer, more: &str) -> String {
    format!("csrf={}&digest={}&{more}", page.field("csrf"), page.field("digest"))
}

#[tokio::test]
async fn an_approver_decides_what_they_saw() {
    let rig = Rig::start().await;
    let pending = rig.ask();
    let path = format!("/approvals/{}", pending.id());
    let ada = rig.sign_in("ada", &["dba"]).await;
    let page = rig.get(&path, &ada).await;
    let elsewhere = form(&page, "answer=approve").replace(&page.field("digest"), &"ab".repeat(32));
    assert_eq!(rig.post(&format!("{path}/decide"), &ada, &elsewhere).await.status, StatusCode::CONFLICT);
    assert_eq!(rig.waiting(), 1);
    let approve = form(&page, "answer=approve&reason=seen+it&scope=operation&minutes=10&uses=3");
    let done = rig.post(&format!("{path}/decide"), &ada, &approve).await;
    assert_eq!((done.status, &done.headers["location"]), (StatusCode::SEE_OTHER, &path.parse().unwrap()));
    let entry = rig.web.approvals.get(pending.id()).unwrap();
    let Some(Outcome::Approved { by, reason, .. }) = &entry.outcome else { panic!("{entry:?}") };
    assert_eq!((by.user.as_str(), by.uid, reason.as_str()), ("ada", None, "seen it"));
    assert_eq!(by.identity.as_ref().unwrap().issuer, rig.idp.issuer);
    let page = rig.get(&path, &ada).await;
    assert!(
        page.body.contains("approved by ada: seen it") && page.body.contains("id=\"revoke\""),
        "{}",
        page.body
    );
    assert_eq!(
        rig.post(&format!("{path}/decide"), &ada, &approve).await.status,
        StatusCode::CONFLICT,
        "once"
    );
    assert_eq!(
        rig.post(&format!("{path}/revoke"), &ada, &form(&page, "")).await.status,
        StatusCode::SEE_OTHER
    );
    assert!(rig.get(&path, &ada).await.body.contains("revoked by ada"));
}

#[tokio::test]
async fn nobody_decides_for_themselves_and_broken_glass_is_reviewed() {
    let rig = Rig::start().await;
    let pending = rig.ask();
    let path = format!("/approvals/{}", pending.id());
    let own = rig.sign_in("agent", &["dba", "oncall"]).await;
    let page = rig.get(&path, &own).await;
    assert!(
        page.body.contains("this run acts for user agent")
            && !page.body.contains("<form method=\"post\" action=\"/approvals")
    );
    let digest = rig.web.approvals.get(pending.id()).unwrap().digest;
    for answer in ["approve", "deny", "break-glass"] {
        let form = format!("csrf={}&digest={digest}&answer={answer}&reason=x", page.field("csrf"));
        let refused = rig.post(&format!("{path}/decide"), &own, &form).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{answer}");
    }
    assert_eq!(rig.waiting(), 1);
    let night = rig.sign_in("nina", &["oncall"]).await;
    let page = rig.get(&path, &night).await;
    assert!(
        page.body.contains("id=\"break-glass\"") && !page.body.contains("id=\"approve\""),
        "{}",
        page.body
    );
    let broken =
        rig.post(&format!("{path}/decide"), &night, &form(&page, "answer=break-glass&reason=fire")).await;
    assert_eq!(broken.status, StatusCode::SEE_OTHER, "{}", broken.body);
    let ada = rig.sign_in("ada", &["dba"]).await;
    let page = rig.get(&path, &ada).await;
    assert!(page.body.contains("BREAKING GLASS"), "{}", page.body);
    let reviewed = rig.post(&format!("{path}/review"), &ada, &form(&page, "reason=right")).await;
    assert_eq!(reviewed.status, StatusCode::SEE_OTHER, "{}", reviewed.body);
    assert!(rig.get(&path, &ada).await.body.contains("reviewed by ada: right"));
}

#[tokio::test]
async fn a_form_is_of_its_session_and_from_this_page() {
    let rig = Rig::start().await;
    let pending = rig.ask();
    let path = format!("/approvals/{}/decide", pending.id());
    let (ada, eve) = (rig.sign_in("ada", &["dba"]).await, rig.sign_in("eve", &["dba"]).await);
    let shown = format!("/approvals/{}", pending.id());
    let (page, hers) = (rig.get(&shown, &ada).await, rig.get(&shown, &eve).await);
    let good = form(&page, "answer=deny&reason=no");
    let digest = page.field("digest");
    for bad in [
        format!("digest={digest}&answer=deny"),
        format!("csrf=&digest={digest}&answer=deny"),
        form(&hers, "answer=deny"),
    ] {
        assert_eq!(rig.post(&path, &ada, &bad).await.status, StatusCode::FORBIDDEN, "{bad}");
    }
    let twice = format!("{good}&answer=approve");
    assert_eq!(rig.post(&path, &ada, &twice).await.status, StatusCode::BAD_REQUEST);
    for from in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "https://gate.example")],
        &[("origin", ORIGIN), ("sec-fetch-site", "cross-site")],
        &[("origin", ORIGIN), ("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
    ] {
        let refused = rig.send(posted(&path, &ada, &good, from)).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{from:?}");
    }
    assert_eq!(rig.post(&path, "", &good).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(rig.waiting(), 1, "none of it counted");
    // As browsers send forms under `no-referrer`.
    let from = [("origin", "null"), ("sec-fetch-site", "same-origin")];
    assert_eq!(rig.send(posted(&path, &ada, &good, &from)).await.status, StatusCode::SEE_OTHER);
    assert_eq!(rig.waiting(), 0);
}

#[tokio::test]
async fn what_is_too_long_or_for_others_is_refused() {
    let rig = Rig::start().await;
    let long = format!("back={}", "x".repeat(FORM_BYTES_MAX));
    assert_eq!(rig.post("/login", "", &long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let json = Request::post("/login").header("host", HOST).header("origin", ORIGIN);
    let json = json.header("content-type", "application/json").body(Body::from("{}")).unwrap();
    assert_eq!(rig.send(json).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for hosts in [&[][..], &["evil.example"], &["gate.example"], &["127.0.0.1:8443"], &[HOST, HOST]] {
        let mut request = Request::get("/");
        for host in hosts {
            request = request.header("host", *host);
        }
        let answer = rig.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{hosts:?}");
    }
    let absolute = Request::get("https://evil.example/").header("host", HOST).body(Body::empty()).unwrap();
    assert_eq!(rig.send(absolute).await.status, StatusCode::MISDIRECTED_REQUEST);
    let put = Request::put("/").header("host", HOST).header("origin", ORIGIN).body(Body::empty()).unwrap();
    assert_eq!(rig.send(put).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_script_is_told_of_changes_that_its_person_may_see() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/events", "").await.status, StatusCode::UNAUTHORIZED);
    let (ada, bob) = (rig.sign_in("ada", &["dba"]).await, rig.sign_in("bob", &["dev"]).await);
    let stream = async |cookies: &str| {
        let service = TowerToHyperService::new(router(Arc::clone(&rig.web)));
        let request = Request::get("/events").header("host", HOST).header("cookie", cookies);
        service.call(request.body(Body::empty()).unwrap()).await.unwrap().into_body()
    };
    let (mut hers, mut his) = (stream(&ada).await, stream(&bob).await);
    let pending = rig.ask();
    let told = hers.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(told, format!("event: approval\ndata: {}\n\n", pending.id()).as_bytes(), "ids alone");
    assert!(tokio::time::timeout(Duration::from_millis(300), his.frame()).await.is_err());
}

#[tokio::test]
async fn runs_policies_and_recordings_are_for_operators() {
    let rig = Rig::start().await;
    let (ada, eve) = (rig.sign_in("ada", &["dba"]).await, rig.sign_in("eve", &["portcullis"]).await);
    for path in ["/runs", "/policy", "/sessions", "/sessions/last"] {
        assert_eq!(rig.get(path, &ada).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert!(!rig.get("/", &ada).await.body.contains("href=\"/runs\""));
    for path in ["/runs", "/policy"] {
        let page = rig.get(path, &eve).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
    }
    let path = format!("/runs/{}/withdraw", RunId::generate());
    let form = |page: &Answer| format!("csrf={}&reason=x", page.field("csrf"));
    let (hers, theirs) = (form(&rig.get("/", &ada).await), form(&rig.get("/", &eve).await));
    assert_eq!(rig.post(&path, &ada, &hers).await.status, StatusCode::FORBIDDEN);
    assert_eq!(rig.post(&path, &eve, &theirs).await.status, StatusCode::NOT_FOUND);
}
