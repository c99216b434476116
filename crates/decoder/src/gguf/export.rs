//! A model in Hugging Face layout as a GGUF file.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use harness_core::Control;
use harness_kernels::{HostTensor, gguf::BlockType};

use super::{
    GgufFile, GgufType, describe, families,
    format::Value,
    layout::{LAYOUTS, Layout, Output, outputs},
    tensors::pairs_from_halves,
    write::{Tensor, header},
};
use crate::{
    DecoderConfig, DecoderError,
    config::read_config,
    weights::{HfSource, Remapped, TensorSource, is_tied, refuse_quantised},
};

/// Elements that are in memory as f32 at a time, at least a row.
const ELEMENTS: usize = 1 << 22;

/// Writes a model in Hugging Face layout to the GGUF file `to`; memory holds a tensor at a time. `more` is the metadata
/// beside the decoder's, the tokenizer's above all. `on_tensor` is told how many of how many tensors are written, and may
/// stop the work; the file is then incomplete, as after an error.
///
/// # Errors
/// If the model cannot be read or is quantised, llama.cpp's files of its family are not written here or cannot say what it
/// computes, a weight is not finite or beyond the range of its type, or the file cannot be written;
/// [`DecoderError::Stopped`].
pub fn write_gguf(
    folder: &Path,
    to: &Path,
    kind: GgufType,
    more: Vec<(String, Value)>,
    on_tensor: &mut dyn FnMut(usize, usize) -> Control,
) -> Result<(), DecoderError> {
    refuse_quantised(folder)?;
    let mut config = read_config(folder)?;
    let mut tensors = Remapped::new(folder)?;
    config.tie_word_embeddings = is_tied(tensors.store(0)?, &config)?;
    let refused = |reason: String| DecoderError::Gguf { path: to.to_owned(), reason };
    let (layout, permuted) = layout(&config).map_err(refused)?;

    let small = describe::rotation(&config);
    let rotation = small.iter().map(|(name, values)| Tensor {
        name: (*name).to_owned(),
        shape: vec![values.len()],
        kind: BlockType::F32,
    });
    let outputs = outputs(&config, layout, permuted);
    let described = outputs.iter().map(|output| Tensor {
        name: output.name.clone(),
        shape: output.shape.clone(),
        kind: kind.of(&output.name, &output.shape, output.layer, layout.name, &config),
    });
    let all: Vec<Tensor> = rotation.chain(described).collect();
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(layout.name.to_owned())),
        ("general.type".to_owned(), Value::String("model".to_owned())),
        ("general.file_type".to_owned(), Value::U32(kind.code())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    metadata.extend(describe::describe(&config, layout));
    metadata.extend(more);
    let (head, places) = header(&metadata, &all.iter().collect::<Vec<_>>());

    let failed = |error| DecoderError::write(to, error);
    let file = File::create(to).map_err(failed)?;
    let mut out = BufWriter::new(file);
    out.write_all(&head).map_err(failed)?;
    let mut at = head.len() as u64;
    for (_, values) in &small {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        put(&mut out, &bytes, &mut at).map_err(failed)?;
        pad(&mut out, &mut at).map_err(failed)?;
    }
    // Its end is there, and zeros before it: enough to read the configuration, before the long work begins.
    out.flush().map_err(failed)?;
    out.get_ref().set_len(places.last().copied().unwrap_or(at)).map_err(failed)?;
    check(&config, layout, to)?;
    for (number, (output, tensor)) in outputs.iter().zip(&all[small.len()..]).enumerate() {
        let mut write = |bytes: &[u8]| put(&mut out, bytes, &mut at).map_err(failed);
        write_tensor(&mut tensors, &config, output, tensor.kind, &mut write)?;
        pad(&mut out, &mut at).map_err(failed)?;
        if on_tensor(number + 1, outputs.len()) == Control::Stop {
            return Err(DecoderError::Stopped);
        }
    }
    tensors.check()?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)
}

/// Writes a GGUF file that holds metadata and no tensors, as llama.cpp has them of vocabularies.
///
/// # Errors
/// If it cannot be written.
pub fn write_gguf_vocabulary(to: &Path, metadata: &[(String, Value)]) -> Result<(), DecoderError> {
    std::fs::write(to, header(metadata, &[]).0).map_err(|e| DecoderError::write(to, e))
}

/// How a family is stored, and whether the rows of its q and k are in the order of pairs.
fn layout(config: &DecoderConfig) -> Result<(&'static Layout, bool), String> {
    let name = config.architecture.name();
    let found = LAYOUTS.iter().find(|layout| layout.of.contains(&name));
    let layout = found.ok_or_else(|| {
        let known: Vec<&str> = LAYOUTS.iter().flat_map(|layout| layout.of).copied().collect();
        format!("models of the family {name} are not written as GGUF; those that are: {}", known.join(", "))
    })?;
    let family = families::ARCHITECTURES.iter().find(|family| family.name == layout.name);
    Ok((layout, family.is_some_and(|family| family.permuted)))
}

/// Fails if the file says something else of the decoder than the model does.
fn check(config: &DecoderConfig, layout: &Layout, to: &Path) -> Result<(), DecoderError> {
    let read = GgufFile::open(to)?.config()?;
    let limited = |tensor: &str| GgufFile::open(to).is_ok_and(|file| file.has(tensor));
    // llama.cpp reads these for these families only.
    let elsewhere = limited("rope_freqs.weight") && !["llama", "smollm3"].contains(&layout.name)
        || limited("rope_factors_long.weight") && layout.name != "phi3";
    let some_only = config.experts.is_some() && (0..config.num_layers).any(|layer| !config.is_sparse(layer));
    let differs = match describe::compare(config, &read) {
        Ok(()) if some_only => "experts of some layers only".to_owned(),
        Ok(()) if elsewhere => "rope_scaling".to_owned(),
        Ok(()) => return Ok(()),
        Err(name) => name,
    };
    Err(DecoderError::Gguf {
        path: to.to_owned(),
        reason: format!(
            "`{differs}` of this model cannot be said in a GGUF file of llama.cpp's architecture {:?}: it would compute \
             something else there",
            layout.name
        ),
    })
}

fn put(out: &mut impl Write, bytes: &[u8], at: &mut u64) -> std::io::Result<()> {
    *at += bytes.len() as u64;
    out.write_all(bytes)
}

/// Zeros up to the place of the next tensor.
fn pad(out: &mut impl Write, at: &mut u64) -> std::io::Result<()> {
    let zeros = at.next_multiple_of(32) - *at;
    put(out, &vec![0; zeros as usize], at)
}

fn write_tensor(
    tensors: &mut Remapped,
    config: &DecoderConfig,
    output: &Output,
    kind: BlockType,
    write: &mut dyn FnMut(&[u8]) -> Result<(), DecoderError>,
) -> Result<(), DecoderError> {
    for (place, shape) in &output.sources {
        let elements: usize = shape.iter().product();
        let source = HfSource::new(tensors.store(4 * elements as u64)?, config, None);
        let tensor = source.read(*place, shape)?;
        let tensor = if output.permuted { pairs_from_halves(tensor, config.head_dim) } else { tensor };
        let wrong = || match tensor.to_f32().iter().all(|x| x.is_finite()) {
            true => DecoderError::OutOfRange { tensor: source.name(*place), dtype: kind.name() },
            false => DecoderError::NotFinite { tensor: source.name(*place) },
        };
        rows(&tensor, output.one_more, &mut |values| write(&kind.quantise(values).ok_or_else(wrong)?))?;
    }
    Ok(())
}

/// Some rows at a time in f32.
fn rows(
    tensor: &HostTensor,
    one_more: bool,
    each: &mut dyn FnMut(&[f32]) -> Result<(), DecoderError>,
) -> Result<(), DecoderError> {
    // Blocks are parts of innermost rows.
    let cols = tensor.shape.last().copied().unwrap_or(1).max(1);
    let all = tensor.data.len() / cols;
    let tensor = tensor.clone().reshaped(&[all, cols]);
    let step = (ELEMENTS / cols).max(1);
    for first in (0..all).step_by(step) {
        let part = tensor.select_rows(std::iter::once(first..all.min(first + step)));
        let mut values = part.to_f32().into_owned();
        if one_more {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        each(&values)?;
    }
    Ok(())
}
