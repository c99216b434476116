//! From named tensors to the weights of a decoder, whatever the format names them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness_core::{Digest, Hasher};
use rayon::prelude::*;

use harness_kernels::{HostData, HostTensor};

use super::{ExpertWeights, LayerWeights, Weights};
use crate::{DecoderConfig, DecoderError};

/// A tensor of a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    QBias,
    KBias,
    VBias,
    OBias,
    InputNorm,
    PostAttentionNorm,
    QNorm,
    KNorm,
    Router,
}

/// A tensor of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertPart {
    Gate,
    Up,
    Down,
}

impl ExpertPart {
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

/// The place of a tensor in a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Embed,
    Norm,
    LmHead,
    Layer(usize, Part),
    /// Layer, expert, part.
    Expert(usize, usize, ExpertPart),
}

/// A number of things that have tensors of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Layers,
    Experts,
}

/// A file format that holds a decoder's tensors.
pub(crate) trait TensorSource: Sync {
    /// The file or directory, for messages.
    fn path(&self) -> &Path;
    /// What the format calls the tensor of a place.
    fn name(&self, place: Place) -> String;
    /// Number of tensors.
    fn len(&self) -> usize;
    /// The file and the key that say how many layers, or how many experts, there are.
    fn key_of(&self, count: Count) -> (PathBuf, String);
    /// Whether there is such a tensor.
    fn has(&self, name: &str) -> bool;
    /// Reads the tensor of a place, of exactly this shape, rows in Hugging Face's order.
    fn read(&self, place: Place, shape: &[usize]) -> Result<HostTensor, DecoderError>;
    /// A tensor that is none of these (the decoder's, by name) and that the format's own programs would not pass over.
    fn stranger(&self, known: &BTreeSet<String>) -> Option<String>;
}

/// The parts that every block of this configuration has.
fn parts(config: &DecoderConfig) -> Vec<Part> {
    use Part::*;
    let mut parts = vec![Q, K, V, O, InputNorm, PostAttentionNorm];
    if config.experts.is_some() {
        parts.push(Router)
    } else {
        parts.extend([Gate, Up, Down])
    }
    if config.qkv_bias {
        parts.extend([QBias, KBias, VBias]);
    }
    if config.o_bias {
        parts.push(OBias);
    }
    if config.qk_norm {
        parts.extend([QNorm, KNorm]);
    }
    parts
}

/// The shape of a part.
fn shape(config: &DecoderConfig, part: Part) -> Vec<usize> {
    let (h, m, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
    match part {
        Part::Q => vec![q, h],
        Part::K | Part::V => vec![kv, h],
        Part::O => vec![h, q],
        Part::Gate | Part::Up => vec![m, h],
        Part::Down => vec![h, m],
        Part::QBias => vec![q],
        Part::KBias | Part::VBias => vec![kv],
        Part::OBias | Part::InputNorm | Part::PostAttentionNorm => vec![h],
        Part::QNorm | Part::KNorm => vec![config.head_dim],
        Part::Router => vec![config.experts.map_or(0, |experts| experts.count), h],
    }
}

/// The shape of an expert's part.
fn expert_shape(config: &DecoderConfig, part: ExpertPart) -> [usize; 2] {
    let (h, m) = (config.hidden_size, config.intermediate_size);
    if part == ExpertPart::Down { [h, m] } else { [m, h] }
}

/// Reads all weights.
///
/// # Errors
/// A tensor that makes it another model than a decoder with a head; missing tensors, all of them named at once;
/// otherwise the first tensor of a wrong shape or type.
pub(crate) fn assemble(config: &DecoderConfig, source: &dyn TensorSource) -> Result<Weights, DecoderError> {
    let parts = parts(config);
    let tied = config.tie_word_embeddings;
    let has = |place| source.has(&source.name(place));
    check_counts(config, source)?;
    // Of two tied tensors either may be the one that is stored.
    let table = if tied && !has(Place::Embed) && has(Place::LmHead) { Place::LmHead } else { Place::Embed };
    let mut places = vec![table, Place::Norm];
    if !tied {
        places.push(Place::LmHead);
    }
    places.extend((0..config.num_layers).flat_map(|layer| parts.iter().map(move |&part| Place::Layer(layer, part))));
    let experts = config.experts.map_or(0, |experts| experts.count);
    places.extend((0..config.num_layers).flat_map(|layer| {
        let of = move |expert| ExpertPart::ALL.map(|part| Place::Expert(layer, expert, part));
        (0..experts).flat_map(of)
    }));
    let missing: Vec<String> =
        places.iter().map(|&place| source.name(place)).filter(|name| !source.has(name)).collect();
    let known = places.iter().chain([&Place::LmHead]).map(|&place| source.name(place)).collect();
    if let Some(tensor) = source.stranger(&known) {
        return Err(DecoderError::Stranger { path: source.path().to_owned(), tensor });
    }
    if !missing.is_empty() {
        return Err(DecoderError::MissingTensors { path: source.path().to_owned(), names: missing });
    }

    let vocabulary = [config.vocab_size, config.hidden_size];
    let vector = |place, shape: &[usize]| -> Result<Vec<f32>, DecoderError> {
        Ok(source.read(place, shape)?.to_f32().into_owned())
    };
    let layer = |layer: usize| -> Result<LayerWeights, DecoderError> {
        let matrix = |part| source.read(Place::Layer(layer, part), &shape(config, part));
        let norm = |part| vector(Place::Layer(layer, part), &shape(config, part));
        let optional = |part| if parts.contains(&part) { norm(part).map(Some) } else { Ok(None) };
        let dense = |part| {
            let empty = HostTensor::from_f32([0, 0], vec![]);
            if parts.contains(&part) { matrix(part) } else { Ok(empty) }
        };
        let expert = |expert: usize| -> Result<[HostTensor; 3], DecoderError> {
            let read = |part| source.read(Place::Expert(layer, expert, part), &expert_shape(config, part));
            Ok([read(ExpertPart::Gate)?, read(ExpertPart::Up)?, read(ExpertPart::Down)?])
        };
        let mixture = || -> Result<ExpertWeights, DecoderError> {
            Ok(ExpertWeights {
                router: matrix(Part::Router)?,
                experts: (0..experts).map(expert).collect::<Result<_, _>>()?,
            })
        };
        Ok(LayerWeights {
            q: matrix(Part::Q)?,
            k: matrix(Part::K)?,
            v: matrix(Part::V)?,
            o: matrix(Part::O)?,
            gate: dense(Part::Gate)?,
            up: dense(Part::Up)?,
            down: dense(Part::Down)?,
            q_bias: optional(Part::QBias)?,
            k_bias: optional(Part::KBias)?,
            v_bias: optional(Part::VBias)?,
            o_bias: optional(Part::OBias)?,
            input_norm: norm(Part::InputNorm)?,
            post_attention_norm: norm(Part::PostAttentionNorm)?,
            q_norm: optional(Part::QNorm)?,
            k_norm: optional(Part::KNorm)?,
            experts: if experts > 0 { Some(mixture()?) } else { None },
        })
    };
    let embed = source.read(table, &vocabulary)?;
    let lm_head = if table == Place::LmHead || !has(Place::LmHead) {
        None
    } else {
        let head = source.read(Place::LmHead, &vocabulary)?;
        if tied { head_of_its_own(head, &embed) } else { Some(head) }
    };
    Ok(Weights {
        embed,
        layers: (0..config.num_layers).into_par_iter().map(layer).collect::<Result<_, _>>()?,
        norm: vector(Place::Norm, &[config.hidden_size])?,
        lm_head,
    })
}

/// Fails if there are more layers or experts than tensors, before every one of theirs is looked for.
fn check_counts(config: &DecoderConfig, source: &dyn TensorSource) -> Result<(), DecoderError> {
    let experts = config.experts.map_or(0, |experts| experts.count);
    // Experts that are stacked have one tensor in common.
    let apart = experts > 0 && !source.has(&source.name(Place::Expert(0, experts - 1, ExpertPart::Gate)));
    let (layers, tensors) = (config.num_layers, source.len());
    let (count, found) = match () {
        () if layers > tensors => (Count::Layers, layers),
        () if apart && experts.saturating_mul(layers) > tensors => (Count::Experts, experts),
        () => return Ok(()),
    };
    let (path, key) = source.key_of(count);
    let expected = format!("no more than the files hold, which have {tensors} tensors");
    Err(DecoderError::Config { path, key, found: found.to_string(), expected })
}

/// A head that is stored although the configuration ties it to the embedding: it counts where it differs, as in
/// transformers 5.
fn head_of_its_own(head: HostTensor, embed: &HostTensor) -> Option<HostTensor> {
    const CHUNK: usize = 1 << 20;
    fn same<T: PartialEq + Sync>(a: &[T], b: &[T]) -> bool {
        a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).all(|(a, b)| a == b)
    }
    let tied = match (&head.data, &embed.data) {
        (HostData::F32(a), HostData::F32(b)) => same(a, b),
        (HostData::Bf16(a), HostData::Bf16(b)) => same(a, b),
        (HostData::F16(a), HostData::F16(b)) => same(a, b),
        _ => same(&head.to_f32(), &embed.to_f32()),
    };
    (!tied).then_some(head)
}

/// Hash of tensors by name, stored type, shape and stored bytes; independent of files, sharding and threads.
pub(crate) fn digest_tensors<'a>(
    purpose: &str,
    tensors: impl Iterator<Item = (&'a str, String, &'a [usize], &'a [u8])>,
) -> Digest {
    const CHUNK: usize = 1 << 22;
    let mut hasher = Hasher::new(purpose);
    for (name, dtype, shape, bytes) in tensors {
        hasher.part(name).part(dtype).part(format!("{shape:?}"));
        let chunks: Vec<Digest> = bytes.par_chunks(CHUNK).map(Digest::of).collect();
        chunks.iter().for_each(|chunk| {
            hasher.part(chunk.as_bytes());
        });
    }
    hasher.finish()
}
