//! In which type weights are stored, how much is kept for the backward pass, and what ranks share.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::block::SavePolicy;

/// The type that frozen weights are stored in. Masters of trained parameters, gradients, moments and sums are f32 with
/// all of them; on the processor all arithmetic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    Fp32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision, with dynamic loss scaling.
    Fp16,
}

impl Precision {
    /// The name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }

    /// The type of stored weights.
    pub fn float_type(self) -> harness_kernels::FloatType {
        match self {
            Self::Fp32 => harness_kernels::FloatType::F32,
            Self::Bf16 => harness_kernels::FloatType::Bf16,
            Self::Fp16 => harness_kernels::FloatType::F16,
        }
    }
}

/// How much of the forward pass is kept for the backward pass; gradients are the same with all, bit by bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpointing {
    /// `"auto"`: `lean` where it fits into half of the free memory, else `layer`, else every √layers.
    #[default]
    Auto,
    /// `"full"`, `"lean"`, `"layer"`, or a number of layers.
    Policy(SavePolicy),
}

impl Serialize for Checkpointing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Policy(SavePolicy::Full) => serializer.serialize_str("full"),
            Self::Policy(SavePolicy::Lean) => serializer.serialize_str("lean"),
            Self::Policy(SavePolicy::Layer) => serializer.serialize_str("layer"),
            Self::Policy(SavePolicy::Every(k)) => serializer.serialize_u64(*k as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Layers(usize),
            Flag(bool),
            Name(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Layers(k)) if k > 0 => Ok(Self::Policy(SavePolicy::Every(k))),
            Ok(Written::Flag(true)) => Ok(Self::Policy(SavePolicy::Layer)),
            Ok(Written::Flag(false)) => Ok(Self::Policy(SavePolicy::Lean)),
            Ok(Written::Name(name)) if name == "auto" => Ok(Self::Auto),
            Ok(Written::Name(name)) if name == "full" => Ok(Self::Policy(SavePolicy::Full)),
            Ok(Written::Name(name)) if name == "lean" => Ok(Self::Policy(SavePolicy::Lean)),
            Ok(Written::Name(name)) if name == "layer" => Ok(Self::Policy(SavePolicy::Layer)),
            _ => Err(serde::de::Error::custom(
                "expected \"auto\", \"full\", \"lean\", \"layer\" or a number of layers of at least 1",
            )),
        }
    }
}

/// What each rank of a distributed run holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharding {
    /// Everything (DDP).
    #[default]
    None,
    /// A part of the weights, gathered block by block, and of the optimizer's states (FSDP).
    Fsdp,
}

impl Sharding {
    /// The name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Fsdp => "fsdp",
        }
    }
}
