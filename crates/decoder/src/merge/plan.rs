//! Which stored tensors of a base an adapter changes.

use std::{collections::BTreeMap, path::Path};

use harness_kernels::HostTensor;

use super::change::{Change, Run};
use crate::{
    Adapter, DecoderConfig, DecoderError, ExpertPairs, LoraPair, Projection,
    weights::{ExpertPart, HfSource, Part, Place, TensorSource, TensorStore},
};

/// The changes of stored tensors by their names.
pub(super) struct Plan<'a> {
    pub(super) changes: BTreeMap<String, Change<'a>>,
    /// Tensors that the base does not store, with the names of those whose type they get.
    pub(super) added: BTreeMap<String, (Source<'a>, String)>,
    /// Rows of embedding and head.
    pub(super) vocab_size: usize,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
}

/// What a tensor is written from that the base does not store.
pub(super) enum Source<'a> {
    Given(&'a HostTensor),
    /// The base's tensor of the name that stands beside it.
    Base,
}

impl<'a> Plan<'a> {
    /// The plan for an adapter that was loaded for this base; `folder` is the adapter's, for messages.
    ///
    /// # Errors
    /// If a tensor is not there or of another shape, or a bias is to be changed that the base lacks.
    pub(super) fn new(
        adapter: &'a Adapter,
        config: &DecoderConfig,
        source: &HfSource<'_>,
        store: &TensorStore,
        folder: &Path,
    ) -> Result<Self, DecoderError> {
        // Whatever an adapter may hold one day is to be merged, too.
        let Adapter { layers, modules_to_save: _, experts, config: _, digest: _, top } = adapter;
        if !top.is_empty() {
            return Err(DecoderError::Adapter {
                path: folder.to_owned(),
                reason:
                    "additions to the embedding or the head, and trained tokens, cannot be merged here: merge with PEFT"
                        .to_owned(),
            });
        }
        let mut plan = Self {
            changes: BTreeMap::new(),
            added: BTreeMap::new(),
            vocab_size: config.vocab_size,
            tied: config.tie_word_embeddings,
        };
        for (layer, pairs) in layers.iter().enumerate() {
            for (&projection, pair) in pairs {
                plan.linear(config, source, (layer, projection), pair);
                if let Some(bias) = &pair.bias {
                    let values = bias.iter().map(|bias| pair.scale * bias).collect();
                    plan.bias(config, source, (layer, projection), values, folder)?;
                }
            }
        }
        for (layer, experts) in experts.iter().enumerate() {
            plan.experts(config, source, layer, experts);
        }
        for change in plan.changes.values_mut() {
            if let Change::Sum { runs, .. } = change {
                runs.sort_by_key(|run| run.at.start);
            }
        }
        plan.whole_modules(adapter, config, source, store)?;
        plan.check(store)?;
        Ok(plan)
    }

    fn add(&mut self, name: String, transposed: bool, runs: impl Iterator<Item = Run<'a>>) {
        let change = self.changes.entry(name).or_insert_with(|| Change::Sum { runs: vec![], transposed });
        if let Change::Sum { runs: all, .. } = change {
            all.extend(runs);
        }
    }

    fn linear(
        &mut self,
        config: &DecoderConfig,
        source: &HfSource<'_>,
        (layer, projection): (usize, Projection),
        pair: &'a LoraPair,
    ) {
        let names = &config.architecture.family().names;
        let name = source.name(Place::Layer(layer, Part::of(projection)));
        let runs = match names.rows(config, projection) {
            Some((_, runs)) => runs,
            None => std::iter::once(0..projection.dims(config).0).collect(),
        };
        let mut from = 0;
        let runs = runs.into_iter().map(|at| {
            from += at.len();
            Run { from: from - at.len(), at, pair }
        });
        self.add(name, names.transposed, runs);
    }

    fn bias(
        &mut self,
        config: &DecoderConfig,
        source: &HfSource<'_>,
        (layer, projection): (usize, Projection),
        values: Vec<f32>,
        folder: &Path,
    ) -> Result<(), DecoderError> {
        let names = &config.architecture.family().names;
        let name = bias_of(projection).map(|part| source.name(Place::Layer(layer, part))).unwrap_or_default();
        if !source.has(&name) {
            let module = projection.path(layer);
            return Err(DecoderError::Adapter {
                path: folder.to_owned(),
                reason: format!(
                    "`lora_bias`: `{module}` of the base has no bias that the adapter's could be added to, so it cannot be \
                     merged; evaluate base and adapter as two"
                ),
            });
        }
        let change = self.changes.entry(name).or_insert_with(|| Change::Bias(vec![]));
        let Change::Bias(all) = change else { return Ok(()) };
        match names.rows(config, projection) {
            Some((_, runs)) => {
                let mut values = values.into_iter();
                all.extend(runs.into_iter().map(|run| (run.start, values.by_ref().take(run.len()).collect())));
            }
            None => all.push((0, values)),
        }
        Ok(())
    }

    /// The experts of a layer, which are stored in one tensor or one by one.
    fn experts(&mut self, config: &DecoderConfig, source: &HfSource<'_>, layer: usize, experts: &'a ExpertPairs) {
        let (hidden, width) = (config.hidden_size, config.expert_width());
        for (expert, [both, down]) in experts.iter().enumerate() {
            let parts = [(both, ExpertPart::Gate, 0), (both, ExpertPart::Up, width), (down, ExpertPart::Down, 0)];
            for (pair, part, from) in parts {
                let Some(pair) = pair else { continue };
                let rows = if part == ExpertPart::Down { hidden } else { width };
                let name = source.name(Place::Expert(layer, expert, part));
                let of_all = match part {
                    ExpertPart::Down => hidden,
                    ExpertPart::Gate | ExpertPart::Up => 2 * width,
                };
                let first = if source.is_stacked(layer, part) { expert * of_all + from } else { 0 };
                self.add(name, false, std::iter::once(Run { at: first..first + rows, pair, from }));
            }
        }
    }

    /// Embedding and head that the adapter brings whole.
    fn whole_modules(
        &mut self,
        adapter: &'a Adapter,
        config: &DecoderConfig,
        source: &HfSource<'_>,
        store: &TensorStore,
    ) -> Result<(), DecoderError> {
        let [head, embed] = adapter.whole_modules()?;
        self.vocab_size = adapter.embedding_rows(config.vocab_size);
        let [embed_name, head_name] = [Place::Embed, Place::LmHead].map(|place| source.name(place));
        if !self.tied {
            let modules = [(embed_name, embed), (head_name, head)];
            self.changes.extend(modules.into_iter().filter_map(|(name, new)| Some((name, Change::Replaced(new?)))));
            return Ok(());
        }
        // Of two tied tensors either may be the one that is stored, or both.
        let table = if store.contains(&embed_name) { embed_name.clone() } else { head_name.clone() };
        let equal = |a: &HostTensor, b: &HostTensor| a.shape == b.shape && a.to_f32() == b.to_f32();
        self.tied = match (embed, head) {
            (None, None) => return Ok(()),
            (Some(embed), Some(head)) => equal(embed, head),
            _ => false,
        };
        for (name, new) in [(embed_name, embed), (head_name, head)] {
            let stored = store.contains(&name);
            if self.tied && !stored {
                continue;
            }
            match new {
                Some(new) if stored => drop(self.changes.insert(name, Change::Replaced(new))),
                Some(new) => drop(self.added.insert(name, (Source::Given(new), table.clone()))),
                None if stored => {}
                None => drop(self.added.insert(name, (Source::Base, table.clone()))),
            }
        }
        Ok(())
    }

    /// Fails if a changed tensor is not there or of another size than the configuration gives it.
    fn check(&self, store: &TensorStore) -> Result<(), DecoderError> {
        let missing: Vec<String> = self.changes.keys().filter(|name| !store.contains(name)).cloned().collect();
        if !missing.is_empty() {
            return Err(DecoderError::MissingTensors { path: store.root().to_owned(), names: missing });
        }
        for (name, change) in &self.changes {
            let tensor = store.tensor(name)?;
            let expected = match change {
                Change::Replaced(_) => continue,
                Change::Bias(runs) => vec![runs.iter().map(|(_, values)| values.len()).sum()],
                Change::Sum { runs, transposed } => {
                    let Some(first) = runs.first() else { continue };
                    let cols = first.pair.a.len() / first.pair.rank;
                    let shape = tensor.shape.as_slice();
                    // Rows of a part that is not adapted are in no run.
                    match (shape, transposed) {
                        (&[inputs, outputs], true)
                            if inputs == cols && runs.iter().all(|run| run.at.end <= outputs) =>
                        {
                            continue;
                        }
                        (&[.., inputs], false)
                            if inputs == cols && runs.iter().all(|run| run.at.end <= tensor.data.len() / cols) =>
                        {
                            continue;
                        }
                        _ => vec![runs.last().map_or(0, |run| run.at.end), cols],
                    }
                }
            };
            if tensor.shape != expected {
                let (path, found) = (store.file_of(name).to_owned(), tensor.shape);
                return Err(DecoderError::TensorShape { path, tensor: name.clone(), found, expected });
            }
        }
        Ok(())
    }
}

/// The bias of a projection, where a family has one.
fn bias_of(projection: Projection) -> Option<Part> {
    Some(match projection {
        Projection::Q => Part::QBias,
        Projection::K => Part::KBias,
        Projection::V => Part::VBias,
        Projection::O => Part::OBias,
        Projection::Gate => Part::GateBias,
        Projection::Up => Part::UpBias,
        Projection::Down => Part::DownBias,
        Projection::QDown => Part::QDownBias,
        Projection::KvDown => Part::KvDownBias,
        Projection::ConvIn => Part::ConvInBias,
        Projection::ConvOut => Part::ConvOutBias,
        Projection::Router => Part::RouterBias,
        Projection::SharedGate => Part::SharedGateBias,
        Projection::SharedUp => Part::SharedUpBias,
        Projection::SharedDown => Part::SharedDownBias,
        Projection::QUp | Projection::KvUp | Projection::SharedSigmoid => return None,
    })
}
