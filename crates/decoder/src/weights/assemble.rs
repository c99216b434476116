//! From named tensors to the weights of a decoder, whatever the format names them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness_core::{Digest, Hasher};
use rayon::prelude::*;

use harness_kernels::{HostData, HostTensor, cpu::activation::Activation};

use super::{ConvolutionWeights, ExpertWeights, LatentWeights, LayerWeights, MoreTop, MoreWeights, Weights};
use crate::{DecoderConfig, DecoderError, Experts, Latent, NormWeight, Placement, Positions, Projection, Span};

/// A tensor of a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    GateBias,
    UpBias,
    DownBias,
    InputNormBias,
    PostAttentionNormBias,
    AttentionOutNorm,
    FeedForwardOutNorm,
    QNormBias,
    KNormBias,
    Sinks,
    XieluPositive,
    XieluNegative,
    XieluBeta,
    XieluEps,
    RouterBias,
    SelectionBias,
    SharedGate,
    SharedUp,
    SharedDown,
    SharedGateBias,
    SharedUpBias,
    SharedDownBias,
    SharedSigmoid,
    QDown,
    QDownBias,
    QDownNorm,
    QUp,
    KvDown,
    KvDownBias,
    KvDownNorm,
    KvUp,
    ConvIn,
    ConvInBias,
    Conv,
    ConvBias,
    ConvOut,
    ConvOutBias,
}

impl Part {
    /// The linear whose weight this is.
    pub(crate) fn projection(self) -> Option<Projection> {
        Some(match self {
            Self::Q => Projection::Q,
            Self::K => Projection::K,
            Self::V => Projection::V,
            Self::O => Projection::O,
            Self::Gate => Projection::Gate,
            Self::Up => Projection::Up,
            Self::Down => Projection::Down,
            Self::QDown => Projection::QDown,
            Self::QUp => Projection::QUp,
            Self::KvDown => Projection::KvDown,
            Self::KvUp => Projection::KvUp,
            Self::ConvIn => Projection::ConvIn,
            Self::ConvOut => Projection::ConvOut,
            Self::Router => Projection::Router,
            Self::SharedGate => Projection::SharedGate,
            Self::SharedUp => Projection::SharedUp,
            Self::SharedDown => Projection::SharedDown,
            Self::SharedSigmoid => Projection::SharedSigmoid,
            _ => return None,
        })
    }

    /// The weight of a linear.
    pub(crate) fn of(projection: Projection) -> Self {
        match projection {
            Projection::Q => Self::Q,
            Projection::K => Self::K,
            Projection::V => Self::V,
            Projection::O => Self::O,
            Projection::Gate => Self::Gate,
            Projection::Up => Self::Up,
            Projection::Down => Self::Down,
            Projection::QDown => Self::QDown,
            Projection::QUp => Self::QUp,
            Projection::KvDown => Self::KvDown,
            Projection::KvUp => Self::KvUp,
            Projection::ConvIn => Self::ConvIn,
            Projection::ConvOut => Self::ConvOut,
            Projection::Router => Self::Router,
            Projection::SharedGate => Self::SharedGate,
            Projection::SharedUp => Self::SharedUp,
            Projection::SharedDown => Self::SharedDown,
            Projection::SharedSigmoid => Self::SharedSigmoid,
        }
    }
}

/// A tensor of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExpertPart {
    Gate,
    Up,
    Down,
}

impl ExpertPart {
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

/// The place of a tensor in a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Embed,
    Norm,
    LmHead,
    NormBias,
    HeadBias,
    Positions,
    EmbedNorm,
    EmbedNormBias,
    ProjectIn,
    ProjectOut,
    Layer(usize, Part),
    /// Layer, expert, part.
    Expert(usize, usize, ExpertPart),
    /// As `Expert`, the bias.
    ExpertBias(usize, usize, ExpertPart),
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

/// The parts that a block of this configuration has.
pub(crate) fn parts(config: &DecoderConfig, layer: usize) -> Vec<Part> {
    use Part::*;
    let block = &config.block;
    let mut parts = vec![];
    let mut add = |condition: bool, more: &[Part]| {
        if condition {
            parts.extend_from_slice(more);
        }
    };
    let (stored, bias) = (block.norm.weight != NormWeight::None, block.norm.bias);
    let before = !matches!(block.placement, Placement::Post);
    let one = block.placement == Placement::Parallel;
    add(before && stored, &[InputNorm]);
    add(before && stored && !one, &[PostAttentionNorm]);
    add(before && bias, &[InputNormBias]);
    add(before && bias && !one, &[PostAttentionNormBias]);
    add(matches!(block.placement, Placement::Post | Placement::Sandwich), &[AttentionOutNorm, FeedForwardOutNorm]);
    if block.is_convolution(layer) {
        add(true, &[ConvIn, Conv, ConvOut]);
        add(
            block.convolution.as_ref().is_some_and(|convolution| convolution.bias),
            &[ConvInBias, ConvBias, ConvOutBias],
        );
    } else {
        match block.latent {
            None => add(true, &[Q, K, V]),
            Some(latent) => {
                let narrow = latent.q_rank.is_some();
                add(!narrow, &[Q]);
                add(narrow, &[QDown, QDownNorm, QUp]);
                add(narrow && latent.bias, &[QDownBias]);
                add(true, &[KvDown, KvDownNorm, KvUp]);
                add(latent.bias, &[KvDownBias]);
            }
        }
        add(true, &[O]);
        add(config.qkv_bias, &[QBias, KBias, VBias]);
        add(config.o_bias, &[OBias]);
        let norm = block.qk_norm.map(|norm| norm.norm);
        add(norm.is_some_and(|norm| norm.weight != NormWeight::None), &[QNorm, KNorm]);
        add(norm.is_some_and(|norm| norm.bias), &[QNormBias, KNormBias]);
        add(block.sinks, &[Sinks]);
    }
    match config.experts.as_ref().filter(|experts| experts.is_sparse(layer)) {
        Some(experts) => {
            add(true, &[Router]);
            add(experts.router_bias, &[RouterBias]);
            add(experts.selection_bias, &[SelectionBias]);
            add(experts.shared.is_some(), &[SharedGate, SharedUp, SharedDown]);
            add(experts.shared_gate, &[SharedSigmoid]);
            let biases = experts.shared.is_some() && experts.shared_bias;
            add(biases, &[SharedGateBias, SharedUpBias, SharedDownBias]);
        }
        None => {
            add(block.gated, &[Gate]);
            add(true, &[Up, Down]);
            add(block.gated && block.mlp_bias, &[GateBias]);
            add(block.mlp_bias, &[UpBias, DownBias]);
            let xielu = matches!(block.activation, Activation::Xielu { .. });
            add(xielu, &[XieluPositive, XieluNegative, XieluBeta, XieluEps]);
        }
    }
    parts
}

/// The places outside of the blocks, head and embedding apart.
pub(crate) fn tops(config: &DecoderConfig) -> Vec<Place> {
    let block = &config.block;
    let mut places = vec![];
    if block.final_norm && block.norm.weight != NormWeight::None {
        places.push(Place::Norm);
    }
    if block.final_norm && block.norm.bias {
        places.push(Place::NormBias);
    }
    if block.head_bias {
        places.push(Place::HeadBias);
    }
    if let Positions::Learned { .. } = block.positions {
        places.push(Place::Positions);
    }
    if block.embedding_norm {
        places.extend([Place::EmbedNorm, Place::EmbedNormBias]);
    }
    if block.embedding_width.is_some() {
        places.extend([Place::ProjectIn, Place::ProjectOut]);
    }
    places
}

/// The shape of what is at a place outside of the blocks.
pub(crate) fn top_shape(config: &DecoderConfig, place: Place) -> Vec<usize> {
    let (hidden, width) = (config.hidden_size, config.block.embedding_width.unwrap_or(config.hidden_size));
    match place {
        Place::Embed | Place::LmHead => vec![config.vocab_size, width],
        Place::HeadBias => vec![config.vocab_size],
        Place::Positions => {
            let offset = if let Positions::Learned { offset } = config.block.positions { offset } else { 0 };
            vec![config.max_position_embeddings + offset, hidden]
        }
        Place::ProjectIn => vec![hidden, width],
        Place::ProjectOut => vec![width, hidden],
        _ => vec![hidden],
    }
}

/// The shape of a part.
pub(crate) fn shape(config: &DecoderConfig, part: Part) -> Vec<usize> {
    if let Some(projection) = part.projection() {
        let (outputs, inputs) = projection.dims(config);
        return vec![outputs, inputs];
    }
    let (h, m, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
    let experts = || config.experts.as_ref().map_or(0, |experts| experts.count);
    let shared = || config.experts.as_ref().and_then(|experts| experts.shared).unwrap_or(0);
    let latent = || config.block.latent.map_or([0; 3], |l| [l.q_rank.unwrap_or(0), l.kv_rank, l.rope]);
    let taps = || config.block.convolution.as_ref().map_or(0, |convolution| convolution.taps);
    let norm = |width: usize| match config.block.qk_norm.map(|norm| norm.span) {
        Some(Span::Whole) => vec![width],
        Some(Span::EachHead) => vec![width / config.head_dim, config.head_dim],
        _ => vec![config.head_dim],
    };
    match part {
        Part::QBias => vec![q],
        Part::KBias | Part::VBias => vec![kv],
        Part::GateBias | Part::UpBias => vec![m],
        Part::QNorm | Part::QNormBias => norm(q),
        Part::KNorm | Part::KNormBias => norm(kv),
        Part::RouterBias | Part::SelectionBias => vec![experts()],
        Part::Sinks => vec![config.num_heads],
        Part::XieluPositive | Part::XieluNegative | Part::XieluBeta | Part::XieluEps => vec![1],
        Part::SharedGateBias | Part::SharedUpBias => vec![shared()],
        Part::QDownBias | Part::QDownNorm => vec![latent()[0]],
        Part::KvDownBias => vec![latent()[1] + latent()[2]],
        Part::KvDownNorm => vec![latent()[1]],
        Part::ConvInBias => vec![3 * h],
        Part::Conv => vec![h, 1, taps()],
        _ => vec![h],
    }
}

/// The shape of an expert's part.
pub(crate) fn expert_shape(config: &DecoderConfig, part: ExpertPart) -> [usize; 2] {
    let (h, m) = (config.hidden_size, config.expert_width());
    if part == ExpertPart::Down { [h, m] } else { [m, h] }
}

impl DecoderConfig {
    /// Parameters of the weights this configuration implies, a tied head counted once.
    pub fn num_parameters(&self) -> usize {
        let config = self;
        let size = |shape: &[usize]| shape.iter().product::<usize>();
        let layer = |layer: usize| -> usize {
            let own: usize = parts(config, layer).iter().map(|&part| size(&shape(config, part))).sum();
            let Some(experts) = config.experts.as_ref().filter(|experts| experts.is_sparse(layer)) else { return own };
            let of = |part| {
                let [rows, cols] = expert_shape(config, part);
                rows * cols + if experts.expert_bias { rows } else { 0 }
            };
            own + experts.count * ExpertPart::ALL.into_iter().map(of).sum::<usize>()
        };
        let table = size(&top_shape(config, Place::Embed));
        let head = if config.tie_word_embeddings { 0 } else { table };
        let tops: usize = tops(config).into_iter().map(|place| size(&top_shape(config, place))).sum();
        table + head + tops + (0..config.num_layers).map(layer).sum::<usize>()
    }
}

/// Reads all weights.
///
/// # Errors
/// A tensor that makes it another model than a decoder with a head; missing tensors, all of them named at once;
/// otherwise the first tensor of a wrong shape or type.
pub(crate) fn assemble(config: &DecoderConfig, source: &dyn TensorSource) -> Result<Weights, DecoderError> {
    let tied = config.tie_word_embeddings;
    let has = |place| source.has(&source.name(place));
    check_counts(config, source)?;
    // Of two tied tensors either may be the one that is stored.
    let table = if tied && !has(Place::Embed) && has(Place::LmHead) { Place::LmHead } else { Place::Embed };
    let mut places = vec![table];
    places.extend(tops(config));
    if !tied {
        places.push(Place::LmHead);
    }
    for layer in 0..config.num_layers {
        places.extend(parts(config, layer).into_iter().map(|part| Place::Layer(layer, part)));
        let Some(experts) = config.experts.as_ref().filter(|experts| experts.is_sparse(layer)) else { continue };
        for expert in 0..experts.count {
            places.extend(ExpertPart::ALL.map(|part| Place::Expert(layer, expert, part)));
            if experts.expert_bias {
                places.extend(ExpertPart::ALL.map(|part| Place::ExpertBias(layer, expert, part)));
            }
        }
    }
    let missing: BTreeSet<String> =
        places.iter().map(|&place| source.name(place)).filter(|name| !source.has(name)).collect();
    let known = places.iter().chain([&Place::LmHead]).map(|&place| source.name(place)).collect();
    if let Some(tensor) = source.stranger(&known) {
        return Err(DecoderError::Stranger { path: source.path().to_owned(), tensor });
    }
    if !missing.is_empty() {
        let names = places.iter().map(|&place| source.name(place)).filter(|name| missing.contains(name));
        let mut names: Vec<String> = names.collect();
        names.dedup();
        return Err(DecoderError::MissingTensors { path: source.path().to_owned(), names });
    }

    let wanted: BTreeSet<Place> = places.iter().copied().collect();
    let vector = |place, shape: &[usize]| -> Result<Vec<f32>, DecoderError> {
        Ok(source.read(place, shape)?.to_f32().into_owned())
    };
    let one_more = config.block.norm.weight == NormWeight::OneMore;
    let norm_weight = |mut weight: Vec<f32>, one_more: bool| {
        if one_more {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        weight
    };
    let layer = |layer: usize| -> Result<LayerWeights, DecoderError> {
        let there = |part| wanted.contains(&Place::Layer(layer, part));
        let nothing = || HostTensor::from_f32([0, 0], vec![]);
        let tensor = |part| source.read(Place::Layer(layer, part), &shape(config, part));
        let matrix = |part| if there(part) { tensor(part) } else { Ok(nothing()) };
        let values = |part| -> Result<Vec<f32>, DecoderError> {
            if there(part) { vector(Place::Layer(layer, part), &shape(config, part)) } else { Ok(vec![]) }
        };
        let norm = |part| values(part).map(|weight| norm_weight(weight, one_more && there(part)));
        let optional = |part| there(part).then(|| values(part)).transpose();
        let head_one_more = config.block.qk_norm.is_some_and(|norm| norm.norm.weight == NormWeight::OneMore);
        let head_norm = |part| optional(part).map(|weight| weight.map(|weight| norm_weight(weight, head_one_more)));
        let mixture = |experts: &Experts| -> Result<ExpertWeights, DecoderError> {
            let read = |expert: usize| -> Result<[HostTensor; 3], DecoderError> {
                let [gate, up, down] = ExpertPart::ALL
                    .map(|part| source.read(Place::Expert(layer, expert, part), &expert_shape(config, part)));
                Ok([gate?, up?, down?])
            };
            let biases = |expert: usize| -> Result<[Vec<f32>; 3], DecoderError> {
                let [gate, up, down] = ExpertPart::ALL
                    .map(|part| vector(Place::ExpertBias(layer, expert, part), &expert_shape(config, part)[..1]));
                Ok([gate?, up?, down?])
            };
            let with_biases = if experts.expert_bias { experts.count } else { 0 };
            Ok(ExpertWeights {
                router: tensor(Part::Router)?,
                experts: (0..experts.count).map(read).collect::<Result<_, _>>()?,
                router_bias: optional(Part::RouterBias)?,
                selection_bias: values(Part::SelectionBias)?,
                biases: (0..with_biases).map(biases).collect::<Result<_, _>>()?,
                shared: match experts.shared {
                    Some(_) => Some([tensor(Part::SharedGate)?, tensor(Part::SharedUp)?, tensor(Part::SharedDown)?]),
                    None => None,
                },
                shared_biases: match there(Part::SharedDownBias) {
                    true => Some([
                        values(Part::SharedGateBias)?,
                        values(Part::SharedUpBias)?,
                        values(Part::SharedDownBias)?,
                    ]),
                    false => None,
                },
                shared_gate: if experts.shared_gate { Some(tensor(Part::SharedSigmoid)?) } else { None },
            })
        };
        let latent = |latent: Latent| -> Result<LatentWeights, DecoderError> {
            let q = match latent.q_rank {
                Some(_) => Some((tensor(Part::QDown)?, values(Part::QDownNorm)?, tensor(Part::QUp)?)),
                None => None,
            };
            Ok(LatentWeights {
                q,
                q_bias: optional(Part::QDownBias)?,
                kv_down: tensor(Part::KvDown)?,
                kv_down_bias: optional(Part::KvDownBias)?,
                kv_norm: values(Part::KvDownNorm)?,
                kv_up: tensor(Part::KvUp)?,
            })
        };
        let convolution = || -> Result<ConvolutionWeights, DecoderError> {
            Ok(ConvolutionWeights {
                input: tensor(Part::ConvIn)?,
                input_bias: optional(Part::ConvInBias)?,
                taps: values(Part::Conv)?,
                bias: values(Part::ConvBias)?,
                output: tensor(Part::ConvOut)?,
                output_bias: optional(Part::ConvOutBias)?,
            })
        };
        let is_convolution = config.block.is_convolution(layer);
        let xielu = [Part::XieluPositive, Part::XieluNegative, Part::XieluBeta, Part::XieluEps];
        Ok(LayerWeights {
            q: matrix(Part::Q)?,
            k: matrix(Part::K)?,
            v: matrix(Part::V)?,
            o: matrix(Part::O)?,
            gate: matrix(Part::Gate)?,
            up: matrix(Part::Up)?,
            down: matrix(Part::Down)?,
            q_bias: optional(Part::QBias)?,
            k_bias: optional(Part::KBias)?,
            v_bias: optional(Part::VBias)?,
            o_bias: optional(Part::OBias)?,
            input_norm: norm(Part::InputNorm)?,
            post_attention_norm: norm(Part::PostAttentionNorm)?,
            q_norm: head_norm(Part::QNorm)?,
            k_norm: head_norm(Part::KNorm)?,
            experts: match config.experts.as_ref().filter(|experts| experts.is_sparse(layer)) {
                Some(experts) => Some(mixture(experts)?),
                None => None,
            },
            more: MoreWeights {
                input_norm_bias: values(Part::InputNormBias)?,
                post_attention_norm_bias: values(Part::PostAttentionNormBias)?,
                attention_out_norm: norm(Part::AttentionOutNorm)?,
                feed_forward_out_norm: norm(Part::FeedForwardOutNorm)?,
                q_norm_bias: values(Part::QNormBias)?,
                k_norm_bias: values(Part::KNormBias)?,
                gate_bias: optional(Part::GateBias)?,
                up_bias: optional(Part::UpBias)?,
                down_bias: optional(Part::DownBias)?,
                sinks: values(Part::Sinks)?,
                xielu: xielu.into_iter().map(values).collect::<Result<Vec<_>, _>>()?.concat(),
                latent: config.block.latent.filter(|_| !is_convolution).map(latent).transpose()?,
                convolution: is_convolution.then(convolution).transpose()?,
            },
        })
    };
    let top = |place| source.read(place, &top_shape(config, place));
    let values = |place| if wanted.contains(&place) { vector(place, &top_shape(config, place)) } else { Ok(vec![]) };
    let embed = source.read(table, &top_shape(config, Place::Embed))?;
    let lm_head = if table == Place::LmHead || !has(Place::LmHead) {
        None
    } else {
        let head = top(Place::LmHead)?;
        if tied { head_of_its_own(head, &embed) } else { Some(head) }
    };
    let more = MoreTop {
        norm_bias: values(Place::NormBias)?,
        head_bias: wanted.contains(&Place::HeadBias).then(|| values(Place::HeadBias)).transpose()?,
        positions: wanted.contains(&Place::Positions).then(|| top(Place::Positions)).transpose()?,
        embedding_norm: (values(Place::EmbedNorm)?, values(Place::EmbedNormBias)?),
        projections: match config.block.embedding_width {
            Some(_) => Some((top(Place::ProjectIn)?, top(Place::ProjectOut)?)),
            None => None,
        },
    };
    Ok(Weights {
        embed,
        layers: (0..config.num_layers).into_par_iter().map(layer).collect::<Result<_, _>>()?,
        norm: norm_weight(values(Place::Norm)?, one_more),
        lm_head,
        more,
    })
}

/// Fails if there are more layers or experts than tensors, before every one of theirs is looked for.
fn check_counts(config: &DecoderConfig, source: &dyn TensorSource) -> Result<(), DecoderError> {
    let experts = config.experts.as_ref().map_or(0, |experts| experts.count);
    let (layers, tensors) = (config.num_layers, source.len());
    let sparse = (0..layers.min(tensors)).filter(|&layer| config.is_sparse(layer));
    // Experts that are stacked have one tensor in common.
    let apart = |layer| !source.has(&source.name(Place::Expert(layer, experts - 1, ExpertPart::Gate)));
    let many = experts.saturating_mul(sparse.clone().count()) > tensors && sparse.clone().next().is_some_and(apart);
    let (count, found) = match () {
        () if layers > tensors => (Count::Layers, layers),
        () if many => (Count::Experts, experts),
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
