//! Weights as one safetensors file under the names of Hugging Face, 4-bit codes as bitsandbytes stores them.

use std::{collections::HashMap, path::Path};

use harness_kernels::{HostData, HostTensor};
use safetensors::{Dtype, tensor::TensorView};

use super::{ExpertPart, Weights, expert_path, le_bytes};
use crate::{DecoderError, bitsandbytes::write};

/// One tensor of the file: name, type, shape, bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// Writes all weights into one file; `dtype` is transformers' name of the type that 4-bit codes are widened to.
///
/// # Errors
/// If the file cannot be written.
pub fn save_safetensors(weights: &Weights, dtype: &str, path: &Path) -> Result<(), DecoderError> {
    let tensors = tensors(weights, dtype);
    let broken = |error: safetensors::SafeTensorError| DecoderError::Weights {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data).map_err(broken)?)))
        .collect::<Result<Vec<_>, DecoderError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(broken)?;
    harness_core::atomic_write(path, &bytes).map_err(|source| DecoderError::write(path, source))
}

fn tensors(weights: &Weights, dtype: &str) -> Vec<Stored> {
    let mut all = vec![];
    let floats = |data: &[f32]| data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let matrix = |all: &mut Vec<Stored>, name: String, tensor: &HostTensor| {
        let (kind, bytes) = match &tensor.data {
            HostData::F32(_) | HostData::Blocks(_) | HostData::Coded(_) => (Dtype::F32, le_bytes(tensor)),
            HostData::F16(_) => (Dtype::F16, le_bytes(tensor)),
            HostData::Bf16(_) => (Dtype::BF16, le_bytes(tensor)),
            HostData::Nf4(data) => return all.extend(write(&name, &tensor.shape, data, dtype)),
        };
        all.push((name, kind, tensor.shape.clone(), bytes));
    };
    matrix(&mut all, "model.embed_tokens.weight".to_owned(), &weights.embed);
    if let Some(head) = &weights.lm_head {
        matrix(&mut all, "lm_head.weight".to_owned(), head);
    }
    for (number, layer) in weights.layers.iter().enumerate() {
        // The feed-forward block of a layer with experts is empty.
        for (projection, tensor) in layer.linears().into_iter().filter(|(_, tensor)| !tensor.data.is_empty()) {
            matrix(&mut all, format!("{}.weight", projection.path(number)), tensor);
        }
        let Some(mixture) = &layer.experts else { continue };
        matrix(&mut all, format!("model.layers.{number}.block_sparse_moe.gate.weight"), &mixture.router);
        for (expert, tensors) in mixture.experts.iter().enumerate() {
            for (part, tensor) in ExpertPart::ALL.into_iter().zip(tensors) {
                matrix(&mut all, format!("model.{}", expert_path(number, expert, part)), tensor);
            }
        }
    }
    let mut vector = |name: String, data: &[f32]| {
        // Norms and biases are in the type of the embedding, as transformers expects of one model.
        let (kind, bytes): (Dtype, Vec<u8>) = match weights.embed.data {
            HostData::F32(_) | HostData::Nf4(_) | HostData::Blocks(_) | HostData::Coded(_) => {
                (Dtype::F32, floats(data))
            }
            HostData::F16(_) => (Dtype::F16, data.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect()),
            HostData::Bf16(_) => {
                (Dtype::BF16, data.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect())
            }
        };
        all.push((name, kind, vec![data.len()], bytes));
    };
    vector("model.norm.weight".to_owned(), &weights.norm);
    for (number, layer) in weights.layers.iter().enumerate() {
        let name = |part: &str| format!("model.layers.{number}.{part}");
        vector(name("input_layernorm.weight"), &layer.input_norm);
        vector(name("post_attention_layernorm.weight"), &layer.post_attention_norm);
        let optional = [
            ("self_attn.q_proj.bias", &layer.q_bias),
            ("self_attn.k_proj.bias", &layer.k_bias),
            ("self_attn.v_proj.bias", &layer.v_bias),
            ("self_attn.o_proj.bias", &layer.o_bias),
            ("self_attn.q_norm.weight", &layer.q_norm),
            ("self_attn.k_norm.weight", &layer.k_norm),
        ];
        for (part, data) in optional {
            if let Some(data) = data {
                vector(name(part), data);
            }
        }
    }
    all
}
