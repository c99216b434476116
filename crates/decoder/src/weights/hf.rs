//! Tensors of a decoder in safetensors, under the names that Hugging Face gives them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness_kernels::HostTensor;

use super::{
    assemble::{Count, ExpertPart, Part, Place, TensorSource},
    safetensors::TensorStore,
};
use crate::{DecoderConfig, DecoderError, Projection, bitsandbytes, config::Scheme, families::Names};

/// Safetensors under the names that transformers gives them.
pub(crate) struct HfSource<'a> {
    store: &'a TensorStore,
    config: &'a DecoderConfig,
    names: &'static Names,
    root: &'static str,
    scheme: Option<Scheme>,
}

impl<'a> HfSource<'a> {
    /// Tensors of a causal language model (`model.layers…`) or of the bare decoder (`layers…`).
    pub(crate) fn new(store: &'a TensorStore, config: &'a DecoderConfig, scheme: Option<Scheme>) -> Self {
        let names = &config.architecture.family().names;
        let there = |root: &&&str| store.contains(&format!("{root}{}.weight", names.embed));
        let root = names.roots.iter().chain([&""]).find(there).or(names.roots.first()).copied().unwrap_or_default();
        Self { store, config, names, root, scheme }
    }

    fn layer(&self, layer: usize, rest: &str) -> String {
        format!("{}{}{layer}.{rest}", self.root, self.names.layers)
    }

    /// Of several names of a tensor the first that is there, else the first.
    fn first(&self, names: &str, full: impl Fn(&str) -> String) -> String {
        let (stem, suffix) = names.rsplit_once('.').unwrap_or((names, ""));
        let all = stem.split('|').map(|name| full(&format!("{name}.{suffix}")));
        let mut all = if stem.contains('|') { all.collect::<Vec<_>>() } else { return full(names) };
        let at = all.iter().position(|name| self.store.contains(name)).unwrap_or(0);
        all.swap_remove(at)
    }

    /// A tensor of this shape, widened if bitsandbytes quantised it and it must be cut.
    fn whole(&self, name: &str, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        if let (Some(scheme), &[rows, cols]) = (self.scheme, shape)
            && let Some(tensor) = scheme.linear(self.store, name, [rows, cols])?
        {
            return Ok(tensor);
        }
        let Some(tensor) = bitsandbytes::read(self.store, name)? else {
            let tensor = self.store.tensor(name)?;
            // Some are stored as [1, n] or [n, 1, k].
            return if tensor.data.len() == shape.iter().product::<usize>() && tensor.shape.len() != shape.len() {
                Ok(HostTensor { shape: shape.to_vec(), ..tensor })
            } else {
                self.store.tensor_of(name, shape)
            };
        };
        if tensor.shape == shape {
            return Ok(tensor);
        }
        Err(DecoderError::TensorShape {
            path: self.store.file_of(name).to_owned(),
            tensor: name.to_owned(),
            found: tensor.shape,
            expected: shape.to_vec(),
        })
    }

    /// A linear of `rows` outputs, whichever way round it is stored.
    fn linear(&self, name: &str, rows: usize, cols: &[usize]) -> Result<HostTensor, DecoderError> {
        match cols {
            &[cols] if self.names.transposed => Ok(self.whole(name, &[cols, rows])?.transposed()),
            _ => self.whole(name, &[&[rows], cols].concat()),
        }
    }

    /// The rows of a projection in the tensor that it shares, which may be a bias.
    fn of_shared(&self, name: &str, projection: Projection, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        match self.names.rows(self.config, projection) {
            Some((rows, runs)) => Ok(self.linear(name, rows, &shape[1..])?.select_rows(runs.into_iter())),
            None => self.linear(name, shape[0], &shape[1..]),
        }
    }

    /// One of gate and up in a tensor of both.
    fn half(&self, name: &str, second: bool, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let all = self.linear(name, 2 * shape[0], &shape[1..])?;
        let first = if second { shape[0] } else { 0 };
        Ok(all.select_rows(std::iter::once(first..first + shape[0])))
    }

    /// The norms of heads that are stored one by one.
    fn by_head(&self, name: &str, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let Some((stem, suffix)) = name.rsplit_once(".0.") else { return self.whole(name, shape) };
        let mut values = Vec::with_capacity(shape.iter().product());
        for head in 0..shape[0] {
            values.extend_from_slice(&self.store.tensor_of(&format!("{stem}.{head}.{suffix}"), &shape[1..])?.to_f32());
        }
        Ok(HostTensor::from_f32(shape.to_vec(), values))
    }

    /// The name of the tensor that stacks a part of all experts, if that is how they are stored.
    fn stacked(&self, layer: usize, part: ExpertPart) -> Option<String> {
        let experts = &self.names.experts;
        let name = experts.stacked[usize::from(part == ExpertPart::Down)];
        let name = self.layer(layer, &format!("{}{name}", experts.stem));
        let one = self.layer(layer, &format!("{}0.{}.weight", experts.stem, experts.each[part as usize]));
        (!self.store.contains(&one)).then_some(name)
    }

    /// Whether a part of all experts is stored in one tensor.
    pub(crate) fn is_stacked(&self, layer: usize, part: ExpertPart) -> bool {
        self.stacked(layer, part).is_some()
    }

    /// A part of one expert from a tensor of all.
    fn of_stacked(
        &self,
        name: &str,
        expert: usize,
        part: ExpertPart,
        shape: &[usize],
    ) -> Result<HostTensor, DecoderError> {
        let experts = &self.names.experts;
        let count = self.config.experts.as_ref().map_or(0, |experts| experts.count);
        let both = part != ExpertPart::Down;
        let rows = if both { 2 * shape[0] } else { shape[0] };
        let quantised = match (self.scheme, shape) {
            (Some(scheme), &[_, cols]) => scheme.expert(self.store, name, (expert, count), [rows, cols])?,
            _ => None,
        };
        let own = match (quantised, shape) {
            (Some(own), _) => own,
            (None, &[_, cols]) => {
                let (outer, inner) = if experts.transposed { (cols, rows) } else { (rows, cols) };
                let all = self.store.tensor_of(name, &[count, outer, inner])?;
                let own = all.matrix(expert, outer, inner);
                if experts.transposed { own.transposed() } else { own }
            }
            _ => {
                let all = self.store.tensor_of(name, &[count, rows])?;
                all.select_rows(std::iter::once(expert..expert + 1)).reshaped(&[rows])
            }
        };
        if !both {
            return Ok(own);
        }
        let second = usize::from(part == ExpertPart::Up);
        Ok(match experts.interleaved {
            true => own.select_rows((0..shape[0]).map(|row| 2 * row + second..2 * row + second + 1)),
            false => own.select_rows(std::iter::once(second * shape[0]..(second + 1) * shape[0])),
        })
    }
}

impl TensorSource for HfSource<'_> {
    fn path(&self) -> &Path {
        self.store.root()
    }

    fn name(&self, place: Place) -> String {
        let (names, root) = (self.names, self.root);
        match place {
            Place::Embed => format!("{root}{}.weight", names.embed),
            Place::Norm => format!("{root}{}.weight", names.norm),
            Place::NormBias => format!("{root}{}.bias", names.norm),
            Place::LmHead => format!("{}.weight", names.head),
            Place::HeadBias => format!("{}.bias", names.head),
            Place::Positions => format!("{root}{}.weight", names.positions),
            Place::EmbedNorm => format!("{root}{}.weight", names.embed_norm),
            Place::EmbedNormBias => format!("{root}{}.bias", names.embed_norm),
            Place::ProjectIn => format!("{root}project_in.weight"),
            Place::ProjectOut => format!("{root}project_out.weight"),
            Place::Layer(layer, part) => self.first(&names.part(part), |name| self.layer(layer, name)),
            Place::Expert(layer, expert, part) => self.stacked(layer, part).unwrap_or_else(|| {
                let experts = &names.experts;
                self.layer(layer, &format!("{}{expert}.{}.weight", experts.stem, experts.each[part as usize]))
            }),
            Place::ExpertBias(layer, _, part) => {
                self.stacked(layer, part).map(|name| format!("{name}_bias")).unwrap_or_default()
            }
        }
    }

    fn len(&self) -> usize {
        self.store.names().count()
    }

    fn key_of(&self, count: Count) -> (PathBuf, String) {
        let key = match count {
            Count::Layers => "num_hidden_layers",
            Count::Experts => "num_local_experts",
        };
        (self.store.root().join("config.json"), key.to_owned())
    }

    fn has(&self, name: &str) -> bool {
        self.scheme.map_or_else(|| self.store.contains(name), |scheme| scheme.has(self.store, name))
    }

    /// transformers passes over what it does not know inside the decoder; beside it stands another head.
    fn stranger(&self, _: &BTreeSet<String>) -> Option<String> {
        let names = self.names;
        let head = format!("{}.", names.head);
        let tops = [names.embed, names.norm, names.positions, names.embed_norm];
        let ours = |name: &str| {
            let inside = match self.root {
                "" => {
                    let top = |top: &&str| !top.is_empty() && name.starts_with(&format!("{top}."));
                    tops.iter().any(top) || name.starts_with(names.layers) || name.starts_with("rotary_emb.")
                }
                root => name.starts_with(root),
            };
            inside || name.starts_with(&head) || names.beside.iter().any(|beside| name.starts_with(beside))
        };
        self.store.names().find(|name| !ours(name)).map(str::to_owned)
    }

    fn read(&self, place: Place, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let (name, names) = (self.name(place), self.names);
        match place {
            Place::Layer(_, part) => match part {
                Part::Q | Part::QBias => self.of_shared(&name, Projection::Q, shape),
                Part::K | Part::KBias => self.of_shared(&name, Projection::K, shape),
                Part::V | Part::VBias => self.of_shared(&name, Projection::V, shape),
                Part::Gate => self.of_shared(&name, Projection::Gate, shape),
                Part::Up => self.of_shared(&name, Projection::Up, shape),
                Part::O | Part::Down => self.linear(&name, shape[0], &shape[1..]),
                Part::SharedGate | Part::SharedUp if names.shared_gate_up.is_some() => {
                    self.half(&name, part == Part::SharedUp, shape)
                }
                Part::QNorm | Part::KNorm if names.norms_by_head => self.by_head(&name, shape),
                _ => self.whole(&name, shape),
            },
            Place::Expert(layer, expert, part) | Place::ExpertBias(layer, expert, part) => {
                match self.stacked(layer, part) {
                    Some(_) => self.of_stacked(&name, expert, part, shape),
                    None => self.whole(&name, shape),
                }
            }
            _ => self.whole(&name, shape),
        }
    }
}

/// The name of an expert's weight in Mixtral, without the prefix of a causal language model.
pub(crate) fn expert_path(layer: usize, expert: usize, part: ExpertPart) -> String {
    let name = ["w1.weight", "w3.weight", "w2.weight"][part as usize];
    format!("layers.{layer}.block_sparse_moe.experts.{expert}.{name}")
}
