//! Which parameters are trained, and in which order they lie in the flat buffers.

use std::ops::Range;

use harness_decoder::{DecoderConfig, Projection, Weights};

use crate::{
    TrainingError,
    backend::Backend,
    block::{GroupPlaces, LayerPlaces, LoraPart},
    lora::{LoraSpec, tensor_name},
    parallel::Elements,
    params::{Layout, ParamStore},
};

/// Places of all trained parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    /// Embedding, and tied head.
    pub embed: Option<usize>,
    /// Blocks.
    pub layers: Vec<LayerPlaces>,
    /// Last norm.
    pub norm: Option<usize>,
    /// Head that is not tied.
    pub head: Option<usize>,
}

impl Places {
    /// The lowest block that is trained; block 0 where the embedding is.
    pub fn lowest(&self) -> Option<usize> {
        if self.embed.is_some() { Some(0) } else { self.layers.iter().position(LayerPlaces::is_trained) }
    }
}

/// All parameters of the decoder, those outside of the blocks first; matrices that share their input lie one after
/// another. Norms and biases are not decayed.
pub fn full_layout(config: &DecoderConfig) -> (Layout, Places) {
    let mut layout = Layout::default();
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let embed = Some(layout.push("model.embed_tokens.weight".into(), vec![vocab, hidden], false, true));
    let norm = Some(layout.push("model.norm.weight".into(), vec![hidden], false, false));
    let head =
        (!config.tie_word_embeddings).then(|| layout.push("lm_head.weight".into(), vec![vocab, hidden], false, true));
    let mut places = Places { embed, norm, head, layers: Vec::new() };
    for layer in 0..config.num_layers {
        layout.begin_block();
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut vector = |part: &str, len: usize| layout.push(name(part), vec![len], false, false);
        let attn_norm = Some(vector("input_layernorm.weight", hidden));
        let mlp_norm = Some(vector("post_attention_layernorm.weight", hidden));
        let q_norm = config.block.qk_norm.is_some().then(|| vector("self_attn.q_norm.weight", config.head_dim));
        let k_norm = config.block.qk_norm.is_some().then(|| vector("self_attn.k_norm.weight", config.head_dim));
        let mut group = |projections: &[Projection], biased: bool| {
            let mut matrices = projections.iter().map(|&projection| {
                let (out, inp) = projection.dims(config);
                layout.push(name(&format!("{projection}.weight")), vec![out, inp], false, true)
            });
            let weight = matrices.next();
            matrices.for_each(drop);
            let projections = if biased { projections } else { &[] };
            let mut biases = projections.iter().map(|&projection| {
                let (out, _) = projection.dims(config);
                layout.push(name(&format!("{projection}.bias")), vec![out], false, false)
            });
            let bias = biases.next();
            biases.for_each(drop);
            GroupPlaces { weight, bias, lora: Vec::new() }
        };
        let qkv = group(&[Projection::Q, Projection::K, Projection::V], config.qkv_bias);
        let o = group(&[Projection::O], config.o_bias);
        let gate_up = group(&[Projection::Gate, Projection::Up], false);
        let down = group(&[Projection::Down], false);
        places.layers.push(LayerPlaces { attn_norm, qkv, q_norm, k_norm, o, mlp_norm, gate_up, down });
    }
    (layout, places)
}

/// What lies outside of the blocks, and every block, by elements of a [`full_layout`].
pub(super) fn units(layout: &Layout) -> (Elements, Vec<Elements>) {
    let vectors: Vec<_> = layout.params().iter().filter(|param| param.shape.len() == 1).collect();
    let elements = |range: Range<usize>| {
        let mut vectors_inside: Vec<Range<usize>> = vec![];
        for param in vectors.iter().filter(|param| range.contains(&param.at)) {
            // Biases of merged projections are one vector to those who use them.
            match vectors_inside.last_mut().filter(|last| last.end == param.at) {
                Some(last) => last.end += param.len(),
                None => vectors_inside.push(param.at..param.at + param.len()),
            }
        }
        Elements { range, vectors: vectors_inside }
    };
    let starts: Vec<usize> = layout.blocks().iter().copied().chain([layout.len()]).collect();
    (elements(0..starts[0]), starts.windows(2).map(|pair| elements(pair[0]..pair[1])).collect())
}

/// The low-rank matrices: within a group of projections first all `A`, then all `B`.
pub fn lora_layout(config: &DecoderConfig, spec: &LoraSpec) -> (Layout, Places) {
    let mut layout = Layout::default();
    let mut places = Places::default();
    for layer in 0..config.num_layers {
        layout.begin_block();
        let mut group = |projections: &[Projection]| {
            let mut column = 0;
            let mut parts = Vec::new();
            for &projection in projections {
                let (out, _) = projection.dims(config);
                if spec.at(layer).contains(&projection) {
                    let (rank, scale) = (spec.rank, spec.scale() as f32);
                    parts.push(LoraPart { projection, rank, out, column, a: 0, b: 0, scale });
                }
                column += out;
            }
            let name = |part: &LoraPart, matrix| tensor_name(layer, part.projection, matrix);
            for part in &mut parts {
                let (_, inp) = part.projection.dims(config);
                part.a = layout.push(name(part, "A"), vec![part.rank, inp], false, true);
            }
            for part in &mut parts {
                part.b = layout.push(name(part, "B"), vec![part.out, part.rank], true, true);
            }
            GroupPlaces { weight: None, bias: None, lora: parts }
        };
        let qkv = group(&[Projection::Q, Projection::K, Projection::V]);
        let o = group(&[Projection::O]);
        let gate_up = group(&[Projection::Gate, Projection::Up]);
        let down = group(&[Projection::Down]);
        places.layers.push(LayerPlaces { qkv, o, gate_up, down, ..LayerPlaces::default() });
    }
    (layout, places)
}

/// Sets all parameters of a [`full_layout`] to the weights of a model.
pub(super) fn fill<B: Backend>(backend: &B, store: &mut ParamStore<B>, weights: &Weights) -> Result<(), TrainingError> {
    let mut tensors: Vec<(String, std::borrow::Cow<'_, [f32]>)> = vec![
        ("model.embed_tokens.weight".into(), weights.embed.to_f32()),
        ("model.norm.weight".into(), (&weights.norm).into()),
    ];
    if let Some(head) = &weights.lm_head {
        tensors.push(("lm_head.weight".into(), head.to_f32()));
    }
    for (i, layer) in weights.layers.iter().enumerate() {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let matrices = [&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down];
        for (projection, matrix) in Projection::ALL.into_iter().zip(matrices) {
            tensors.push((name(&format!("{projection}.weight")), matrix.to_f32()));
        }
        let biases = [&layer.q_bias, &layer.k_bias, &layer.v_bias, &layer.o_bias];
        for (projection, bias) in Projection::ALL.into_iter().zip(biases) {
            tensors.extend(bias.iter().map(|bias| (name(&format!("{projection}.bias")), bias.into())));
        }
        tensors.push((name("input_layernorm.weight"), (&layer.input_norm).into()));
        tensors.push((name("post_attention_layernorm.weight"), (&layer.post_attention_norm).into()));
        let norms = [("self_attn.q_norm.weight", &layer.q_norm), ("self_attn.k_norm.weight", &layer.k_norm)];
        tensors.extend(norms.into_iter().filter_map(|(part, norm)| Some((name(part), norm.as_ref()?.into()))));
    }
    for param in store.layout().params().to_vec() {
        let error = |message| TrainingError::Weight { name: param.name.clone(), message };
        let (_, data) = tensors
            .iter()
            .find(|(name, _)| *name == param.name)
            .ok_or_else(|| error("missing; the configuration asks for it".to_owned()))?;
        if data.len() != param.len() {
            return Err(error(format!("has {} elements, expected {}", data.len(), param.len())));
        }
        store.set(backend, &param, data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_are_used_together_are_one_run_of_a_unit() {
        let config = DecoderConfig { qkv_bias: true, ..crate::lora::tests::config() };
        let (layout, places) = full_layout(&config);
        let (_, layers) = units(&layout);
        assert_eq!(layers.len(), config.num_layers);
        for (unit, layer) in layers.iter().zip(&places.layers) {
            let bias = layer.qkv.bias.expect("a bias");
            assert!(unit.vectors.contains(&(bias..bias + config.q_dim() + 2 * config.kv_dim())), "{unit:?}");
            let of_unit = layout.params().iter().filter(|param| unit.range.contains(&param.at));
            let elements: usize = of_unit.filter(|param| param.shape.len() == 1).map(|param| param.len()).sum();
            assert_eq!(unit.vectors.iter().map(ExactSizeIterator::len).sum::<usize>(), elements);
        }
    }
}
