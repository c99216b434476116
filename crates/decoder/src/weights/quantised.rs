//! Checkpoints whose linears are quantised by other tools: GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes' and torchao's
//! 8 bits, MXFP4. They are widened to f32 when they are read.

use std::path::Path;

use harness_kernels::HostTensor;
use rayon::prelude::*;
use safetensors::Dtype;

use super::safetensors::TensorStore;
use crate::{
    DecoderError,
    config::{Keys, Scheme},
};

/// The order of columns in eight nibbles of AWQ.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The values of MXFP4's codes.
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

impl Scheme {
    /// Whether a linear of this name is there, in the scheme's form or as it is.
    pub(crate) fn has(self, store: &TensorStore, name: &str) -> bool {
        store.contains(name) || self.main(name).is_some_and(|main| store.contains(&main))
    }

    /// The tensor of codes of a linear.
    fn main(self, name: &str) -> Option<String> {
        let stem = name.strip_suffix(".weight");
        match self {
            Self::Gptq { .. } | Self::Awq => stem.map(|stem| format!("{stem}.qweight")),
            Self::Packed { .. } => stem.map(|stem| format!("{stem}.weight_packed")),
            Self::TorchaoInt8 => stem.map(|stem| format!("{stem}._weight_qdata")),
            Self::Mxfp4 => Some(format!("{name}_blocks")),
            Self::Scaled { .. } | Self::Int8 => Some(name.to_owned()),
        }
    }

    /// A linear `[out, in]`, widened; `None` if it is stored as it is.
    ///
    /// # Errors
    /// If a tensor beside it is missing, or of another shape or type.
    pub(crate) fn linear(
        self,
        store: &TensorStore,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<HostTensor>, DecoderError> {
        let Some(main) = self.main(name).filter(|main| store.contains(main)) else { return Ok(None) };
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let source = Source { store, stem };
        let weights = match self {
            Self::Gptq { offset } => gptq(&source, shape, offset)?,
            Self::Awq => awq(&source, shape)?,
            Self::Packed { bits } => packed(&source, shape, bits)?,
            Self::Scaled { block } => match store.info(&main) {
                Some((Dtype::F8_E4M3 | Dtype::I8, _)) => scaled(&source, shape, block)?,
                _ => return Ok(None),
            },
            Self::Int8 => match store.info(&main) {
                Some((Dtype::I8, _)) => int8(&source, shape)?,
                _ => return Ok(None),
            },
            Self::TorchaoInt8 => torchao(&source, shape)?,
            Self::Mxfp4 => return Ok(None),
        };
        Ok(Some(HostTensor::from_f32(shape, weights)))
    }

    /// A matrix `[rows, cols]` of one expert of a stack in MXFP4; `None` if the stack is stored as it is.
    ///
    /// # Errors
    /// As [`Self::linear`].
    pub(crate) fn expert(
        self,
        store: &TensorStore,
        name: &str,
        (expert, count): (usize, usize),
        [rows, cols]: [usize; 2],
    ) -> Result<Option<HostTensor>, DecoderError> {
        let blocks = format!("{name}_blocks");
        if self != Self::Mxfp4 || !store.contains(&blocks) {
            return Ok(None);
        }
        let source = Source { store, stem: name };
        let groups = cols.div_ceil(32);
        let codes = source.tensor(&blocks, &[Dtype::U8], &[count, rows, groups, 16])?;
        let scales = source.tensor(&format!("{name}_scales"), &[Dtype::U8], &[count, rows, groups])?;
        let first = expert * rows * groups;
        let mut out = vec![0.0; rows * cols];
        out.par_chunks_exact_mut(cols).enumerate().for_each(|(row, out)| {
            for (group, out) in out.chunks_mut(32).enumerate() {
                let at = first + row * groups + group;
                let scale = (f32::from(scales[at]) - 127.0).exp2();
                for (i, y) in out.iter_mut().enumerate() {
                    let byte = codes[at * 16 + i / 2];
                    *y = E2M1[usize::from(if i % 2 == 0 { byte & 15 } else { byte >> 4 })] * scale;
                }
            }
        });
        Ok(Some(HostTensor::from_f32([rows, cols], out)))
    }
}

/// The tensors of one linear.
struct Source<'a> {
    store: &'a TensorStore,
    stem: &'a str,
}

impl Source<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.stem)
    }

    /// The bytes of a tensor of one of these types and of this shape.
    fn tensor(
        &self,
        name: &str,
        types: &[Dtype],
        shape: &[usize],
    ) -> Result<harness_kernels::Buffer<u8>, DecoderError> {
        let path = || self.store.file_of(name).to_owned();
        let Some((dtype, found)) = self.store.info(name) else {
            return Err(DecoderError::MissingTensors { path: path(), names: vec![name.to_owned()] });
        };
        if !types.contains(&dtype) || found.iter().product::<usize>() != shape.iter().product::<usize>() {
            let expected = format!("{:?} of shape {shape:?}", types[0]);
            let reason = format!("tensor `{name}` is {dtype:?} of shape {found:?}, expected {expected}");
            return Err(DecoderError::Weights { path: path(), reason });
        }
        self.store.bytes(name)
    }

    fn words(&self, suffix: &str, shape: &[usize]) -> Result<Vec<u32>, DecoderError> {
        let bytes = self.tensor(&self.name(suffix), &[Dtype::I32], shape)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Numbers of any float type, of one of these shapes; which one.
    fn floats(&self, suffix: &str, shapes: &[&[usize]]) -> Result<(Vec<f32>, usize), DecoderError> {
        let name = self.name(suffix);
        let tensor = self.store.tensor(&name)?;
        let of = |shape: &&[usize]| tensor.data.len() == shape.iter().product::<usize>();
        let Some(which) = shapes.iter().position(of) else {
            return Err(DecoderError::TensorShape {
                path: self.store.file_of(&name).to_owned(),
                tensor: name,
                found: tensor.shape,
                expected: shapes.first().map(|shape| shape.to_vec()).unwrap_or_default(),
            });
        };
        Ok((tensor.to_f32().into_owned(), which))
    }

    /// The scales of groups of inputs, and how many groups there are: as many as scales for each of `outputs` rows.
    fn groups(&self, suffix: &str, outputs: usize, inputs: usize) -> Result<(Vec<f32>, usize), DecoderError> {
        let scales = self.store.tensor(&self.name(suffix))?;
        let groups = scales.data.len() / outputs.max(1);
        if groups == 0 || scales.data.len() != groups * outputs || groups > inputs {
            let reason = format!("has shape {:?}, expected groups of {inputs} inputs for {outputs} rows", scales.shape);
            return Err(self.failed(suffix, &reason));
        }
        Ok((scales.to_f32().into_owned(), groups))
    }

    /// The group of every input: by a tensor where there is one (act-order), else one after the other.
    fn group_of_inputs(&self, suffix: &str, inputs: usize, groups: usize) -> Result<Vec<usize>, DecoderError> {
        if !self.store.contains(&self.name(suffix)) {
            let size = inputs.div_ceil(groups);
            return Ok((0..inputs).map(|input| input / size).collect());
        }
        let group: Vec<usize> = self.words(suffix, &[inputs])?.into_iter().map(|group| group as usize).collect();
        if group.iter().any(|&group| group >= groups) {
            return Err(self.failed(suffix, &format!("names a group beyond the {groups} that there are")));
        }
        Ok(group)
    }

    fn failed(&self, suffix: &str, reason: &str) -> DecoderError {
        let name = self.name(suffix);
        let reason = format!("tensor `{name}` {reason}");
        DecoderError::Weights { path: self.store.file_of(&name).to_owned(), reason }
    }
}

fn nibble(word: u32, i: usize) -> i32 {
    ((word >> (4 * i)) & 15) as i32
}

fn gptq(source: &Source<'_>, [outputs, inputs]: [usize; 2], offset: i32) -> Result<Vec<f32>, DecoderError> {
    let (scales, groups) = source.groups(".scales", outputs, inputs)?;
    let codes = source.words(".qweight", &[inputs.div_ceil(8), outputs])?;
    let zeros = source.words(".qzeros", &[groups, outputs.div_ceil(8)])?;
    let group = source.group_of_inputs(".g_idx", inputs, groups)?;
    let mut out = vec![0.0; outputs * inputs];
    out.par_chunks_exact_mut(inputs).enumerate().for_each(|(o, out)| {
        for (i, y) in out.iter_mut().enumerate() {
            let g = group[i];
            let zero = (nibble(zeros[g * outputs.div_ceil(8) + o / 8], o % 8) + offset) & 15;
            *y = scales[g * outputs + o] * (nibble(codes[i / 8 * outputs + o], i % 8) - zero) as f32;
        }
    });
    Ok(out)
}

fn awq(source: &Source<'_>, [outputs, inputs]: [usize; 2]) -> Result<Vec<f32>, DecoderError> {
    let (scales, groups) = source.groups(".scales", outputs, inputs)?;
    let words = outputs.div_ceil(8);
    let (codes, zeros) = (source.words(".qweight", &[inputs, words])?, source.words(".qzeros", &[groups, words])?);
    let size = inputs.div_ceil(groups);
    // The nibble of a column.
    let place: [usize; 8] = std::array::from_fn(|column| AWQ_ORDER.iter().position(|&c| c == column).unwrap_or(column));
    let mut out = vec![0.0; outputs * inputs];
    out.par_chunks_exact_mut(inputs).enumerate().for_each(|(o, out)| {
        for (i, y) in out.iter_mut().enumerate() {
            let (g, at) = (i / size, place[o % 8]);
            let value = nibble(codes[i * words + o / 8], at) - nibble(zeros[g * words + o / 8], at);
            *y = scales[g * outputs + o] * value as f32;
        }
    });
    Ok(out)
}

fn packed(source: &Source<'_>, [outputs, inputs]: [usize; 2], bits: u32) -> Result<Vec<f32>, DecoderError> {
    let in_word = 32 / bits as usize;
    let words = inputs.div_ceil(in_word);
    let codes = source.words(".weight_packed", &[outputs, words])?;
    let (scales, groups) = source.groups(".weight_scale", outputs, inputs)?;
    let group = source.group_of_inputs(".weight_g_idx", inputs, groups)?;
    let (mask, zero) = ((1u32 << bits) - 1, 1i32 << (bits - 1));
    let mut out = vec![0.0; outputs * inputs];
    out.par_chunks_exact_mut(inputs).enumerate().for_each(|(o, out)| {
        for (i, y) in out.iter_mut().enumerate() {
            let code = codes[o * words + i / in_word] >> (bits as usize * (i % in_word)) & mask;
            *y = (code as i32 - zero) as f32 * scales[o * groups + group[i]];
        }
    });
    Ok(out)
}

/// The values of 8-bit floats with four bits of exponent and three of mantissa; there are no infinities.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let value = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * (-9f32).exp2(),
        _ => (8.0 + mantissa) * ((exponent - 10) as f32).exp2(),
    };
    if byte & 0x80 == 0 { value } else { -value }
}

fn scaled(source: &Source<'_>, [outputs, inputs]: [usize; 2], block: [usize; 2]) -> Result<Vec<f32>, DecoderError> {
    let name = source.name(".weight");
    let is_float = matches!(source.store.info(&name), Some((Dtype::F8_E4M3, _)));
    let codes = source.tensor(&name, &[Dtype::F8_E4M3, Dtype::I8], &[outputs, inputs])?;
    let inverse = source.store.contains(&source.name(".weight_scale_inv"));
    let suffix = if inverse { ".weight_scale_inv" } else { ".weight_scale" };
    let [rows, cols] = [block[0].min(outputs), block[1].min(inputs)];
    let blocks = [outputs.div_ceil(rows), inputs.div_ceil(cols)];
    let (scales, which) = source.floats(suffix, &[&blocks, &[outputs, 1], &[1]])?;
    let table: Vec<f32> =
        (0..=255u8).map(|byte| if is_float { e4m3(byte) } else { f32::from(byte.cast_signed()) }).collect();
    let mut out = vec![0.0; outputs * inputs];
    out.par_chunks_exact_mut(inputs).enumerate().for_each(|(o, out)| {
        for (i, y) in out.iter_mut().enumerate() {
            let scale = match which {
                0 => scales[o / rows * blocks[1] + i / cols],
                1 => scales[o],
                _ => scales[0],
            };
            *y = table[usize::from(codes[o * inputs + i])] * scale;
        }
    });
    Ok(out)
}

fn int8(source: &Source<'_>, [outputs, inputs]: [usize; 2]) -> Result<Vec<f32>, DecoderError> {
    let codes = source.tensor(&source.name(".weight"), &[Dtype::I8], &[outputs, inputs])?;
    let (largest, _) = source.floats(".SCB", &[&[outputs]])?;
    let rows = codes.chunks_exact(inputs).zip(&largest);
    Ok(rows.flat_map(|(row, largest)| row.iter().map(move |&q| f32::from(q.cast_signed()) * largest / 127.0)).collect())
}

fn torchao(source: &Source<'_>, [outputs, inputs]: [usize; 2]) -> Result<Vec<f32>, DecoderError> {
    let codes = source.tensor(&source.name("._weight_qdata"), &[Dtype::I8], &[outputs, inputs])?;
    let (scales, _) = source.floats("._weight_scale", &[&[outputs, 1]])?;
    let name = source.name("._weight_zero_point");
    let zeros = match source.store.contains(&name) {
        true => source.tensor(&name, &[Dtype::I8], &[outputs, 1])?.to_vec(),
        false => vec![0; outputs],
    };
    let value =
        |row: usize, q: u8| f32::from(i16::from(q.cast_signed()) - i16::from(zeros[row].cast_signed())) * scales[row];
    Ok(codes.iter().enumerate().map(|(at, &q)| value(at / inputs, q)).collect())
}

/// The scheme of a folder's `config.json`.
pub(crate) fn scheme(folder: &Path) -> Result<Option<Scheme>, DecoderError> {
    let path = folder.join("config.json");
    let json = crate::read_json(&path)?;
    Scheme::read(&Keys { path: &path, json: &json, prefix: "", names: &[] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits() {
        let cases = [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        for (byte, value) in cases {
            assert_eq!(e4m3(byte), value, "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }
}
