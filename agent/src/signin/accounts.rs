//! Who is signed in by the command line. It holds for one login of this host, which the kernel tells: nothing is kept on the
//! caller's disk that another could use, and the provider's tokens stay in the daemon, unused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::device::{Device, Polled};
use super::fields::Fields;
use super::provider::{Ask, Provider, ProviderError, Secrets};
use crate::approval::Reviewer;
use crate::config::sign_in::{AccountNames, Login as Settings};
use crate::credential::Credentials;
use crate::flow::Side;
use crate::identity::Issuers;
use crate::policy::rule::StepUp;
use crate::run::caller::Caller;

/// How long somebody may take to sign in at the provider.
pub(super) const LOGIN_TIME_MAX: Duration = Duration::from_mins(10);
/// Sign-ins under way, and those of one user of this host; beyond it, another has to wait.
const UNDER_WAY_MAX: usize = 1024;
const UNDER_WAY_PER_USER_MAX: usize = 16;
/// Logins of one user of this host that are signed in; the one longest so makes room.
const SIGNED_IN_PER_USER_MAX: usize = 16;

/// A login of this host: a user, and the session that the kernel's audit knows (ssh, a console), where it keeps account of them.
/// Whoever came into the user's account in another way is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    login_uid: Option<u32>,
    session: Option<u32>,
}

impl Account {
    /// Of a caller of the control socket.
    #[must_use]
    pub fn of(caller: &Caller) -> Self {
        Self { uid: caller.uid, login_uid: caller.login_uid, session: caller.login_session }
    }
}

/// In which way somebody signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginBy {
    /// In a browser on this host, which comes back to this port of 127.0.0.1 (RFC 8252 section 7.3).
    Browser {
        /// Where the command line listens.
        port: u16,
    },
    /// On any device, by a code that is typed there (RFC 8628).
    Device,
}

/// A sign-in that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Names it; nobody can guess it.
    pub login: Zeroizing<String>,
    /// Where to sign in.
    pub url: String,
    /// What to type there.
    pub user_code: Option<String>,
    /// Between two questions whether it is done.
    pub interval: Duration,
    /// How long it may take.
    pub time_left: Duration,
}

/// What became of a sign-in.
#[derive(Clone, Debug)]
pub enum Finished {
    /// Nobody has signed in yet; ask again after this time.
    NotYet(Duration),
    /// Somebody is signed in, for so long.
    SignedIn(Arc<Reviewer>, Duration),
}

/// Why nobody is signed in. The text is for the caller.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The provider.
    #[error("{0}")]
    Provider(String),
    /// Another's sign-in, or one that is over.
    #[error("this sign-in is over; begin again with `portcullis login`")]
    Over,
    /// A browser brought something else; the sign-in goes on.
    #[error("this is not the identity provider's answer to this sign-in")]
    OtherAnswer,
    /// The person or the provider said no.
    #[error("the identity provider signed nobody in ({0})")]
    Refused(String),
    /// Too many are under way.
    #[error("too many sign-ins of this user are under way; finish one, or wait ten minutes")]
    TooMany,
    /// Somebody was brought to sign in for another's account.
    #[error(
        "the identity provider signed in {who}, and this account is {account}'s; sign in as yourself, or have the operator write \
         accounts = \"any\" in [login]"
    )]
    OtherPerson {
        /// Whom the provider signed in.
        who: String,
        /// Names of the account.
        account: String,
    },
    /// Codes for other devices are not used here.
    #[error("this host takes no sign-in by another device; the operator can write device = true in [login]")]
    NoDevices,
    /// It is not as strong or fresh as was asked for.
    #[error("the identity provider signed you in, but not as the rule asks for ({needs}): {lacking}")]
    NotEnough {
        /// What was asked for.
        needs: String,
        /// What is missing.
        lacking: String,
    },
}

impl AccountError {
    /// Whose fault it was.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Provider(_) | Self::NotEnough { .. } => Side::Upstream,
            Self::Over | Self::OtherAnswer | Self::Refused(_) | Self::TooMany => Side::Client,
            Self::OtherPerson { .. } | Self::NoDevices => Side::Policy,
        }
    }
}

impl From<ProviderError> for AccountError {
    fn from(error: ProviderError) -> Self {
        tracing::warn!(%error, "a sign-in by the command line failed");
        match error {
            ProviderError::Refused { error, .. } => Self::Refused(error),
            ProviderError::Fetch(_)
            | ProviderError::Answer(_)
            | ProviderError::Token(_)
            | ProviderError::Nonce
            | ProviderError::NoDevices
            | ProviderError::Stale
            | ProviderError::Secret(_) => Self::Provider(error.to_string()),
        }
    }
}

/// Everybody who is signed in by the command line.
pub struct Accounts {
    settings: Settings,
    provider: Provider,
    under_way: Mutex<Vec<UnderWay>>,
    signed_in: Mutex<Vec<SignedIn>>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

struct UnderWay {
    login: Zeroizing<String>,
    account: Account,
    needs: Option<StepUp>,
    began: Instant,
    way: Way,
}

enum Way {
    Browser { redirect_uri: String, secrets: Secrets },
    Device(Box<Device>),
}

struct SignedIn {
    account: Account,
    who: Arc<Reviewer>,
    until: Instant,
}

impl Accounts {
    /// Nobody yet.
    #[must_use]
    pub fn new(settings: Settings, credentials: Credentials, issuers: Arc<Issuers>) -> Self {
        let provider = Provider::new(settings.client.clone(), credentials, issuers);
        Self { settings, provider, under_way: Mutex::default(), signed_in: Mutex::default() }
    }

    /// Whether nobody decides by the command line who is not signed in.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.settings.required
    }

    /// Begins a sign-in that shall prove what a rule needs.
    ///
    /// # Errors
    /// When the provider cannot be asked, or knows no such way.
    pub async fn begin(
        &self,
        account: Account,
        by: LoginBy,
        needs: Option<StepUp>,
    ) -> Result<Begun, AccountError> {
        if by == LoginBy::Device && !self.settings.device {
            return Err(AccountError::NoDevices);
        }
        self.has_room(account)?;
        let secrets = Secrets::generate().map_err(|error| AccountError::Provider(error.to_string()))?;
        let login = random()?;
        let redirect_uri = match by {
            LoginBy::Browser { port } => format!("http://127.0.0.1:{port}/callback"),
            LoginBy::Device => String::new(),
        };
        let acr = needs.as_ref().map_or(&[][..], |needs| &needs.acr);
        let max_age = needs.as_ref().and_then(|needs| needs.max_age);
        let ask = Ask { redirect_uri: &redirect_uri, max_age, acr };
        let (way, begun) = match by {
            LoginBy::Browser { .. } => {
                let url = self.provider.authorization(&secrets, &ask).await?;
                let begun = Begun {
                    login: login.clone(),
                    url,
                    user_code: None,
                    interval: Duration::ZERO,
                    time_left: LOGIN_TIME_MAX,
                };
                (Way::Browser { redirect_uri, secrets }, begun)
            }
            LoginBy::Device => {
                let device = self.provider.device(&ask, secrets).await?;
                let begun = Begun {
                    login: login.clone(),
                    url: device.complete_uri.clone().unwrap_or_else(|| device.verification_uri.clone()),
                    user_code: Some(device.user_code.clone()),
                    interval: device.interval,
                    time_left: device.until.saturating_duration_since(Instant::now()),
                };
                (Way::Device(Box::new(device)), begun)
            }
        };
        self.put(UnderWay { login, account, needs, began: Instant::now(), way });
        Ok(begun)
    }

    /// Goes on with a sign-in: with what a browser brought to the loopback port (a query), or with the question whether another
    /// device is done. An answer that is another sign-in's changes nothing. `host` is what this host calls whoever asks.
    ///
    /// # Errors
    /// When nobody is signed in by it.
    pub async fn finish(
        &self,
        account: Account,
        host: &[String],
        login: &str,
        answer: Option<&str>,
    ) -> Result<Finished, AccountError> {
        let mut under_way = self.take(account, login).ok_or(AccountError::Over)?;
        let identity = match (&mut under_way.way, answer) {
            (Way::Browser { redirect_uri, secrets }, Some(answer)) => {
                let fields = Fields::parse(answer.as_bytes()).ok_or(AccountError::OtherAnswer);
                let is_its = |fields: &Fields| {
                    bool::from(fields.get("state").as_bytes().ct_eq(secrets.state.as_bytes()))
                };
                let Some(fields) = fields.ok().filter(is_its) else {
                    self.put(under_way);
                    return Err(AccountError::OtherAnswer);
                };
                if !self.provider.is_issuer(fields.find("iss")).await? {
                    return Err(AccountError::Refused("the answer is another provider's".to_owned()));
                }
                if let Some(error) = fields.find("error") {
                    let error = error.chars().filter(char::is_ascii_graphic).take(64).collect();
                    return Err(AccountError::Refused(error));
                }
                let no_code = || AccountError::Refused("without a code".to_owned());
                let code = fields.find("code").ok_or_else(no_code)?;
                self.provider.redeem(code, redirect_uri, secrets).await?
            }
            (Way::Device(device), None) => match self.provider.poll(device).await? {
                Polled::Done(identity) => *identity,
                Polled::NotYet if Instant::now() >= device.until => return Err(AccountError::Over),
                Polled::NotYet => {
                    let interval = device.interval;
                    self.put(under_way);
                    return Ok(Finished::NotYet(interval));
                }
            },
            (Way::Browser { .. }, None) | (Way::Device(_), Some(_)) => {
                return Err(AccountError::Over);
            }
        };
        let who = super::reviewer(identity);
        // A provider may take no notice of what it was asked for (Core 1.0 section 3.1.2.1, `acr_values`).
        if let Some(needs) = &under_way.needs
            && let Some(lacking) =
                who.proof.as_ref().and_then(|proof| proof.lacks(needs, crate::run::now_ms()))
        {
            return Err(AccountError::NotEnough { needs: needs.to_string(), lacking: lacking.to_string() });
        }
        if self.settings.accounts == AccountNames::Matching && !host.iter().any(|name| who.is_called(name)) {
            return Err(AccountError::OtherPerson { who: who.user, account: host.join(" or ") });
        }
        Ok(self.sign_in(account, who))
    }

    /// Who is signed in there, and for how much longer.
    #[must_use]
    pub fn find(&self, account: Account) -> Option<(Arc<Reviewer>, Duration)> {
        let table = self.signed_in();
        let found = table.iter().find(|signed| signed.account == account)?;
        Some((Arc::clone(&found.who), found.until.saturating_duration_since(Instant::now())))
    }

    /// Signs out. Says whether anybody was signed in.
    pub fn end(&self, account: Account) -> bool {
        let mut table = self.signed_in();
        let before = table.len();
        table.retain(|signed| signed.account != account);
        table.len() < before
    }

    fn sign_in(&self, account: Account, who: Reviewer) -> Finished {
        tracing::info!(user = who.user, groups = ?who.groups, uid = account.uid, "signed in by the command line");
        let (who, lasts) = (Arc::new(who), self.settings.absolute);
        let mut table = self.signed_in();
        table.retain(|signed| signed.account != account);
        let own = table.iter().filter(|signed| signed.account.uid == account.uid).count();
        if own >= SIGNED_IN_PER_USER_MAX
            && let Some(oldest) = table.iter().position(|signed| signed.account.uid == account.uid)
        {
            table.remove(oldest);
        }
        table.push(SignedIn { account, who: Arc::clone(&who), until: Instant::now() + lasts });
        Finished::SignedIn(who, lasts)
    }

    fn has_room(&self, account: Account) -> Result<(), AccountError> {
        let table = self.under_way();
        let own = table.iter().filter(|known| known.account.uid == account.uid).count();
        match own >= UNDER_WAY_PER_USER_MAX || table.len() >= UNDER_WAY_MAX {
            true => Err(AccountError::TooMany),
            false => Ok(()),
        }
    }

    fn put(&self, new: UnderWay) {
        self.under_way().push(new);
    }

    fn take(&self, account: Account, login: &str) -> Option<UnderWay> {
        let mut table = self.under_way();
        let is_it = |known: &UnderWay| {
            known.account == account && bool::from(known.login.as_bytes().ct_eq(login.as_bytes()))
        };
        let at = table.iter().position(is_it)?;
        Some(table.remove(at))
    }

    /// The table, without what is over.
    fn under_way(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        // Every change is one push or removal, so a panic elsewhere leaves it whole.
        let mut table = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|known| known.began.elapsed() < LOGIN_TIME_MAX);
        table
    }

    /// Likewise.
    fn signed_in(&self) -> MutexGuard<'_, Vec<SignedIn>> {
        let mut table = self.signed_in.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        table.retain(|signed| signed.until > now);
        table
    }
}

fn random() -> Result<Zeroizing<String>, AccountError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| AccountError::Provider(error.to_string()))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}
