//! What the ranks of one run know and nobody else: with it they prove to each other who they are.

use std::{fmt, fs::File, io::Read as _};

use harness_core::{Digest, Hasher};

use crate::TrainingError;

/// Where the system gives random numbers.
const RANDOM: &str = "/dev/urandom";

/// A secret that the ranks of a run share. It never goes over a connection, and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Digest);

impl Secret {
    /// The secret that a text stands for: all ranks have the same text.
    pub fn of(text: &str) -> Self {
        Self(Hasher::new("harness ranks: secret").part(text).finish())
    }

    /// A random text to be a secret, 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`TrainingError::Io`] if the system gives no random numbers.
    pub fn random_text() -> Result<String, TrainingError> {
        nonce().map(|digest| digest.to_string()).map_err(TrainingError::io("read", RANDOM))
    }

    /// The secret of one job among those that share this one, or of a job that shares nothing but its name.
    pub(super) fn of_job(shared: Option<&Self>, job: &str) -> Self {
        let shared = shared.map_or([].as_slice(), |secret| secret.0.as_bytes());
        Self(Hasher::new("harness ranks: job").part(shared).part(job).finish())
    }

    /// The secret of one connection: what was said at its beginning makes it.
    pub(super) fn of_connection(&self, nonce: &Digest, hello: &[u8]) -> Self {
        Self(Hasher::keyed(&self.0, "connection").part(nonce.as_bytes()).part(hello).finish())
    }

    /// What proves that whoever says these bytes for this purpose knows the secret.
    pub(super) fn seal(&self, purpose: &str, nonce: &Digest, bytes: &[u8]) -> Digest {
        Hasher::keyed(&self.0, purpose).part(nonce.as_bytes()).part(bytes).finish()
    }

    /// Whether a seal is that of these bytes; takes as long wherever it differs.
    pub(super) fn is_sealed(&self, seal: &[u8; 32], purpose: &str, nonce: &Digest, bytes: &[u8]) -> bool {
        let expected = self.seal(purpose, nonce, bytes);
        expected.as_bytes().iter().zip(seal).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A number that was never used before and that nobody can foretell.
pub(super) fn nonce() -> std::io::Result<Digest> {
    let mut bytes = [0; 32];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(Digest::of(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_hold_for_one_secret_purpose_number_and_text() {
        let (one, other) = (nonce().unwrap(), nonce().unwrap());
        assert_ne!(one, other);
        let secret = Secret::of("a");
        let seal = *secret.seal("hello", &one, b"x").as_bytes();
        assert!(secret.is_sealed(&seal, "hello", &one, b"x"));
        assert!(!Secret::of("b").is_sealed(&seal, "hello", &one, b"x"));
        assert!(!secret.is_sealed(&seal, "answer", &one, b"x"));
        assert!(!secret.is_sealed(&seal, "hello", &other, b"x"));
        assert!(!secret.is_sealed(&seal, "hello", &one, b"y"));
        assert!(!secret.of_connection(&one, b"x").is_sealed(&seal, "hello", &one, b"x"));
    }

    #[test]
    fn jobs_and_secrets_are_told_apart() {
        let (a, b) = (Secret::of("a"), Secret::of("b"));
        assert_eq!(Secret::of_job(Some(&a), "1"), Secret::of_job(Some(&a), "1"));
        assert_ne!(Secret::of_job(Some(&a), "1"), Secret::of_job(Some(&a), "2"));
        assert_ne!(Secret::of_job(Some(&a), "1"), Secret::of_job(Some(&b), "1"));
        assert_ne!(Secret::of_job(Some(&a), "1"), Secret::of_job(None, "1"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let text = Secret::random_text().unwrap();
        assert_eq!(text.len(), 64);
        assert_eq!(format!("{:?}", Secret::of(&text)), "Secret(..)");
    }
}
