//! What a trained candidate says of its making, against how it is about to be evaluated.

use std::path::{Path, PathBuf};

use harness_engine::LoadedBase;
use harness_metrics::comparison::Caveat;
use serde_json::Value;

use super::{App, load::Ready, suite::Suite};

/// Where the training of an adapter is recorded: beside it, or above a checkpoint of a finished run.
fn record(folder: &Path) -> PathBuf {
    let is_checkpoint = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"));
    let of = folder.parent().filter(|_| is_checkpoint).unwrap_or(folder);
    of.join("training.json")
}

/// Sentences about what differs between the training of an adapter and its use on this base: another base, tokenizer,
/// rule about BOS, or storage of the weights. None if the folder does not say how it was trained.
pub(super) fn differences(folder: &Path, base: &LoadedBase, add_bos: Option<bool>) -> Vec<String> {
    let path = record(folder);
    let Ok(text) = std::fs::read_to_string(&path) else { return vec![] };
    let Ok(record) = serde_json::from_str::<Value>(&text) else {
        return vec![format!("{} cannot be read; what the adapter was trained on is not known", path.display())];
    };
    let mut found = vec![];
    let stored = record["weights_stored_as"].as_str().unwrap_or_default();
    let here = base.model().storage();
    if !stored.is_empty() && stored != here {
        found.push(format!("was trained over weights stored as {stored}, here they are {here}"));
    }
    // Quantising changes the digest of a base, which is said above.
    let (then, now) = (record["base"]["hash"].as_str(), base.digest().to_string());
    if then.is_some_and(|then| then != now) && stored == here {
        let name = record["base"]["name"].as_str().unwrap_or_default();
        found.push(format!("was trained over another base: {name} had other weights or another configuration"));
    }
    if record["tokenizer_hash"].as_str().is_some_and(|then| then != base.tokenizer().digest().to_string()) {
        found.push("was trained with another tokenizer".to_owned());
    }
    let adds = add_bos.unwrap_or_else(|| base.tokenizer().adds_bos());
    if let Some(then) = record["adds_bos"].as_bool().filter(|then| *then != adds) {
        let word = |adds| if adds { "with" } else { "without" };
        found.push(format!("was trained {} BOS, prompts here are {} it", word(then), word(adds)));
    }
    found
}

/// Everything that differs between the training of a model and how it is about to be asked, for the report; what depends on
/// the tasks is told to the user here, the rest when the model was loaded.
pub(super) fn caveat(app: &App, suite: &Suite, ready: &Ready) -> Option<Caveat> {
    let mut how = ready.differences.clone();
    let template = |folder| template_difference(folder, suite.uses_chat_template());
    if let Some(difference) = ready.entry.adapter.as_deref().and_then(template) {
        app.progress().say(format!("warning: {} {difference}", ready.name));
        how.push(difference);
    }
    (!how.is_empty()).then(|| Caveat::TrainedOtherwise { model: ready.name.clone(), how })
}

/// Whether the prompts of an evaluation are conversations while the training texts were none, or the other way round, in a
/// sentence; `chat`: whether prompts go through the model's chat template.
fn template_difference(folder: &Path, chat: bool) -> Option<String> {
    let text = std::fs::read_to_string(record(folder)).ok()?;
    let record: Value = serde_json::from_str(&text).ok()?;
    let turns = !record["template"].as_object()?.get("turns").is_none_or(Value::is_null);
    let trained_on_chats = turns || record["chat_template"].is_object();
    let name = record["recipe"]["data"]["template"].as_str().unwrap_or_default();
    match (trained_on_chats, chat) {
        (true, false) => Some(format!(
            "was trained on conversations (template {name}), prompts here do not go through a chat template"
        )),
        (false, true) => Some(format!(
            "was trained on plain texts (template {name}), prompts here go through the model's chat template"
        )),
        _ => None,
    }
}
