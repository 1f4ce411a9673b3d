//! The secret that what comes in is verified with. Anybody may send something, so it is fetched seldom: once a minute, by one at a
//! time, and not at once again after it could not be had.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::credential::Credentials;
use crate::secret::Secret;

/// How long it is used without being fetched again.
const AGE_MAX: Duration = Duration::from_mins(1);
/// Pause after it could not be fetched.
const PAUSE: Duration = Duration::from_secs(10);

/// One such secret.
pub(super) struct Inbound {
    credentials: Credentials,
    name: String,
    known: Mutex<Option<Known>>,
}

struct Known {
    secret: Option<Arc<Secret>>,
    at: Instant,
}

impl Inbound {
    /// The credential of this name.
    pub(super) fn new(credentials: Credentials, name: String) -> Self {
        Self { credentials, name, known: Mutex::default() }
    }

    /// The secret; `None` when it cannot be had. The log says why.
    pub(super) async fn secret(&self) -> Option<Arc<Secret>> {
        let mut known = self.known.lock().await;
        if let Some(Known { secret, at }) = &*known
            && at.elapsed() < if secret.is_some() { AGE_MAX } else { PAUSE }
        {
            return secret.clone();
        }
        let secret = match self.credentials.named(&self.name).await {
            Ok(secret) => Some(Arc::new(secret)),
            Err(error) => {
                tracing::error!(%error, "what chats send cannot be verified");
                None
            }
        };
        *known = Some(Known { secret: secret.clone(), at: Instant::now() });
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tests::credentials;

    #[tokio::test]
    async fn a_secret_is_kept_for_a_minute_and_a_failure_for_a_moment() {
        let (folder, credentials) = credentials(&[("signing", "one")]);
        let inbound = Inbound::new(credentials.clone(), "signing".to_owned());
        assert_eq!(inbound.secret().await.unwrap().expose(), b"one");
        std::fs::remove_file(folder.path().join("signing")).unwrap();
        assert!(inbound.secret().await.is_some(), "not fetched again");
        let none = Inbound::new(credentials, "signing".to_owned());
        assert!(none.secret().await.is_none() && none.secret().await.is_none());
    }
}
