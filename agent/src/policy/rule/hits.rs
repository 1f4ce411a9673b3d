//! How often each rule of a loaded policy has decided, and when last. Deciding itself stays pure: whoever acts on a verdict
//! counts it, without a lock or an allocation.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::{Action, Policy, Protocol, Verdict};
use crate::policy::DEFAULT_RULE;
use crate::request::Effect;

/// Counters of one loaded policy. A version that is loaded again begins anew.
#[derive(Debug, Default)]
pub struct Hits {
    loaded_ms: AtomicU64,
    /// By place of the guard.
    guards: Box<[Counter]>,
    /// By effect, where no guard matched.
    defaults: [Counter; EFFECTS.len()],
    /// What a policy asks for beside its guards: masked data, bodies that nobody could look into, interactive shells.
    beside: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    times: AtomicU64,
    last_ms: AtomicU64,
    /// How often it would have kept something back, had it not been tried out only.
    would: AtomicU64,
}

const EFFECTS: [Effect; 5] = [Effect::Read, Effect::Write, Effect::Ddl, Effect::Admin, Effect::Unknown];

/// What a policy's rules have decided so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyHits {
    /// Policy name.
    pub policy: String,
    /// Version of its text.
    pub version: String,
    /// Since when is counted; milliseconds since 1970-01-01T00:00:00Z.
    pub loaded_ms: u64,
    /// Its guards in their order, then what happens otherwise.
    pub rules: Vec<RuleHits>,
}

/// One rule of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHits {
    /// The guard's name; `default (EFFECT)` where no guard matched; `(others)` for what is decided beside the guards.
    pub rule: String,
    /// The guard's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Protocol>,
    /// allow, deny or hold; none for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// How often it has decided.
    pub hits: u64,
    /// When it did last; milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// How often it would have held or denied what passed, had it not been tried out only (`mode = "shadow"`).
    #[serde(default)]
    pub would: u64,
}

impl Counter {
    fn count(&self, now_ms: u64) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.last_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    fn would(&self, now_ms: u64) {
        self.would.fetch_add(1, Ordering::Relaxed);
        self.last_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64, Option<u64>) {
        let hits = self.times.load(Ordering::Relaxed);
        let would = self.would.load(Ordering::Relaxed);
        (hits, would, (hits + would > 0).then(|| self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Hits {
    /// For a policy with so many guards.
    #[must_use]
    pub fn of(guards: usize) -> Self {
        Self { guards: std::iter::repeat_with(Counter::default).take(guards).collect(), ..Self::default() }
    }
}

impl Policy {
    /// From here on it is in force; milliseconds since 1970-01-01T00:00:00Z.
    pub fn begin(&self, now_ms: u64) {
        self.hits.loaded_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Counts a verdict of this policy on an operation with this effect that somebody acts on now.
    pub fn count(&self, verdict: &Verdict, effect: Effect, now_ms: u64) {
        match verdict.shadow() {
            // Under a policy that is only tried out the rule itself decided nothing.
            Some(shadow) if shadow.rule == verdict.rule() => self.counter(&shadow.rule, effect).would(now_ms),
            Some(shadow) => {
                self.counter(&shadow.rule, effect).would(now_ms);
                self.counter(verdict.rule(), effect).count(now_ms);
            }
            None => self.counter(verdict.rule(), effect).count(now_ms),
        }
    }

    fn counter(&self, rule: &str, effect: Effect) -> &Counter {
        let by_default = || {
            let place = EFFECTS.iter().position(|known| *known == effect)?;
            self.hits.defaults.get(place).filter(|_| rule == DEFAULT_RULE)
        };
        let place = self.guards.iter().position(|guard| guard.name == rule);
        let counter = place.and_then(|place| self.hits.guards.get(place)).or_else(by_default);
        counter.unwrap_or(&self.hits.beside)
    }

    /// What its rules have decided so far.
    #[must_use]
    pub fn hits(&self) -> PolicyHits {
        let of = |rule: String, on, action: Option<&Action>, counter: &Counter| {
            let (hits, would, last_ms) = counter.read();
            RuleHits { rule, on, action: action.map(|action| action.word().to_owned()), hits, last_ms, would }
        };
        let guards = self.guards.iter().zip(&self.hits.guards);
        let guards = guards
            .map(|(guard, counter)| of(guard.name.clone(), Some(guard.on), Some(&guard.action), counter));
        let defaults = EFFECTS.iter().zip(&self.hits.defaults).map(|(effect, counter)| {
            of(format!("{DEFAULT_RULE} ({effect})"), None, self.defaults.unmatched.get(effect), counter)
        });
        let others = of("(others)".to_owned(), None, None, &self.hits.beside);
        PolicyHits {
            policy: self.name.clone(),
            version: self.version.clone(),
            loaded_ms: self.hits.loaded_ms.load(Ordering::Relaxed),
            rules: guards.chain(defaults).chain([others]).collect(),
        }
    }
}

impl Action {
    /// As policies write it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny { .. } => "deny",
            Self::Hold(_) => "hold",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load;
    use crate::policy::rule::{Limits, Shadow, ShadowVerdict};

    #[test]
    fn each_verdict_counts_for_the_rule_that_made_it() {
        let text = "version = 1\nname = \"t\"\n[[guard]]\nname = \"a\"\non = \"postgres\"\naction = \"deny\"\n\
                    [[guard]]\nname = \"b\"\non = \"http\"\naction = \"allow\"\n";
        let policy = load(text).unwrap().policy;
        policy.begin(5);
        let allow = |rule: &str| Verdict::allow(rule, Limits::default());
        for (rule, effect, now) in [
            ("b", Effect::Write, 10),
            ("b", Effect::Read, 30),
            // Two connections at once: the later time stays.
            ("b", Effect::Read, 20),
            ("default", Effect::Read, 40),
            ("masked data", Effect::Read, 50),
        ] {
            policy.count(&allow(rule), effect, now);
        }
        let shared = policy.clone();
        shared.count(&allow("a"), Effect::Read, 60);
        let hits = policy.hits();
        assert_eq!((hits.policy.as_str(), hits.loaded_ms), ("t", 5));
        let told: Vec<_> =
            hits.rules.iter().map(|rule| (rule.rule.as_str(), rule.hits, rule.last_ms)).collect();
        let expected = [
            ("a", 1, Some(60)),
            ("b", 3, Some(30)),
            ("default (read)", 1, Some(40)),
            ("default (write)", 0, None),
            ("default (ddl)", 0, None),
            ("default (admin)", 0, None),
            ("default (unknown)", 0, None),
            ("(others)", 1, Some(50)),
        ];
        assert_eq!(told, expected);
        assert_eq!(hits.rules[0].action.as_deref(), Some("deny"));
        assert_eq!(hits.rules[3].action.as_deref(), Some("hold"));
        let shadow = |by: &str, tried: &str| Verdict::Allow {
            rule: by.to_owned(),
            limits: Limits::default(),
            shadow: Some(Shadow { rule: tried.to_owned(), verdict: ShadowVerdict::Deny }),
        };
        policy.count(&shadow("b", "a"), Effect::Read, 70);
        policy.count(&shadow("default", "default"), Effect::Write, 80);
        let hits = policy.hits();
        let told: Vec<_> = hits.rules.iter().map(|rule| (rule.hits, rule.would, rule.last_ms)).collect();
        assert_eq!(told[..4], [(1, 1, Some(70)), (4, 0, Some(70)), (1, 0, Some(40)), (0, 1, Some(80))]);
    }
}
