//! How a checkpoint's linears are quantised, by `quantization_config`.

use serde_json::Value;

use super::keys::Keys;
use crate::DecoderError;

/// How linears are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// 4 bits with scales and zeros by group of inputs; `offset` is added to a stored zero.
    Gptq { offset: i32 },
    /// The same with columns in another order, and the outputs packed.
    Awq,
    /// compressed-tensors: integers of so many bits above their smallest value.
    Packed { bits: u32 },
    /// 8-bit floats or integers with a scale for a row, or for a block of so many rows and columns.
    Scaled { block: [usize; 2] },
    /// bitsandbytes: 8 bits with the largest value of a row.
    Int8,
    /// torchao: 8 bits with a zero.
    TorchaoInt8,
    /// 4-bit floats with an exponent for 32 of them.
    Mxfp4,
}

impl Scheme {
    /// The scheme that a configuration names; `None` if it names none, or bitsandbytes' 4 bits.
    ///
    /// # Errors
    /// If it is not supported.
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Option<Self>, DecoderError> {
        const KEY: &str = "quantization_config";
        let inner = match keys.get(KEY) {
            None => return Ok(None),
            Some(_) => keys.inner(KEY)?,
        };
        let method: String = inner.or("quant_method", String::new(), "a name")?;
        let expect = |key: &str, expected: &str, fits: fn(&Value) -> bool| match inner.get(key) {
            Some(found) if !fits(found) => Err(inner.error(key, found, expected)),
            _ => Ok(()),
        };
        Ok(Some(match method.as_str() {
            "bitsandbytes" if inner.get("load_in_4bit").is_some_and(|flag| *flag == true) => return Ok(None),
            "bitsandbytes" => Self::Int8,
            "gptq" => {
                expect("bits", "4", |bits| *bits == 4)?;
                expect("checkpoint_format", "gptq or gptq_v2", |name| *name == "gptq" || *name == "gptq_v2")?;
                let second = inner.get("checkpoint_format").is_some_and(|name| *name == "gptq_v2");
                Self::Gptq { offset: i32::from(!second) }
            }
            "awq" => {
                expect("bits", "4", |bits| *bits == 4)?;
                expect("version", "gemm", |version| *version == "gemm")?;
                Self::Awq
            }
            "compressed-tensors" => compressed(&inner)?,
            "fp8" => {
                let block =
                    inner.value::<[usize; 2]>("weight_block_size", "rows and columns")?.unwrap_or([1, usize::MAX]);
                if block.contains(&0) {
                    return Err(inner.error("weight_block_size", "0", "positive integers"));
                }
                Self::Scaled { block }
            }
            "torchao" => {
                let kind = inner.get("quant_type").map(|kind| kind["default"]["_type"].clone()).unwrap_or_default();
                if kind != "Int8WeightOnlyConfig" {
                    return Err(inner.error("quant_type.default._type", kind, "Int8WeightOnlyConfig"));
                }
                Self::TorchaoInt8
            }
            "mxfp4" => Self::Mxfp4,
            other => {
                let expected = "bitsandbytes, gptq, awq, compressed-tensors, fp8, torchao (int8) or mxfp4; or unquantised \
                                safetensors in f32, f16 or bf16; or a .gguf file";
                return Err(inner.error("quant_method", other, expected));
            }
        }))
    }
}

/// compressed-tensors, all of whose groups must be stored alike.
fn compressed(inner: &Keys<'_>) -> Result<Scheme, DecoderError> {
    let format: String = inner.or("format", String::new(), "a name")?;
    let groups = inner.inner("config_groups")?;
    let mut found = None;
    for (name, group) in groups.json {
        let weights = &group["weights"];
        let wrong = |key: &str, expected: &str| {
            inner.error(&format!("config_groups.{name}.weights.{key}"), &weights[key], expected)
        };
        if weights["symmetric"] == false {
            return Err(wrong("symmetric", "true"));
        }
        if weights["actorder"].as_str().is_some_and(|order| order != "weight" && order != "static") {
            return Err(wrong("actorder", "null or weight"));
        }
        let bits = weights["num_bits"].as_u64();
        let scheme = match (format.as_str(), weights["type"].as_str(), bits) {
            ("pack-quantized", Some("int"), Some(bits @ (4 | 8))) => Scheme::Packed { bits: bits as u32 },
            ("int-quantized", Some("int"), Some(8))
            | ("float-quantized" | "naive-quantized", Some("float"), Some(8)) => {
                let block = weights["block_structure"].as_array();
                let block = block.map(|sizes| sizes.iter().filter_map(|size| Some(size.as_u64()? as usize)).collect());
                let block: Vec<usize> = block.unwrap_or_else(|| vec![1, usize::MAX]);
                match block[..] {
                    [rows, cols] if rows > 0 && cols > 0 => Scheme::Scaled { block: [rows, cols] },
                    _ => return Err(wrong("block_structure", "rows and columns")),
                }
            }
            _ => {
                let expected = "pack-quantized int of 4 or 8 bits, int-quantized or float-quantized of 8";
                return Err(inner.error("format", format, expected));
            }
        };
        if found.replace(scheme).is_some_and(|other| other != scheme) {
            return Err(inner.error("config_groups", "groups that are stored differently", "one kind of storage"));
        }
    }
    found.ok_or_else(|| inner.error("config_groups", "nothing", "a group"))
}
