//! Hugging Face's names of the tensors of a decoder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness_kernels::HostTensor;

use super::{
    assemble::{Count, ExpertPart, Part, Place, TensorSource},
    safetensors::TensorStore,
};
use crate::{DecoderError, bitsandbytes};

/// Safetensors under the names that transformers gives them.
pub(crate) struct HfSource<'a> {
    store: &'a TensorStore,
    prefix: &'static str,
}

impl<'a> HfSource<'a> {
    /// Tensors of a causal language model (`model.layers…`) or of the bare decoder (`layers…`).
    pub(crate) fn new(store: &'a TensorStore) -> Self {
        let bare = !store.contains("model.norm.weight") && store.contains("norm.weight");
        Self { store, prefix: if bare { "" } else { "model." } }
    }
}

impl TensorSource for HfSource<'_> {
    fn path(&self) -> &Path {
        self.store.root()
    }

    fn name(&self, place: Place) -> String {
        let prefix = self.prefix;
        match place {
            Place::Embed => format!("{prefix}embed_tokens.weight"),
            Place::Norm => format!("{prefix}norm.weight"),
            Place::LmHead => "lm_head.weight".to_owned(),
            Place::Layer(layer, part) => format!("{prefix}layers.{layer}.{}", part_name(part)),
            Place::Expert(layer, expert, part) => format!("{prefix}{}", expert_path(layer, expert, part)),
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
        self.store.contains(name)
    }

    /// transformers passes over what it does not know inside the decoder; beside it stands another head.
    fn stranger(&self, _: &BTreeSet<String>) -> Option<String> {
        let roots = match self.prefix {
            "" => ["embed_tokens.", "layers.", "norm.", "lm_head.", "rotary_emb."].as_slice(),
            prefix => &[prefix, "lm_head."],
        };
        self.store.names().find(|name| !roots.iter().any(|root| name.starts_with(root))).map(str::to_owned)
    }

    fn read(&self, place: Place, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let name = self.name(place);
        let Some(tensor) = bitsandbytes::read(self.store, &name)? else { return self.store.tensor_of(&name, shape) };
        if tensor.shape == shape {
            return Ok(tensor);
        }
        Err(DecoderError::TensorShape {
            path: self.store.file_of(&name).to_owned(),
            tensor: name,
            found: tensor.shape,
            expected: shape.to_vec(),
        })
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Q => "self_attn.q_proj.weight",
        Part::K => "self_attn.k_proj.weight",
        Part::V => "self_attn.v_proj.weight",
        Part::O => "self_attn.o_proj.weight",
        Part::Gate => "mlp.gate_proj.weight",
        Part::Up => "mlp.up_proj.weight",
        Part::Down => "mlp.down_proj.weight",
        Part::QBias => "self_attn.q_proj.bias",
        Part::KBias => "self_attn.k_proj.bias",
        Part::VBias => "self_attn.v_proj.bias",
        Part::OBias => "self_attn.o_proj.bias",
        Part::InputNorm => "input_layernorm.weight",
        Part::PostAttentionNorm => "post_attention_layernorm.weight",
        Part::QNorm => "self_attn.q_norm.weight",
        Part::KNorm => "self_attn.k_norm.weight",
        Part::Router => "block_sparse_moe.gate.weight",
    }
}

/// The name of an expert's weight, without the prefix of a causal language model.
pub(crate) fn expert_path(layer: usize, expert: usize, part: ExpertPart) -> String {
    format!("layers.{layer}.block_sparse_moe.experts.{expert}.{}", expert_name(part))
}

fn expert_name(part: ExpertPart) -> &'static str {
    match part {
        ExpertPart::Gate => "w1.weight",
        ExpertPart::Up => "w3.weight",
        ExpertPart::Down => "w2.weight",
    }
}
