//! What a server is started with.

use std::{fmt, time::Duration};

/// A key that requests must name. It appears in no message.
#[derive(Clone)]
pub struct ServerKey(String);

impl ServerKey {
    /// A key; `None` if it is empty or has characters that a header cannot hold.
    pub fn new(key: &str) -> Option<Self> {
        let fits = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(key.to_owned()))
    }

    /// Whether a request names it, in a time that does not depend on how much of it is right.
    pub(crate) fn is(&self, named: &str) -> bool {
        let (own, named) = (self.0.as_bytes(), named.as_bytes());
        let differences = own.iter().enumerate().map(|(at, byte)| byte ^ named.get(at).copied().unwrap_or(!byte));
        differences.fold(0, |all, one| all | one) == 0 && own.len() == named.len()
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey(…)")
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Name or address to listen on. Whatever is not this machine alone needs a key.
    pub host: String,
    /// Port to listen on; 0 = any that is free.
    pub port: u16,
    /// The key that requests must name, if any.
    pub key: Option<ServerKey>,
    /// Longest body of a request in bytes.
    pub body_bytes: usize,
    /// Most generations that wait for a place.
    pub queue: usize,
    /// How long a request may take, waiting included.
    pub patience: Duration,
    /// Most tokens of prompts that are computed between two tokens of running generations.
    pub prompt_tokens: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            key: None,
            body_bytes: 16 << 20,
            queue: 1024,
            patience: Duration::from_secs(600),
            prompt_tokens: 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_opens() {
        let key = ServerKey::new("secret").unwrap();
        assert!(key.is("secret"));
        for other in ["", "secre", "secret!", "Secret", "secretsecret"] {
            assert!(!key.is(other), "{other}");
        }
        assert!(ServerKey::new("").is_none() && ServerKey::new("a b").is_none() && ServerKey::new("é").is_none());
        assert!(!format!("{key:?}").contains("secret"));
    }
}
