//! What a run would take, from its files alone: no weights are read and nothing is computed.

use harness_core::Seed;
use harness_decoder::{DecoderConfig, Projection};
use harness_engine::{ChatTemplate, Placement, TextTokenizer};
use harness_store::FileHashes;
use serde::{Deserialize, Serialize};

use super::batches;
use crate::{
    TrainingError,
    block::SavePolicy,
    data::RowCounts,
    model::{full_layout, lora_layout},
    params::Layout,
    recipe::{Checkpointing, Precision, ResolvedRecipe, Sharding},
};

/// Bytes of a trained parameter, its gradient, or a moment: all are f32.
const FLOAT: u64 = 4;
/// Bits of a 4-bit weight with its scales: blocks of 64, double quantisation.
const NF4_BITS: f64 = 4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0);

/// The outline of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// Number of trained parameters.
    pub trainable_parameters: usize,
    /// Number of the model's parameters.
    pub parameters: usize,
    /// What became of the rows of the data.
    pub rows: RowCounts,
    /// Updates; not known where rows are packed and there is no tokenizer.
    pub steps: Option<u64>,
    /// Those of the warm-up.
    pub warmup_steps: Option<u64>,
    /// Tokens in all; not known without a tokenizer.
    pub tokens: Option<u64>,
    /// Bytes of weights, trained parameters with their gradients and moments, and saved activations, by formula; of one
    /// rank.
    pub memory_bytes: u64,
    /// Bytes of moments that are kept in host memory instead, beside a GPU.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paged_bytes: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Bytes of trained parameters with their gradients on one of `ranks` ranks, and of their two moments, at the most.
///
/// Adapters: values and gradients are on every rank, moments are if nothing is sharded. All parameters: replicated, there is
/// also the own part of the sum over the rounds of an update; sharded, a rank holds its part of everything, and whole are what
/// lies outside of the blocks with its gradients, and two blocks with theirs.
pub fn trained_bytes(layout: &Layout, all: bool, sharding: Sharding, ranks: usize) -> [u64; 2] {
    let (total, part) = (layout.len(), layout.len().div_ceil(ranks.max(1)));
    let floats = match (sharding, all) {
        _ if ranks <= 1 => [2 * total, 2 * total],
        (Sharding::None, false) => [2 * total, 2 * total],
        (Sharding::None, true) => [2 * total + part, 2 * total],
        (Sharding::Fsdp, false) => [2 * total, 2 * part],
        (Sharding::Fsdp, true) => {
            let starts: Vec<usize> = layout.blocks().iter().copied().chain([layout.len()]).collect();
            let block = starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            [2 * part + 2 * starts[0] + 4 * block, 2 * part]
        }
    };
    floats.map(|floats| FLOAT * floats as u64)
}

/// The outline of a recipe for a decoder on a device, over so many ranks; the tokenizer comes with the chat template beside
/// it. Without a tokenizer rows take `max_length` tokens each.
///
/// # Errors
/// Whatever is wrong with recipe or data for this decoder.
pub fn outline(
    resolved: &ResolvedRecipe,
    config: &DecoderConfig,
    tokenizer: Option<(&TextTokenizer, Option<&ChatTemplate>)>,
    hashes: &FileHashes,
    placement: Placement,
    ranks: usize,
) -> Result<Outline, TrainingError> {
    let recipe = &resolved.recipe;
    let (options, data) = (&recipe.training, &recipe.data);
    let spec = recipe.check_base(config)?;
    recipe.check_ranks(ranks)?;
    let layout = spec.as_ref().map_or_else(|| full_layout(config).0, |spec| lora_layout(config, spec).0);
    let (rows, batches, tokens, longest) = match tokenizer {
        Some((tokenizer, chat_template)) => {
            let set = resolved.prepared_set(tokenizer, chat_template, hashes)?;
            let source = batches(resolved, &set, Seed(options.seed))?;
            let (count, tokens, longest) =
                (source.batches_per_epoch(), source.tokens_per_epoch(), source.longest_batch());
            (set.rows, Some(count), Some(tokens), longest)
        }
        None => {
            let rows = resolved.prepare(None)?.counts;
            let count = (!data.packing).then(|| rows.train.div_ceil(options.batch_size));
            (rows, count, None, options.batch_size * data.max_length)
        }
    };
    let steps = batches.map(|batches| options.total_steps(batches));
    let per_epoch = batches.map(|batches| options.steps_per_epoch(batches).max(1));
    let epochs = steps.zip(per_epoch).map(|(steps, per_epoch)| steps as f64 / per_epoch as f64);
    let policy = match options.gradient_checkpointing {
        Checkpointing::Policy(policy) => policy,
        Checkpointing::Auto => SavePolicy::Layer,
    };
    let [trained, moments] = trained_bytes(&layout, spec.is_none(), options.sharding, ranks);
    let paged = if options.paged_optimizer && placement != Placement::Cpu { moments } else { 0 };
    let activations = 4 * (policy.floats_per_token(config) * longest) as u64;
    Ok(Outline {
        trainable_parameters: layout.len(),
        parameters: config.num_parameters(),
        rows,
        steps,
        warmup_steps: steps.map(|steps| options.warmup_steps(steps)),
        tokens: tokens.zip(epochs).map(|(tokens, epochs)| (tokens as f64 * epochs) as u64),
        memory_bytes: weights(resolved, config, ranks) + trained + moments - paged + activations,
        paged_bytes: paged,
    })
}

/// Bytes of the frozen weights on one rank; of sharded blocks two are whole.
fn weights(resolved: &ResolvedRecipe, config: &DecoderConfig, ranks: usize) -> u64 {
    let recipe = &resolved.recipe;
    if recipe.lora.is_none() {
        return 0;
    }
    let bits = if recipe.training.precision == Some(Precision::Fp32) { 32.0 } else { 16.0 };
    let block: usize = Projection::ALL.into_iter().map(|p| p.dims(config)).map(|(out, inp)| out * inp).sum();
    let linears = block * config.num_layers;
    let stored = if recipe.quantization.is_some() { NF4_BITS } else { bits };
    let held = match recipe.training.sharding {
        Sharding::Fsdp if ranks > 1 => linears as f64 / ranks as f64 + 2.0 * block as f64,
        _ => linears as f64,
    };
    ((held * stored + (config.num_parameters() - linears) as f64 * bits) / 8.0) as u64
}
