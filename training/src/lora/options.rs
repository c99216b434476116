//! The `[lora]` table of a recipe.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// Which linear layers get an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    /// `"all-linear"`: every linear layer of the blocks, not the output head.
    #[default]
    AllLinear,
    /// The modules of these names, e.g. `q_proj`.
    Modules(Vec<String>),
    /// The modules whose whole path this regular expression matches, e.g. `model\\.layers\\.[0-9]\\..*`.
    Pattern(String),
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => serializer.serialize_str("all-linear"),
            Self::Modules(names) => names.serialize(serializer),
            Self::Pattern(pattern) => serializer.serialize_str(pattern),
        }
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TargetsVisitor;
        impl<'de> Visitor<'de> for TargetsVisitor {
            type Value = Targets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all-linear\", a list of module names, or a regular expression over module paths")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Targets, E> {
                Ok(match text {
                    "all-linear" => Targets::AllLinear,
                    _ => Targets::Pattern(text.to_owned()),
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Targets, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Targets::Modules)
            }
        }
        deserializer.deserialize_any(TargetsVisitor)
    }
}

/// How the `A` matrices begin; the `B` matrices begin at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoraInit {
    /// Uniform on ±1/√in, PEFT's default (`kaiming_uniform_` with a = √5).
    #[default]
    Kaiming,
    /// Normal with standard deviation 1/rank, PEFT's `gaussian`.
    Gaussian,
}

/// A low-rank adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraOptions {
    /// Inner dimension of the adapter matrices.
    pub rank: usize,
    /// The adapter's output is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of the adapter is zeroed in training.
    #[serde(default)]
    pub dropout: f64,
    /// Which linear layers get an adapter.
    #[serde(default)]
    pub targets: Targets,
    /// Which stacked weights of experts get one beside, by their paths or the ends of them, e.g. `mlp.experts.down_proj`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_parameters: Vec<String>,
    /// How the matrices begin.
    #[serde(default)]
    pub init: LoraInit,
    /// Whether the scale is `alpha / sqrt(rank)` (Kalajdzievski 2023).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rslora: bool,
    /// Whether the magnitudes of the changed weights' rows are trained apart (DoRA, Liu et al. 2024).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dora: bool,
}

impl LoraOptions {
    /// The factor on the adapter's output: `alpha / rank`, or `alpha / sqrt(rank)`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}
