//! What operations that pass are held to, and how much a run may ask for before another rule speaks.

use std::time::Duration;

/// Longest time that a file may give a statement.
pub const STATEMENT_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest window that a budget may be counted over.
pub const BUDGET_WINDOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a statement that passes is held to while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `max_rows =`: rows of one result that the client gets; then the statement ends with an error.
    pub rows: Option<u64>,
    /// `timeout =`: how long it may run; then it is cancelled.
    pub time: Option<Duration>,
}

impl Limits {
    /// The narrower of both: what several rules let pass is held to each of them.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let narrower = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Self { rows: narrower(self.rows, other.rows), time: self.time.into_iter().chain(other.time).min() }
    }

    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { rows: self.rows.or(other.rows), time: self.time.or(other.time) }
    }
}

/// What has to have become of an intent before its operation is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is on stable storage.
    Synced,
    /// It is written: it survives the daemon's death, not the machine's.
    Written,
    /// Nothing: it is written soon.
    Gathered,
}

/// `over = { … }`: a condition that holds once a run has had so much of what its guard otherwise matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Place among the budgets of its policy.
    pub place: usize,
    /// `statements =`.
    pub statements: Option<u64>,
    /// `rows =`: of results.
    pub rows: Option<u64>,
    /// `bytes =`: of results, as they went to the client.
    pub bytes: Option<u64>,
    /// `per =`: counted over this long, up to now; `None` counts the whole run.
    pub per: Option<Duration>,
}

/// What a run has had of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Statements that passed.
    pub statements: u64,
    /// Rows of their results that went to the client.
    pub rows: u64,
    /// Bytes of these rows.
    pub bytes: u64,
}

impl Used {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            statements: self.statements.saturating_add(other.statements),
            rows: self.rows.saturating_add(other.rows),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Budget {
    /// Whether nothing of it is left: with `statements = 600` the next statement is the 601st.
    #[must_use]
    pub fn is_used_up(&self, used: Used) -> bool {
        let reached = |bound: Option<u64>, used: u64| bound.is_some_and(|bound| used >= bound);
        reached(self.statements, used.statements)
            || reached(self.rows, used.rows)
            || reached(self.bytes, used.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_limits_the_narrower_counts() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
        let one = Limits { rows: Some(5), time: None };
        let other = Limits { rows: Some(3), time: Some(long) };
        assert_eq!(one.and(other), other);
        assert_eq!(
            one.and(Limits { rows: None, time: Some(short) }),
            Limits { rows: Some(5), time: Some(short) }
        );
        assert_eq!(one.or(other), Limits { rows: Some(5), time: Some(long) });
        assert_eq!(Limits::default().and(Limits::default()), Limits::default());
    }

    #[test]
    fn a_budget_is_used_up_by_whichever_comes_first() {
        let budget = Budget { place: 0, statements: Some(2), rows: None, bytes: Some(10), per: None };
        let used = |statements, rows, bytes| Used { statements, rows, bytes };
        assert!(!budget.is_used_up(used(1, 1_000_000, 9)));
        assert!(budget.is_used_up(used(2, 0, 0)));
        assert!(budget.is_used_up(used(0, 0, 11)));
        assert_eq!(used(1, 2, u64::MAX).and(used(1, 1, 1)), used(2, 3, u64::MAX));
    }
}
