//! Which parameters are trained, and in which order they lie in the flat buffers.

use std::{collections::BTreeMap, ops::Range};

use harness_decoder::{DecoderConfig, Projection, StackedExperts, Weights};

use crate::{
    TrainingError,
    backend::{Backend, SpanMut},
    block::{GroupPlaces, LayerPlaces, LayerView, LoraPart, MatrixKey, Pass, VectorKey, WeightSource},
    lora::{LoraSpec, magnitude_name, tensor_name},
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
        let mut vectors = BTreeMap::from([
            (VectorKey::FirstNorm, (vector("input_layernorm.weight", hidden), hidden)),
            (VectorKey::SecondNorm, (vector("post_attention_layernorm.weight", hidden), hidden)),
        ]);
        if config.block.qk_norm.is_some() {
            let dim = config.head_dim;
            vectors.insert(VectorKey::QNorm, (vector("self_attn.q_norm.weight", dim), dim));
            vectors.insert(VectorKey::KNorm, (vector("self_attn.k_norm.weight", dim), dim));
        }
        let mut groups = BTreeMap::new();
        let mut group = |key: MatrixKey, projections: &[Projection], biased: bool| {
            let (mut out, mut inp) = (0, 0);
            let mut matrices = projections.iter().map(|&projection| {
                let dims = projection.dims(config);
                (out, inp) = (out + dims.0, dims.1);
                layout.push(name(&format!("{projection}.weight")), vec![dims.0, dims.1], false, true)
            });
            let weight = matrices.next();
            matrices.for_each(drop);
            let projections = if biased { projections } else { &[] };
            let mut biases = projections.iter().map(|&projection| {
                let (out, _) = projection.dims(config);
                layout.push(name(&format!("{projection}.bias")), vec![out], false, false)
            });
            if let Some(at) = biases.next() {
                biases.for_each(drop);
                vectors.insert(VectorKey::Bias(key), (at, out));
            }
            groups.insert(key, GroupPlaces { weight: weight.map(|at| (at, out, inp)), lora: vec![] });
        };
        group(MatrixKey::Qkv, &[Projection::Q, Projection::K, Projection::V], config.qkv_bias);
        group(MatrixKey::O, &[Projection::O], config.o_bias);
        group(MatrixKey::GateUp, &[Projection::Gate, Projection::Up], false);
        group(MatrixKey::Down, &[Projection::Down], false);
        places.layers.push(LayerPlaces { vectors, groups });
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

/// The matrix that a linear is a part of, in the order in which a block's trained matrices lie.
fn group_of(projection: Projection, config: &DecoderConfig) -> MatrixKey {
    match projection {
        Projection::Q if config.block.latent.is_some() => MatrixKey::QUp,
        Projection::Q | Projection::K | Projection::V => MatrixKey::Qkv,
        Projection::O => MatrixKey::O,
        Projection::Gate | Projection::Up => MatrixKey::GateUp,
        Projection::Down => MatrixKey::Down,
        Projection::QDown => MatrixKey::QDown,
        Projection::QUp => MatrixKey::QUp,
        Projection::KvDown => MatrixKey::KvDown,
        Projection::KvUp => MatrixKey::KvUp,
        Projection::ConvIn => MatrixKey::ConvIn,
        Projection::ConvOut => MatrixKey::ConvOut,
        Projection::Router => MatrixKey::Router,
        Projection::SharedGate | Projection::SharedUp => MatrixKey::SharedGateUp,
        Projection::SharedDown => MatrixKey::SharedDown,
        Projection::SharedSigmoid => MatrixKey::SharedSigmoid,
    }
}

/// A module with a low-rank addition: one linear, or several that lie one after another.
struct Adapted {
    path: String,
    part: LoraPart,
    inp: usize,
    /// The row of the module's tensor that every output is, where they are in another order.
    order: Option<Vec<usize>>,
}

/// The modules of a block that get an addition, by the matrix they belong to.
fn adapted(config: &DecoderConfig, spec: &LoraSpec, layer: usize) -> BTreeMap<MatrixKey, Vec<Adapted>> {
    let mut groups: BTreeMap<MatrixKey, (usize, Vec<Adapted>)> = BTreeMap::new();
    for place in config.linears(layer) {
        let (column, modules) = groups.entry(group_of(place.projection, config)).or_default();
        let first = *column;
        *column += place.outputs;
        if !spec.at(layer).contains(&place.projection) {
            continue;
        }
        let rows = place.fused.iter().flat_map(|(_, runs)| runs.iter().cloned().flatten());
        match modules.last_mut().filter(|last| last.path == place.path) {
            Some(last) => {
                last.part.out += place.outputs;
                last.order.get_or_insert_default().extend(rows);
            }
            None => {
                let (rank, scale) = (spec.rank, spec.scale() as f32);
                let (projection, out) = (place.projection, place.outputs);
                let part = LoraPart { projection, rank, out, column: first, a: 0, b: 0, scale, magnitude: None };
                let order: Vec<usize> = rows.collect();
                let order = (!order.is_empty()).then_some(order);
                modules.push(Adapted { path: place.path, part, inp: place.inputs, order });
            }
        }
    }
    let in_order = |order: &Vec<usize>| order.iter().copied().eq(0..order.len());
    let mut found: BTreeMap<MatrixKey, Vec<Adapted>> =
        groups.into_iter().map(|(key, (_, modules))| (key, modules)).collect();
    found.retain(|_, modules| !modules.is_empty());
    found.values_mut().flatten().for_each(|module| module.order = module.order.take().filter(|order| !in_order(order)));
    found
}

/// Additions to the stacked weights of a block's experts. A has the experts one after another; of B the files have their
/// columns side by side for every rank, and the buffers one expert after another.
fn experts(
    layout: &mut Layout,
    config: &DecoderConfig,
    spec: &LoraSpec,
    names: &StackedExperts,
) -> Vec<(MatrixKey, GroupPlaces)> {
    let (count, rank, scale) = (names.count, spec.rank, spec.scale() as f32);
    let (hidden, width) = (config.hidden_size, config.expert_width());
    let parts = [(2 * width, hidden, Projection::Gate), (hidden, width, Projection::Down)];
    let mut groups = vec![];
    for (number, (out, inp, projection)) in parts.into_iter().enumerate().filter(|(number, _)| spec.experts[*number]) {
        let path = names.adapter_path(number, spec.experts);
        let a = layout.push(tensor_name(&path, "A"), vec![count * rank, inp], false, true);
        let b = layout.push(tensor_name(&path, "B"), vec![out, count * rank], true, true);
        let columns = (0..count).flat_map(|expert| (0..rank).map(move |k| k * count + expert));
        layout.reorder(None, Some(columns.collect()));
        for expert in 0..count {
            let (a, b) = (a + expert * rank * inp, b + expert * rank * out);
            let part = LoraPart { projection, rank, out, column: 0, a, b, scale, magnitude: None };
            let key = [MatrixKey::ExpertGateUp(expert), MatrixKey::ExpertDown(expert)][number];
            groups.push((key, GroupPlaces { weight: None, lora: vec![part] }));
        }
    }
    groups
}

/// The low-rank matrices: within a group of projections first all `A`, then all `B`.
pub fn lora_layout(config: &DecoderConfig, spec: &LoraSpec) -> (Layout, Places) {
    let mut layout = Layout::default();
    let mut places = Places::default();
    for layer in 0..config.num_layers {
        layout.begin_block();
        let mut groups = BTreeMap::new();
        for (key, mut modules) in adapted(config, spec, layer) {
            for Adapted { path, part, inp, .. } in &mut modules {
                part.a = layout.push(tensor_name(path, "A"), vec![part.rank, *inp], false, true);
            }
            for Adapted { path, part, order, .. } in &mut modules {
                part.b = layout.push(tensor_name(path, "B"), vec![part.out, part.rank], true, true);
                layout.reorder(order.clone(), None);
            }
            for Adapted { path, part, order, .. } in modules.iter_mut().filter(|_| spec.dora) {
                part.magnitude = Some(layout.push(magnitude_name(path), vec![part.out], false, true));
                layout.reorder(order.take(), None);
            }
            let lora = modules.into_iter().map(|module| module.part).collect();
            groups.insert(key, GroupPlaces { weight: None, lora });
        }
        if let Some(names) = config.stacked_experts(layer) {
            groups.extend(experts(&mut layout, config, spec, &names));
        }
        places.layers.push(LayerPlaces { groups, ..LayerPlaces::default() });
    }
    (layout, places)
}

/// Sets the magnitudes that are trained apart to those of the frozen weights' rows.
pub(super) fn set_magnitudes<B: Backend>(
    backend: &B,
    store: &mut ParamStore<B>,
    places: &Places,
    source: &dyn WeightSource<B>,
) -> Result<(), TrainingError> {
    for (layer, own) in places.layers.iter().enumerate() {
        let frozen = source.acquire(layer, Pass::Forward)?;
        let mut found = vec![];
        for (key, group) in &own.groups {
            let view = LayerView::new(Some(&frozen), own, &store.values);
            let norms = view.linear(*key).row_norms(backend)?;
            let apart = group.lora.iter().filter_map(|part| Some((part.magnitude?, part)));
            found.extend(apart.map(|(at, part)| (at, norms[part.column..part.column + part.out].to_vec())));
        }
        for (at, norms) in found {
            backend.write(&norms, SpanMut { buf: &mut store.values, at, len: norms.len() })?;
        }
    }
    Ok(())
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
            let (bias, len) = layer.vectors[&VectorKey::Bias(MatrixKey::Qkv)];
            assert_eq!(len, config.q_dim() + 2 * config.kv_dim());
            assert!(unit.vectors.contains(&(bias..bias + len)), "{unit:?}");
            let of_unit = layout.params().iter().filter(|param| unit.range.contains(&param.at));
            let elements: usize = of_unit.filter(|param| param.shape.len() == 1).map(|param| param.len()).sum();
            assert_eq!(unit.vectors.iter().map(ExactSizeIterator::len).sum::<usize>(), elements);
        }
    }
}
