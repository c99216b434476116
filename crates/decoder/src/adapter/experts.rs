//! Low-rank additions to the stacked weights of experts (PEFT's `target_parameters`).

use std::collections::BTreeMap;

use super::{AdapterConfig, ExpertPairs, LoraPair, TargetRank};
use crate::{DecoderConfig, DecoderError, weights::TensorStore};

/// The tensors of an adapter that belong to experts: names of A and B by layer and by whether they are of the inner one of
/// two weights.
#[derive(Default)]
pub(super) struct ExpertTensors<'a>(BTreeMap<(usize, bool), [Option<&'a str>; 2]>);

impl<'a> ExpertTensors<'a> {
    /// Takes up a tensor whose path, without `.weight` and the adapter's name, is `path`; whether it is one of these.
    pub(super) fn take(&mut self, path: &str, name: &'a str, base: &DecoderConfig) -> bool {
        let names = &base.architecture.family().names;
        let stems = [names.experts.stem.trim_end_matches('.'), names.experts.module()];
        let root = names.roots.iter().find(|root| path.starts_with(**root)).copied().unwrap_or_default();
        let inside = path.strip_prefix(root).and_then(|path| path.strip_prefix(names.layers));
        let Some((layer, rest)) = inside.and_then(|path| path.split_once('.')) else { return false };
        let rest = stems.iter().find_map(|stem| rest.strip_prefix(stem));
        let (Ok(layer), Some(rest)) = (layer.parse(), rest) else { return false };
        let (inner, matrix) = match rest.strip_prefix(".base_layer") {
            Some(matrix) => (true, matrix),
            None => (false, rest),
        };
        let at = match matrix {
            ".lora_A" => 0,
            ".lora_B" => 1,
            _ => return false,
        };
        self.0.entry((layer, inner)).or_default()[at] = Some(name);
        true
    }

    /// The pairs of every expert; empty where no expert of any block is adapted. Which weight a pair belongs to is told by
    /// its shape.
    ///
    /// # Errors
    /// If a weight is adapted that the configuration does not name, or the other way round; a shape that fits none.
    pub(super) fn resolve(
        self,
        config: &AdapterConfig,
        store: &TensorStore,
        base: &DecoderConfig,
    ) -> Result<Vec<ExpertPairs>, DecoderError> {
        let failed = |reason: String| DecoderError::Adapter { path: store.root().to_owned(), reason };
        let wanted = config.target_parameters.as_deref().unwrap_or_default();
        if wanted.is_empty() && self.0.is_empty() {
            return Ok(vec![]);
        }
        if config.use_dora || config.lora_bias {
            return Err(failed("`target_parameters` beside `use_dora` or `lora_bias` is not supported".to_owned()));
        }
        let names = &base.architecture.family().names;
        let Some(experts) = base.experts.as_ref().filter(|_| !names.experts.transposed) else {
            return Err(failed("`target_parameters`: the experts of this base cannot be adapted".to_owned()));
        };
        let (hidden, width) = (base.hidden_size, base.expert_width());
        let shapes = [[2 * width, hidden], [hidden, width]];
        let path_of = |layer, part: usize| {
            names.path(layer, &format!("{}.{}", names.experts.module(), names.experts.stacked[part]))
        };
        let ranks = config.ranks().map_err(failed)?;
        let mut found: BTreeMap<(usize, usize), LoraPair> = BTreeMap::new();
        for ((layer, _), tensors) in self.0 {
            let [Some(a), Some(b)] = tensors else {
                return Err(failed(format!(
                    "the lora_A and lora_B of the experts of layer {layer} are not both there"
                )));
            };
            let (tensor_a, tensor_b) = (store.tensor(a)?, store.tensor(b)?);
            let (&[rows, inputs], &[outputs, cols]) = (&tensor_a.shape[..], &tensor_b.shape[..]) else {
                return Err(failed(format!("tensor `{a}` or `{b}` is no matrix")));
            };
            let part = shapes.iter().position(|shape| *shape == [outputs, inputs]);
            let Some(part) = part.filter(|_| rows == cols && rows % experts.count == 0 && base.is_sparse(layer)) else {
                return Err(failed(format!(
                    "tensors `{a}` {:?} and `{b}` {:?} fit no weight of {} experts of this base",
                    tensor_a.shape, tensor_b.shape, experts.count
                )));
            };
            let TargetRank { rank, scale } = ranks.of(&path_of(layer, part)).map_err(failed)?;
            if rank * experts.count != rows {
                let expected = format!("{rank} of every expert, as adapter_config.json says");
                return Err(failed(format!("tensor `{a}` has {rows} rows, expected {expected}")));
            }
            let (a, b) = (tensor_a.to_f32().into_owned(), tensor_b.to_f32().into_owned());
            if found.insert((layer, part), LoraPair::new(a, b, rank, scale)).is_some() {
                return Err(failed(format!("the experts of layer {layer} have two additions of one shape")));
            }
        }
        let mut layers: Vec<ExpertPairs> = vec![vec![]; base.num_layers];
        for layer in (0..base.num_layers).filter(|&layer| base.is_sparse(layer)) {
            layers[layer] = vec![[None, None]; experts.count];
            for part in 0..2 {
                let path = path_of(layer, part);
                let named = wanted.iter().any(|name| path == *name || path.ends_with(&format!(".{name}")));
                match (named, found.remove(&(layer, part))) {
                    (false, None) => {}
                    (true, None) => {
                        return Err(failed(format!("`{path}` is targeted, but its lora_A and lora_B are not there")));
                    }
                    (false, Some(_)) => return Err(failed(format!("`{path}` is not targeted by adapter_config.json"))),
                    (true, Some(pair)) => {
                        for (expert, pairs) in layers[layer].iter_mut().enumerate() {
                            pairs[part] = Some(of_expert(&pair, expert, experts.count));
                        }
                    }
                }
            }
        }
        Ok(layers)
    }
}

/// The pair of one expert: A stacks experts by rows, B has their columns side by side for every rank.
fn of_expert(all: &LoraPair, expert: usize, count: usize) -> LoraPair {
    let inputs = all.a.len() / (all.rank * count);
    let a = all.a[expert * all.rank * inputs..(expert + 1) * all.rank * inputs].to_vec();
    let rows = all.b.chunks_exact(all.rank * count);
    let b = rows.flat_map(|row| (0..all.rank).map(move |k| row[k * count + expert])).collect();
    LoraPair::new(a, b, all.rank, all.scale)
}
