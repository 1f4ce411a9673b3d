//! What becomes of a run's token: it is renewed, or withdrawn together with the run.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Identity, RunInfo, Runs, Withdrawal, now_ms};
use crate::flow::{RunId, Side};

/// Why a run's token was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It has ended, or never was.
    #[error("no run {0} is active")]
    NoRun(RunId),
    /// It began without a token.
    #[error("this run has no token that could be renewed")]
    NoToken,
    /// The new token is somebody else's.
    #[error("the new token is of another subject than the run's")]
    OtherSubject,
    /// The run, or another one with this token, was withdrawn.
    #[error("this run or its token was withdrawn")]
    Withdrawn,
    /// Its clients have brought as many as may count at once.
    #[error("the clients of this run have brought too many tokens; use those that count still")]
    TooMany,
    /// It cannot be remembered.
    #[error("the run's state cannot be written")]
    Host(#[source] io::Error),
}

impl RenewError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::NoRun(_) | Self::NoToken | Self::OtherSubject | Self::TooMany => Side::Client,
            Self::Withdrawn => Side::Policy,
            Self::Host(_) => Side::Portcullis,
        }
    }
}

/// What a withdrawal was about.
#[derive(Debug, Default)]
pub struct Withdrawn {
    /// Runs that may not go on; none when no such run is active.
    pub runs: Vec<Arc<RunInfo>>,
    /// Other runs, which go on, but a client of theirs brought one of the tokens: their sessions have to end.
    pub guests: Vec<Arc<RunInfo>>,
    /// Why it cannot be remembered: it holds until the daemon restarts.
    pub forgetful: Option<io::Error>,
}

impl Withdrawn {
    /// Every run with sessions that have to end.
    pub fn touched(&self) -> impl Iterator<Item = RunId> {
        self.runs.iter().chain(&self.guests).map(|run| run.id)
    }
}

impl Runs {
    /// Puts a fresh, verified token in the place of a run's. Says whether it means something else to rules than the one before.
    ///
    /// # Errors
    /// When it is not the same subject's, or the run cannot have one.
    pub fn renew(&self, run: RunId, identity: Identity) -> Result<(Arc<RunInfo>, bool), RenewError> {
        // One at a time: a withdrawal in between would miss the new token, and the later token has to stay.
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let run = self.get(run).ok_or(RenewError::NoRun(run))?;
        let before = run.standing.identity().ok_or(RenewError::NoToken)?;
        if run.standing.withdrawn().is_some() || self.withdrawn.holds(&identity.token) {
            return Err(RenewError::Withdrawn);
        }
        if !before.is_same_subject(&identity) {
            return Err(RenewError::OtherSubject);
        }
        // The same token again, or one that ends earlier, is nothing new.
        if identity.expires_ms <= before.expires_ms {
            return Ok((run, false));
        }
        let changed = !before.means_the_same(&identity);
        run.standing.renew(identity);
        self.store.save(&run).map_err(RenewError::Host)?;
        Ok((run, changed))
    }

    /// Takes a run's permission away, that of every token it has had or its clients brought, and that of every other run with one of
    /// them.
    pub fn withdraw(&self, run: RunId, withdrawal: &Withdrawal) -> Withdrawn {
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(run) = self.get(run) else { return Withdrawn::default() };
        let mut all = [run.standing.tokens(), run.standing.brought_tokens()].concat();
        let gone: HashSet<String> = all.iter().map(|(token, _)| token.clone()).collect();
        let has = |tokens: Vec<(String, u64)>| tokens.iter().any(|(token, _)| gone.contains(token));
        let mut withdrawn = Withdrawn::default();
        for other in self.list() {
            if other.id == run.id || has(other.standing.tokens()) {
                withdrawn.runs.push(other);
            } else if has(other.standing.brought_tokens()) {
                withdrawn.guests.push(other);
            }
        }
        withdrawn.runs.iter().for_each(|run| run.standing.withdraw(withdrawal.clone()));
        all.extend(withdrawn.runs.iter().flat_map(|run| run.standing.tokens()));
        let remembered = self.withdrawn.add(all);
        let saved = withdrawn.runs.iter().try_for_each(|run| self.store.save(run));
        withdrawn.forgetful = saved.and(remembered).err();
        withdrawn
    }

    /// Takes note that a client of a run brought this token itself, so that it is withdrawn with the run.
    ///
    /// # Errors
    /// When it was withdrawn already, there are too many, or it cannot be remembered.
    pub fn brought(&self, run: RunId, identity: &Identity) -> Result<(), RenewError> {
        // As for a renewal: no withdrawal may miss it.
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let run = self.get(run).ok_or(RenewError::NoRun(run))?;
        if run.standing.withdrawn().is_some() || self.withdrawn.holds(&identity.token) {
            return Err(RenewError::Withdrawn);
        }
        match run.standing.brought(&identity.token, identity.expires_ms, now_ms()) {
            None => Err(RenewError::TooMany),
            Some(false) => Ok(()),
            Some(true) => self.store.save(&run).map_err(RenewError::Host),
        }
    }

    /// Withdraws a run whose token was withdrawn with another run, perhaps while the daemon died.
    pub(super) fn withdraw_with_its_token(&self, run: &RunInfo) {
        if run.standing.tokens().iter().any(|(token, _)| self.withdrawn.holds(token)) {
            let reason = "its token was withdrawn".to_owned();
            run.standing.withdraw(Withdrawal { by: "portcullis".to_owned(), reason, at_ms: now_ms() });
        }
    }
}

/// Tokens whose run was withdrawn, by digest, until each has expired. They outlive their run and the daemon.
#[derive(Debug)]
pub(super) struct WithdrawnTokens {
    file: PathBuf,
    until_ms: Mutex<HashMap<String, u64>>,
}

impl WithdrawnTokens {
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let file = state_dir.join("withdrawn-tokens.json");
        let until_ms = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, until_ms: Mutex::new(until_ms) })
    }

    pub(super) fn holds(&self, token: &str) -> bool {
        self.until_ms.lock().unwrap_or_else(PoisonError::into_inner).contains_key(token)
    }

    fn add(&self, tokens: Vec<(String, u64)>) -> io::Result<()> {
        let mut until_ms = self.until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_ms();
        until_ms.retain(|_, until| *until > now);
        for (token, until) in tokens.into_iter().filter(|(_, until)| *until > now) {
            let known = until_ms.entry(token).or_default();
            *known = until.max(*known);
        }
        let text = serde_json::to_vec(&*until_ms)?;
        let draft = self.file.with_extension("draft");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        // A machine that loses power must not remember less than what was promised.
        file.sync_all()?;
        fs::rename(draft, &self.file)?;
        match self.file.parent() {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn withdrawn_tokens_are_remembered_until_they_expire() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = WithdrawnTokens::open(folder.path()).unwrap();
        let later = now_ms() + 60_000;
        tokens.add(vec![("a".to_owned(), later), ("old".to_owned(), 1)]).unwrap();
        tokens.add(vec![("b".to_owned(), later)]).unwrap();
        let again = WithdrawnTokens::open(folder.path()).unwrap();
        assert!(again.holds("a") && again.holds("b") && !again.holds("old") && !again.holds("c"));
    }
}
