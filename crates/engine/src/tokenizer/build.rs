//! Putting a tokenizer together from its parts.

use std::{collections::BTreeMap, sync::Arc};

use tokenizers::{Tokenizer, pre_tokenizers::byte_level::ByteLevel, processors::template::TemplateProcessing};

use super::{SpecialToken, TextTokenizer, digest, lines::Lines};
use crate::EngineError;

/// What a tokenizer is made of, whatever file it comes from.
pub(crate) struct Parts {
    pub(crate) inner: Tokenizer,
    pub(crate) bos: Option<String>,
    pub(crate) eos: Option<String>,
    pub(crate) unk: Option<String>,
    pub(crate) pad: Option<String>,
    /// Further special tokens by role, for chat templates.
    pub(crate) others: BTreeMap<String, String>,
    pub(crate) model_max_length: Option<usize>,
}

impl Parts {
    /// Finds the special tokens in the vocabulary.
    ///
    /// # Errors
    /// A reason, if a special token is not in the vocabulary.
    pub(crate) fn build(self) -> Result<TextTokenizer, String> {
        let Self { inner, bos, eos, unk, pad, others, model_max_length } = self;
        let find = |role: &str, text: Option<String>| {
            text.map(|text| match inner.token_to_id(&text) {
                Some(id) => Ok(SpecialToken { id, text }),
                None => Err(format!("{role} {text:?} is not in the vocabulary")),
            })
            .transpose()
        };
        let bos = find("bos_token", bos)?;
        let eos = find("eos_token", eos)?;
        let unk = find("unk_token", unk)?;
        let pad = find("pad_token", pad)?;
        let probe = inner.encode_fast("a", true).map_err(|error| error.to_string())?;
        let adds_bos = bos.as_ref().is_some_and(|bos| probe.get_ids().first() == Some(&bos.id));
        let digest = digest(&inner, [&bos, &eos, &unk, &pad])?;
        let lines = Lines::of(&inner).map(Arc::new);
        Ok(TextTokenizer { inner, bos, eos, unk, pad, others, adds_bos, model_max_length, digest, lines })
    }
}

impl TextTokenizer {
    /// The same vocabulary and merges with GPT-2's way of splitting a text, whatever `tokenizer.json` says. transformers 5
    /// reads every tokenizer of the class `GPT2Tokenizer` so, and thereby drops rules such as SmolLM2's, which
    /// splits numbers into digits; scores that are to equal those of tools built on it need the same.
    ///
    /// # Errors
    /// If a special token is not in the vocabulary.
    pub fn with_gpt2_splits(self) -> Result<Self, EngineError> {
        let Self { mut inner, bos, eos, unk, pad, others, model_max_length, .. } = self;
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        let [bos, eos, unk, pad] = [bos, eos, unk, pad].map(|token| token.map(|token| token.text));
        Parts { inner, bos, eos, unk, pad, others, model_max_length }.build().map_err(EngineError::Tokenizer)
    }
}

/// The post-processor that adds BOS before and EOS after a text.
///
/// # Errors
/// A reason, if a token to be added is not in the vocabulary.
pub(crate) fn post_processor(
    inner: &Tokenizer,
    bos: Option<&str>,
    eos: Option<&str>,
) -> Result<TemplateProcessing, String> {
    let id = |text: &str| inner.token_to_id(text).ok_or_else(|| format!("{text:?} is not in the vocabulary"));
    let special: Vec<(String, u32)> =
        bos.iter().chain(eos.iter()).map(|text| Ok((text.to_string(), id(text)?))).collect::<Result<_, String>>()?;
    let one = |segment: &str, type_id: u32| -> Vec<String> {
        let before = bos.map(|text| format!("{text}:{type_id}"));
        let after = eos.map(|text| format!("{text}:{type_id}"));
        before.into_iter().chain([format!("{segment}:{type_id}")]).chain(after).collect()
    };
    let single = one("$A", 0);
    let pair: Vec<String> = single.iter().cloned().chain(one("$B", 1)).collect();
    TemplateProcessing::builder()
        .try_single(single)
        .map_err(|error| error.to_string())?
        .try_pair(pair)
        .map_err(|error| error.to_string())?
        .special_tokens(special)
        .build()
        .map_err(|error| error.to_string())
}
