//! A model in Hugging Face layout with its linears in 4 bits, as transformers and bitsandbytes read it.

use std::path::Path;

use harness_core::atomic_write;
use harness_decoder::{DecoderError, read_json, save_safetensors};
use harness_kernels::{HostData, Quantization};
use serde_json::{Map, Value, json};

use crate::{EngineError, ModelFiles, copy_beside};

/// Reads the model in `from`, quantises its linears and writes it to `to`, which is made if needed; the files beside the
/// weights are copied. Linears that are quantised already stay as they are.
///
/// # Errors
/// If the model cannot be read or quantised, or a file not written.
pub fn save_quantised(from: &Path, to: &Path, options: &Quantization) -> Result<(), EngineError> {
    let mut config: Map<String, Value> = read_json(&from.join("config.json"))?;
    let mut files = ModelFiles::load(from)?;
    let plain = files.config.experts.as_ref().is_none_or(|experts| experts.is_plain());
    if !files.config.is_named_like_llama() || files.config.block.beyond_llama().is_some() || !plain {
        let name = files.config.architecture.name();
        let reason = format!("models of the family {name} cannot be written yet; quantise them with bitsandbytes");
        return Err(DecoderError::Weights { path: from.to_owned(), reason }.into());
    }
    let dtype = match files.weights.embed.data {
        HostData::F32(_) | HostData::Blocks(_) | HostData::Coded(_) => "float32",
        HostData::F16(_) => "float16",
        HostData::Bf16(_) | HostData::Nf4(_) => "bfloat16",
    };
    files.quantise(options)?;
    copy_beside(from, to, &|name| name != "config.json")?;
    config.insert("quantization_config".to_owned(), transformers_config(options, dtype));
    config.insert("tie_word_embeddings".to_owned(), files.config.tie_word_embeddings.into());
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    write(&to.join("config.json"), text.as_bytes())?;
    Ok(save_safetensors(&files.weights, dtype, &to.join("model.safetensors"))?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DecoderError> {
    atomic_write(path, bytes).map_err(|source| DecoderError::write(path, source))
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
