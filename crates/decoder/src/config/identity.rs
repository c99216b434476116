//! What of a configuration the answers depend on, in a form that stays the same between versions of this program.

use super::DecoderConfig;
use crate::{QkNorm, Rope, RopeScaling};

impl DecoderConfig {
    /// Every constant that answers depend on, as `name=value`. Part of the keys of stored answers: a constant that is
    /// added later enters only where it differs from what models had before, so that old keys hold.
    pub(crate) fn identity(&self) -> Vec<String> {
        // Without `..`: whoever adds a field has to decide here.
        let Self {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            norm_eps,
            rope: Rope { theta, scaling },
            max_position_embeddings,
            tie_word_embeddings,
            qkv_bias,
            o_bias,
            sliding_window,
            bos_token_id,
            eos_token_ids,
            experts,
            block,
        } = self;
        let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(",");
        let optional = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let mut constants = vec![
            format!("architecture={}", architecture.name()),
            format!("vocab_size={vocab_size}"),
            format!("hidden_size={hidden_size}"),
            format!("intermediate_size={intermediate_size}"),
            format!("num_layers={num_layers}"),
            format!("num_heads={num_heads}"),
            format!("num_kv_heads={num_kv_heads}"),
            format!("head_dim={head_dim}"),
            format!("rms_norm_eps={:08x}", norm_eps.to_bits()),
            format!("rope_theta={:016x}", theta.to_bits()),
            format!("rope_scaling={}", scaling_identity(scaling)),
            format!("max_position_embeddings={max_position_embeddings}"),
            format!("tie_word_embeddings={tie_word_embeddings}"),
            format!("qkv_bias={qkv_bias}"),
            format!("o_bias={o_bias}"),
            format!("qk_norm={}", block.qk_norm.is_some()),
            format!("sliding_window={}", list(&mut sliding_window.iter().map(|w| optional(w.map(|w| w.to_string()))))),
            format!("bos_token_id={}", optional(bos_token_id.map(|id| id.to_string()))),
            format!("eos_token_ids={}", list(&mut eos_token_ids.iter().map(u32::to_string))),
        ];
        if let Some(experts) = experts {
            constants.push(format!("experts={} {}", experts.count, experts.per_token));
            if !experts.is_plain() {
                constants.push(format!("mixture={experts:?}"));
            }
        }
        let qwen = |name: &str| name == "qk_norm" && block.qk_norm == Some(QkNorm::HEAD);
        let differences = block.differences().into_iter().filter(|(name, ..)| !qwen(name));
        constants.extend(differences.map(|(name, value, _)| format!("{name}={value}")));
        constants
    }
}

fn scaling_identity(scaling: &RopeScaling) -> String {
    let bits = |value: &f64| format!("{:016x}", value.to_bits());
    match scaling {
        RopeScaling::None => "none".to_owned(),
        RopeScaling::Linear { factor } => format!("linear {}", bits(factor)),
        RopeScaling::Dynamic { factor, original_max } => format!("dynamic {} {original_max}", bits(factor)),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            format!("llama3 {} {} {} {original_max}", bits(factor), bits(low_freq_factor), bits(high_freq_factor))
        }
        RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. } => format!("{scaling:?}"),
        RopeScaling::Divisors(divisors) => {
            let divisors: Vec<String> = divisors.iter().map(|x| format!("{:08x}", x.to_bits())).collect();
            format!("divisors {}", divisors.join(" "))
        }
    }
}
