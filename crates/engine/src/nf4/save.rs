//! A model in Hugging Face layout with its linears in 4 bits, as transformers and bitsandbytes read it.

use std::{collections::HashMap, fs, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::{Quantization, write};
use crate::{
    EngineError, HostData, HostTensor, ModelFiles,
    adapter::write_whole,
    config::read_json,
    weights::{ExpertPart, expert_path},
};

/// One tensor of the file: name, type, shape, bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// Reads the model in `from`, quantises its linears and writes it to `to`, which is made if needed; the files beside the
/// weights are copied. Linears that are quantised already stay as they are.
///
/// # Errors
/// If the model cannot be read or quantised, or a file not written.
pub fn save_quantised(from: &Path, to: &Path, options: &Quantization) -> Result<(), EngineError> {
    let mut config: Map<String, Value> = read_json(&from.join("config.json"))?;
    let mut files = ModelFiles::load(from)?;
    let dtype = match files.weights.embed.data {
        HostData::F32(_) => "float32",
        HostData::F16(_) => "float16",
        HostData::Bf16(_) | HostData::Nf4(_) => "bfloat16",
    };
    files.quantise(options)?;
    fs::create_dir_all(to).map_err(|e| EngineError::write(to, e))?;
    let entries = fs::read_dir(from).map_err(|e| EngineError::read(from, e))?;
    for entry in entries {
        let path = entry.map_err(|e| EngineError::read(from, e))?.path();
        let copied = ["json", "jinja", "model", "txt", "md"];
        let known = path.extension().is_some_and(|e| copied.iter().any(|known| e == *known));
        let name = path.file_name().unwrap_or_default();
        if known && name != "config.json" && name != "model.safetensors.index.json" {
            let bytes = fs::read(&path).map_err(|e| EngineError::read(&path, e))?;
            write_whole(&to.join(name), &bytes)?;
        }
    }
    config.insert("quantization_config".to_owned(), transformers_config(options, dtype));
    config.insert("tie_word_embeddings".to_owned(), files.config.tie_word_embeddings.into());
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    write_whole(&to.join("config.json"), text.as_bytes())?;
    let path = to.join("model.safetensors");
    let tensors = tensors(&files, dtype);
    let broken =
        |error: safetensors::SafeTensorError| EngineError::Weights { path: path.clone(), reason: error.to_string() };
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data).map_err(broken)?)))
        .collect::<Result<Vec<_>, EngineError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_whole(&path, &safetensors::serialize(views, Some(metadata)).map_err(broken)?)
}

/// What transformers needs to load the file.
fn transformers_config(options: &Quantization, dtype: &str) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": options.double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes"
    })
}

fn tensors(files: &ModelFiles, dtype: &str) -> Vec<Stored> {
    let mut all = vec![];
    let floats = |data: &[f32]| data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let matrix = |all: &mut Vec<Stored>, name: String, tensor: &HostTensor| {
        let (kind, bytes) = match &tensor.data {
            HostData::F32(data) => (Dtype::F32, floats(data)),
            HostData::F16(data) => (Dtype::F16, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
            HostData::Bf16(data) => (Dtype::BF16, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
            HostData::Nf4(data) => return all.extend(write(&name, &tensor.shape, data, dtype)),
        };
        all.push((name, kind, tensor.shape.clone(), bytes));
    };
    let weights = &files.weights;
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
            HostData::F32(_) | HostData::Nf4(_) => (Dtype::F32, floats(data)),
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
