//! Files of a model: each by turns what the bytes say, the others those of the smallest seed.

use std::{path::Path, sync::Arc};

use harness_core::{Control, LanguageModel as _, Request, Sampling};
use harness_engine::{EngineError, LoadedBase, LocalModel, ModelFiles, ModelOptions, TextTokenizer};
use harness_evaluation::EvaluationError;

use crate::folder::{with_folder, write};

/// The seeds that make a whole model.
pub(crate) const MODEL: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../../fuzz/corpus/config/llama.json")),
    ("model.safetensors", include_bytes!("../../../fuzz/corpus/safetensors/llama.safetensors")),
    ("tokenizer.json", include_bytes!("../../../fuzz/corpus/tokenizer/bpe.json")),
];

/// Texts of many kinds.
const TEXTS: [&str; 5] = ["", "a b", "  <s>é\u{0}\n\t", "日本語🙂 cab", "bad\u{301} face 0123456789"];

/// A GGUF file.
pub(crate) fn gguf(bytes: &[u8]) {
    with_folder(|folder| {
        write(folder, "model.gguf", bytes);
        load(&folder.join("model.gguf"));
    });
}

/// `config.json`.
pub(crate) fn config(bytes: &[u8]) {
    folder_with("config.json", bytes);
}

/// `model.safetensors`.
pub(crate) fn safetensors(bytes: &[u8]) {
    folder_with("model.safetensors", bytes);
}

/// `tokenizer.json`; one that can be read encodes and decodes any text.
pub(crate) fn tokenizer(bytes: &[u8]) {
    with_folder(|folder| {
        write(folder, "tokenizer.json", bytes);
        match TextTokenizer::load(folder) {
            Ok(tokenizer) => use_tokenizer(&tokenizer),
            Err(error) => blames(folder, error),
        }
    });
}

fn folder_with(name: &str, bytes: &[u8]) {
    with_folder(|folder| {
        for (known, content) in MODEL {
            write(folder, known, if known == name { bytes } else { content });
        }
        load(folder);
    });
}

/// Loads a model, and lets one that can be loaded answer.
fn load(path: &Path) {
    let loaded = ModelFiles::load(path).and_then(|files| LoadedBase::place(files, ModelOptions::default()));
    let base = match loaded {
        Ok(base) => Arc::new(base),
        Err(error) => return blames(path, error),
    };
    let model = LocalModel::new(base);
    let sampling = Sampling { max_new_tokens: 2, top_logprobs: Some(2), ..Sampling::default() };
    let requests = [
        Request::Generate { prompt: "a b".into(), stop: vec!["c".into()], sampling },
        Request::LogLikelihood { context: "a".into(), continuation: " b".into() },
    ];
    for request in requests {
        // A model need not be able to answer; it must not break.
        let _ = model.answer(&[request], &mut |_, _| Control::Continue);
    }
}

fn use_tokenizer(tokenizer: &TextTokenizer) {
    for text in TEXTS {
        for add_special_tokens in [false, true] {
            let Ok(ids) = tokenizer.encode(text, add_special_tokens) else { continue };
            for &id in &ids {
                assert!(tokenizer.beyond(id as usize + 1).is_none_or(|beyond| beyond > id), "{id} of {text:?}");
                tokenizer.token_text(id);
            }
            let whole = tokenizer.decode(&ids, false);
            let mut stream = tokenizer.stream(false);
            let mut parts: Vec<_> = ids.iter().map(|&id| stream.push(id)).collect();
            parts.push(stream.finish());
            // What is told piece by piece is what is told at once.
            if let (Ok(whole), Ok(parts)) = (whole, parts.into_iter().collect::<Result<String, _>>()) {
                assert_eq!(parts, whole, "{ids:?}");
            }
        }
    }
}

fn blames(path: &Path, error: EngineError) {
    let text = error.to_string();
    let named = text.contains(&path.display().to_string());
    assert!(named && EvaluationError::from(error).is_usage(), "the error does not blame its file: {text}");
}
