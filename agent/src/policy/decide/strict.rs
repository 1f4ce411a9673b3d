//! Of two verdicts the stricter one, and what a hold is that stands for several.

use crate::policy::rule::{HoldTerms, InTransaction, Limits, Shadow, Verdict};

/// The stricter of what was possible before and one more possibility.
pub(super) fn strictest(possible: Option<Verdict>, verdict: Verdict) -> Verdict {
    match possible {
        Some(earlier) => stricter(earlier, verdict),
        None => verdict,
    }
}

/// The stricter of two verdicts; the earlier one when they are alike.
pub(super) fn stricter(first: Verdict, second: Verdict) -> Verdict {
    match (first, second) {
        (deny @ Verdict::Deny { .. }, _) | (_, deny @ Verdict::Deny { .. }) => deny,
        (
            Verdict::Hold { rule, terms, limits },
            Verdict::Hold { rule: other, terms: others, limits: more },
        ) => both(rule, terms, &other, &others, limits.and(more)),
        (Verdict::Hold { rule, terms, limits }, Verdict::Allow { limits: more, .. })
        | (Verdict::Allow { limits: more, .. }, Verdict::Hold { rule, terms, limits }) => {
            Verdict::Hold { rule, terms, limits: limits.and(more) }
        }
        (Verdict::Allow { rule, limits, shadow }, Verdict::Allow { limits: more, shadow: other, .. }) => {
            Verdict::Allow { rule, limits: limits.and(more), shadow: Shadow::stricter(shadow, other) }
        }
    }
}

/// One decision releases the whole message, so whoever makes it must be entitled to every hold that may apply.
fn both(rule: String, terms: HoldTerms, other: &str, others: &HoldTerms, limits: Limits) -> Verdict {
    let denied = |rule: String, why: &str| Verdict::Deny {
        reason: format!("the rules \"{rule}\" and \"{other}\" hold this{why}"),
        hint: Some("If these are several statements, send them one at a time.".to_owned()),
        rule,
    };
    let approvers: Vec<String> = match (terms.approvers.is_empty(), others.approvers.is_empty()) {
        (true, _) => others.approvers.clone(),
        (false, true) => terms.approvers,
        (false, false) => {
            let shared: Vec<String> =
                terms.approvers.into_iter().filter(|name| others.approvers.contains(name)).collect();
            if shared.is_empty() {
                return denied(rule, " for people who have no group in common");
            }
            shared
        }
    };
    let (quorum, distinct_groups) =
        (terms.quorum.max(others.quorum), terms.distinct_groups || others.distinct_groups);
    if distinct_groups && approvers.len() < usize::try_from(quorum).unwrap_or(usize::MAX) {
        return denied(rule, ", and too few groups may decide for both");
    }
    let step_up = match (terms.step_up, &others.step_up) {
        (Some(one), Some(other)) => match one.and(other) {
            Some(both) => Some(both),
            None => {
                return denied(rule, ", and no sign-in of whoever approves is good enough for both (acr)");
            }
        },
        (one, other) => one.or_else(|| other.clone()),
    };
    let in_transaction = match (terms.in_transaction, others.in_transaction) {
        (InTransaction::Hold, InTransaction::Hold) => InTransaction::Hold,
        (InTransaction::Refuse, _) | (_, InTransaction::Refuse) => InTransaction::Refuse,
    };
    let break_glass = terms.break_glass.into_iter().filter(|name| others.break_glass.contains(name));
    Verdict::Hold {
        rule,
        limits,
        terms: HoldTerms {
            approvers,
            timeout: terms.timeout.min(others.timeout),
            in_transaction,
            // The shorter patience; none is the longest.
            inline: terms.inline.into_iter().chain(others.inline).min(),
            quorum,
            distinct_groups,
            break_glass: break_glass.collect(),
            step_up,
            // The narrower one.
            chat: terms.chat.max(others.chat),
        },
    }
}
