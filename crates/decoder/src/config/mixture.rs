//! Mixtures of experts by `config.json`.

use super::{
    DecoderConfig,
    keys::Keys,
    limits::{EXPERTS, WIDTH},
};
use crate::{DecoderError, Experts, Groups, Routing};

impl Keys<'_> {
    /// A mixture of so many experts, of which a token passes so many, by these keys and their defaults; else Mixtral's.
    pub(crate) fn experts(
        &self,
        config: &DecoderConfig,
        count_key: &str,
        count: usize,
        chosen_key: &str,
        chosen: usize,
    ) -> Result<Experts, DecoderError> {
        let count = self.size_or(count_key, count, EXPERTS / config.num_layers)?;
        let per_token = self.size_or(chosen_key, chosen, EXPERTS)?;
        if per_token > count {
            return Err(self.error(chosen_key, per_token, format!("at most {count}, the number of experts")));
        }
        Ok(Experts::new(count, per_token))
    }

    /// Groups of experts, each judged by its `best`.
    pub(crate) fn groups(&self, experts: &Experts, best: usize) -> Result<Groups, DecoderError> {
        let (count, kept) = (self.size_or("n_group", 1, EXPERTS)?, self.size_or("topk_group", 1, EXPERTS)?);
        if !experts.count.is_multiple_of(count) {
            return Err(self.error("n_group", count, format!("a divisor of {} experts", experts.count)));
        }
        if kept > count || experts.count / count * kept < experts.per_token {
            let expected = format!("at most {count} groups, with at least {} experts", experts.per_token);
            return Err(self.error("topk_group", kept, expected));
        }
        Ok(Groups { count, kept, best })
    }

    /// A mixture as DeepSeek arranges it: narrow experts behind some dense layers, and shared ones.
    pub(crate) fn experts_after_dense(
        &self,
        config: &DecoderConfig,
        experts: Experts,
        dense: usize,
    ) -> Result<Experts, DecoderError> {
        let width = self.size_or("moe_intermediate_size", 1407, WIDTH)?;
        let dense = self.count("first_k_dense_replace")?.unwrap_or(dense);
        let shared = self.count("n_shared_experts")?.unwrap_or(0);
        if width.checked_mul(shared).is_none_or(|shared| shared > WIDTH) {
            return Err(self.error("n_shared_experts", shared, format!("at most {}", WIDTH / width)));
        }
        if self.get("moe_layer_freq").is_some_and(|every| *every != 1) {
            return Err(self.error("moe_layer_freq", &self.json["moe_layer_freq"], "1"));
        }
        Ok(Experts {
            width: Some(width),
            sparse: (0..config.num_layers).map(|layer| layer >= dense).collect(),
            shared: Some(width * shared).filter(|&width| width > 0),
            ..experts
        })
    }

    /// DeepSeek-V3's mixture: sigmoids with a bias for the choice, in groups.
    pub(crate) fn sigmoid_experts(
        &self,
        config: &mut DecoderConfig,
        count: usize,
        normalised: bool,
        factor: f64,
    ) -> Result<(), DecoderError> {
        let experts = self.experts(config, "n_routed_experts", count, "num_experts_per_tok", 8)?;
        let groups = Some(self.groups(&experts, 2)?);
        let dense = if config.block.latent.is_some() { 3 } else { 1 };
        config.experts = Some(Experts {
            routing: Routing::Sigmoid,
            normalised: self.or("norm_topk_prob", normalised, "true or false")?,
            factor: self.number_or("routed_scaling_factor", factor)? as f32,
            groups,
            selection_bias: true,
            ..self.experts_after_dense(config, experts, dense)?
        });
        Ok(())
    }
}
