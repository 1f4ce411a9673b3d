//! Who is signed in: random tokens in cookies, of which only the digests are kept, for a bounded time.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::approval::Reviewer;
pub(super) use crate::secret::{Token, TokenDigest};

/// Sessions at once; the one longest unused makes room.
pub(super) const SESSIONS_MAX: usize = 1024;
/// Sessions of one person at once; likewise.
pub(super) const SESSIONS_PER_PERSON_MAX: usize = 8;

/// Everybody who is signed in.
pub(super) struct Sessions {
    idle: Duration,
    absolute: Duration,
    table: Mutex<Vec<Session>>,
}

struct Session {
    digest: TokenDigest,
    who: Reviewer,
    /// How long before its beginning they proved who they are.
    age: Duration,
    began: Instant,
    used: Instant,
}

/// Somebody whose session lasts.
pub(super) struct Present {
    pub(super) who: Reviewer,
    /// How long ago they proved who they are.
    pub(super) age: Duration,
}

/// Whether looking a session up counts as using it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A person asks for something.
    Person,
    /// The page's script refreshes what is shown: nobody may be there.
    Script,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("count", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(idle: Duration, absolute: Duration) -> Self {
        Self { idle, absolute, table: Mutex::default() }
    }

    /// Signs somebody in who proved so long ago who they are, under a token that nobody has had before.
    pub(super) fn begin(&self, who: Reviewer, age: Duration) -> Result<Token, getrandom::Error> {
        let token = Token::generate()?;
        let (now, mut table) = (Instant::now(), self.lock());
        let own = table.iter().filter(|session| session.who.is_same_subject(&who)).count();
        if own >= SESSIONS_PER_PERSON_MAX {
            drop_longest_unused(&mut table, |session| session.who.is_same_subject(&who));
        }
        if table.len() >= SESSIONS_MAX {
            drop_longest_unused(&mut table, |_| true);
        }
        table.push(Session { digest: token.digest(), who, age, began: now, used: now });
        Ok(token)
    }

    /// Who has this token, while their session lasts.
    pub(super) fn find(&self, digest: &TokenDigest, use_: Use) -> Option<Present> {
        let (now, mut table) = (Instant::now(), self.lock());
        // All are compared, so that the time says nothing of which.
        let found = table.iter_mut().filter(|session| session.digest.is(digest)).last()?;
        if use_ == Use::Person {
            found.used = now;
        }
        Some(Present { who: found.who.clone(), age: found.age.saturating_add(found.began.elapsed()) })
    }

    /// Signs out.
    pub(super) fn end(&self, digest: &TokenDigest) {
        self.lock().retain(|session| !session.digest.is(digest));
    }

    /// The table, without what is over.
    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        // Every change is one push, removal or assignment, so a panic elsewhere leaves it whole.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|session| session.used.elapsed() < self.idle && session.began.elapsed() < self.absolute);
        table
    }
}

fn drop_longest_unused(table: &mut Vec<Session>, among: impl Fn(&Session) -> bool) {
    let of_those = table.iter().enumerate().filter(|(_, session)| among(session));
    if let Some((at, _)) = of_those.min_by_key(|(_, session)| session.used) {
        table.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(user: &str) -> Reviewer {
        Reviewer {
            uid: None,
            user: user.to_owned(),
            groups: Vec::new(),
            pid: None,
            login_uid: None,
            login_user: None,
            account: None,
            proof: None,
            identity: None,
        }
    }

    fn sessions() -> Sessions {
        Sessions::new(Duration::from_mins(30), Duration::from_hours(8))
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_when_nobody_uses_it() {
        let sessions = sessions();
        let digest = sessions.begin(person("ada"), Duration::ZERO).unwrap().digest();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_mins(29)).await;
            assert_eq!(sessions.find(&digest, Use::Person).unwrap().who.user, "ada");
        }
        tokio::time::advance(Duration::from_mins(29)).await;
        assert!(sessions.find(&digest, Use::Script).is_some(), "a script may look");
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(sessions.find(&digest, Use::Script).is_none(), "but keeps nobody signed in");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_in_any_case() {
        let sessions = sessions();
        let digest = sessions.begin(person("ada"), Duration::ZERO).unwrap().digest();
        for _ in 0..31 {
            tokio::time::advance(Duration::from_mins(15)).await;
            assert!(sessions.find(&digest, Use::Person).is_some());
        }
        tokio::time::advance(Duration::from_mins(15)).await;
        assert!(sessions.find(&digest, Use::Person).is_none());
    }

    #[tokio::test]
    async fn sessions_are_bounded_and_end_when_told() {
        let sessions = sessions();
        let first = sessions.begin(person("ada"), Duration::ZERO).unwrap().digest();
        let others: Vec<_> = (0..SESSIONS_PER_PERSON_MAX)
            .map(|_| sessions.begin(person("ada"), Duration::ZERO).unwrap().digest())
            .collect();
        assert!(sessions.find(&first, Use::Person).is_none(), "the oldest has made room");
        assert!(others.iter().all(|digest| sessions.find(digest, Use::Person).is_some()));
        sessions.end(&others[0]);
        assert!(sessions.find(&others[0], Use::Person).is_none());
        for number in 0..SESSIONS_MAX {
            sessions.begin(person(&number.to_string()), Duration::ZERO).unwrap();
        }
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
    }
}
