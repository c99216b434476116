//! What a trained candidate says of its making, against how it is about to be evaluated.

use std::path::Path;

use harness_core::{ChatMessage, ChatRole};
use harness_engine::{ChatContext, ChatTemplate, LoadedBase, TextTokenizer};
use harness_metrics::comparison::Caveat;
use harness_training::record::{RecordedTurns, TrainingRecord};
use serde_json::Value;

use super::ready::Ready;
use crate::{EvaluationError, Session};

/// Sentences about what differs between the training of an adapter and its use on this base: another base, tokenizer,
/// rule about BOS, or storage of the weights. None if the folder does not say how it was trained.
pub(super) fn differences(folder: &Path, base: &LoadedBase, add_bos: Option<bool>) -> Vec<String> {
    let record = match TrainingRecord::read(folder) {
        Ok(Some(record)) => record,
        Ok(None) => return vec![],
        Err(_) => {
            let path = TrainingRecord::path(folder);
            return vec![format!("{} cannot be read; the adapter's training is unknown", path.display())];
        }
    };
    let mut found = vec![];
    let (stored, here) = (record.weights_stored_as.as_deref().unwrap_or_default(), base.model().storage());
    if !stored.is_empty() && stored != here {
        found.push(format!("was trained over weights stored as {stored}, here they are {here}"));
    }
    // Quantising changes the digest of a base, which is said above.
    let then = record.base.as_ref();
    if then.and_then(|base| base.hash).is_some_and(|then| then != base.digest()) && stored == here {
        let name = then.and_then(|base| base.name.as_deref()).unwrap_or_default();
        found.push(format!("was trained over another base: {name} had other weights or another configuration"));
    }
    if record.tokenizer_hash.is_some_and(|then| then != base.tokenizer().digest()) {
        found.push("was trained with another tokenizer".to_owned());
    }
    let adds = add_bos.unwrap_or_else(|| base.tokenizer().adds_bos());
    if let Some(then) = record.adds_bos.filter(|then| *then != adds) {
        let word = |adds| if adds { "with" } else { "without" };
        found.push(format!("was trained {} BOS, prompts here are {} it", word(then), word(adds)));
    }
    found
}

/// The caveats of a model that say how it is asked: with texts of its own, or otherwise than it was trained. What depends on
/// the tasks is told here, the rest when the model was loaded. `chat`: whether prompts go through a chat template.
pub fn caveats(session: &Session, chat: bool, ready: &Ready) -> Vec<Caveat> {
    let model = || ready.name.clone();
    let own = (!ready.own_texts.is_empty()).then(|| Caveat::OwnTexts { model: model(), what: ready.own_texts.clone() });
    let mut how = ready.differences.clone();
    let used =
        ready.model.local().and_then(|model| model.base().chat_template().map(|used| (used, model.base().tokenizer())));
    let template = |folder| template_difference(folder, chat, used);
    if let Some(difference) = ready.entry.adapter.as_deref().and_then(template) {
        session.note(format!("warning: {} {difference}", ready.name));
        how.push(difference);
    }
    own.into_iter().chain((!how.is_empty()).then(|| Caveat::TrainedOtherwise { model: model(), how })).collect()
}

/// Whether the prompts of an evaluation are conversations while the training texts were none, or the other way round, or
/// conversations in another form, in a sentence; `chat`: whether prompts go through a chat template, `used`.
fn template_difference(folder: &Path, chat: bool, used: Option<(&ChatTemplate, &TextTokenizer)>) -> Option<String> {
    let record = TrainingRecord::read(folder).ok()??;
    let name = record.data_template().unwrap_or_default();
    match (record.has_conversations()?, chat) {
        (true, false) => Some(format!(
            "was trained on conversations (template {name}), prompts here do not go through a chat template"
        )),
        (false, true) => Some(format!(
            "was trained on plain texts (template {name}), prompts here go through the model's chat template"
        )),
        (true, true) => {
            let (used, tokenizer) = used?;
            let trained = trained_template(folder).ok().flatten();
            let same = trained.is_some_and(|trained| renders_alike(&trained, used, tokenizer));
            (!same).then(|| {
                format!(
                    "was trained on conversations in another form (template {name}) than that of the chat template here"
                )
            })
        }
        (false, false) => None,
    }
}

/// Whether two templates give the same text, but for a BOS that the tokenizer would add anyway.
fn renders_alike(one: &ChatTemplate, other: &ChatTemplate, tokenizer: &TextTokenizer) -> bool {
    let chat = [
        ChatMessage::new(ChatRole::User, "A b?"),
        ChatMessage::new(ChatRole::Assistant, "C."),
        ChatMessage::new(ChatRole::User, "D"),
    ];
    let bos = tokenizer.bos().map_or("", |bos| bos.text.as_str());
    let text = |template: &ChatTemplate| {
        let text = template.render(&chat, &ChatContext::default(), tokenizer).ok()?;
        Some(text.strip_prefix(bos).map_or_else(|| text.clone(), str::to_owned))
    };
    one.digest() == other.digest() || text(one).is_some_and(|text_of_one| text(other) == Some(text_of_one))
}

/// The chat template of an adapter that was trained here on conversations, from the texts of their turns. `None` where it was
/// not, or the texts hold more of Jinja than expressions.
///
/// # Errors
/// If the texts make no template.
pub fn trained_template(folder: &Path) -> Result<Option<ChatTemplate>, EvaluationError> {
    let Ok(Some(record)) = TrainingRecord::read(folder) else { return Ok(None) };
    if let Some(source) = record.chat_template.as_ref().and_then(|template| template.source.as_deref()) {
        return Ok(Some(ChatTemplate::new(source)?));
    }
    let Some(RecordedTurns { system, user, assistant_begin: begin, assistant }) = record.turns() else {
        return Ok(None);
    };
    if [system, user, assistant].iter().any(|text| text.contains("{%") || text.contains("{#")) {
        return Ok(None);
    }
    // Empty expressions keep the lines of the texts from what Jinja does to lines of blocks.
    let text = |source: &str| format!("{{{{ '' }}}}{source}{{{{ '' }}}}");
    let begin = format!("{{{{ {} }}}}", Value::from(begin));
    let source = format!(
        "{{% for message in messages %}}{{% set content = message['content'] %}}{{% if message['role'] == 'system' %}}{}\
         {{% elif message['role'] == 'user' %}}{}{{% else %}}{begin}{}{{% endif %}}{{% endfor %}}\
         {{% if add_generation_prompt %}}{begin}{{% endif %}}",
        text(system),
        text(user),
        text(assistant)
    );
    Ok(Some(ChatTemplate::new(&source)?))
}
