//! A candidate as a whole model of its own: its adapter merged into its base.

use std::{fs, path::Path};

use harness_core::{Control, atomic_rename, file_part, temporary};
use harness_decoder::{DecoderConfig, DecoderError, GgufType, merge_adapter};
use harness_engine::{ChatTemplate, EngineError, TextTokenizer, copy_beside, save_gguf};

use super::{
    load::{Loader, Missing, Trainer},
    texts::{self, Chosen, Keep},
};
use crate::{
    EvaluationError, Session,
    experiment::{Candidate, ModelSection, ResolvedModel, TokenizerChoice},
};

/// Files and folders of a tokenizer and its chat templates, all from one folder.
const TEXTS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
];

/// Writes a candidate to the folder `out`, which must be empty or not there and appears whole: its base in Hugging Face
/// layout with the adapter merged into the weights, and the tokenizer and the chat template that the candidate is asked
/// with. With a type it is one GGUF file of that type instead; a candidate without an adapter is then written as it is.
///
/// # Errors
/// If the candidate has no adapter or is not trained, it cannot be merged ([`merge_adapter`]) or written as GGUF
/// ([`save_gguf`]), or a file cannot be written; if the work is stopped.
pub fn merge(
    session: &Session,
    resolved: &ResolvedModel,
    trainer: Trainer,
    out: &Path,
    gguf: Option<GgufType>,
) -> Result<(), EvaluationError> {
    let taken = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if taken {
        let out = out.display();
        return Err(EvaluationError::usage(format!("--out {out}: is there already; expected a new or empty folder")));
    }
    let place = Loader::new(session, session.device.limits(), trainer).place(resolved, Missing::Refuse)?;
    let files = place.files().filter(|(_, adapter)| adapter.is_some() || gguf.is_some());
    let Some((base, adapter)) = files else {
        let name = &resolved.name;
        return Err(EvaluationError::usage(format!(
            "{name}: there is no adapter to merge; expected an adapter's folder, or the name of a candidate that has one"
        )));
    };
    if !base.is_dir() {
        let base = base.display();
        return Err(EvaluationError::usage(format!(
            "{base}: expected a model in Hugging Face layout; GGUF files are not merged or converted"
        )));
    }
    let write_error = |error| EvaluationError::from(DecoderError::write(out, error));
    let partial = temporary(out).map_err(write_error)?;
    let result = write(session, resolved, (base, adapter), &partial, gguf).and_then(|()| {
        if out.exists() {
            fs::remove_dir(out).map_err(write_error)?;
        }
        atomic_rename(&partial, out).map_err(write_error)
    });
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

fn write(
    session: &Session,
    resolved: &ResolvedModel,
    (base, adapter): (&Path, Option<&Path>),
    to: &Path,
    gguf: Option<GgufType>,
) -> Result<(), EvaluationError> {
    let name = &resolved.name;
    let Some(kind) = gguf else { return write_merged(session, resolved, (base, adapter), to) };
    let merged = to.join("merged");
    let failed = |error| EvaluationError::from(DecoderError::write(to, error));
    fs::create_dir_all(to).map_err(failed)?;
    let from = if adapter.is_some() { &merged } else { base };
    if adapter.is_some() {
        write_merged(session, resolved, (base, adapter), &merged)?;
    }
    let file = to.join(format!("{}-{}.gguf", file_part(name), kind.name()));
    counted(session, &format!("write {}", kind.name()), |on_tensor| save_gguf(from, &file, kind, name, on_tensor))
        .map_err(|error| match error {
            // The path is that of a temporary file.
            EvaluationError::Engine(EngineError::Decoder(DecoderError::Gguf { reason, .. })) => {
                EvaluationError::usage(format!("{name}: {reason}"))
            }
            other => other,
        })?;
    if adapter.is_some() { fs::remove_dir_all(&merged).map_err(failed) } else { Ok(()) }
}

fn write_merged(
    session: &Session,
    resolved: &ResolvedModel,
    (base, adapter): (&Path, Option<&Path>),
    to: &Path,
) -> Result<(), EvaluationError> {
    let Some(adapter) = adapter else { return Ok(()) };
    counted(session, &format!("merge {}", resolved.name), |on_tensor| merge_adapter(base, adapter, to, on_tensor))?;
    write_texts(session, resolved, (base, adapter), to)
}

/// Does work that tells of the tensors it has written, as a stage that can be interrupted.
fn counted<E: Into<EvaluationError>>(
    session: &Session,
    title: &str,
    work: impl FnOnce(&mut dyn FnMut(usize, usize) -> Control) -> Result<(), E>,
) -> Result<(), EvaluationError> {
    let mut stage = None;
    let mut tensors = 0;
    let result = work(&mut |_, count| {
        tensors = count;
        stage.get_or_insert_with(|| session.stage(title, count as u64)).step();
        if session.interrupted() { Control::Stop } else { Control::Continue }
    });
    if session.interrupted() && result.is_err() {
        return Err(EvaluationError::Interrupted("interrupted: nothing is written".to_owned()));
    }
    result.map_err(Into::into)?;
    if let Some(stage) = stage {
        stage.finish(&format!("{tensors} tensors"));
    }
    Ok(())
}

/// Everything but the weights and `config.json`.
fn write_texts(
    session: &Session,
    resolved: &ResolvedModel,
    (base, adapter): (&Path, &Path),
    to: &Path,
) -> Result<(), EvaluationError> {
    let of_base = (TextTokenizer::load(base)?, ChatTemplate::load(base, None)?);
    let rows = DecoderConfig::load(to)?.vocab_size;
    let resolved = plain(session, resolved);
    let files = (base, Some(adapter));
    let Chosen { texts, own, unused } =
        texts::choose(session, &resolved, (&of_base.0, of_base.1.as_ref()), files, rows, Keep::No)?;
    for sentence in own.iter().map(|own| format!("gets its own {own}")).chain(unused) {
        session.note(format!("{} {sentence}", resolved.name));
    }
    let named = resolved.section.tokenizer.clone().or(texts::base_section(&resolved).tokenizer.clone());
    let named = match named {
        Some(TokenizerChoice::Folder(folder)) => Some(session.experiment.folder.join(folder)),
        Some(TokenizerChoice::Adapter | TokenizerChoice::Base) | None => None,
    };
    let mut from = base;
    for folder in named.as_deref().into_iter().chain([adapter]) {
        let here = folder.join("tokenizer.json").exists() && from == base;
        if here && TextTokenizer::load(folder)?.digest() == texts.tokenizer.digest() {
            from = folder;
        }
    }
    let is_text = |name: &str| TEXTS.contains(&name);
    copy_beside(base, to, &|name| !is_text(name) && name != "config.json" && !name.starts_with("README"))?;
    copy_beside(from, to, &is_text)?;
    if let Some(template) = &texts.chat_template
        && ChatTemplate::load(to, None)?.map(|written| written.digest()) != Some(template.digest())
    {
        harness_store::atomic_write(&to.join("chat_template.jinja"), template.source())?;
    }
    if TextTokenizer::load(to)?.digest() != texts.tokenizer.digest() {
        session.note(format!(
            "warning: the tokenizer of {} reads otherwise beside the base's config.json, which names its class",
            from.display()
        ));
    }
    Ok(())
}

/// A candidate without what the experiment says of it that no file of a model holds; a note names it.
fn plain(session: &Session, resolved: &ResolvedModel) -> ResolvedModel {
    let mut plain = resolved.clone();
    let mut left = vec![];
    let mut clear = |section: &mut ModelSection| {
        let ModelSection { pre_tokenizer, add_bos, chat_template_kwargs, date, max_length, quantization, .. } = section;
        for (key, given) in [
            ("pre_tokenizer", pre_tokenizer.take().is_some()),
            ("add_bos", add_bos.take().is_some()),
            ("chat_template_kwargs", !std::mem::take(chat_template_kwargs).variables().is_empty()),
            ("date", date.take().is_some()),
            ("max_length", max_length.take().is_some()),
            ("quantization", quantization.take().is_some()),
        ] {
            if given && !left.contains(&key) {
                left.push(key);
            }
        }
    };
    clear(&mut plain.section);
    if let Candidate::Adapter { base, .. } | Candidate::Recipe { base: Some(base), .. } = &mut plain.candidate {
        clear(&mut base.section);
    }
    if !left.is_empty() {
        session.note(format!(
            "{}: harness.toml sets {}, which no file of a model holds: set it for the merged model too",
            resolved.name,
            left.join(", ")
        ));
    }
    plain
}
