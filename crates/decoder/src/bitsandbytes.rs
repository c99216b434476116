//! The tensors that bitsandbytes stores beside a quantised weight, read and written.

use serde::{Deserialize, Serialize};

use crate::{DecoderError, weights::TensorStore};
use harness_kernels::{BlockScales, Buffer, CODEBOOK, HostData, HostTensor, NestedScales, Nf4Tensor, Quantization};

/// What follows a weight's name in the names of the tensors beside it.
const STATE: &str = "quant_state.bitsandbytes__nf4";

/// The part of the state that is no tensor, as JSON in a tensor of bytes.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nested_blocksize: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nested_dtype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nested_offset: Option<f64>,
}

/// Reads a weight that bitsandbytes quantised; `None` if this one is not.
///
/// # Errors
/// If a tensor beside it is missing or does not fit, or the codes are not NF4.
pub(crate) fn read(store: &TensorStore, name: &str) -> Result<Option<HostTensor>, DecoderError> {
    let failed = |tensor: &str, reason: String| DecoderError::Weights {
        path: store.file_of(name).to_owned(),
        reason: format!("tensor `{tensor}`: {reason}"),
    };
    if store.contains(&format!("{name}.quant_state.bitsandbytes__fp4")) {
        return Err(failed(name, "is quantised to FP4; supported is NF4 (bnb_4bit_quant_type = \"nf4\")".to_owned()));
    }
    let state_name = format!("{name}.{STATE}");
    if !store.contains(&state_name) {
        return Ok(None);
    }
    let bytes = store.bytes(&state_name)?;
    let state: State = serde_json::from_slice(&bytes).map_err(|e| failed(&state_name, format!("no state: {e}")))?;
    let options = Quantization { block_size: state.blocksize, ..Quantization::default() };
    if options.check().is_err() || state.quant_type != "nf4" {
        let found = format!("{} in blocks of {}", state.quant_type, state.blocksize);
        return Err(failed(&state_name, format!("{found}; expected nf4 in blocks of a power of two from 32 to 4096")));
    }
    let len = state.shape.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
    let len = len.ok_or_else(|| failed(&state_name, format!("shape {:?} has no size", state.shape)))?;
    let codes = store.bytes(name)?;
    let blocks = len.div_ceil(state.blocksize);
    let expect = |tensor: &str, found: usize, expected: usize| {
        if found == expected {
            Ok(())
        } else {
            Err(failed(tensor, format!("has {found} elements, expected {expected}")))
        }
    };
    expect(name, codes.len(), len.div_ceil(2))?;
    let same = |suffix: &str, expected: &[f32]| -> Result<(), DecoderError> {
        let tensor = format!("{name}.{suffix}");
        let found = store.tensor(&tensor)?;
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6;
        match found.data.len() == expected.len() && found.to_f32().iter().zip(expected).all(near) {
            true => Ok(()),
            false => {
                Err(failed(&tensor, "is not the standard map; weights with maps of their own are not read".into()))
            }
        }
    };
    same("quant_map", &CODEBOOK)?;
    let absmax = format!("{name}.absmax");
    let scales = match state.nested_offset {
        None => {
            let tensor = store.tensor(&absmax)?;
            expect(&absmax, tensor.data.len(), blocks)?;
            BlockScales::Plain(tensor.to_f32().into_owned().into())
        }
        Some(offset) => {
            same("nested_quant_map", NestedScales::map())?;
            if state.nested_blocksize != Some(NestedScales::BLOCK) {
                let found = format!("nested_blocksize {:?}", state.nested_blocksize);
                return Err(failed(&state_name, format!("{found}; expected {}", NestedScales::BLOCK)));
            }
            let codes = store.bytes(&absmax)?;
            expect(&absmax, codes.len(), blocks)?;
            let nested = format!("{name}.nested_absmax");
            let outer = store.tensor(&nested)?;
            expect(&nested, outer.data.len(), blocks.div_ceil(NestedScales::BLOCK))?;
            let outer: Buffer<f32> = outer.to_f32().into_owned().into();
            BlockScales::Nested(NestedScales { codes, absmax: outer, offset: offset as f32 })
        }
    };
    let data = HostData::Nf4(Nf4Tensor { codes, scales, block: state.blocksize, len });
    Ok(Some(HostTensor { shape: state.shape, data }))
}

/// The tensors of a quantised weight of this name: name, safetensors type, shape, bytes. `dtype` is the type that
/// others compute in, e.g. `bfloat16`.
pub(crate) fn write(
    name: &str,
    shape: &[usize],
    tensor: &Nf4Tensor,
    dtype: &str,
) -> Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> {
    use safetensors::Dtype::{F32, U8};
    let floats = |data: &[f32]| data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let mut state = State {
        quant_type: "nf4".to_owned(),
        blocksize: tensor.block,
        dtype: dtype.to_owned(),
        shape: shape.to_vec(),
        nested_blocksize: None,
        nested_dtype: None,
        nested_offset: None,
    };
    let at = |suffix: &str| format!("{name}.{suffix}");
    let mut all = vec![
        (name.to_owned(), U8, vec![tensor.codes.len(), 1], tensor.codes.to_vec()),
        (at("quant_map"), F32, vec![16], floats(&CODEBOOK)),
    ];
    match &tensor.scales {
        BlockScales::Plain(scales) => all.push((at("absmax"), F32, vec![scales.len()], floats(scales))),
        BlockScales::Nested(scales) => {
            state.nested_blocksize = Some(NestedScales::BLOCK);
            state.nested_dtype = Some("float32".to_owned());
            state.nested_offset = Some(f64::from(scales.offset));
            all.push((at("absmax"), U8, vec![scales.codes.len()], scales.codes.to_vec()));
            all.push((at("nested_absmax"), F32, vec![scales.absmax.len()], floats(&scales.absmax)));
            all.push((at("nested_quant_map"), F32, vec![NestedScales::map().len()], floats(NestedScales::map())));
        }
    }
    let json = serde_json::to_vec(&state).unwrap_or_default();
    all.push((at(STATE), U8, vec![json.len()], json));
    all
}

#[cfg(test)]
mod tests;
