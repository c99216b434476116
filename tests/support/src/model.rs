//! Small models and adapters with random weights, made on the spot: tests stand alone and are quick.

use std::{fs, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

/// Dimensions of a small Llama model.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Longest input in tokens.
    pub max_length: usize,
}

impl Default for Dims {
    fn default() -> Self {
        Self { layers: 2, hidden: 32, intermediate: 64, heads: 4, kv_heads: 2, max_length: 512 }
    }
}

impl Dims {
    fn kv_width(self) -> usize {
        self.hidden / self.heads * self.kv_heads
    }
}

/// Numbers that look random, the same every time (splitmix64).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A stream for a seed and a name.
    pub fn new(seed: u64, name: &str) -> Self {
        Self(
            name.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |state, byte| {
                (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            }),
        )
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform with mean 0 and the given standard deviation.
    pub fn spread(&mut self, deviation: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1u64 << 24) as f32;
        (unit - 0.5) * 12f32.sqrt() * deviation
    }
}

/// Beginning of sequence.
const BOS: &str = "<s>";
/// End of sequence.
const EOS: &str = "</s>";
/// Pairs that the tokenizer joins, in order; `Ġ` stands for a space.
const MERGES: [(&str, &str); 40] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġ", "a"),
    ("i", "n"),
    ("r", "e"),
    ("o", "n"),
    ("Ġt", "he"),
    ("e", "r"),
    ("Ġ", "s"),
    ("a", "t"),
    ("Ġ", "w"),
    ("Ġ", "o"),
    ("e", "n"),
    ("Ġ", "c"),
    ("i", "t"),
    ("i", "s"),
    ("a", "n"),
    ("o", "r"),
    ("e", "s"),
    ("Ġ", "b"),
    ("e", "d"),
    ("Ġ", "f"),
    ("in", "g"),
    ("Ġ", "p"),
    ("o", "u"),
    ("Ġa", "n"),
    ("a", "l"),
    ("a", "r"),
    ("Ġt", "o"),
    ("Ġ", "m"),
    ("Ġo", "f"),
    ("Ġ", "in"),
    ("Ġ", "d"),
    ("Ġ", "h"),
    ("Ġan", "d"),
    ("Q", "u"),
    ("Qu", "es"),
    ("Ques", "t"),
    ("Ġ", "A"),
    ("Ġ", "is"),
];

/// The characters that stand for the 256 bytes in a byte-level vocabulary: printable ones for themselves.
fn byte_symbols() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256u32)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("a letter below U+0200")
        })
        .collect()
}

/// The vocabulary in order of its ids: two special tokens, the bytes, the merges.
fn vocabulary() -> Vec<String> {
    let mut tokens = vec![BOS.to_owned(), EOS.to_owned()];
    tokens.extend(byte_symbols().into_iter().map(String::from));
    tokens.extend(MERGES.iter().map(|(a, b)| format!("{a}{b}")));
    tokens
}

/// Whether a token of the vocabulary is plain text, so that what a random model says can be read.
fn is_plain(token: &str) -> bool {
    token != BOS && token != EOS && token.chars().all(|c| c == 'Ġ' || c.is_ascii_graphic())
}

/// The content of `tokenizer.json`.
pub fn tokenizer_json() -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let vocabulary: Map<String, Value> =
        vocabulary().into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let merges: Vec<Value> = MERGES.iter().map(|(a, b)| json!([a, b])).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, BOS), special(1, EOS)],
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges},
    })
}

const CHAT_TEMPLATE: &str = "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}\
                             {% if add_generation_prompt %}<assistant> {% endif %}";

/// Writes a Llama model with random weights, a byte-level tokenizer of about 300 tokens and a chat template in Hugging
/// Face layout. It never ends an answer by itself and says plain text only.
///
/// # Panics
/// If a file cannot be written.
pub fn tiny_model(dir: &Path, seed: u64, dims: Dims) {
    fs::create_dir_all(dir).expect("a folder for the model");
    let vocabulary = vocabulary();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary.len(),
        "hidden_size": dims.hidden, "intermediate_size": dims.intermediate, "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads, "num_key_value_heads": dims.kv_heads,
        "max_position_embeddings": dims.max_length, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32",
    });
    write_json(&dir.join("config.json"), &config);
    write_json(&dir.join("tokenizer.json"), &tokenizer_json());
    let tokenizer_config = json!({
        "bos_token": BOS, "eos_token": EOS, "model_max_length": dims.max_length,
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE,
    });
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config);

    let matrix = |name: String, rows: usize, columns: usize, deviation: f32| -> Tensor {
        let mut numbers = Numbers::new(seed, &name);
        (name, vec![rows, columns], (0..rows * columns).map(|_| numbers.spread(deviation)).collect())
    };
    let ones = |name: String| -> Tensor { (name, vec![dims.hidden], vec![1.0; dims.hidden]) };
    let (hidden, inner, kv) = (dims.hidden, dims.intermediate, dims.kv_width());
    let narrow = |width: usize| 1.0 / (width as f32).sqrt();
    let mut head = matrix("lm_head.weight".into(), vocabulary.len(), hidden, 3.0 * narrow(hidden));
    for (row, token) in head.2.chunks_mut(hidden).zip(&vocabulary) {
        if !is_plain(token) {
            row.fill(0.0);
        }
    }
    let mut tensors = vec![
        matrix("model.embed_tokens.weight".into(), vocabulary.len(), hidden, 1.0),
        ones("model.norm.weight".into()),
        head,
    ];
    for layer in 0..dims.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.extend([
            matrix(name("self_attn.q_proj"), hidden, hidden, narrow(hidden)),
            matrix(name("self_attn.k_proj"), kv, hidden, narrow(hidden)),
            matrix(name("self_attn.v_proj"), kv, hidden, narrow(hidden)),
            matrix(name("self_attn.o_proj"), hidden, hidden, narrow(hidden)),
            matrix(name("mlp.gate_proj"), inner, hidden, narrow(hidden)),
            matrix(name("mlp.up_proj"), inner, hidden, narrow(hidden)),
            matrix(name("mlp.down_proj"), hidden, inner, narrow(inner)),
            ones(name("input_layernorm")),
            ones(name("post_attention_layernorm")),
        ]);
    }
    write_tensors(&dir.join("model.safetensors"), &tensors);
}

/// Writes a PEFT adapter on the query and value projections of a model of these dimensions; `base` is what its
/// configuration names. With `zero` its B matrices are zero, so that it changes nothing.
///
/// # Panics
/// If a file cannot be written.
pub fn tiny_adapter(dir: &Path, base: &str, dims: Dims, rank: usize, seed: u64, zero: bool) {
    fs::create_dir_all(dir).expect("a folder for the adapter");
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
        "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
        "target_modules": ["q_proj", "v_proj"], "inference_mode": true, "modules_to_save": null,
        "use_rslora": false, "rank_pattern": {}, "alpha_pattern": {},
    });
    write_json(&dir.join("adapter_config.json"), &config);
    let mut tensors: Vec<Tensor> = vec![];
    for layer in 0..dims.layers {
        for (module, width) in [("q_proj", dims.hidden), ("v_proj", dims.kv_width())] {
            let name =
                |matrix: &str| format!("base_model.model.model.layers.{layer}.self_attn.{module}.lora_{matrix}.weight");
            let mut numbers = Numbers::new(seed, &name(""));
            let mut values = |count: usize, deviation: f32| (0..count).map(|_| numbers.spread(deviation)).collect();
            tensors.push((name("A"), vec![rank, dims.hidden], values(rank * dims.hidden, 0.2)));
            let deviation = if zero { 0.0 } else { 0.2 };
            tensors.push((name("B"), vec![width, rank], values(width * rank, deviation)));
        }
    }
    write_tensors(&dir.join("adapter_model.safetensors"), &tensors);
}

/// Name, shape, values.
pub type Tensor = (String, Vec<usize>, Vec<f32>);

/// Writes tensors in f32.
///
/// # Panics
/// If a shape does not fit its values, or the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[Tensor]) {
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape, values)| {
            (name.as_str(), shape.as_slice(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, data)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), data).expect("shape and data")));
    fs::write(path, safetensors::serialize(views, None).expect("tensors")).expect("a safetensors file");
}

/// Writes JSON.
///
/// # Panics
/// If the file cannot be written.
pub fn write_json(path: &Path, value: &Value) {
    fs::write(path, format!("{value:#}\n")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
