//! A value that cannot be printed and is wiped when dropped.

use zeroize::Zeroizing;

/// Secret bytes: a password, a key, a token. No `Debug`, no `Display`, no `Serialize`; wiped on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes; the caller must hold no other copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that uses them. Never format the result.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
