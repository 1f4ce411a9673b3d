//! Bodies that cannot be looked into, and holds that outlive their client's patience.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::*;
use crate::request::http::{Scheme, analyze};

fn judged(uninspected: &str, read: BodyRead, body: Option<&str>) -> String {
    let text = format!(
        "version = 1\nname = \"t\"\n[defaults]\nwrite = \"allow\"\nuninspected = \"{uninspected}\"\n\
         [[connection]]\nname = \"api\"\nto = [\"127.1.1.1:443\"]\nprotocol = \"http\"\n\
         [[guard]]\non = \"http\"\njson = [\"$.admin\"]\naction = \"deny\"\n"
    );
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("t.toml"), &text).unwrap();
    let policies = Arc::new(crate::policy::PolicySet::load_dir(folder.path()));
    let approvals = crate::approval::Approvals::new(&crate::config::Config::default());
    let gate = Gate::new(Arc::clone(&policies), approvals);
    let policy = crate::policy::load(&text).unwrap().policy;
    let admission = Admission::under("127.1.1.1:443".parse().unwrap(), policy);
    let target = http::uri::PathAndQuery::from_static("/");
    let headers = HeaderMap::new();
    let mut request =
        HttpRequest::from_head(&Method::POST, &target, &headers, None, Scheme::Https, "a.test", 443).unwrap();
    if let Some(body) = body {
        request.read_body(body.as_bytes());
    }
    match gate.judge_http(&admission, &request, &analyze(&request), read) {
        HttpJudgement::ReadBody => "read".to_owned(),
        HttpJudgement::Judged { judgement, uninspected } => {
            let word = match judgement {
                Judgement::Deny(denial) => format!("deny by {}", denial.rule),
                Judgement::Estimate => "estimate".to_owned(),
                Judgement::Hold(hold) => format!("hold by {}", hold.rule),
                Judgement::Permit(permit) => format!("allow by {}", permit.rule()),
            };
            if uninspected { format!("{word}, uninspected") } else { word }
        }
    }
}

#[test]
fn a_body_is_read_when_a_rule_looks_into_it() {
    assert_eq!(judged("hold", BodyRead::NotYet, None), "read");
    assert_eq!(judged("hold", BodyRead::Whole, Some("{\"admin\": 1}")), "deny by guard 1");
    assert_eq!(judged("hold", BodyRead::Whole, Some("{}")), "allow by default");
}

#[test]
fn a_body_that_cannot_be_looked_into_follows_the_policy() {
    assert_eq!(judged("hold", BodyRead::Impossible, None), "hold by uninspected body");
    assert_eq!(judged("deny", BodyRead::Impossible, None), "deny by guard 1");
    assert_eq!(judged("allow", BodyRead::Impossible, None), "allow by default, uninspected");
}
