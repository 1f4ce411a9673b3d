//! Which Slack user is which person. A person says so themselves: they click in Slack, follow the link that Slack shows to
//! them alone, sign in on the page, and confirm there whose clicks are to count as theirs.
//!
//! In memory alone, as the page's sessions are.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::approval::Reviewer;
use crate::secret::{Token, TokenDigest};

/// How long a link's code counts.
pub const CODE_TIME_MAX: Duration = Duration::from_mins(10);
/// Codes at once, one for each Slack user; the oldest makes room.
pub(super) const CODES_MAX: usize = 1024;
/// Slack users linked at once; the one linked longest makes room.
pub(super) const LINKS_MAX: usize = 4096;
/// Slack users linked to one person; likewise.
pub(super) const LINKS_PER_PERSON_MAX: usize = 8;

/// A Slack user, as Slack's own ids have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The workspace.
    pub team: String,
    /// The user.
    pub user: String,
    /// What they are called there. They may have chosen it, so it identifies nobody and does not count in comparisons.
    pub called: String,
}

impl Account {
    /// Whether both are one Slack user.
    #[must_use]
    pub fn is(&self, team: &str, user: &str) -> bool {
        self.team == team && self.user == user
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (user {} of workspace {})", self.called, self.user, self.team)
    }
}

/// Whom a Slack user stands for.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) who: Reviewer,
    /// How long ago they proved who they are.
    pub(super) age: Duration,
}

struct Code {
    digest: TokenDigest,
    account: Account,
    began: Instant,
}

struct Link {
    account: Account,
    who: Reviewer,
    /// How old their proof was when the link was made.
    age: Duration,
    began: Instant,
}

/// Codes that are under way, and the links that were made with such.
pub struct Links {
    lasts: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    codes: Vec<Code>,
    links: Vec<Link>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

impl Links {
    /// None yet; each lasts for so long.
    pub(super) fn new(lasts: Duration) -> Arc<Self> {
        Arc::new(Self { lasts, state: Mutex::default() })
    }

    /// How long a link lasts.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// A code for this Slack user, in place of the one before.
    pub(super) fn code(&self, account: Account) -> Result<Zeroizing<String>, getrandom::Error> {
        let (token, mut state) = (Token::generate()?, self.lock());
        state.codes.retain(|code| !code.account.is(&account.team, &account.user));
        if state.codes.len() >= CODES_MAX {
            state.codes.remove(0);
        }
        state.codes.push(Code { digest: token.digest(), account, began: Instant::now() });
        Ok(token.text())
    }

    /// A code, for tests of the page.
    #[cfg(test)]
    pub(crate) fn code_for_tests(&self, team: &str, user: &str) -> Zeroizing<String> {
        let called = "<b>".to_owned();
        self.code(Account { team: team.to_owned(), user: user.to_owned(), called }).unwrap()
    }

    /// Whose code this is. It stays.
    #[must_use]
    pub fn asked(&self, code: &str) -> Option<Account> {
        let digest = Token::parse(code)?.digest();
        let state = self.lock();
        state.codes.iter().rfind(|code| code.digest.is(&digest)).map(|code| code.account.clone())
    }

    /// Links the code's Slack user to a person who proved so long ago who they are. The code is used up.
    #[must_use]
    pub fn link(&self, code: &str, who: Reviewer, age: Duration) -> Option<Account> {
        let digest = Token::parse(code)?.digest();
        let mut state = self.lock();
        let at = state.codes.iter().rposition(|code| code.digest.is(&digest))?;
        let account = state.codes.remove(at).account;
        state.links.retain(|link| !link.account.is(&account.team, &account.user));
        let own = |link: &Link| link.who.is_same_subject(&who);
        if state.links.iter().filter(|link| own(link)).count() >= LINKS_PER_PERSON_MAX
            && let Some(oldest) = state.links.iter().position(own)
        {
            state.links.remove(oldest);
        }
        if state.links.len() >= LINKS_MAX {
            state.links.remove(0);
        }
        state.links.push(Link { account: account.clone(), who, age, began: Instant::now() });
        Some(account)
    }

    /// Whom a Slack user stands for.
    pub(super) fn find(&self, account: &Account) -> Option<Person> {
        let state = self.lock();
        let link = state.links.iter().find(|link| link.account.is(&account.team, &account.user))?;
        Some(Person { who: link.who.clone(), age: link.age.saturating_add(link.began.elapsed()) })
    }

    /// The Slack users that stand for a person, and for how much longer.
    #[must_use]
    pub fn of(&self, who: &Reviewer) -> Vec<(Account, Duration)> {
        let state = self.lock();
        let own = state.links.iter().filter(|link| link.who.is_same_subject(who));
        own.map(|link| (link.account.clone(), self.lasts.saturating_sub(link.began.elapsed()))).collect()
    }

    /// Ends the link of one of them. Whether there was one.
    #[must_use]
    pub fn unlink(&self, who: &Reviewer, team: &str, user: &str) -> bool {
        let mut state = self.lock();
        let before = state.links.len();
        state.links.retain(|link| !(link.account.is(team, user) && link.who.is_same_subject(who)));
        state.links.len() < before
    }

    /// The state, without what is over.
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one push or removal, so a panic elsewhere leaves it whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.codes.retain(|code| code.began.elapsed() < CODE_TIME_MAX);
        state.links.retain(|link| link.began.elapsed() < self.lasts);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: &str) -> Account {
        Account { team: "T1".to_owned(), user: user.to_owned(), called: format!("the {user}") }
    }

    fn person(user: &str) -> Reviewer {
        crate::chat::tests::person(user, &[])
    }

    fn links() -> Arc<Links> {
        Links::new(Duration::from_hours(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_counts_once_and_for_ten_minutes() {
        let links = links();
        let code = links.code(account("U1")).unwrap();
        assert_eq!(links.asked(&code), Some(account("U1")));
        assert!(links.find(&account("U1")).is_none(), "asking is not linking");
        assert_eq!(links.link(&code, person("ada"), Duration::from_secs(5)), Some(account("U1")));
        assert_eq!(links.link(&code, person("eve"), Duration::ZERO), None, "a code used twice");
        tokio::time::advance(Duration::from_secs(7)).await;
        let found = links.find(&account("U1")).unwrap();
        assert_eq!((found.who.user.as_str(), found.age), ("ada", Duration::from_secs(12)));
        assert!(links.find(&account("U2")).is_none());
        let elsewhere = Account { team: "T2".to_owned(), ..account("U1") };
        assert!(links.find(&elsewhere).is_none(), "another workspace's user of the same id");

        let late = links.code(account("U2")).unwrap();
        tokio::time::advance(CODE_TIME_MAX).await;
        assert_eq!((links.asked(&late), links.link(&late, person("ada"), Duration::ZERO)), (None, None));
        let (first, second) = (links.code(account("U2")).unwrap(), links.code(account("U2")).unwrap());
        assert!(links.asked(&first).is_none() && links.asked(&second).is_some(), "the newest one counts");
        assert_eq!((links.asked(""), links.asked("x"), links.asked(&"A".repeat(43))), (None, None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_ends_by_time_by_its_person_and_by_another() {
        let links = links();
        let link = |user: &str, who: &str| {
            let code = links.code(account(user)).unwrap();
            links.link(&code, person(who), Duration::ZERO).unwrap();
        };
        link("U1", "ada");
        assert_eq!(links.of(&person("ada")), [(account("U1"), Duration::from_hours(1))]);
        assert!(!links.unlink(&person("eve"), "T1", "U1"), "not by somebody else");
        assert!(links.unlink(&person("ada"), "T1", "U1") && links.find(&account("U1")).is_none());
        link("U1", "ada");
        link("U1", "eve");
        assert_eq!(links.find(&account("U1")).unwrap().who.user, "eve");
        assert!(links.of(&person("ada")).is_empty());
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(links.find(&account("U1")).is_none());
    }

    #[tokio::test]
    async fn everything_is_bounded() {
        let links = links();
        let first = links.code(account("first")).unwrap();
        for number in 0..CODES_MAX {
            links.code(account(&number.to_string())).unwrap();
        }
        assert_eq!(links.asked(&first), None);
        for number in 0..=LINKS_PER_PERSON_MAX {
            let code = links.code(account(&format!("a{number}"))).unwrap();
            links.link(&code, person("ada"), Duration::ZERO).unwrap();
        }
        assert_eq!(links.of(&person("ada")).len(), LINKS_PER_PERSON_MAX);
        assert!(links.find(&account("a0")).is_none(), "the oldest has made room");
    }
}
