//! GGUF files: against the same model in Hugging Face's layout, and broken ones.

#[path = "../../decoder/tests/loading_support/mod.rs"]
mod loading_support;

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use gguf_file::Value;
use harness_decoder::{Checkpoint, RopeScaling};
use harness_engine::{ChatContext, EngineError, ModelFiles, TextTokenizer};
use harness_kernels::{HostData, HostTensor};
use harness_test_support::beside;
use loading_support::{smollm2, stories, tiny};

type Metadata = BTreeMap<String, Value>;
type Tensors = BTreeMap<String, QTensor>;

const LAYER: [(&str, &str); 14] = [
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("input_layernorm.weight", "attn_norm.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
];

fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
    let (_, to) = LAYER.iter().find(|(from, _)| *from == part).unwrap();
    format!("blk.{layer}.{to}")
}

/// llama.cpp's order of the rows of q and k: rotated halves become neighbours.
fn pairs_from_halves(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    let split = tensor.reshape((heads, 2, rows / heads / 2, cols)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, cols)).unwrap()
}

/// A model's safetensors as GGUF tensors of one type.
fn tensors_of(dir: &Path, permute: Option<(usize, usize)>, dtype: GgmlDType) -> Tensors {
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let convert = |(name, tensor): (String, Tensor)| {
        let tensor = match permute {
            Some((heads, _)) if name.ends_with("q_proj.weight") => pairs_from_halves(&tensor, heads),
            Some((_, heads)) if name.ends_with("k_proj.weight") => pairs_from_halves(&tensor, heads),
            _ => tensor,
        };
        let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype };
        (gguf_name(&name), QTensor::quantize(&tensor, dtype).unwrap())
    };
    tensors.into_iter().map(convert).collect()
}

fn strings<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(items.into_iter().map(|item| Value::String(item.to_owned())).collect())
}

/// Metadata of the tiny model.
fn tiny_metadata(arch: &str) -> Metadata {
    let tokens = ["<unk>", "<s>", "</s>", "a", "b", "Ġ", "ab", "Ġa"];
    let mut metadata: Metadata = [
        ("embedding_length", 8),
        ("block_count", 2),
        ("feed_forward_length", 12),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 4),
        ("attention.value_length", 4),
        ("context_length", 32),
    ]
    .map(|(key, value)| (format!("{arch}.{key}"), Value::U32(value)))
    .into();
    metadata.insert("general.architecture".into(), Value::String(arch.into()));
    metadata.insert(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
    let types = [2, 3, 3, 1, 1, 1, 1, 1].map(Value::I32).to_vec();
    metadata.insert("tokenizer.ggml.model".into(), Value::String("gpt2".into()));
    metadata.insert("tokenizer.ggml.pre".into(), Value::String("qwen2".into()));
    metadata.insert("tokenizer.ggml.tokens".into(), strings(tokens));
    metadata.insert("tokenizer.ggml.token_type".into(), Value::Array(types));
    metadata.insert("tokenizer.ggml.merges".into(), strings(["a b", "Ġ a"]));
    metadata.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(1));
    metadata.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(2));
    metadata
}

fn bytes(metadata: &Metadata, tensors: &Tensors) -> Vec<u8> {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn load(bytes: &[u8]) -> Result<ModelFiles, EngineError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    ModelFiles::load(&path)
}

fn assert_says(result: Result<ModelFiles, EngineError>, parts: &[&str]) {
    let message = result.map(|_| ()).expect_err("this must fail").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

fn same(a: &HostTensor, b: &HostTensor, what: &str) {
    assert_eq!(a.shape, b.shape, "{what}");
    assert!(a.to_f32() == b.to_f32(), "{what} differs");
}

fn same_weights(a: &ModelFiles, b: &ModelFiles) {
    same(&a.weights.embed, &b.weights.embed, "embed");
    assert_eq!(a.weights.norm, b.weights.norm);
    for (layer, (a, b)) in a.weights.layers.iter().zip(&b.weights.layers).enumerate() {
        for (name, a, b) in [
            ("q", &a.q, &b.q),
            ("k", &a.k, &b.k),
            ("v", &a.v, &b.v),
            ("o", &a.o, &b.o),
            ("gate", &a.gate, &b.gate),
            ("up", &a.up, &b.up),
            ("down", &a.down, &b.down),
        ] {
            same(a, b, &format!("{name} of layer {layer}"));
        }
        assert_eq!((&a.input_norm, &a.q_bias, &a.k_norm), (&b.input_norm, &b.q_bias, &b.k_norm));
    }
}

/// Texts that try a tokenizer, from data sets where they are there.
fn corpus() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "Once upon a time, there was a little girl named Lily.",
        "  two  spaces   three\n\nlines\t\ttabs \r\n",
        "naïve café — “quotes” … 12345 3.14 1,000,000",
        "日本語テキスト 한국어 العربية עברית हिन्दी",
        "emoji 😀👩‍👩‍👧‍👦 \u{0301}combining e\u{301}",
        "don't I'LL we've you're it's 'tis",
        "<|im_start|>user\nHi<|im_end|>\n",
        "<s>a</s> <unk>",
        "fn main() { println!(\"{:?}\", x); }  // code",
        "\u{a0}nbsp\u{3000}wide \u{200b}zero",
    ]
    .map(str::to_owned)
    .to_vec();
    let Some(data) = beside("HARNESS_DATA_DIR", "data") else { return texts };
    for file in ["wikitext-2-raw/wiki.test.raw.zst", "mmlu/test.jsonl.zst"] {
        if let Ok(file) = fs::File::open(data.join(file)) {
            let text = zstd::decode_all(file).unwrap();
            texts.extend(String::from_utf8(text).unwrap().lines().step_by(7).map(str::to_owned));
        }
    }
    texts
}

fn same_tokens(a: &TextTokenizer, b: &TextTokenizer, texts: &[String]) {
    for special in [true, false] {
        let (a, b) = (a.encode_batch(texts, special).unwrap(), b.encode_batch(texts, special).unwrap());
        for ((text, a), b) in texts.iter().zip(&a).zip(&b) {
            assert_eq!(a, b, "{text:?}");
        }
    }
    assert_eq!((a.bos(), a.eos(), a.adds_bos()), (b.bos(), b.eos(), b.adds_bos()));
}

#[test]
fn smollm2_is_the_same_model_in_both_layouts() {
    let Some(dir) = smollm2() else { return };
    let gguf = ModelFiles::load(&dir.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let hf = ModelFiles::load(&dir.join("hf")).unwrap();
    assert_eq!(gguf.config, hf.config);
    let rounded = |tensor: &HostTensor| HostTensor {
        shape: tensor.shape.clone(),
        data: HostData::Bf16(tensor.to_f32().iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>().into()),
    };
    let round = |norm: &mut Vec<f32>| norm.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
    let mut model = gguf;
    model.weights.embed = rounded(&model.weights.embed);
    round(&mut model.weights.norm);
    for layer in &mut model.weights.layers {
        for tensor in
            [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o, &mut layer.gate, &mut layer.up, &mut layer.down]
        {
            *tensor = rounded(tensor);
        }
        round(&mut layer.input_norm);
    }
    same_weights(&model, &hf);
    same_tokens(&model.tokenizer, &hf.tokenizer, &corpus());
    let (a, b) = (model.chat_template.unwrap(), hf.chat_template.unwrap());
    assert_eq!(a.source(), b.source());
    let chat = [harness_core::ChatMessage::new(harness_core::ChatRole::User, "What is the capital of France?")];
    assert_eq!(
        a.render(&chat, &ChatContext::default(), &hf.tokenizer).unwrap(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn a_sentence_piece_model_survives_the_way_through_gguf() {
    let Some(dir) = stories() else { return };
    let hf = ModelFiles::load(&dir).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.join("tokenizer.json")).unwrap()).unwrap();
    let mut tokens = vec![""; 512];
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token;
    }
    let types = |id: usize| match id {
        0 => 2,
        1 | 2 => 3,
        3..259 => 6,
        _ => 1,
    };
    let mut metadata: Metadata = [
        ("llama.embedding_length", 64),
        ("llama.block_count", 5),
        ("llama.feed_forward_length", 172),
        ("llama.attention.head_count", 8),
        ("llama.attention.head_count_kv", 4),
        ("llama.context_length", 512),
        ("llama.rope.dimension_count", 8),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
        ("tokenizer.ggml.unknown_token_id", 0),
    ]
    .map(|(key, value)| (key.to_owned(), Value::U32(value)))
    .into();
    metadata.insert("general.architecture".into(), Value::String("llama".into()));
    metadata.insert("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5));
    metadata.insert("tokenizer.ggml.model".into(), Value::String("llama".into()));
    // Pieces of a SentencePiece model are sorted by score; bytes and special tokens have none.
    let score = |id: usize| if id < 259 { 0.0 } else { -((id - 259) as f32) };
    metadata.insert("tokenizer.ggml.scores".into(), Value::Array((0..512).map(|id| Value::F32(score(id))).collect()));
    metadata
        .insert("tokenizer.ggml.token_type".into(), Value::Array((0..512).map(|id| Value::I32(types(id))).collect()));
    metadata.insert("tokenizer.ggml.tokens".into(), strings(tokens));
    let model = load(&bytes(&metadata, &tensors_of(&dir, Some((8, 4)), GgmlDType::F32))).unwrap();
    assert_eq!(model.config, hf.config);
    same_weights(&model, &hf);
    let texts: Vec<String> = corpus().into_iter().take(800).collect();
    same_tokens(&model.tokenizer, &hf.tokenizer, &texts);
    for text in &texts[..12] {
        let ids = hf.tokenizer.encode(text, true).unwrap();
        assert_eq!(model.tokenizer.decode(&ids, true).unwrap(), hf.tokenizer.decode(&ids, true).unwrap());
    }
}

#[test]
fn qwen_is_not_permuted() {
    for arch in ["qwen2", "qwen3"] {
        let dir = tiny(arch);
        let model = load(&bytes(&tiny_metadata(arch), &tensors_of(dir.path(), None, GgmlDType::F32))).unwrap();
        let hf = ModelFiles::load(dir.path()).unwrap();
        same_weights(&model, &hf);
        assert!(!model.config.tie_word_embeddings);
        assert_eq!(model.tokenizer.encode("ab a<s>", true).unwrap(), [6, 7, 1]);
        assert_eq!(model.tokenizer.decode(&[1, 6, 7], true).unwrap(), "ab a");
    }
}

#[test]
fn types_are_kept_or_widened() {
    let dir = tiny("llama");
    let tensors = tensors_of(dir.path(), Some((4, 2)), GgmlDType::BF16);
    let model = load(&bytes(&tiny_metadata("llama"), &tensors)).unwrap();
    assert!(matches!(model.weights.layers[0].q.data, HostData::Bf16(_)));
    let hf = ModelFiles::load(dir.path()).unwrap();
    for (a, b) in model.weights.layers[1].k.to_f32().iter().zip(hf.weights.layers[1].k.to_f32().iter()) {
        assert_eq!(*a, half::bf16::from_f32(*b).to_f32());
    }
    let Some(dir) = stories() else { return };
    let embed = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let embed = &embed["model.embed_tokens.weight"];
    for dtype in [GgmlDType::Q4_0, GgmlDType::Q5_1, GgmlDType::Q8_0, GgmlDType::F16] {
        let widened = QTensor::quantize(embed, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
        let error = (widened - embed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 0.2, "{dtype:?}: {error}");
    }
    let stored = [("a", GgmlDType::Q4_0), ("b", GgmlDType::Q4_0), ("c", GgmlDType::F16)]
        .map(|(name, dtype)| (name.to_owned(), QTensor::quantize(embed, dtype).unwrap()));
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    fs::write(file.path(), bytes(&Metadata::new(), &stored.into())).unwrap();
    let types = Checkpoint::open(file.path()).unwrap().stored_types().unwrap();
    let counts: Vec<_> = types.iter().map(|(name, stored)| (name.as_str(), stored.tensors, stored.bytes)).collect();
    let elements = 512 * 64;
    assert_eq!(counts, [("Q4_0", 2, 2 * elements / 32 * 18), ("f16", 1, 2 * elements)]);
}

#[test]
fn long_context_frequencies_are_read() {
    let dir = tiny("llama");
    let mut tensors = tensors_of(dir.path(), Some((4, 2)), GgmlDType::F32);
    let divisors = Tensor::new(&[1f32, 8.0], &Device::Cpu).unwrap();
    tensors.insert("rope_freqs.weight".into(), QTensor::quantize(&divisors, GgmlDType::F32).unwrap());
    let mut metadata = tiny_metadata("llama");
    let model = load(&bytes(&metadata, &tensors)).unwrap();
    assert_eq!(model.config.rope.scaling, RopeScaling::Divisors(vec![1.0, 8.0]));
    tensors.remove("rope_freqs.weight");
    metadata.insert("llama.rope.scaling.type".into(), Value::String("linear".into()));
    metadata.insert("llama.rope.scaling.factor".into(), Value::F32(4.0));
    let model = load(&bytes(&metadata, &tensors)).unwrap();
    assert_eq!(model.config.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    metadata.insert("llama.rope.scaling.type".into(), Value::String("yarn".into()));
    assert_says(load(&bytes(&metadata, &tensors)), &["llama.rope.scaling.type", "yarn"]);
}

#[test]
fn broken_files_are_named() {
    let dir = tiny("llama");
    let tensors = tensors_of(dir.path(), Some((4, 2)), GgmlDType::F32);
    let good = tiny_metadata("llama");
    let file = bytes(&good, &tensors);
    assert!(load(&file).is_ok());

    let mut wrong = file.clone();
    wrong[..4].copy_from_slice(b"PK\x03\x04");
    assert_says(load(&wrong), &["model.gguf", "not a GGUF file", "PK"]);
    assert_says(load(b""), &["model.gguf"]);
    for len in [4, 8, 20, 60, 300, file.len() / 2, file.len() - 64] {
        assert_says(load(&file[..len]), &["model.gguf"]);
    }
    assert_says(load(&file[..file.len() / 2]), &["truncated", "download it again"]);

    let with = |key: &str, value: Value| {
        let mut metadata = good.clone();
        metadata.insert(key.into(), value);
        load(&bytes(&metadata, &tensors))
    };
    let text = |text: &str| Value::String(text.into());
    assert_says(with("general.architecture", text("mamba")), &["\"mamba\"", "recurrent state"]);
    assert_says(with("general.alignment", Value::U32(0)), &["general.alignment"]);
    assert_says(with("llama.embedding_length", Value::U32(16)), &["token_embd.weight", "[8, 8]", "[8, 16]"]);
    assert_says(with("llama.block_count", Value::U32(3)), &["9 tensors missing", "blk.2.attn_q.weight"]);
    assert_says(with("llama.context_length", text("long")), &["llama.context_length", "long"]);
    assert_says(with("llama.expert_count", Value::U32(8)), &["llama.expert_used_count", "nothing"]);
    assert_says(with("tokenizer.ggml.pre", text("klingon")), &["klingon", "llama-bpe"]);
    assert_says(with("tokenizer.ggml.model", text("t5")), &["t5", "gpt2 and llama"]);
    assert_says(with("tokenizer.ggml.merges", strings(["ab"])), &["merge \"ab\""]);
    assert_says(with("tokenizer.ggml.bos_token_id", Value::U32(99)), &["tokenizer.ggml.bos_token_id", "99"]);
    assert_says(with("tokenizer.chat_template", text("{% fi %}")), &["model.gguf", "chat template", "fi"]);
    let mut missing = good.clone();
    missing.remove("tokenizer.ggml.tokens");
    assert_says(load(&bytes(&missing, &tensors)), &["tokenizer.ggml.tokens", "found nothing"]);
}

#[test]
fn sizes_that_the_file_cannot_hold_are_refused() {
    let dir = tiny("llama");
    let tensors = tensors_of(dir.path(), Some((4, 2)), GgmlDType::F32);
    let good = tiny_metadata("llama");
    let with = |key: &str, value: Value| {
        let mut metadata = good.clone();
        metadata.insert(key.into(), value);
        load(&bytes(&metadata, &tensors))
    };
    for key in ["block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length"] {
        let key = format!("llama.{key}");
        assert_says(with(&key, Value::U64(1 << 40)), &[&key, "1099511627776", "at most"]);
    }
    assert_says(with("llama.block_count", Value::U32(60_000)), &["`llama.block_count`", "60000", "21 tensors"]);
    assert_says(
        with("llama.attention.key_length", Value::U64(1 << 62)),
        &["key_length", "at most 262144 beside 4 heads"],
    );
    let mut experts = good.clone();
    experts.insert("llama.expert_used_count".into(), Value::U32(2));
    experts.insert("llama.expert_count".into(), Value::U64(1 << 40));
    assert_says(load(&bytes(&experts, &tensors)), &["`llama.expert_count`", "at most 524288 beside 2 layers"]);
    experts.insert("llama.expert_count".into(), Value::U32(50_000));
    assert_says(load(&bytes(&experts, &tensors)), &["`llama.expert_count`", "50000", "21 tensors"]);
    assert_says(
        with("tokenizer.ggml.eos_token_id", Value::U64(1 << 32 | 2)),
        &["eos_token_id", "4294967298", "32 bits"],
    );
    for number in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        assert_says(with("llama.rope.freq_base", Value::F32(number)), &["llama.rope.freq_base", "a positive number"]);
    }
    assert_says(with("llama.rope.scaling.factor", Value::F32(-2.0)), &["rope.scaling.factor", "a positive number"]);
    assert_eq!(with("llama.rope.scaling.factor", Value::F32(0.0)).unwrap().config.rope.scaling, RopeScaling::None);
    let divisors = |divisors: &[f32], dtype| {
        let mut tensors = tensors_of(dir.path(), Some((4, 2)), GgmlDType::F32);
        let tensor = QTensor::quantize(&Tensor::new(divisors, &Device::Cpu).unwrap(), dtype).unwrap();
        tensors.insert("rope_freqs.weight".into(), tensor);
        load(&bytes(&good, &tensors))
    };
    assert_says(divisors(&[1.0, 0.0], GgmlDType::F32), &["rope_freqs.weight", "holds 0"]);
    assert_says(divisors(&[1.0; 32], GgmlDType::Q8_0), &["rope_freqs.weight", "[32]", "[2]"]);
}

#[test]
fn tensors_have_bytes_of_their_own() {
    let dir = tiny("llama");
    let file = bytes(&tiny_metadata("llama"), &tensors_of(dir.path(), Some((4, 2)), GgmlDType::F32));
    // Behind the name: the number of dimensions, these, the type, the first byte.
    let entry = |name: &str| {
        let name = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        file.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len()
    };
    let (up, gate) = (entry("blk.0.ffn_up.weight"), entry("blk.0.ffn_gate.weight"));
    let mut shared = file.clone();
    shared.copy_within(gate + 24..gate + 32, up + 24);
    assert_says(load(&shared), &["`blk.0.ffn_gate.weight` and `blk.0.ffn_up.weight` lie in the same bytes"]);
    let mut wide = file.clone();
    wide[up + 4..up + 12].copy_from_slice(&(1u64 << 62).to_le_bytes());
    assert_says(load(&wide), &["tensor `blk.0.ffn_up.weight`", "is not a shape of F32 blocks"]);
    let mut far = file.clone();
    far[up + 24..up + 32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_says(load(&far), &["tensor `blk.0.ffn_up.weight`"]);
    let mut blocks = file;
    blocks[up + 20..up + 24].copy_from_slice(&2u32.to_le_bytes());
    assert_says(load(&blocks), &["tensor `blk.0.ffn_up.weight`: [12, 8] is not a shape of Q4_0 blocks"]);
}

/// The tiny llama in this many parts, named as llama-gguf-split names them; what a part gets beside its tensors may be
/// changed.
fn split(dir: &Path, count: usize, change: impl Fn(usize, &mut Metadata, &mut Tensors)) -> Vec<PathBuf> {
    let tensors = tensors_of(tiny("llama").path(), Some((4, 2)), GgmlDType::F32);
    let (total, per_part) = (tensors.len(), tensors.len().div_ceil(count));
    let mut tensors = tensors.into_iter();
    (0..count)
        .map(|index| {
            let mut part: Tensors = tensors.by_ref().take(per_part).collect();
            let mut metadata = if index == 0 { tiny_metadata("llama") } else { Metadata::new() };
            metadata.insert("split.no".into(), Value::U16(index as u16));
            metadata.insert("split.count".into(), Value::U16(count as u16));
            metadata.insert("split.tensors.count".into(), Value::I32(total as i32));
            change(index, &mut metadata, &mut part);
            let path = dir.join(format!("m-{:05}-of-{count:05}.gguf", index + 1));
            fs::write(&path, bytes(&metadata, &part)).unwrap();
            path
        })
        .collect()
}

#[test]
fn a_model_in_parts_is_the_same_model() {
    let whole = load(&bytes(&tiny_metadata("llama"), &tensors_of(tiny("llama").path(), Some((4, 2)), GgmlDType::F32)));
    let whole = whole.unwrap();
    for count in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        for path in split(dir.path(), count, |_, _, _| ()) {
            let model = ModelFiles::load(&path).unwrap();
            assert_eq!((model.digest, &model.config), (whole.digest, &whole.config), "{}", path.display());
            same_weights(&model, &whole);
            let types = Checkpoint::open(&path).unwrap().stored_types().unwrap();
            assert_eq!((types.len(), types["f32"].tensors), (1, 21));
        }
    }
    // The name of a file that is a model of its own does not matter.
    let dir = tempfile::tempdir().unwrap();
    let path = split(dir.path(), 1, |_, _, _| ()).remove(0);
    fs::rename(&path, dir.path().join("other.gguf")).unwrap();
    assert_eq!(ModelFiles::load(&dir.path().join("other.gguf")).unwrap().digest, whole.digest);
}

#[test]
fn parts_that_are_missing_or_of_other_models_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path(), 3, |_, _, _| ());
    fs::rename(&paths[1], dir.path().join("away")).unwrap();
    for path in [&paths[0], &paths[2]] {
        assert_says(ModelFiles::load(path), &["m-00002-of-00003.gguf not found", "of the 3 files"]);
    }
    assert_says(ModelFiles::load(&dir.path().join("away")), &["number 2 of the 3 files", "llama-gguf-split --merge"]);
    fs::copy(&paths[2], &paths[1]).unwrap();
    assert_says(ModelFiles::load(&paths[0]), &["m-00002-of-00003.gguf", "`split.no` is 2", "another model"]);

    let other = |change: fn(usize, &mut Metadata, &mut Tensors)| {
        let dir = tempfile::tempdir().unwrap();
        ModelFiles::load(&split(dir.path(), 2, change)[0])
    };
    let name = |index: usize, metadata: &mut Metadata, _: &mut Tensors| {
        metadata.insert("general.name".into(), Value::String(format!("model {index}")));
    };
    assert_says(other(name), &["m-00002-of-00002.gguf", "`general.name`", "different models"]);
    let total = |index: usize, metadata: &mut Metadata, _: &mut Tensors| {
        metadata.insert("split.tensors.count".into(), Value::I32(21 + index as i32));
    };
    assert_says(other(total), &["`split.tensors.count`", "different models"]);
    let twice = |index: usize, _: &mut Metadata, tensors: &mut Tensors| {
        let q = "blk.0.attn_q.weight";
        let tensor = tensors_of(tiny("llama").path(), Some((4, 2)), GgmlDType::F32).remove(q).unwrap();
        if index == 1 {
            tensors.insert(q.into(), tensor)
        } else {
            None
        };
    };
    assert_says(other(twice), &["`blk.0.attn_q.weight` is in", "different models"]);
    let fewer = |index: usize, _: &mut Metadata, tensors: &mut Tensors| {
        if index == 1 {
            tensors.pop_last();
        }
    };
    assert_says(other(fewer), &["21 tensors", "have 20"]);
}

#[test]
fn what_is_no_language_model_is_refused() {
    let tensors = || tensors_of(tiny("llama").path(), Some((4, 2)), GgmlDType::F32);
    let with = |key: &str, value: Value| {
        let mut metadata = tiny_metadata("llama");
        metadata.insert(format!("llama.{key}"), value);
        load(&bytes(&metadata, &tensors()))
    };
    assert_says(with("pooling_type", Value::U32(4)), &["llama.pooling_type", "classifier"]);
    assert_says(with("attention.causal", Value::Bool(false)), &["llama.attention.causal", "later tokens"]);
    assert!(with("pooling_type", Value::U32(0)).is_ok());
    for name in ["cls.output.weight", "blk.0.ffn_gate.bias"] {
        let mut tensors = tensors();
        let shape = tensors["output_norm.weight"].dequantize(&Device::Cpu).unwrap();
        tensors.insert(name.into(), QTensor::quantize(&shape, GgmlDType::F32).unwrap());
        assert_says(load(&bytes(&tiny_metadata("llama"), &tensors)), &[name, "no causal language model"]);
    }
}
