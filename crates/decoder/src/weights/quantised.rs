//! Checkpoints whose linears are quantised by other tools: GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes' and torchao's
//! 8 bits, MXFP4. Their codes stay codes: mapped where rows follow one another, else turned to rows.

use std::path::Path;

use harness_kernels::{Buffer, CodeKind, CodedTensor, HostData, HostTensor, Scales, Zeros};
use rayon::prelude::*;
use safetensors::Dtype;

use super::safetensors::TensorStore;
use crate::{
    DecoderError,
    config::{Keys, Scheme},
};

/// The order of columns in eight nibbles of AWQ.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

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

    /// A linear `[out, in]` in codes; `None` if it is stored as it is.
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
        let codes = match self {
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
        Ok(Some(HostTensor { shape: shape.to_vec(), data: HostData::Coded(codes) }))
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
        let own = |bytes: &Buffer<u8>, size: usize| bytes.part(expert * size..(expert + 1) * size);
        let codes = CodedTensor {
            kind: CodeKind::E2m1,
            codes: own(&codes, rows * groups * 16),
            stride: groups * 16,
            rows,
            cols,
            scales: Scales::Exponents(own(&scales, rows * groups)),
            block: [1, 32],
            zeros: Zeros::Same(0),
            order: None,
            divisor: 1.0,
        };
        Ok(Some(HostTensor { shape: vec![rows, cols], data: HostData::Coded(codes) }))
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
    fn tensor(&self, name: &str, types: &[Dtype], shape: &[usize]) -> Result<Buffer<u8>, DecoderError> {
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
    fn floats(&self, suffix: &str, shapes: &[&[usize]]) -> Result<(Scales, usize), DecoderError> {
        let name = self.name(suffix);
        let tensor = self.store.tensor(&name)?;
        let of = |shape: &&[usize]| tensor.data.len() == shape.iter().product::<usize>();
        match (shapes.iter().position(of), tensor.data.scales()) {
            (Some(which), Some(scales)) => Ok((scales, which)),
            _ => Err(DecoderError::TensorShape {
                path: self.store.file_of(&name).to_owned(),
                tensor: name,
                found: tensor.shape,
                expected: shapes.first().map(|shape| shape.to_vec()).unwrap_or_default(),
            }),
        }
    }

    /// The scales of groups of inputs by row, and how many groups there are: as many as scales for each of `outputs` rows.
    /// They are stored by row, or by group.
    fn groups(
        &self,
        suffix: &str,
        outputs: usize,
        inputs: usize,
        by_row: bool,
    ) -> Result<(Scales, usize), DecoderError> {
        let scales = self.store.tensor(&self.name(suffix))?;
        let groups = scales.data.len() / outputs.max(1);
        let whole = groups > 0 && scales.data.len() == groups * outputs && groups <= inputs;
        let stored = match by_row {
            true => scales.data.scales(),
            false if whole => scales.clone().reshaped(&[groups, outputs]).transposed().data.scales(),
            false => None,
        };
        match stored.filter(|_| whole) {
            Some(stored) => Ok((stored, groups)),
            None => {
                let found = &scales.shape;
                let reason = format!("has shape {found:?}, expected groups of {inputs} inputs for {outputs} rows");
                Err(self.failed(suffix, &reason))
            }
        }
    }

    /// The group of every input by a tensor (act-order); `None` if there is no such tensor, or they follow one another.
    fn order(&self, suffix: &str, inputs: usize, groups: usize) -> Result<Option<Buffer<u32>>, DecoderError> {
        if !self.store.contains(&self.name(suffix)) {
            return Ok(None);
        }
        let order = self.words(suffix, &[inputs])?;
        if order.iter().any(|&group| group as usize >= groups) {
            return Err(self.failed(suffix, &format!("names a group beyond the {groups} that there are")));
        }
        let size = inputs.div_ceil(groups);
        let follow = order.iter().enumerate().all(|(input, &group)| input / size == group as usize);
        Ok((!follow).then(|| order.into()))
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

/// The columns of a matrix of words one after the other, as bytes.
fn turned(words: &[u32], cols: usize) -> Vec<u8> {
    let rows = words.len() / cols.max(1);
    let mut out = vec![0; words.len() * 4];
    out.par_chunks_exact_mut((rows * 4).max(1)).enumerate().for_each(|(col, out)| {
        for (row, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            *out = words[row * cols + col].to_le_bytes();
        }
    });
    out
}

fn gptq(source: &Source<'_>, [outputs, inputs]: [usize; 2], offset: i32) -> Result<CodedTensor, DecoderError> {
    let (scales, groups) = source.groups(".scales", outputs, inputs, false)?;
    let words = inputs.div_ceil(8);
    let codes = source.words(".qweight", &[words, outputs])?;
    let zeros = source.words(".qzeros", &[groups, outputs.div_ceil(8)])?;
    let zero = |o: usize, g: usize| (nibble(zeros[g * outputs.div_ceil(8) + o / 8], o % 8) + offset) as u8 & 15;
    let zeros: Vec<u8> = (0..outputs).flat_map(|o| (0..groups).map(move |g| (o, g))).map(|(o, g)| zero(o, g)).collect();
    Ok(CodedTensor {
        kind: CodeKind::Nibble,
        codes: turned(&codes, outputs).into(),
        stride: words * 4,
        rows: outputs,
        cols: inputs,
        scales,
        block: [1, inputs.div_ceil(groups)],
        zeros: Zeros::Each(zeros.into()),
        order: source.order(".g_idx", inputs, groups)?,
        divisor: 1.0,
    })
}

fn awq(source: &Source<'_>, [outputs, inputs]: [usize; 2]) -> Result<CodedTensor, DecoderError> {
    let (scales, groups) = source.groups(".scales", outputs, inputs, false)?;
    let words = outputs.div_ceil(8);
    let (codes, zeros) = (source.words(".qweight", &[inputs, words])?, source.words(".qzeros", &[groups, words])?);
    // The nibble of a column.
    let place: [usize; 8] = std::array::from_fn(|column| AWQ_ORDER.iter().position(|&c| c == column).unwrap_or(column));
    let zero = |o: usize, g: usize| nibble(zeros[g * words + o / 8], place[o % 8]) as u8;
    let zeros: Vec<u8> = (0..outputs).flat_map(|o| (0..groups).map(move |g| (o, g))).map(|(o, g)| zero(o, g)).collect();
    let stride = inputs.div_ceil(2);
    let mut rows = vec![0u8; outputs * stride];
    // A word has a code of each of eight rows.
    rows.par_chunks_mut(8 * stride).enumerate().for_each(|(word, rows)| {
        for (input, codes) in codes.chunks_exact(words).enumerate() {
            for (row, place) in rows.chunks_exact_mut(stride).zip(place) {
                row[input / 2] |= (nibble(codes[word], place) as u8) << (4 * (input % 2));
            }
        }
    });
    Ok(CodedTensor {
        kind: CodeKind::Nibble,
        codes: rows.into(),
        stride,
        rows: outputs,
        cols: inputs,
        scales,
        block: [1, inputs.div_ceil(groups)],
        zeros: Zeros::Each(zeros.into()),
        order: None,
        divisor: 1.0,
    })
}

fn packed(source: &Source<'_>, [outputs, inputs]: [usize; 2], bits: u32) -> Result<CodedTensor, DecoderError> {
    let words = inputs.div_ceil(32 / bits as usize);
    let (scales, groups) = source.groups(".weight_scale", outputs, inputs, true)?;
    Ok(CodedTensor {
        kind: if bits == 4 { CodeKind::Nibble } else { CodeKind::Unsigned },
        codes: source.tensor(&source.name(".weight_packed"), &[Dtype::I32], &[outputs, words])?,
        stride: words * 4,
        rows: outputs,
        cols: inputs,
        scales,
        block: [1, inputs.div_ceil(groups)],
        zeros: Zeros::Same(1 << (bits - 1)),
        order: source.order(".weight_g_idx", inputs, groups)?,
        divisor: 1.0,
    })
}

/// A byte an element, row by row, and a scale for every row.
fn by_row(kind: CodeKind, codes: Buffer<u8>, [rows, cols]: [usize; 2], scales: Scales) -> CodedTensor {
    let (block, zeros) = ([1, cols], Zeros::Same(0));
    CodedTensor { kind, codes, stride: cols, rows, cols, scales, block, zeros, order: None, divisor: 1.0 }
}

fn scaled(source: &Source<'_>, [outputs, inputs]: [usize; 2], block: [usize; 2]) -> Result<CodedTensor, DecoderError> {
    let name = source.name(".weight");
    let is_float = matches!(source.store.info(&name), Some((Dtype::F8_E4M3, _)));
    let codes = source.tensor(&name, &[Dtype::F8_E4M3, Dtype::I8], &[outputs, inputs])?;
    let inverse = source.store.contains(&source.name(".weight_scale_inv"));
    let suffix = if inverse { ".weight_scale_inv" } else { ".weight_scale" };
    let [rows, cols] = [block[0].min(outputs), block[1].min(inputs)];
    let blocks = [outputs.div_ceil(rows), inputs.div_ceil(cols)];
    let (scales, which) = source.floats(suffix, &[&blocks, &[outputs, 1], &[1]])?;
    let block = [[rows, cols], [1, inputs], [outputs, inputs]][which];
    let kind = if is_float { CodeKind::E4m3 } else { CodeKind::Signed };
    Ok(CodedTensor { block, ..by_row(kind, codes, [outputs, inputs], scales) })
}

fn int8(source: &Source<'_>, shape: [usize; 2]) -> Result<CodedTensor, DecoderError> {
    let codes = source.tensor(&source.name(".weight"), &[Dtype::I8], &shape)?;
    let (largest, _) = source.floats(".SCB", &[&[shape[0]]])?;
    Ok(CodedTensor { divisor: 127.0, ..by_row(CodeKind::Signed, codes, shape, largest) })
}

fn torchao(source: &Source<'_>, shape: [usize; 2]) -> Result<CodedTensor, DecoderError> {
    let codes = source.tensor(&source.name("._weight_qdata"), &[Dtype::I8], &shape)?;
    let (scales, _) = source.floats("._weight_scale", &[&[shape[0], 1]])?;
    let name = source.name("._weight_zero_point");
    let zeros = match source.store.contains(&name) {
        true => source.tensor(&name, &[Dtype::I8], &[shape[0], 1])?,
        false => vec![].into(),
    };
    let zeros = if zeros.iter().all(|&zero| zero == 0) { Zeros::Same(0) } else { Zeros::Each(zeros) };
    Ok(CodedTensor { zeros, ..by_row(CodeKind::Signed, codes, shape, scales) })
}

/// The scheme of a folder's `config.json`.
pub(crate) fn scheme(folder: &Path) -> Result<Option<Scheme>, DecoderError> {
    let path = folder.join("config.json");
    let json = crate::read_json(&path)?;
    Scheme::read(&Keys { path: &path, json: &json, prefix: "", names: &[] })
}
