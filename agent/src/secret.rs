//! Values that cannot be printed and are wiped when dropped: secrets of others, and tokens that we make.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
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

/// Bytes of a token: 256 bits from the kernel.
const TOKEN_BYTES: usize = 32;

/// What only its holder knows: the value of a cookie, the code of a link. Never printed, wiped when dropped.
pub struct Token(Zeroizing<[u8; TOKEN_BYTES]>);

/// SHA-256 of a token: what is kept of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; TOKEN_BYTES]);

impl TokenDigest {
    /// Whether both are the same, without telling by the time it takes where two differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel has no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// From its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// As text that fits into cookies and addresses (RFC 4648 section 5).
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    /// What may be kept of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0.as_slice()).into())
    }

    /// What the forms of a session with this token carry: follows from the token, and the token does not follow from it.
    #[must_use]
    pub fn csrf(&self) -> String {
        let mut hash = Sha256::new_with_prefix(b"portcullis form\0");
        hash.update(self.0.as_slice());
        URL_SAFE_NO_PAD.encode(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_and_go_as_text() {
        let token = Token::generate().unwrap();
        assert_eq!(token.text().len(), 43);
        assert!(Token::parse(&token.text()).unwrap().digest().is(&token.digest()));
        assert!(!Token::generate().unwrap().digest().is(&token.digest()));
        assert_ne!(token.csrf(), *token.text());
        for text in ["", "a", "AAAA", &"A".repeat(44), "===", &"ä".repeat(43)] {
            assert!(Token::parse(text).is_none(), "{text}");
        }
    }
}
