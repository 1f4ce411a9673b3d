//! What each run has had of the budgets that rules count: statements, rows and bytes of results, over a while or the whole
//! run. In memory alone: a daemon that is restarted counts from nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::flow::RunId;
use crate::policy::Policy;
use crate::policy::rule::{Budget, Guard, Used};
use crate::run::now_ms;

/// Parts that the time of a budget is counted in. What is too old leaves by whole parts, so a budget is counted over at most
/// this fraction more than it says.
const PARTS: u64 = 60;

/// The accounts of all runs.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<RunId, HashMap<Account, Meter>>>);

/// One rule's account, by the names of its policy and of itself: it survives a change of the policy's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Account {
    policy: Arc<str>,
    rule: Arc<str>,
}

#[derive(Debug, Default)]
struct Meter {
    per: Option<Duration>,
    /// Oldest first, by number of the part since 1970. Of a whole run there is one.
    parts: VecDeque<(u64, Used)>,
}

/// The accounts that one operation is charged to. Cheap to clone; empty for most.
#[derive(Clone, Debug, Default)]
pub struct Charged(Option<Arc<Charges>>);

#[derive(Debug)]
struct Charges {
    budgets: Arc<Budgets>,
    run: RunId,
    accounts: Vec<(Account, Option<Duration>)>,
}

impl Budgets {
    /// What a run has had of each budget of a policy, by place.
    pub(super) fn used(&self, run: RunId, policy: &Policy, now_ms: u64) -> Vec<Used> {
        if budgets_of(policy).next().is_none() {
            return Vec::new();
        }
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(meters) = runs.get_mut(&run) else { return Vec::new() };
        let used = |guard: &Guard, budget: &Budget| {
            let meter = meters.get_mut(&account(policy, guard))?;
            Some(meter.now(budget.per, now_ms))
        };
        let mut used = used;
        budgets_of(policy).map(|(guard, budget)| used(guard, budget).unwrap_or_default()).collect()
    }

    /// Where an operation is charged that counts for these budgets, by place.
    pub(super) fn charged(self: &Arc<Self>, run: RunId, policy: &Policy, places: &[usize]) -> Charged {
        if places.is_empty() {
            return Charged::default();
        }
        let counts = budgets_of(policy).filter(|(_, budget)| places.contains(&budget.place));
        let accounts = counts.map(|(guard, budget)| (account(policy, guard), budget.per)).collect();
        Charged(Some(Arc::new(Charges { budgets: Arc::clone(self), run, accounts })))
    }

    /// Forgets the runs that `is_over` says have ended.
    pub(super) fn forget(&self, is_over: impl Fn(RunId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|run, _| !is_over(*run));
    }
}

fn budgets_of(policy: &Policy) -> impl Iterator<Item = (&Guard, &Budget)> {
    policy.guards.iter().filter_map(|guard| Some((guard, guard.when.over.as_ref()?)))
}

fn account(policy: &Policy, guard: &Guard) -> Account {
    Account { policy: policy.name.as_str().into(), rule: guard.name.as_str().into() }
}

impl Charged {
    /// Whether it counts for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A statement passes.
    pub fn statement(&self) {
        self.charge(Used { statements: 1, ..Used::default() });
    }

    /// So much of its result goes to the client.
    pub fn result(&self, rows: u64, bytes: u64) {
        self.charge(Used { rows, bytes, statements: 0 });
    }

    fn charge(&self, used: Used) {
        let Some(charges) = &self.0 else { return };
        let now = now_ms();
        let mut runs = charges.budgets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let meters = runs.entry(charges.run).or_default();
        for (account, per) in &charges.accounts {
            meters.entry(account.clone()).or_default().add(*per, now, used);
        }
    }
}

impl Meter {
    fn add(&mut self, per: Option<Duration>, now_ms: u64, used: Used) {
        self.now(per, now_ms);
        let part = part(per, now_ms);
        match self.parts.back_mut() {
            // A clock that was set back counts for the latest part.
            Some((latest, sum)) if *latest >= part => *sum = sum.and(used),
            Some(_) | None => self.parts.push_back((part, used)),
        }
    }

    /// What is in it, without what is too old.
    fn now(&mut self, per: Option<Duration>, now_ms: u64) -> Used {
        if self.per != per {
            *self = Self { per, parts: VecDeque::new() };
        }
        let oldest = part(per, now_ms).saturating_sub(if per.is_some() { PARTS } else { 0 });
        while self.parts.front().is_some_and(|(part, _)| *part < oldest) {
            self.parts.pop_front();
        }
        self.parts.iter().map(|(_, used)| *used).fold(Used::default(), Used::and)
    }
}

/// Number of the part that a moment is in.
fn part(per: Option<Duration>, now_ms: u64) -> u64 {
    let Some(per) = per else { return 0 };
    let length = u64::try_from(per.as_millis()).unwrap_or(u64::MAX) / PARTS;
    now_ms / length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load;

    fn statements(used: &[Used]) -> Vec<u64> {
        used.iter().map(|used| used.statements).collect()
    }

    #[test]
    fn what_is_too_old_does_not_count() {
        let (mut meter, minute) = (Meter::default(), Some(Duration::from_secs(60)));
        let one = Used { statements: 1, rows: 10, bytes: 100 };
        for second in 0..60 {
            meter.add(minute, second * 1000, one);
        }
        assert_eq!(meter.now(minute, 59_999).statements, 60);
        assert_eq!(meter.now(minute, 89_999).statements, 31, "half a minute later");
        assert_eq!(meter.now(minute, 1_000_000), Used::default());
        assert!(meter.parts.is_empty());
        for at in [0, 10, 1_000_000_000_000] {
            meter.add(None, at, one);
        }
        assert_eq!(meter.now(None, 0), Used { statements: 3, rows: 30, bytes: 300 });
        assert_eq!(meter.parts.len(), 1, "a whole run is one sum");
    }

    #[test]
    fn accounts_are_each_runs_and_each_rules_own() {
        let text = "version = 1\nname = \"p\"\n[[guard]]\nname = \"a\"\non = \"postgres\"\naction = \"deny\"\nover = { statements = 1 }\n\
                    [[guard]]\nname = \"b\"\non = \"postgres\"\naction = \"hold\"\nover = { rows = 9, per = \"1m\" }\n";
        let policy = load(text).unwrap().policy;
        let budgets = Arc::new(Budgets::default());
        let (run, other) = (RunId::generate(), RunId::generate());
        assert!(budgets.used(run, &policy, now_ms()).is_empty(), "nothing was charged");
        let both = budgets.charged(run, &policy, &[0, 1]);
        both.statement();
        budgets.charged(run, &policy, &[1]).statement();
        both.result(5, 50);
        let used = budgets.used(run, &policy, now_ms());
        assert_eq!(statements(&used), [1, 2]);
        assert_eq!((used[1].rows, used[1].bytes), (5, 50));
        assert!(budgets.used(other, &policy, now_ms()).is_empty());
        let renamed = load(&text.replace("\"a\"", "\"c\"")).unwrap().policy;
        assert_eq!(statements(&budgets.used(run, &renamed, now_ms())), [0, 2]);
        budgets.forget(|ended| ended == run);
        assert!(budgets.used(run, &policy, now_ms()).is_empty());
        Charged::default().statement();
    }
}
