//! Which families are supported, and what works for each.

use crate::{Architecture, config::default_config, gguf::gguf_names};

/// What works for a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Its `model_type`.
    pub architecture: Architecture,
    /// Its names in GGUF files; empty = these are not read.
    pub gguf: Vec<&'static str>,
    /// What it has, in words, for which it is trained by adapters (LoRA, QLoRA) alone; `None` = all its parameters can be
    /// trained, too.
    pub beyond: Option<&'static str>,
    /// Whether its feed-forward blocks are mixtures of experts.
    pub experts: bool,
}

/// What works for every family, with the defaults of its configuration class: all are scored and generate, on
/// the processor and on GPUs, and adapters are trained for all.
pub fn supported() -> Vec<Support> {
    let of = |architecture: Architecture| {
        let config = default_config(architecture).ok();
        Support {
            architecture,
            gguf: gguf_names(architecture),
            beyond: config.as_ref().map_or(Some("unreadable defaults"), |config| {
                let names = Some("linears of other names").filter(|_| !config.is_named_like_llama());
                config.beyond_llama().or(names)
            }),
            experts: config.is_some_and(|config| config.experts.is_some()),
        }
    };
    Architecture::all().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_defaults() {
        for architecture in Architecture::all() {
            let config = default_config(architecture).unwrap();
            assert!(config.num_parameters() > 1 << 17, "{architecture:?}");
        }
        let all = supported();
        let of = |name: &str| all.iter().find(|family| family.architecture.name() == name).unwrap();
        assert_eq!((of("llama").beyond, of("mixtral").beyond), (None, Some("a mixture of experts")));
        assert_eq!(of("gemma3_text").gguf, ["gemma3"]);
        assert!(of("qwen3_moe").experts && !of("gemma").experts);
    }
}
