//! LoRA adapters in PEFT's layout.

mod config;
mod experts;
mod files;
mod initial;
mod modules;
mod pair;
mod part;
mod patterns;
mod places;
mod targets;
mod top;

use std::collections::BTreeMap;

pub use config::{AdapterConfig, TargetModules};
use harness_core::{Digest, Hasher};
pub use initial::Initialisation;
pub use pair::LoraPair;
pub(crate) use part::without_part;
pub use patterns::Patterns;
pub use places::TokenIndices;
pub use targets::TargetRank;
pub use top::{TokenRows, TopAdditions};

use crate::{DecoderError, Projection, weights::digest_tensors};
use harness_kernels::HostTensor;

/// The low-rank additions of one block.
pub type AdapterLayer = BTreeMap<Projection, LoraPair>;

/// The low-rank additions to the experts of one block: to gate and up together, and to down.
pub type ExpertPairs = Vec<[Option<LoraPair>; 2]>;

/// A LoRA adapter over one base model.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// One entry a block, empty where the block is not adapted.
    pub layers: Vec<AdapterLayer>,
    /// Whole modules saved beside the low-rank pairs, by module path: `lm_head`, `model.embed_tokens`, each
    /// `[vocab, hidden]`. They replace the base's; both may have more rows than these.
    pub modules_to_save: BTreeMap<String, HostTensor>,
    /// The low-rank additions to the experts of every block; empty where none of its experts is adapted.
    pub experts: Vec<ExpertPairs>,
    /// Additions to embedding and head, and rows of them.
    pub top: TopAdditions,
    /// What `adapter_config.json` says.
    pub config: AdapterConfig,
    /// Hash of everything the answers depend on: places, ranks, scales, values.
    pub digest: Digest,
}

impl Adapter {
    /// An adapter of these parts.
    pub fn new(
        config: AdapterConfig,
        layers: Vec<AdapterLayer>,
        modules_to_save: BTreeMap<String, HostTensor>,
    ) -> Self {
        let top = TopAdditions::default();
        let digest = digest(&config, &layers, &modules_to_save, &[], &top);
        Self { layers, modules_to_save, experts: vec![], top, config, digest }
    }

    /// The same adapter with additions to experts, embedding and head.
    #[must_use]
    pub(crate) fn with_more(mut self, experts: Vec<ExpertPairs>, top: TopAdditions) -> Self {
        self.digest = digest(&self.config, &self.layers, &self.modules_to_save, &experts, &top);
        (self.experts, self.top) = (experts, top);
        self
    }

    /// Rows of the embedding with this adapter: tokens that it knows. `base`: the base's.
    pub fn embedding_rows(&self, base: usize) -> usize {
        self.modules_to_save.get("model.embed_tokens").and_then(|tensor| tensor.shape.first()).copied().unwrap_or(base)
    }

    /// Head and embedding, where they are saved whole.
    ///
    /// # Errors
    /// If another module is.
    pub(crate) fn whole_modules(&self) -> Result<[Option<&HostTensor>; 2], DecoderError> {
        let known = ["lm_head", "model.embed_tokens"];
        match self.modules_to_save.keys().find(|module| !known.contains(&module.as_str())) {
            Some(other) => Err(DecoderError::AdapterModule { module: other.clone() }),
            None => Ok(known.map(|module| self.modules_to_save.get(module))),
        }
    }

    /// Number of trained values.
    pub fn num_parameters(&self) -> usize {
        let experts = self.experts.iter().flatten().flatten().flatten();
        let pairs = self.layers.iter().flat_map(BTreeMap::values).chain(experts);
        let pairs = pairs.map(|pair| pair.a.len() + pair.b.len());
        let top: usize = self.top.parts().iter().flat_map(|(_, values)| values).map(|values| values.len()).sum();
        pairs.sum::<usize>() + top + self.modules_to_save.values().map(|tensor| tensor.data.len()).sum::<usize>()
    }
}

/// Hash of the values, whatever type they are stored in.
fn digest(
    config: &AdapterConfig,
    layers: &[AdapterLayer],
    modules_to_save: &BTreeMap<String, HostTensor>,
    experts: &[ExpertPairs],
    top: &TopAdditions,
) -> Digest {
    let mut hasher = Hasher::new("adapter");
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    for (index, layer) in layers.iter().enumerate() {
        for (projection, pair) in layer {
            hasher.part(format!("{index} {projection} {}", pair.rank)).part(pair.scale.to_le_bytes());
            hasher.part(bytes(&pair.a)).part(bytes(&pair.b));
            for (name, more) in [("magnitude", &pair.magnitude), ("bias", &pair.bias)] {
                if let Some(more) = more {
                    hasher.part(name).part(bytes(more));
                }
            }
        }
    }
    for (index, layer) in experts.iter().enumerate() {
        for (expert, pairs) in layer.iter().enumerate() {
            for (part, pair) in
                ["gate_up", "down"].iter().zip(pairs).filter_map(|(part, pair)| Some((part, pair.as_ref()?)))
            {
                hasher.part(format!("{index} expert {expert} {part} {}", pair.rank)).part(pair.scale.to_le_bytes());
                hasher.part(bytes(&pair.a)).part(bytes(&pair.b));
            }
        }
    }
    if let Some(initialisation) = config.initialisation {
        hasher.part(format!("{initialisation:?}"));
    }
    for (part, values) in top.parts() {
        hasher.part(part);
        for values in values {
            hasher.part(bytes(values));
        }
    }
    for (module, tensor) in modules_to_save {
        let values = bytes(&tensor.to_f32());
        let one = (module.as_str(), "f32".to_owned(), tensor.shape.as_slice(), values.as_slice());
        hasher.part(digest_tensors("module", std::iter::once(one)).as_bytes());
    }
    hasher.finish()
}
