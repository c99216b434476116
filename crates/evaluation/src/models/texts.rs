//! Which tokenizer and chat template a model is asked with, and what its chats are told.

use std::{path::Path, time::SystemTime};

use super::lineage;
use crate::{
    EvaluationError, Session,
    experiment::{Candidate, Day, ModelSection, PreTokenizer, ResolvedModel, TokenizerChoice},
};
use harness_core::ChatKwargs;
use harness_engine::{ChatSettings, ChatTemplate, DateUse, PairOptions, TextTokenizer, Texts};
use harness_python::CivilTime;

/// The file in `HARNESS_HOME` with the day that templates are told.
const DATE: &str = "date";

/// How a model is asked.
pub(super) struct Chosen {
    /// Its tokenizer and template, and what its chats are told.
    pub texts: Texts,
    /// What of an adapter's own differs from its base's and is used, in words.
    pub own: Vec<String>,
    /// What of an adapter's own differs from its base's and is not used, in sentences.
    pub unused: Vec<String>,
}

/// Whether the day of a first run is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is, and all later runs are told it.
    Yes,
    /// Nothing of the work is stored, and no day with it.
    No,
}

/// What tokenizer, template and settings a model gets over its base, which has `of_base` itself. `rows`: the tokens that its
/// embedding knows.
///
/// # Errors
/// If something is asked for that is not there, or does not fit the model.
pub(super) fn choose(
    session: &Session,
    resolved: &ResolvedModel,
    of_base: (&TextTokenizer, Option<&ChatTemplate>),
    place: (&Path, Option<&Path>),
    rows: usize,
    keep: Keep,
) -> Result<Chosen, EvaluationError> {
    let ((base, adapter), (tokenizer_of_base, template_of_base)) = (place, of_base);
    let section = &resolved.section;
    let below = base_section(resolved);
    let choice = section.tokenizer.clone().or(below.tokenizer.clone()).unwrap_or(TokenizerChoice::Adapter);
    let named = match &choice {
        TokenizerChoice::Folder(folder) => Some(session.experiment.folder.join(folder)),
        TokenizerChoice::Adapter | TokenizerChoice::Base => None,
    };
    let (mut own, mut unused) = (vec![], vec![]);
    let mut tokenizer = match &named {
        Some(folder) => TextTokenizer::load(folder)?,
        None => tokenizer_of_base.clone(),
    };
    let mut template = template_of_base.cloned();
    if let Some(folder) = &named {
        template = ChatTemplate::load(folder, None)?.or(template);
    }
    if let Some(folder) = adapter {
        let chosen = named.as_ref().is_some_and(|named| named.canonicalize().ok() == folder.canonicalize().ok());
        let used = choice == TokenizerChoice::Adapter || chosen;
        if folder.join("tokenizer.json").exists() {
            let its = TextTokenizer::load(folder)?;
            if !its.encodes_like(tokenizer_of_base) {
                let tokens = format!("{} tokens, the base's has {}", its.vocab_size(), tokenizer_of_base.vocab_size());
                match used {
                    true => own.push(format!("tokenizer ({tokens})")),
                    false => unused.push("was saved with a tokenizer of its own, which is not used here".to_owned()),
                }
                tokenizer = if used { its } else { tokenizer };
            }
        }
        let saved = ChatTemplate::load(folder, None)?;
        let is_saved = saved.is_some();
        let its = if is_saved { saved } else { lineage::trained_template(folder)? };
        if let Some(its) = its.filter(|its| template_of_base.map(ChatTemplate::digest) != Some(its.digest())) {
            match used {
                true => own.push("chat template".to_owned()),
                false if is_saved => {
                    unused.push("was saved with a chat template of its own, which is not used here".to_owned())
                }
                // How it was trained is compared with how it is asked when the tasks are known.
                false => {}
            }
            template = if used { Some(its) } else { template };
        }
    }
    let asked = section.chat_template.as_ref().map(|file| (file, adapter.unwrap_or(base)));
    // What the experiment says of the base does not go before an adapter's own template.
    let named_for_base = below.chat_template.as_ref().filter(|_| !own.iter().any(|part| part == "chat template"));
    if let Some((file, folder)) = asked.or(named_for_base.map(|file| (file, base))) {
        template = Some(named_template(&session.experiment.folder.join(file), folder, file)?);
        own.retain(|part| part != "chat template");
    }
    if let Some(PreTokenizer::Gpt2) = section.pre_tokenizer.or(below.pre_tokenizer) {
        tokenizer = tokenizer.with_gpt2_splits()?;
    }
    if let Some(id) = tokenizer.beyond(rows) {
        let from = named.as_deref().or(adapter).unwrap_or(base).display();
        return Err(EvaluationError::usage(format!(
            "{from}: the tokenizer has token id {id}, but the embedding of {} has {rows} rows, so its new tokens have none; \
             tokenizer = \"base\" (--tokenizer base) takes the base's tokenizer, to which they are plain text",
            resolved.name
        )));
    }
    let kwargs = below.chat_template_kwargs.clone().with(&section.chat_template_kwargs);
    check_variables(&resolved.name, template.as_ref(), &kwargs)?;
    let now = day(session, resolved, section.date.or(below.date), template.as_ref(), keep)?;
    let pair = PairOptions { add_bos: section.add_bos.or(below.add_bos), ..PairOptions::default() };
    if pair.add_bos == Some(true) && !tokenizer.adds_bos() {
        return Err(EvaluationError::usage(format!(
            "{}: add_bos = true, but the tokenizer puts no BOS before a text: its tokenizer.json has no post-processor that \
             does; leave add_bos out, or choose another tokenizer",
            resolved.name
        )));
    }
    let texts = Texts { tokenizer, chat_template: template, pair, chat: ChatSettings { now, kwargs } };
    Ok(Chosen { texts, own, unused })
}

/// Where an adapter's tokenizer and chat template come from, in words, without reading its base.
///
/// # Errors
/// If its files are broken.
pub fn sources(resolved: &ResolvedModel, adapter: &Path) -> Result<[String; 2], EvaluationError> {
    let choice = resolved.section.tokenizer.as_ref().or(base_section(resolved).tokenizer.as_ref());
    let has_tokenizer = adapter.join("tokenizer.json").exists();
    let its_template = ChatTemplate::load(adapter, None)?.is_some();
    let trained = !its_template && lineage::trained_template(adapter)?.is_some();
    let source = |its: bool, own: String| match choice {
        Some(TokenizerChoice::Folder(folder)) => folder.display().to_string(),
        Some(TokenizerChoice::Base) if its => "the base's, not its own".to_owned(),
        _ if its => own,
        _ => "the base's".to_owned(),
    };
    let own = |its: bool| -> Result<String, EvaluationError> {
        let tokens = if its { TextTokenizer::load(adapter)?.vocab_size() } else { 0 };
        Ok(format!("its own, {tokens} tokens"))
    };
    let template = if trained { "that of its training" } else { "its own" };
    Ok([source(has_tokenizer, own(has_tokenizer)?), source(its_template || trained, template.to_owned())])
}

/// What the experiment says of the model itself, or of the base it sits on.
pub(super) fn base_section(resolved: &ResolvedModel) -> &ModelSection {
    match &resolved.candidate {
        Candidate::Adapter { base, .. } | Candidate::Recipe { base: Some(base), .. } => &base.section,
        Candidate::Base { .. } | Candidate::Endpoint { .. } | Candidate::Recipe { base: None, .. } => &resolved.section,
    }
}

/// The chat template that the experiment names for a base, where it names one.
///
/// # Errors
/// If there is no such template.
pub fn template_of(session: &Session, base: &ResolvedModel) -> Result<Option<ChatTemplate>, EvaluationError> {
    let Some(name) = &base.section.chat_template else { return Ok(None) };
    let folder = match &base.candidate {
        Candidate::Base { path } => path.as_path(),
        Candidate::Adapter { .. } | Candidate::Recipe { .. } | Candidate::Endpoint { .. } => Path::new(""),
    };
    named_template(&session.experiment.folder.join(name), folder, name).map(Some)
}

/// A chat template in a file of its own, else one of this name that the model has.
fn named_template(file: &Path, model: &Path, name: &Path) -> Result<ChatTemplate, EvaluationError> {
    let name = name.to_string_lossy();
    if !file.exists()
        && model.is_dir()
        && ChatTemplate::names(model)?.iter().any(|known| *known == name)
        && let Some(template) = ChatTemplate::load(model, Some(&name))?
    {
        return Ok(template);
    }
    let source = harness_core::read_text(file)
        .map_err(|e| EvaluationError::usage(format!("cannot read the chat template {}: {e}", file.display())))?;
    ChatTemplate::new(&source).map_err(|e| EvaluationError::usage(format!("{}: {e}", file.display())))
}

/// Refuses variables of which the template does not speak.
fn check_variables(name: &str, template: Option<&ChatTemplate>, kwargs: &ChatKwargs) -> Result<(), EvaluationError> {
    let unknown = kwargs.variables().keys().find(|name| !template.is_some_and(|template| template.mentions(name)));
    match unknown {
        None => Ok(()),
        Some(variable) => Err(EvaluationError::usage(match template {
            Some(_) => format!("{name}: chat_template_kwargs: its chat template does not use {variable:?}"),
            None => {
                format!("{name}: chat_template_kwargs: it has no chat template to pass {variable:?} to")
            }
        })),
    }
}

/// The day that a template is told: the one that is asked for, else, where it cannot do without, that of the first run.
fn day(
    session: &Session,
    resolved: &ResolvedModel,
    asked: Option<Day>,
    template: Option<&ChatTemplate>,
    keep: Keep,
) -> Result<Option<CivilTime>, EvaluationError> {
    let uses = template.map_or(DateUse::None, ChatTemplate::date_use);
    if asked.is_some() || uses != DateUse::Always {
        return Ok(asked.map(|day| day.0));
    }
    let path = session.home.join(DATE);
    let kept = |text: String| {
        text.trim().parse::<Day>().map_err(|reason| EvaluationError::usage(format!("{}: {reason}", path.display())))
    };
    let day = match harness_core::read_text(&path) {
        Ok(text) => kept(text)?,
        Err(_) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let today = CivilTime::from_unix(now.as_secs() as i64).to_string();
            if keep == Keep::Yes {
                harness_store::atomic_write(&path, format!("{today}\n"))?;
            }
            kept(today)?
        }
    };
    session.note(format!("{}: its chat template shows the date: {day} (--date sets another)", resolved.name));
    Ok(Some(day.0))
}
