//! Recorded sessions: found by filters, a page at a time, and watched while they go on.

use super::*;
use crate::record::asked::Asked;
use crate::record::event::{Intent, SessionOpened};
use crate::record::tests::{CONFIG, SHARE, asked, finished, opened};
use crate::record::{Recorder, SessionRecord};

fn allow(record: &mut SessionRecord, text: &str) {
    let asked: Asked = asked(record.next_operation(), text);
    record.intent(&Intent { asked, rule: "default".to_owned(), approval: None, shadow: None }).unwrap();
}

/// What comes next on a stream, comments left out.
async fn part(stream: &mut Body) -> Option<String> {
    loop {
        let frame = stream.frame().await?.unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        if !text.starts_with(':') {
            return Some(text);
        }
    }
}

async fn watch(rig: &Rig, address: &str, cookies: &str, last: Option<&str>) -> Response {
    let service = TowerToHyperService::new(router(Arc::clone(&rig.web)));
    let mut request = Request::get(address).header("host", HOST).header("cookie", cookies);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    service.call(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn an_operator_watches_a_session_until_it_ends() {
    let rig = Rig::start().await;
    let recorder = Recorder::open(&rig.web.state_dir, CONFIG).unwrap();
    let known = opened();
    let mut record = recorder.session(&known, SHARE).unwrap();
    allow(&mut record, "SELECT 'before'");
    let eve = rig.sign_in("eve", &["portcullis"]).await;
    let page = rig.get(&format!("/sessions/{}", known.flow.session), &eve).await;
    assert!(page.body.contains("SELECT &#39;before&#39;"), "{}", page.body);
    let address = page.body.split("data-tail=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();

    let mut stream = watch(&rig, &address, &eve, None).await.into_body();
    allow(&mut record, "SELECT '<script>\u{202e}'\r\nFROM t");
    let told = part(&mut stream).await.unwrap();
    assert!(told.starts_with("event: part\n") && told.contains("SELECT '<script>\\u{202e}'"), "{told}");
    assert!(!told.contains("before"), "no more than what is new: {told}");
    // A browser that lost the connection says how far it was.
    let reached = told.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    allow(&mut record, "SELECT 'meanwhile'");
    let mut again = watch(&rig, &address, &eve, Some(&reached)).await.into_body();
    let told = part(&mut again).await.unwrap();
    assert!(told.contains("meanwhile") && !told.contains("script"), "{told}");
    record.close(finished()).unwrap();
    for stream in [&mut stream, &mut again] {
        let mut told = String::new();
        while let Some(part) = part(stream).await {
            told.push_str(&part);
        }
        assert!(told.contains("event: last\n"), "the stream ends with the session: {told}");
    }
    let page = rig.get(&format!("/sessions/{}", known.flow.session), &eve).await;
    assert!(!page.body.contains("data-tail"), "nothing more can come: {}", page.body);
}

#[tokio::test]
async fn watching_is_for_operators_bounded_and_ends_with_the_sign_in() {
    let rig = Rig::start().await;
    let recorder = Recorder::open(&rig.web.state_dir, CONFIG).unwrap();
    let known = opened();
    let mut record = recorder.session(&known, SHARE).unwrap();
    let address = format!("/sessions/{}/tail?from=0-0-0", known.flow.session);
    let (ada, eve) = (rig.sign_in("ada", &["dba"]).await, rig.sign_in("eve", &["portcullis"]).await);
    assert_eq!(watch(&rig, &address, "", None).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(watch(&rig, &address, &ada, None).await.status(), StatusCode::FORBIDDEN);
    for wrong in [address.replace("0-0-0", "x"), address.replace("tail?from=0-0-0", "tail")] {
        assert_eq!(watch(&rig, &wrong, &eve, None).await.status(), StatusCode::NOT_FOUND, "{wrong}");
    }
    let mut streams = Vec::new();
    for _ in 0..timeline::TAILS_PER_PERSON_MAX {
        let stream = watch(&rig, &address, &eve, None).await;
        assert_eq!(stream.status(), StatusCode::OK);
        streams.push(stream.into_body());
    }
    let refused = watch(&rig, &address, &eve, None).await.status();
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE, "of one person");
    let other = rig.sign_in("kim", &["portcullis"]).await;
    assert_eq!(watch(&rig, &address, &other, None).await.status(), StatusCode::OK, "others may");
    streams.pop();
    assert_eq!(watch(&rig, &address, &eve, None).await.status(), StatusCode::OK, "a place was given back");
    // Signed out, nothing more comes.
    let mut stream = streams.pop().unwrap();
    part(&mut stream).await.unwrap();
    let token = Token::parse(eve.split_once('=').unwrap().1).unwrap();
    rig.web.sessions.end(&token.digest());
    allow(&mut record, "SELECT 'secret'");
    assert_eq!(part(&mut stream).await, None);
}

#[tokio::test]
async fn sessions_are_found_by_the_filters_of_the_command_line_a_page_at_a_time() {
    let rig = Rig::start().await;
    let recorder = Recorder::open(&rig.web.state_dir, CONFIG).unwrap();
    let record = |change: &dyn Fn(&mut SessionOpened), text: &str| {
        let mut known = opened();
        change(&mut known);
        let mut record = recorder.session(&known, SHARE).unwrap();
        allow(&mut record, text);
        (known.flow.session.to_string(), record.close(finished()).unwrap())
    };
    let (web, _) =
        record(&|known| known.protocol = crate::policy::rule::Protocol::Http, "GET https://a/needle");
    let (bob, last) = record(&|known| known.user_name = Some("bob".to_owned()), "SELECT 1");
    // Written by a thread of its own.
    recorder.durable(last).await.unwrap();
    let eve = rig.sign_in("eve", &["portcullis"]).await;
    for (query, has_web, has_bob) in [
        ("", true, true),
        ("protocol=http", true, false),
        ("user=bob&since=1h", false, true),
        ("command=NEEDLE", true, false),
        ("output=needle", false, false),
        ("live=on", false, false),
        ("policy=crewai&connection=orders-db", true, true),
    ] {
        let page = rig.get(&format!("/sessions?{query}"), &eve).await;
        assert_eq!((page.body.contains(&web), page.body.contains(&bob)), (has_web, has_bob), "{query}");
    }
    let wrong = rig.get("/sessions?since=yesterday", &eve).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.body.contains("value=\"yesterday\""), "the form keeps what was typed: {}", wrong.body);
    for _ in 0..99 {
        record(&|_| (), "SELECT 2");
    }
    let (_, last) = record(&|_| (), "SELECT 2");
    recorder.durable(last).await.unwrap();
    let page = rig.get("/sessions?policy=crewai", &eve).await;
    assert!(!page.body.contains(&web), "the newest come first");
    let older = page.body.split("id=\"older\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    let page = rig.get(&older.replace("&amp;", "&"), &eve).await;
    assert!(page.body.contains(&web) && page.body.contains(&bob) && !page.body.contains("id=\"older\""));
}
