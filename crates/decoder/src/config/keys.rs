//! Typed access to the keys of one JSON object.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::DecoderError;

/// An object of a file, with errors that name the file and the key.
///
/// As in transformers' configuration classes, an absent key means its default, and `null` is a value: it is refused where
/// the class takes none.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub json: &'a Map<String, Value>,
    pub prefix: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn error(&self, key: &str, found: impl ToString, expected: impl ToString) -> DecoderError {
        DecoderError::Config {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// The value of a key, `None` for an absent key and for `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.json.contains_key(key)
    }

    /// A value of this type; `None` for an absent key and for `null`.
    pub(super) fn value<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>, DecoderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|_| self.error(key, value, expected))
    }

    /// A value of this type, `default` where the key is absent; `null` is refused.
    pub(super) fn or<T: DeserializeOwned>(&self, key: &str, default: T, expected: &str) -> Result<T, DecoderError> {
        match self.value(key, expected)? {
            Some(value) => Ok(value),
            None if self.has(key) => Err(self.error(key, "null", format!("{expected}, or no such key"))),
            None => Ok(default),
        }
    }

    /// A positive integer; `None` for an absent key and for `null`.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let size = self.value::<usize>(key, "a positive integer")?;
        if size == Some(0) { Err(self.error(key, 0, "a positive integer")) } else { Ok(size) }
    }

    /// A positive integer of at most `limit`, `default` where the key is absent; `null` is refused.
    pub(super) fn size_or(&self, key: &str, default: usize, limit: usize) -> Result<usize, DecoderError> {
        match self.or(key, default, "a positive integer")? {
            0 => Err(self.error(key, 0, "a positive integer")),
            size if size > limit => Err(self.error(key, size, format!("at most {limit}"))),
            size => Ok(size),
        }
    }

    /// A positive number, `default` where the key is absent; `null` is refused.
    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64, DecoderError> {
        let number = self.or(key, default, "a positive number")?;
        if number.is_finite() && number > 0.0 { Ok(number) } else { Err(self.error(key, number, "a positive number")) }
    }

    /// A positive number that must be there.
    pub(super) fn required_number(&self, key: &str) -> Result<f64, DecoderError> {
        if self.has(key) {
            return self.number_or(key, 1.0);
        }
        Err(self.error(key, "nothing", "a positive number"))
    }

    /// True or false, false where the key is absent; `null` is refused.
    pub(super) fn flag(&self, key: &str) -> Result<bool, DecoderError> {
        self.or(key, false, "true or false")
    }
}
