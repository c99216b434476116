//! Models of known shapes with random weights, for the benchmarks of this crate and of training.

use half::bf16;
use harness_decoder::{
    Architecture, BlockSpec, DecoderConfig, LayerWeights, MoreTop, MoreWeights, Rope, RopeScaling, Weights,
};
use harness_kernels::{
    HostData, HostTensor, Nf4Tensor, Quantization, QuantizationKind,
    gguf::{BlockTensor, BlockType},
};

/// The decoder of a name: `7b` (Llama-2), `1b` (Llama 3.2), `135m` (SmolLM2), or `tiny`.
///
/// # Panics
/// With another name.
pub(crate) fn config(shape: &str) -> DecoderConfig {
    let (hidden, inter, layers, heads, kv, vocab, tied) = match shape {
        "7b" => (4096, 11008, 32, 32, 32, 32000, false),
        "1b" => (2048, 8192, 16, 32, 8, 128_256, true),
        "135m" => (576, 1536, 30, 9, 3, 49152, true),
        "tiny" => (64, 160, 4, 4, 2, 512, true),
        other => panic!("shape {other}: expected 7b, 1b, 135m or tiny"),
    };
    DecoderConfig {
        architecture: Architecture::LLAMA,
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: inter,
        num_layers: layers,
        num_heads: heads,
        num_kv_heads: kv,
        head_dim: hidden / heads,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 4096,
        tie_word_embeddings: tied,
        qkv_bias: false,
        o_bias: false,
        block: BlockSpec::default(),
        sliding_window: vec![None; layers],
        bos_token_id: None,
        eos_token_ids: vec![],
        experts: None,
    }
}

/// Pseudo-random elements of deviation 0.02, quickly.
fn matrix(rows: usize, cols: usize, seed: u64) -> HostTensor {
    let mut state = seed;
    let data: Vec<bf16> = (0..rows * cols)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bf16::from_f32(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.07)
        })
        .collect();
    HostTensor { shape: vec![rows, cols], data: HostData::Bf16(data.into()) }
}

/// Random weights in bf16; with the linears of the blocks in `nf4`; or with all matrices in one of ggml's types, as `q4_k`.
/// All layers share one layer's elements on the host; each is uploaded on its own.
pub(crate) fn weights(c: &DecoderConfig, stored: &str) -> Weights {
    let (h, m, q, kv) = (c.hidden_size, c.intermediate_size, c.q_dim(), c.kv_dim());
    let mut kinds = (0..40).filter_map(BlockType::from_code).filter(|kind| kind.elements() > 1);
    let kind = kinds.find(|kind| kind.name() == stored);
    let table = |rows, cols, seed| {
        let tensor = matrix(rows, cols, seed);
        kind.map_or_else(|| tensor.clone(), |kind| blocks(&tensor, kind))
    };
    let linear =
        |rows, cols, seed| if stored == "nf4" { nf4(&matrix(rows, cols, seed)) } else { table(rows, cols, seed) };
    let layer = LayerWeights {
        q: linear(q, h, 1),
        k: linear(kv, h, 2),
        v: linear(kv, h, 3),
        o: linear(h, q, 4),
        gate: linear(m, h, 5),
        up: linear(m, h, 6),
        down: linear(h, m, 7),
        q_bias: None,
        k_bias: None,
        v_bias: None,
        o_bias: None,
        input_norm: vec![1.0; h],
        post_attention_norm: vec![1.0; h],
        q_norm: None,
        k_norm: None,
        experts: None,
        more: MoreWeights::default(),
    };
    let head = (!c.tie_word_embeddings).then(|| table(c.vocab_size, h, 9));
    Weights {
        embed: table(c.vocab_size, h, 8),
        layers: vec![layer; c.num_layers],
        norm: vec![1.0; h],
        lm_head: head,
        more: MoreTop::default(),
    }
}

fn nf4(tensor: &HostTensor) -> HostTensor {
    let options = Quantization { kind: QuantizationKind::Nf4, block_size: 64, double: true };
    let codes = Nf4Tensor::quantise(&tensor.to_f32(), &options).expect("finite values");
    HostTensor { shape: tensor.shape.clone(), data: HostData::Nf4(codes) }
}

fn blocks(tensor: &HostTensor, kind: BlockType) -> HostTensor {
    let bytes = kind.quantise(&tensor.to_f32()).expect("finite values and whole blocks");
    HostTensor {
        data: HostData::Blocks(BlockTensor { kind, bytes: bytes.into(), len: tensor.data.len() }),
        ..tensor.clone()
    }
}
