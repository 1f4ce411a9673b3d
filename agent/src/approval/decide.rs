//! What reviewers do: decide, take back, look at broken glass afterwards. And who may.

use std::sync::Arc;

use super::entry::{
    Answer, Decision, Entry, GRANT_MS_MAX, GRANT_USES_MAX, Grant, Outcome, Review, Scope, Vote,
};
use super::error::{self, DecideError};
use super::request::{Digest, Request};
use super::reviewer::{Reviewer, askers, is_quorum};
use super::{Approvals, CLAIM_TIME_MIN, REASON_BYTES_MAX};
use crate::flow::ApprovalId;
use crate::run::now_ms;

impl Approvals {
    /// Decides a request, or adds one approval to those that it needs. `seen` is the digest of what the reviewer was shown.
    /// May wait for the disk.
    ///
    /// # Errors
    /// When the reviewer may not decide, has not proved enough of themselves to approve, saw something else, or it is settled already. Nothing has changed then.
    pub fn decide(
        &self,
        id: ApprovalId,
        seen: Digest,
        by: Reviewer,
        decision: Decision,
    ) -> Result<Arc<Entry>, DecideError> {
        error::check_decision(&decision)?;
        self.expire();
        let mut state = self.lock();
        let Some(waiting) = state.waiting.get(&id) else { return Err(state.why_settled(id)) };
        let request = &waiting.entry.request;
        self.may_decide(request, &by, decision.break_glass)?;
        if waiting.entry.digest != seen {
            return Err(DecideError::NotWhatWasShown(id));
        }
        if decision.answer == Answer::Approve {
            request.check_proof(&by, now_ms())?;
        }
        if matches!(decision.scope, Scope::Shape { .. }) && request.shape.is_none() {
            return Err(DecideError::NoShape);
        }
        if decision.scope != Scope::Once && request.again.is_none() {
            return Err(DecideError::NotAgain);
        }
        let mut entry = Entry::clone(&waiting.entry);
        entry.revision += 1;
        let (marks, answer) = (by.marks(), decision.answer);
        if entry.votes.iter().any(|vote| vote.by.marks().in_common(&marks).is_some())
            && answer == Answer::Approve
        {
            return Err(DecideError::VotedAlready);
        }
        let outcome = entry.take(by, decision, now_ms());
        // Whoever waits now uses it; should they be gone in this moment, it is used up all the same.
        if waiting.asker.is_some()
            && let Some(grant) = &mut entry.grant
        {
            grant.uses_left = grant.uses_left.saturating_sub(1);
        }
        // Before anybody is told, where it has to last. The lock is held meanwhile: humans decide seldom, and nobody may be
        // told anything else in between.
        if entry.deferred || entry.lasts(now_ms()) {
            self.store.save(&entry).map_err(|error| DecideError::NotRemembered(error.to_string()))?;
        }
        let entry = Arc::new(entry);
        match outcome {
            Some(outcome) => state.settle(id, Arc::clone(&entry), outcome),
            None => {
                state.waiting.get_mut(&id).into_iter().for_each(|waiting| waiting.entry = Arc::clone(&entry))
            }
        }
        drop(state);
        if entry.review.is_some() {
            tracing::error!(approval = %id, run = %entry.request.run, rule = entry.request.rule, ?entry.outcome,
                "ALERT: glass was broken; somebody else has to look at it (portcullis approvals review)");
        }
        self.announce(&entry);
        Ok(entry)
    }

    /// Takes back what an approval still covers. Whom the approvers name, operators and root.
    ///
    /// # Errors
    /// When there is nothing to take back, or not by them.
    pub fn revoke(&self, id: ApprovalId, by: &Reviewer) -> Result<Arc<Entry>, DecideError> {
        self.amend(id, |entry| {
            let request = &entry.request;
            let may = by.is_root() || by.groups.contains(&self.operators);
            if !may && !request.approvers.iter().any(|approver| by.is_named(approver)) {
                return Err(DecideError::not_an_approver(&request.approvers));
            }
            let revoked = entry.grant.as_mut().filter(|grant| grant.revoked_by.is_none());
            revoked.ok_or(DecideError::NothingToRevoke)?.revoked_by = Some(by.user.clone());
            Ok(())
        })
    }

    /// Looks at a broken glass afterwards: somebody else than who broke it or for whom.
    ///
    /// # Errors
    /// When there is none, or they may not, or have not proved enough of themselves.
    pub fn review(&self, id: ApprovalId, by: Reviewer, note: String) -> Result<Arc<Entry>, DecideError> {
        if note.len() > REASON_BYTES_MAX {
            return Err(DecideError::ReasonTooLong);
        }
        self.amend(id, |entry| {
            self.may_decide(&entry.request, &by, false)?;
            entry.request.check_proof(&by, now_ms())?;
            let marks = by.marks();
            if entry.votes.iter().any(|vote| vote.by.marks().in_common(&marks).is_some()) {
                return Err(DecideError::OwnGlass);
            }
            let review = entry.review.as_mut().filter(|review| review.by.is_none());
            *review.ok_or(DecideError::NothingToReview)? = Review { by: Some(by), note };
            Ok(())
        })
    }

    /// Changes an entry that lasts, durably.
    fn amend(
        &self,
        id: ApprovalId,
        change: impl FnOnce(&mut Entry) -> Result<(), DecideError>,
    ) -> Result<Arc<Entry>, DecideError> {
        let mut state = self.lock();
        let Some(entry) = state.lasting.get(&id) else { return Err(state.why_settled(id)) };
        let mut entry = Entry::clone(entry);
        entry.revision += 1;
        change(&mut entry)?;
        self.store.save(&entry).map_err(|error| DecideError::NotRemembered(error.to_string()))?;
        let entry = Arc::new(entry);
        state.lasting.insert(id, Arc::clone(&entry));
        drop(state);
        self.announce(&entry);
        Ok(entry)
    }

    /// Who may decide a request: not whoever it acts for, in any guise, and then somebody its approvers name (those who may
    /// break its glass, for that), or an operator or root where they name nobody. There is no exception for anybody.
    ///
    /// # Errors
    /// When they may not: why.
    pub fn may_decide(&self, request: &Request, by: &Reviewer, break_glass: bool) -> Result<(), DecideError> {
        if let Some(mark) = askers(request).in_common(&by.marks()) {
            return Err(DecideError::SelfReview { who: mark.to_owned() });
        }
        let approvers = if break_glass { &request.break_glass } else { &request.approvers };
        match approvers.as_slice() {
            [] if break_glass => Err(DecideError::NoGlass),
            [] if by.is_root() || by.groups.contains(&self.operators) => Ok(()),
            [] => Err(DecideError::not_an_approver(&[self.operators.clone(), "user:root".to_owned()])),
            approvers if approvers.iter().any(|approver| by.is_named(approver)) => Ok(()),
            approvers => Err(DecideError::not_an_approver(approvers)),
        }
    }

    /// Whether somebody may read a request: statements can carry personal data, so only those who could decide it,
    /// operators, root, and whoever it acts for.
    #[must_use]
    pub fn may_see(&self, request: &Request, who: &Reviewer) -> bool {
        who.is_root()
            || who.groups.contains(&self.operators)
            || request.approvers.iter().chain(&request.break_glass).any(|approver| who.is_named(approver))
            || askers(request).in_common(&who.marks()).is_some()
    }
}

impl Entry {
    /// Takes a reviewer's word; the outcome, once there are enough.
    fn take(&mut self, by: Reviewer, decision: Decision, at_ms: u64) -> Option<Outcome> {
        let Decision { answer, reason, scope, break_glass } = decision;
        if answer == Answer::Deny {
            self.outcome = Some(Outcome::Denied { by, reason, at_ms });
            return self.outcome.clone();
        }
        self.votes.push(Vote { by: by.clone(), reason: reason.clone(), scope, at_ms });
        let voters: Vec<&Reviewer> = self.votes.iter().map(|vote| &vote.by).collect();
        if !break_glass && !is_quorum(&voters, &self.request) {
            return None;
        }
        // Nobody widens what the others have agreed to.
        let agreed = self.votes.iter().all(|vote| vote.scope == scope);
        let scope = if agreed { scope } else { Scope::Once };
        self.grant = self.grant_of(scope, at_ms);
        if break_glass {
            self.review = Some(Review { by: None, note: String::new() });
        }
        self.outcome = Some(Outcome::Approved { by, reason, at_ms });
        self.outcome.clone()
    }

    /// What an approval covers beyond whoever waits for it now.
    fn grant_of(&self, scope: Scope, now: u64) -> Option<Grant> {
        let claim_ms = u64::try_from(CLAIM_TIME_MIN.as_millis()).unwrap_or(u64::MAX);
        let (until_ms, uses_left) = match scope.lasting() {
            Some((for_ms, uses)) => (now.saturating_add(for_ms.min(GRANT_MS_MAX)), uses.min(GRANT_USES_MAX)),
            None if self.deferred => (self.expires_ms.max(now.saturating_add(claim_ms)), 1),
            None => return None,
        };
        Some(Grant { scope, until_ms, uses_left, revoked_by: None })
    }
}
