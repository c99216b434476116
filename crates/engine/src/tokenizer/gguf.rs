//! The tokenizer from GGUF metadata: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`).

mod pre_tokenizer;
mod write;

use std::collections::BTreeMap;

use harness_decoder::{DecoderError, GgufFile, GgufValue};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip},
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{Prepend, Replace, Sequence as Normalizers, unicode::NFC},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{
    TextTokenizer,
    build::{Parts, post_processor},
};

/// Token types of `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// Bytes of the longest piece whose merges are looked for: every place to cut it is tried.
const PIECE: usize = 1 << 12;

/// Space as SentencePiece writes it.
const SPACE: &str = "▁";

/// The vocabulary of a file.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// One a token.
    types: Vec<i64>,
}

impl TextTokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// If the file has none, or one that is not supported.
    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, DecoderError> {
        read(file)
    }

    /// The metadata of a GGUF file for this tokenizer and an embedding of so many rows; `ends` are the tokens that end a
    /// generation.
    ///
    /// # Errors
    /// A reason, if llama.cpp's files have no tokenizer of this kind.
    pub(crate) fn to_gguf(&self, rows: usize, ends: &[u32]) -> Result<Vec<(String, GgufValue)>, String> {
        write::metadata(self, rows, ends)
    }

    /// Fails if a tokenizer that was read from such metadata cuts texts into other tokens than this one.
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn is_as_read(&self, read: &Self) -> Result<(), String> {
        write::compare(self, read)
    }
}

fn read(file: &GgufFile) -> Result<TextTokenizer, DecoderError> {
    let failed = |reason: String| file.error(format!("the tokenizer cannot be built: {reason}"));
    let tokens = file.strings("tokenizer.ggml.tokens")?;
    let tokens = tokens.ok_or_else(|| file.missing("tokenizer.ggml.tokens", "the vocabulary"))?;
    let types = match file.numbers("tokenizer.ggml.token_type")? {
        Some(types) if types.len() != tokens.len() => {
            return Err(failed(format!("{} token types for {} tokens", types.len(), tokens.len())));
        }
        Some(types) => types.into_iter().map(|kind| kind as i64).collect(),
        None => vec![1; tokens.len()],
    };
    let vocabulary = Vocabulary { tokens, types };
    let (mut inner, adds_bos) = match file.string("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level(file, &vocabulary)?,
        Some("llama") => (sentence_piece(file, &vocabulary)?, true),
        Some(other) => return Err(failed(format!("model {other:?} is not supported; supported are gpt2 and llama"))),
        None => return Err(file.missing("tokenizer.ggml.model", "gpt2 or llama")),
    };
    let added = vocabulary.tokens.iter().zip(&vocabulary.types).filter_map(|(token, &kind)| {
        let special = matches!(kind, CONTROL | UNKNOWN);
        let wanted = (special || kind == USER_DEFINED) && !token.is_empty();
        wanted.then(|| AddedToken::from(token.to_string(), special).normalized(false))
    });
    inner.add_tokens(added).map_err(|error| failed(error.to_string()))?;

    let sentence_piece = file.string("tokenizer.ggml.model")? == Some("llama");
    let role = |name: &str, default: Option<usize>| -> Result<Option<String>, DecoderError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let given = file.integer(&key)?;
        let Some(id) = given.or(default.filter(|_| sentence_piece)) else { return Ok(None) };
        match vocabulary.tokens.get(id) {
            Some(token) => Ok(Some(token.to_string())),
            None if given.is_none() => Ok(None),
            None => Err(failed(format!("`{key}` is {id}, but there are {} tokens", vocabulary.tokens.len()))),
        }
    };
    let (bos, eos) = (role("bos", Some(1))?, role("eos", Some(2))?);
    let (unk, pad) = (role("unknown", Some(0))?, role("padding", None)?);
    let add_bos = file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let add_eos = file.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let before = bos.as_deref().filter(|_| add_bos);
    let after = eos.as_deref().filter(|_| add_eos);
    let processor = post_processor(&inner, before, after).map_err(failed)?;
    inner.with_post_processor(Some(processor));
    Parts { inner, bos, eos, unk, pad, others: BTreeMap::new(), model_max_length: None }.build().map_err(failed)
}

/// Byte-level BPE with the merges of the file; the second value is whether BOS is added where the file does not say.
fn byte_level(file: &GgufFile, vocabulary: &Vocabulary) -> Result<(Tokenizer, bool), DecoderError> {
    let failed = |reason: String| file.error(format!("the tokenizer cannot be built: {reason}"));
    let name = file.string("tokenizer.ggml.pre")?.unwrap_or("default");
    let pre = pre_tokenizer::pre_tokenizer(name).ok_or_else(|| {
        failed(format!("pre-tokenizer {name:?} is not supported; supported are {}", pre_tokenizer::SUPPORTED))
    })?;
    let pre = pre.map_err(failed)?;
    let merges = file.strings("tokenizer.ggml.merges")?;
    let merges = merges.ok_or_else(|| file.missing("tokenizer.ggml.merges", "the merges of a gpt2 vocabulary"))?;
    let merges: Merges = merges
        .iter()
        .map(|merge| match merge.char_indices().skip(1).find(|&(_, c)| c == ' ') {
            Some((at, _)) => Ok((merge[..at].to_owned(), merge[at + 1..].to_owned())),
            None => Err(failed(format!("merge {merge:?} is not two parts with a space between"))),
        })
        .collect::<Result<_, _>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab(vocabulary), merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let mut inner = Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(pre.wrapper));
    inner.with_decoder(Some(ByteLevel::new(true, true, true)));
    if pre.nfc {
        inner.with_normalizer(Some(NFC)).map_err(|error| failed(error.to_string()))?;
    }
    Ok((inner, pre.add_bos))
}

/// SentencePiece's BPE: pieces with scores become merges, unknown characters become bytes.
fn sentence_piece(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Tokenizer, DecoderError> {
    let failed = |reason: String| file.error(format!("the tokenizer cannot be built: {reason}"));
    let scores = file.numbers("tokenizer.ggml.scores")?;
    let scores = scores.ok_or_else(|| file.missing("tokenizer.ggml.scores", "the scores of a llama vocabulary"))?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(failed(format!("{} scores for {} tokens", scores.len(), vocabulary.tokens.len())));
    }
    if let Some(token) = vocabulary.tokens.iter().position(|token| token.len() > PIECE) {
        let len = vocabulary.tokens[token].len();
        return Err(failed(format!(
            "token {token} of `tokenizer.ggml.tokens` has {len} bytes, expected at most {PIECE}"
        )));
    }
    let vocab = vocab(vocabulary);
    let merges = merges_from_scores(vocabulary, &vocab, &scores);
    let unknown = vocabulary.types.iter().position(|&kind| kind == UNKNOWN).map(|id| vocabulary.tokens[id]);
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown.to_owned());
    }
    let mut inner = Tokenizer::new(builder.build().map_err(|error| failed(error.to_string()))?);

    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|error| failed(error.to_string()));
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
    }
    normalizers.push(replace(" ", SPACE)?.into());
    inner.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|error| failed(error.to_string()))?;
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Tokens to ids; empty ones, which no text can give, under a name of their own.
fn vocab(vocabulary: &Vocabulary) -> Vocab {
    let name = |(id, token): (usize, &&str)| {
        let name = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.to_string() };
        (name, id as u32)
    };
    vocabulary.tokens.iter().enumerate().map(name).collect()
}

/// Every way to put a piece together from two others, the best score first, as transformers converts SentencePiece
/// models: for equal scores the longer left part first, then the longer right one, then the order of ids.
fn merges_from_scores(vocabulary: &Vocabulary, vocab: &Vocab, scores: &[f64]) -> Merges {
    let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
    for ((piece, &kind), &score) in vocabulary.tokens.iter().zip(&vocabulary.types).zip(scores) {
        if matches!(kind, UNKNOWN | CONTROL | BYTE) {
            continue;
        }
        let mut of_piece: Vec<_> = piece
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = piece.split_at(at);
                Some((vocab.get(left)?, vocab.get(right)?, left, right))
            })
            .collect();
        of_piece.sort();
        merges.extend(
            of_piece
                .into_iter()
                .map(|(_, _, left, right)| (score, left.chars().count(), right.chars().count(), left, right)),
        );
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    merges.into_iter().map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned())).collect()
}
