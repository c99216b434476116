//! Typed access to the keys of one JSON object.

use std::{path::Path, sync::LazyLock};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::limits::WIDTH;
use crate::DecoderError;

/// An object of a file, with errors that name the file and the key.
///
/// As in transformers' configuration classes, an absent key means its default, and `null` is a value: it is refused where
/// the class takes none.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub path: &'a Path,
    pub json: &'a Map<String, Value>,
    pub prefix: &'a str,
    /// What some keys are called here.
    pub names: &'static [(&'static str, &'static str)],
}

impl<'a> Keys<'a> {
    pub(crate) fn error(&self, key: &str, found: impl ToString, expected: impl ToString) -> DecoderError {
        DecoderError::Config {
            path: self.path.to_owned(),
            key: match self.prefix {
                "" => self.name(key).to_owned(),
                prefix => format!("{prefix}.{}", self.name(key)),
            },
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// What a key is called here: of several names the first that is there, else the first.
    fn name<'k>(&self, key: &'k str) -> &'k str {
        let Some((_, names)) = self.names.iter().find(|(own, _)| *own == key) else { return key };
        let there = names.split('|').find(|name| self.json.contains_key(*name));
        there.unwrap_or_else(|| names.split('|').next().unwrap_or_default())
    }

    /// The same keys under their own names.
    pub(crate) fn raw(&self) -> Self {
        Self { names: &[], ..*self }
    }

    /// The value of a key, `None` for an absent key and for `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(self.name(key)).filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.json.contains_key(self.name(key))
    }

    /// A value of this type; `None` for an absent key and for `null`.
    pub(crate) fn value<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>, DecoderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|_| self.error(key, value, expected))
    }

    /// A value of this type, `default` where the key is absent; `null` is refused.
    pub(crate) fn or<T: DeserializeOwned>(&self, key: &str, default: T, expected: &str) -> Result<T, DecoderError> {
        match self.value(key, expected)? {
            Some(value) => Ok(value),
            None if self.has(key) => Err(self.error(key, "null", format!("{expected}, or no such key"))),
            None => Ok(default),
        }
    }

    /// A positive integer; `None` for an absent key and for `null`.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let size = self.value::<usize>(key, "a positive integer")?;
        if size == Some(0) { Err(self.error(key, 0, "a positive integer")) } else { Ok(size) }
    }

    /// A positive integer of at most `limit`, `default` where the key is absent; `null` is refused.
    pub(crate) fn size_or(&self, key: &str, default: usize, limit: usize) -> Result<usize, DecoderError> {
        match self.or(key, default, "a positive integer")? {
            0 => Err(self.error(key, 0, "a positive integer")),
            size if size > limit => Err(self.error(key, size, format!("at most {limit}"))),
            size => Ok(size),
        }
    }

    /// A positive number, `default` where the key is absent; `null` is refused.
    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64, DecoderError> {
        let number = self.or(key, default, "a positive number")?;
        if number.is_finite() && number > 0.0 { Ok(number) } else { Err(self.error(key, number, "a positive number")) }
    }

    /// A number; `None` for an absent key and for `null`.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        let number: Option<f64> = self.value(key, "a number")?;
        match number.filter(|number| !number.is_finite()) {
            Some(number) => Err(self.error(key, number, "a finite number")),
            None => Ok(number),
        }
    }

    /// A number of things, which may be 0; `None` for an absent key and for `null`.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let count: Option<usize> = self.value(key, "an integer that is not negative")?;
        match count.filter(|&count| count > WIDTH) {
            Some(count) => Err(self.error(key, count, format!("at most {WIDTH}"))),
            None => Ok(count),
        }
    }

    /// An object inside, empty where the key is absent or `null`.
    pub(crate) fn inner(&self, key: &'static str) -> Result<Keys<'a>, DecoderError> {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        match self.get(key) {
            None => Ok(Keys { json: &EMPTY, prefix: key, names: &[], ..*self }),
            Some(Value::Object(json)) => Ok(Keys { json, prefix: key, names: &[], ..*self }),
            Some(other) => Err(self.error(key, other, "an object")),
        }
    }

    /// A positive number that must be there.
    pub(crate) fn required_number(&self, key: &str) -> Result<f64, DecoderError> {
        if self.has(key) {
            return self.number_or(key, 1.0);
        }
        Err(self.error(key, "nothing", "a positive number"))
    }

    /// True or false, false where the key is absent; `null` is refused.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, DecoderError> {
        self.or(key, false, "true or false")
    }
}
