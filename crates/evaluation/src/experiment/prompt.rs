//! How texts become prompts: what `harness.toml` and a call say about it.

use std::{fmt, path::PathBuf, str::FromStr};

use harness_python::CivilTime;
use serde::{Deserialize, Deserializer, de};

/// A day that chat templates are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(pub CivilTime);

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        CivilTime::parse_date(text).map(Self)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As TOML's own date or as text.
impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Date(toml::value::Datetime),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Date(date) => date.to_string(),
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// Where a model's tokenizer and chat template come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum TokenizerChoice {
    /// The adapter's folder where it has them, else the base's.
    Adapter,
    /// The base, whatever the adapter's folder has.
    Base,
    /// This folder.
    Folder(PathBuf),
}

/// As it is written.
impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adapter => f.write_str("adapter"),
            Self::Base => f.write_str("base"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

impl From<String> for TokenizerChoice {
    fn from(text: String) -> Self {
        match text.as_str() {
            "adapter" => Self::Adapter,
            "base" => Self::Base,
            _ => Self::Folder(text.into()),
        }
    }
}
