//! Which tensors of a merged model differ from those that the base stores.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, path::Path};

use harness_kernels::HostTensor;

use super::{
    change::{Change, Run, Source, Sum, matrix},
    top::{Base, Top, top},
};
use crate::{
    Adapter, AdapterConfig, DecoderError, ExpertPairs, Initialisation, LoraPair, Projection,
    weights::{ExpertPart, Part, Place, TensorSource, TensorStore},
};

/// The tensors that are written otherwise than the base stores them.
pub(super) struct Plan<'a> {
    /// By the names that they get; not all of them are in the base.
    pub(super) changes: BTreeMap<String, Change<'a>>,
    /// Rows of embedding and head.
    pub(super) vocab_size: usize,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
}

impl<'a> Plan<'a> {
    /// The plan for an adapter that was loaded for this base; `folder` is the adapter's, for messages.
    ///
    /// # Errors
    /// If a tensor is not there or of another shape, or a bias is to be changed that the base lacks.
    pub(super) fn new(adapter: &'a Adapter, base: Base<'_>, folder: &Path) -> Result<Self, DecoderError> {
        // Whatever an adapter may hold one day is to be merged, too.
        let Adapter { layers, modules_to_save: _, experts, config, digest: _, top: additions } = adapter;
        let AdapterConfig { initialisation, .. } = config;
        let (names, mut changes) = (&base.config.architecture.family().names, Changes::default());
        for (layer, pairs) in layers.iter().enumerate() {
            for (&projection, pair) in pairs {
                let runs = match names.rows(base.config, projection) {
                    Some((_, runs)) => runs,
                    None => std::iter::once(0..projection.dims(base.config).0).collect(),
                };
                let weight = base.source.name(Place::Layer(layer, Part::of(projection)));
                changes.add(weight, names.transposed, *initialisation, Cow::Borrowed(pair), &runs);
                let bias = bias_of(projection).map(|part| base.source.name(Place::Layer(layer, part)));
                changes.bias(base, (&projection.path(layer), bias), pair, &runs, folder)?;
            }
        }
        for (layer, experts) in experts.iter().enumerate() {
            changes.experts(base, layer, experts);
        }
        let head_bias = base.source.name(Place::HeadBias);
        if let Some(bias) = &additions.head_bias {
            let whole = Source::Given(HostTensor::from_f32([bias.len()], bias.clone()), head_bias.clone());
            changes.0.insert(head_bias.clone(), Change { source: whole, sum: Sum::default(), rows: None });
        }
        if let Some(pair) = &additions.head {
            let rows = 0..pair.b.len() / pair.rank;
            changes.bias(base, (names.head, Some(head_bias)), pair, &[rows], folder)?;
        }
        let Top { changes: tops, tied } = top(adapter, base)?;
        let Changes(mut changes) = changes;
        for change in changes.values_mut() {
            change.sum.runs.sort_by_key(|run| run.at.start);
        }
        changes.extend(tops);
        check(&changes, base.store)?;
        Ok(Self { changes, vocab_size: adapter.embedding_rows(base.config.vocab_size), tied })
    }
}

/// Changes of tensors of the base, by name.
#[derive(Default)]
struct Changes<'a>(BTreeMap<String, Change<'a>>);

impl<'a> Changes<'a> {
    /// Adds the outputs of a pair, one after the other, to these of a tensor.
    fn add(
        &mut self,
        name: String,
        transposed: bool,
        began: Option<Initialisation>,
        pair: Cow<'a, LoraPair>,
        outputs: &[Range<usize>],
    ) {
        let mut from = 0;
        for at in outputs {
            self.run(name.clone(), transposed, began, Run { at: at.clone(), pair: pair.clone(), from });
            from += at.len();
        }
    }

    fn run(&mut self, name: String, transposed: bool, began: Option<Initialisation>, run: Run<'a>) {
        let sum = Sum { runs: vec![], transposed, began };
        let new = || Change { source: Source::Base(name.clone()), sum, rows: None };
        self.0.entry(name.clone()).or_insert_with(new).sum.runs.push(run);
    }

    /// `lora_bias` of a pair: its scale times this is added to the bias of the module.
    fn bias(
        &mut self,
        base: Base<'_>,
        (module, name): (&str, Option<String>),
        pair: &LoraPair,
        outputs: &[Range<usize>],
        folder: &Path,
    ) -> Result<(), DecoderError> {
        let Some(bias) = &pair.bias else { return Ok(()) };
        let Some(name) = name.filter(|name| base.source.has(name)) else {
            return Err(DecoderError::Adapter {
                path: folder.to_owned(),
                reason: format!(
                    "`lora_bias`: `{module}` of the base has no bias that the adapter's could be added to, so it cannot be \
                     merged; evaluate base and adapter as two"
                ),
            });
        };
        // A bias is a matrix of one column.
        let pair = LoraPair::new(vec![1.0], bias.clone(), 1, pair.scale);
        self.add(name, false, None, Cow::Owned(pair), outputs);
        Ok(())
    }

    /// The experts of a layer, which are stored in one tensor or one by one.
    fn experts(&mut self, base: Base<'_>, layer: usize, experts: &'a ExpertPairs) {
        let Base { config, source, .. } = base;
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
                let run = Run { at: first..first + rows, pair: Cow::Borrowed(pair), from };
                self.run(name, false, None, run);
            }
        }
    }
}

/// Fails if a changed tensor is not there or of another size than the configuration gives it.
fn check(changes: &BTreeMap<String, Change<'_>>, store: &TensorStore) -> Result<(), DecoderError> {
    let names = || changes.values().map(|change| change.source.name());
    let missing: Vec<String> = names().filter(|name| !store.contains(name)).map(str::to_owned).collect();
    if !missing.is_empty() {
        return Err(DecoderError::MissingTensors { path: store.root().to_owned(), names: missing });
    }
    for (name, Change { source, sum, rows }) in changes {
        let shape = match source {
            Source::Base(name) => store.tensor(name)?.shape,
            Source::Given(tensor, _) => tensor.shape.clone(),
        };
        let (height, width) = matrix(&shape);
        let (outputs, inputs) = if sum.transposed { (width, height) } else { (height, width) };
        // Rows of a part that is not adapted are in no run.
        let end = sum.runs.last().map_or(0, |run| run.at.end);
        let wanted = sum.runs.iter().map(|run| run.pair.a.len() / run.pair.rank).find(|&wanted| wanted != inputs);
        let expected = match (wanted, rows) {
            (None, _) if end > outputs => vec![end, inputs],
            (Some(inputs), _) => vec![end, inputs],
            (None, Some(rows)) if rows.rows.len() != rows.tokens.len() * width => {
                vec![height, rows.rows.len() / rows.tokens.len()]
            }
            _ => continue,
        };
        let expected = if sum.transposed { expected.into_iter().rev().collect() } else { expected };
        let (path, tensor) = (store.file_of(source.name()).to_owned(), name.clone());
        return Err(DecoderError::TensorShape { path, tensor, found: shape, expected });
    }
    Ok(())
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
