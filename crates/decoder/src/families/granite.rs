//! IBM's Granite: factors on embedding, scores, residuals and logits.

use super::{llama::LLAMA, *};
use crate::{Experts, Routing, config::Keys, weights::Part};

fn granite(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let block = &mut config.block;
    block.embedding_scale = keys.number_or("embedding_multiplier", 1.0)? as f32;
    block.residual_scale = keys.number_or("residual_multiplier", 1.0)? as f32;
    block.score_scale = Some(keys.number_or("attention_multiplier", 1.0)?);
    block.logit_scale = (1.0 / keys.number_or("logits_scaling", 1.0)?) as f32;
    Ok(())
}

fn mixture(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    granite(keys, config)?;
    let experts = keys.experts(config, "num_local_experts", 8, "num_experts_per_tok", 2)?;
    config.experts = Some(Experts { routing: Routing::TopSoftmax, normalised: false, ..experts });
    Ok(())
}

pub(crate) const GRANITE: Family = Family { name: "granite", complete: granite, ..LLAMA };

pub(crate) const GRANITEMOE: Family = Family {
    name: "granitemoe",
    names: Names {
        parts: &[(Part::Router, "block_sparse_moe.router.layer"), (Part::SharedDown, "shared_mlp.output_linear")],
        shared_gate_up: Some("shared_mlp.input_linear"),
        experts: ExpertNames {
            stem: "block_sparse_moe.",
            stacked: ["input_linear.weight", "output_linear.weight"],
            ..ExpertNames::QWEN
        },
        ..Names::LLAMA
    },
    complete: mixture,
    ..LLAMA
};

pub(crate) const GRANITEMOESHARED: Family = Family {
    name: "granitemoeshared",
    complete: |keys, config| {
        mixture(keys, config)?;
        let width = keys.count("shared_intermediate_size")?.filter(|&width| width > 0);
        if let Some(experts) = &mut config.experts {
            experts.shared = width;
        }
        Ok(())
    },
    ..GRANITEMOE
};
