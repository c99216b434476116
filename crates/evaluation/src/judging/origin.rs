//! Where a model is from: what it shares with the judge.

use std::collections::BTreeSet;

use harness_core::Digest;
use harness_store::ModelEntry;

/// What is known of a model's making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Hash of the weights, of the base's where there is an adapter.
    weights: Option<Digest>,
    /// Its own name, its base's, its name at a server.
    names: BTreeSet<String>,
    /// What its base is called; its own name where it has none.
    base: String,
}

impl Origin {
    /// Of a model that was loaded; `base` names its base where it is an adapter.
    pub fn of_entry(entry: &ModelEntry, base: Option<&str>) -> Self {
        let served = entry.identity.extra.get("endpoint").and_then(|_| entry.identity.extra.get("model"));
        let names = [Some(entry.name.as_str()), base, served.map(String::as_str)];
        Self {
            weights: Some(entry.identity.weights),
            names: names.into_iter().flatten().map(str::to_owned).collect(),
            base: base.unwrap_or(&entry.name).to_owned(),
        }
    }

    /// Of outputs in a file, of which only the name of the model is known.
    pub fn of_name(name: &str) -> Self {
        Self { weights: None, names: BTreeSet::from([name.to_owned()]), base: name.to_owned() }
    }

    /// What both are built on, if it is the same: equal weights, or a name in common.
    pub fn shared<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        if self.weights.is_some() && self.weights == other.weights {
            return Some(&other.base);
        }
        self.names.intersection(&other.names).next().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(weights: Option<&str>, names: &[&str]) -> Origin {
        Origin {
            weights: weights.map(Digest::of),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            base: names[names.len() - 1].to_owned(),
        }
    }

    #[test]
    fn weights_or_a_name_are_shared() {
        let judge = origin(Some("w"), &["judge", "smollm2"]);
        assert_eq!(judge.shared(&origin(Some("w"), &["r8", "base"])), Some("base"), "the same weights");
        assert_eq!(judge.shared(&origin(Some("v"), &["full", "smollm2"])), Some("smollm2"), "trained from it");
        assert_eq!(judge.shared(&Origin::of_name("smollm2")), Some("smollm2"), "a file of its outputs");
        assert_eq!(judge.shared(&origin(Some("v"), &["other"])), None);
        assert_eq!(origin(None, &["a"]).shared(&origin(None, &["b"])), None);
    }
}
