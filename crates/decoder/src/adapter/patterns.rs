//! Python's regular expressions as PEFT matches them against the paths of modules.

use std::{fmt, marker::PhantomData};

use fancy_regex::Regex;
use harness_python::translate_python_regex;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

/// Values by pattern, in the order of the file: the first pattern that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(pattern, value)| map.serialize_entry(pattern, value))?;
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of values by pattern")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(String, T)> = vec![];
                while let Some((pattern, value)) = map.next_entry()? {
                    // As in Python, a key that comes again has the last value at its first place.
                    match entries.iter_mut().find(|(known, _)| *known == pattern) {
                        Some(entry) => entry.1 = value,
                        None => entries.push((pattern, value)),
                    }
                }
                Ok(Patterns(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<T> Patterns<T> {
    /// The patterns, ready to match: PEFT puts `(.*\.)?` before each and has it match to the end of a path.
    ///
    /// # Errors
    /// A reason, if a pattern is no regular expression.
    pub(super) fn compile(&self, key: &str) -> Result<Compiled<'_, T>, String> {
        let mut compiled = Vec::with_capacity(self.0.len());
        for (pattern, value) in &self.0 {
            compiled.push((Expression::new(key, pattern, &format!(r"(.*\.)?({pattern})$"))?, value));
        }
        Ok(Compiled(compiled))
    }
}

/// The patterns of a [`Patterns`] with their values.
pub(super) struct Compiled<'a, T>(Vec<(Expression, &'a T)>);

impl<'a, T> Compiled<'a, T> {
    /// The value of the first pattern that matches.
    pub(super) fn find(&self, path: &str) -> Result<Option<&'a T>, String> {
        for (expression, value) in &self.0 {
            if expression.matches(path)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// A regular expression of Python that is matched from the beginning of a path.
pub(super) struct Expression {
    key: String,
    pattern: String,
    regex: Regex,
}

impl Expression {
    /// Compiles `expression`, which was made from the `pattern` that stands in the file at `key`.
    ///
    /// # Errors
    /// A reason, if it is no regular expression.
    pub(super) fn new(key: &str, pattern: &str, expression: &str) -> Result<Self, String> {
        let invalid = |reason: String| format!("`{key}`: {pattern:?} is not a regular expression: {reason}");
        // Python takes flags for the whole expression at its beginning only.
        if expression.match_indices("(?").any(|(at, _)| at > 0 && sets_flags(&expression[at + 2..])) {
            return Err(invalid("global flags not at the start of the expression".to_owned()));
        }
        let regex = Regex::new(&format!(r"\A(?:{})", translate_python_regex(expression)));
        let regex = regex.map_err(|error| invalid(error.to_string()))?;
        Ok(Self { key: key.to_owned(), pattern: pattern.to_owned(), regex })
    }

    /// One that must match a whole path (`re.fullmatch`).
    pub(super) fn whole(key: &str, pattern: &str) -> Result<Self, String> {
        let mut expression = Self::new(key, pattern, pattern)?;
        let regex = Regex::new(&format!(r"\A(?:{})\z", translate_python_regex(pattern)));
        expression.regex = regex.map_err(|error| format!("`{key}`: {pattern:?}: {error}"))?;
        Ok(expression)
    }

    /// Whether a path matches.
    ///
    /// # Errors
    /// A reason, if the expression backtracks without end.
    pub(super) fn matches(&self, path: &str) -> Result<bool, String> {
        self.regex.is_match(path).map_err(|error| self.gave_up(path, &error))
    }

    /// What a named group matches; the outer `None` if the path does not match.
    ///
    /// # Errors
    /// As [`Self::matches`].
    pub(super) fn group<'t>(&self, path: &'t str, name: &str) -> Result<Option<Option<&'t str>>, String> {
        let captures = self.regex.captures(path).map_err(|error| self.gave_up(path, &error))?;
        Ok(captures.map(|captures| captures.name(name).map(|group| group.as_str())))
    }

    fn gave_up(&self, path: &str, error: &fancy_regex::Error) -> String {
        format!("`{}`: {:?} gave up on {path}: {error}", self.key, self.pattern)
    }
}

/// Whether what follows `(?` sets flags for the whole expression, as `i)`.
fn sets_flags(rest: &str) -> bool {
    let flags = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    flags > 0 && rest[flags..].starts_with(')')
}
