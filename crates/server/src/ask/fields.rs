//! The parameters of a request, each of which is read or refused.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// The parameters of a request that were not read yet. A parameter that is null counts as left out.
pub(crate) struct Fields(Map<String, Value>);

impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::bad("the body is no JSON object")),
            Err(error) => Err(ApiError::bad(format!("the body is no JSON: {error}"))),
        }
    }

    /// Takes a parameter.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a text.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "a text")),
        }
    }

    /// Takes a yes or no; no if it is left out.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    /// Takes a number that a rule allows.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn number(
        &mut self,
        name: &str,
        allowed: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_f64().filter(|&x| allowed(x)).map(Some).ok_or_else(|| wrong(name, &value, expected))
    }

    /// Takes a whole number from a range.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn whole(&mut self, name: &str, from: i64, to: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let expected = format!("a whole number from {from} to {to}");
        value.as_i64().filter(|x| (from..=to).contains(x)).map(Some).ok_or_else(|| wrong(name, &value, &expected))
    }

    /// Takes a parameter of which only values that change nothing are supported.
    ///
    /// # Errors
    /// If it has another value.
    pub(crate) fn neutral(&mut self, name: &str, values: &[Value]) -> Result<(), ApiError> {
        let same = |value: &Value, other: &Value| match (value.as_f64(), other.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => value == other,
        };
        match self.take(name) {
            Some(value) if !values.iter().any(|neutral| same(&value, neutral)) => {
                Err(ApiError::unsupported(name, format!("{name} {value} is not supported")))
            }
            _ => Ok(()),
        }
    }

    /// Leaves out parameters that change no answer.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        names.iter().for_each(|name| drop(self.0.remove(*name)));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// If there is a parameter that was not read.
    pub(crate) fn finish(mut self) -> Result<(), ApiError> {
        self.0.retain(|_, value| !value.is_null());
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::unsupported(name, format!("the parameter {name} is not supported"))),
        }
    }
}

/// A parameter that is something else than expected.
pub(crate) fn wrong(name: &str, found: &Value, expected: &str) -> ApiError {
    let mut found = found.to_string();
    if let Some((at, _)) = found.char_indices().nth(60) {
        found.replace_range(at.., "…");
    }
    ApiError::parameter(name, format!("{name} {found}: expected {expected}"))
}
