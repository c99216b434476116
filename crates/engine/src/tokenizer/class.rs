//! The class that transformers 5 gives a tokenizer, and what the class adds to its files.

use serde_json::{Map, Value};

/// Reads a tokenizer as its file says.
const PLAIN: &str = "TokenizersBackend";

/// Classes that put tokens of their own around a text, whatever the file says, in ways that no decoder here needs.
const ENCODERS: [&str; 25] = [
    "AlbertTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "CamembertTokenizer",
    "CLIPTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "FunnelTokenizer",
    "HerbertTokenizer",
    "LukeTokenizer",
    "MBartTokenizer",
    "MBart50Tokenizer",
    "MPNetTokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "PegasusTokenizer",
    "RemBertTokenizer",
    "RobertaTokenizer",
    "RoFormerTokenizer",
    "SeamlessM4TTokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
    "XLNetTokenizer",
];

/// What a class says that the files need not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Class {
    /// Whether BOS is put before a text, in place of the file's post-processor; `None` = as the file says.
    pub(super) adds_bos: Option<bool>,
    /// Whether texts are split into bytes, whatever the file says.
    pub(super) splits_bytes: bool,
    /// BOS, EOS, UNK and PAD where the configuration names none and the vocabulary has them.
    pub(super) roles: [Option<&'static str>; 4],
}

impl Class {
    /// The class of a tokenizer, by `tokenizer_config.json` and the model's `config.json`. `byte_level`: whether the
    /// file's tokens are bytes, which `LlamaTokenizer` cannot be.
    ///
    /// # Errors
    /// A reason, if it is a class of encoders.
    pub(super) fn of(
        config: &Map<String, Value>,
        model: &Map<String, Value>,
        byte_level: bool,
    ) -> Result<Self, String> {
        let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let declared = text(config, "tokenizer_class").or_else(|| text(model, "tokenizer_class"));
        let declared = declared.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let kind = text(model, "model_type").unwrap_or_default();
        let registered = match kind.as_str() {
            "mistral" | "mixtral" => Some(PLAIN),
            "qwen2" | "qwen3" => Some("Qwen2Tokenizer"),
            _ => None,
        };
        let name = match (declared, registered) {
            // So many Qwen 2 models name a wrong class that transformers does not look at it.
            (_, Some(registered)) if kind == "qwen2" => registered,
            (Some("LlamaTokenizer"), _) if byte_level => PLAIN,
            (Some(_), Some(PLAIN)) => PLAIN,
            (Some(declared), _) => declared,
            (None, registered) => registered.unwrap_or(PLAIN),
        };
        if ENCODERS.contains(&name) {
            return Err(format!(
                "tokenizer_class {name}: transformers puts tokens around a text by rules of this class, which are not \
                 supported; expected a decoder's class, or PreTrainedTokenizerFast for what tokenizer.json says"
            ));
        }
        let end = Some("<|endoftext|>");
        let llama = [Some("<s>"), Some("</s>"), Some("<unk>"), None];
        Ok(match name {
            "LlamaTokenizer" => Self { roles: llama, ..Self::default() },
            "CodeLlamaTokenizer" => Self { adds_bos: Some(true), roles: llama, ..Self::default() },
            "GPT2Tokenizer" => Self { roles: [end, end, end, None], ..Self::default() },
            "GPTNeoXTokenizer" => {
                Self { adds_bos: Some(false), roles: [end, end, end, Some("<|padding|>")], ..Self::default() }
            }
            "Qwen2Tokenizer" => Self { splits_bytes: true, roles: [None, end, end, end], ..Self::default() },
            _ => Self::default(),
        })
    }
}
