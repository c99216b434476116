//! Typed access to a GGUF file's metadata.

use super::{
    GgufFile,
    format::{Value, unsigned},
};
use crate::DecoderError;

impl GgufFile {
    fn get(&self, key: &str) -> Option<&Value> {
        self.parts[0].content.metadata.get(key)
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> DecoderError {
        let found = match found {
            Value::Array(values) if values.len() > 4 => format!("an array of {} values", values.len()),
            Value::String(text) if text.len() > 80 => format!("{:?}…", text.chars().take(80).collect::<String>()),
            found => format!("{found:?}"),
        };
        DecoderError::Config { path: self.path.clone(), key: key.to_owned(), found, expected: expected.to_owned() }
    }

    /// An error about a key that is not there.
    pub fn missing(&self, key: &str, expected: &str) -> DecoderError {
        DecoderError::Config {
            path: self.path.clone(),
            key: key.to_owned(),
            found: "nothing".to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn string(&self, key: &str) -> Result<Option<&str>, DecoderError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, DecoderError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// An array of flags; `None` for values of another kind, too.
    pub(super) fn flags(&self, key: &str) -> Option<Vec<bool>> {
        let Value::Array(values) = self.get(key)? else { return None };
        values.iter().map(|value| if let Value::Bool(flag) = value { Some(*flag) } else { None }).collect()
    }

    /// An unsigned integer; an array of equal integers (one a layer) counts as one.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn integer(&self, key: &str) -> Result<Option<usize>, DecoderError> {
        let expected = "an unsigned integer";
        match self.get(key) {
            None => Ok(None),
            Some(array @ Value::Array(values)) => {
                let all: Option<Vec<u64>> = values.iter().map(unsigned).collect();
                match all.as_deref() {
                    Some([first, rest @ ..]) if rest.iter().all(|x| x == first) => Ok(Some(*first as usize)),
                    _ => Err(self.wrong(key, array, "the same integer for all layers")),
                }
            }
            Some(value) => match unsigned(value) {
                Some(x) => Ok(Some(x as usize)),
                None => Err(self.wrong(key, value, expected)),
            },
        }
    }

    /// A positive integer of at most `limit` that must be there.
    pub(super) fn size(&self, key: &str, limit: usize) -> Result<usize, DecoderError> {
        match self.integer(key)? {
            Some(0) => Err(self.wrong(key, &Value::U32(0), "a positive integer")),
            Some(size) if size > limit => Err(self.wrong(key, &Value::U64(size as u64), &format!("at most {limit}"))),
            Some(size) => Ok(size),
            None => Err(self.missing(key, "a positive integer")),
        }
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(x)) => Ok(Some(f64::from(*x))),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(value) => match unsigned(value) {
                Some(x) => Ok(Some(x as f64)),
                None => Err(self.wrong(key, value, "a number")),
            },
        }
    }

    /// A positive number.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, DecoderError> {
        match self.number(key)? {
            Some(number) if !(number.is_finite() && number > 0.0) => {
                Err(self.wrong(key, &Value::F64(number), "a positive number"))
            }
            number => Ok(number),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, DecoderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        fn text(value: &Value) -> Option<&str> {
            if let Value::String(text) = value { Some(text) } else { None }
        }
        let strings = match value {
            Value::Array(values) => values.iter().map(text).collect::<Option<Vec<&str>>>(),
            _ => None,
        };
        strings.map(Some).ok_or_else(|| self.wrong(key, value, "an array of strings"))
    }

    /// An array of numbers.
    ///
    /// # Errors
    /// If the value is of another kind.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, DecoderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = |value: &Value| match value {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            Value::I32(x) => Some(f64::from(*x)),
            other => unsigned(other).map(|x| x as f64),
        };
        let numbers = match value {
            Value::Array(values) => values.iter().map(number).collect::<Option<Vec<f64>>>(),
            _ => None,
        };
        numbers.map(Some).ok_or_else(|| self.wrong(key, value, "an array of numbers"))
    }
}
