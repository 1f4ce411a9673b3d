//! `portcullis policy hits`: how often each rule has decided, and when last.

use std::io::{self, Write};

use crate::cli::sessions::protocol_name;
use crate::cli::text::{columns, duration, line, shown, summary};
use crate::cli::{Failure, ask, print_json};
use crate::config::Config;
use crate::control::{ClientError, Reply, Request};
use crate::policy::rule::PolicyHits;
use crate::run::now_ms;

/// Characters of a rule's name.
const RULE_CHARS: usize = 60;

/// Asks the daemon.
pub(in crate::cli) fn run(json: bool, config: &Config) -> Result<(), Failure> {
    let Reply::Hits(policies) = ask(config, &Request::Hits)? else {
        return Err(ClientError::NotUnderstood.into());
    };
    if json {
        return print_json(&policies);
    }
    Ok(io::stdout().write_all(listing(&policies, now_ms()).as_bytes())?)
}

fn listing(policies: &[PolicyHits], now: u64) -> String {
    let mut text = String::new();
    if policies.is_empty() {
        line(&mut text, "no policy is loaded");
    }
    for (at, policy) in policies.iter().enumerate() {
        if at > 0 {
            line(&mut text, "");
        }
        let since = duration(now.saturating_sub(policy.loaded_ms));
        let (name, version) = (shown(&policy.policy, false), shown(&policy.version, false));
        line(&mut text, format_args!("{name} (version {version}), loaded {since} ago"));
        let mut rows =
            vec![["  RULE", "ON", "ACTION", "DECIDED", "WOULD HAVE", "LAST"].map(str::to_owned).to_vec()];
        rows.extend(policy.rules.iter().map(|rule| {
            let last = rule.last_ms.map_or_else(
                || "never".to_owned(),
                |last| format!("{} ago", duration(now.saturating_sub(last))),
            );
            vec![
                format!("  {}", summary(&rule.rule, RULE_CHARS)),
                rule.on.map_or("-", protocol_name).to_owned(),
                rule.action.as_deref().map_or_else(|| "-".to_owned(), |action| shown(action, false)),
                rule.hits.to_string(),
                rule.would.to_string(),
                last,
            ]
        }));
        text.push_str(&columns(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rule::{Protocol, RuleHits};

    #[test]
    fn a_listing_says_what_decides_and_what_never_has() {
        let rule = |rule: &str, on, action: Option<&str>, hits, last_ms| RuleHits {
            rule: rule.to_owned(),
            on,
            action: action.map(str::to_owned),
            hits,
            last_ms,
            would: 0,
        };
        let policies = [PolicyHits {
            policy: "shop".to_owned(),
            version: "v1".to_owned(),
            loaded_ms: 0,
            rules: vec![
                rule("no drops", Some(Protocol::Postgres), Some("deny"), 12, Some(30_000)),
                rule("default (read)", None, Some("allow"), 0, None),
                rule("(others)", None, None, 0, None),
            ],
        }];
        let expected = "\
shop (version v1), loaded 1m 0s ago
  RULE            ON        ACTION  DECIDED  WOULD HAVE  LAST
  no drops        postgres  deny    12       0           30s ago
  default (read)  -         allow   0        0           never
  (others)        -         -       0        0           never
";
        assert_eq!(listing(&policies, 60_000), expected);
        assert_eq!(listing(&[], 0), "no policy is loaded\n");
    }
}
