//! What is judged: instructions, and outputs from files or from models that write them now.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Output, Request, RequestKey, Sampling, split_marked_thinking,
    split_thinking_after,
};
use harness_http::Endpoint;
use harness_judges::{
    Item, OutputSet, Protocol,
    files::{alpaca_eval, fastchat},
};
use harness_store::{RunStore as _, read_rows};
use serde_json::Value;

use super::options::JudgingOptions;
use super::{ask::Asked, origin::Origin};
use crate::{
    EvaluationError, Session,
    ask::Open,
    models::{Loader, Missing, Ready},
};

/// Files that hold outputs, by how their names end.
const OUTPUT_FILES: [&str; 6] = [".json", ".jsonl", ".jsonl.zst", ".json.zst", ".csv", ".parquet"];

/// Where the instructions of the protocols lie below a data folder.
const ALPACA: [&str; 3] =
    ["alpaca_eval/alpaca_eval.json", "alpaca_eval/alpaca_eval.jsonl", "alpaca_eval/alpaca_eval.jsonl.zst"];
const MT_BENCH: [&str; 4] =
    ["mt_bench/question.jsonl", "mt_bench/train.jsonl", "mt_bench/train.jsonl.zst", "mt_bench/question.jsonl.zst"];

/// The instructions, and the name of their set.
pub(super) struct Instructions {
    pub set: String,
    pub items: Vec<Item>,
}

/// Most tokens of an output of one turn.
const MAX_NEW_TOKENS: usize = 512;

/// What is judged of one model.
pub(super) struct Judged {
    /// The outputs.
    pub set: OutputSet,
    /// Where the model is from.
    pub origin: Origin,
    /// What writing them took; nothing where they were in a file.
    pub written: Asked,
    /// Outputs from which thinking was cut off.
    pub thoughts: usize,
}

/// Whether an argument is a file of outputs and no model.
pub(super) fn is_file(name: &str) -> bool {
    OUTPUT_FILES.iter().any(|end| name.ends_with(end))
}

/// The instructions of a command.
///
/// # Errors
/// If there are none, or their file is wrong.
pub(super) fn instructions(
    session: &Session,
    options: &JudgingOptions,
    protocol: &Protocol,
) -> Result<Instructions, EvaluationError> {
    let multi_turn = protocol.is_multi_turn();
    let from_outputs = options.baseline.iter().chain(&options.models).find(|name| is_file(name)).map(PathBuf::from);
    let default = if multi_turn { found(session, &MT_BENCH) } else { from_outputs.or_else(|| found(session, &ALPACA)) };
    let Some(path) = options.instructions.clone().or(default) else {
        let places = if multi_turn { MT_BENCH.join(", ") } else { ALPACA.join(", ") };
        return Err(EvaluationError::usage(format!(
            "no instructions: give --instructions FILE, or a --data-dir with one of {places}"
        )));
    };
    let mut items = if multi_turn { fastchat::read_questions(&path)? } else { single_turn(&path)? };
    if let Some(references) = &options.references {
        items = fastchat::with_references(items, &fastchat::read_answers(references)?);
    }
    if let Some(limit) = options.limit {
        items.truncate(limit);
    }
    if items.is_empty() {
        return Err(EvaluationError::usage(format!("{}: no instructions are left to judge", path.display())));
    }
    let stem = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let stem = stem.split('.').next().unwrap_or_default().to_owned();
    let set = if options.instructions.is_some() { stem } else { protocol.name.clone() };
    Ok(Instructions { set, items })
}

/// The first of some files that lies in a data folder.
fn found(session: &Session, names: &[&str]) -> Option<PathBuf> {
    let folders = session.locator().data_dirs;
    folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name))).find(|path| path.is_file())
}

/// Instructions of one turn: rows with `instruction` (or `prompt`, `question`), and optionally `reference` and `dataset`.
fn single_turn(path: &Path) -> Result<Vec<Item>, EvaluationError> {
    let rows = read_rows(&[path.to_owned()], None)?;
    let mut items: Vec<Item> = vec![];
    for (number, row) in rows.iter().enumerate() {
        let text = |names: &[&str]| names.iter().find_map(|name| row.get(*name).and_then(Value::as_str));
        let Some(instruction) = text(&["instruction", "prompt", "question"]) else {
            return Err(EvaluationError::usage(format!(
                "{}, row {}: expected a text `instruction`, found the columns {}",
                path.display(),
                number + 1,
                row.keys().cloned().collect::<Vec<_>>().join(", ")
            )));
        };
        let mut item = Item::new(instruction);
        if items.iter().any(|other| other.id == item.id) {
            return Err(EvaluationError::usage(format!(
                "{}, row {}: the instruction {instruction:?} occurs twice",
                path.display(),
                number + 1
            )));
        }
        item.reference = text(&["reference", "reference_answer", "response"]).map(str::to_owned).into_iter().collect();
        item.category = text(&["dataset", "category"]).map(str::to_owned);
        items.push(item);
    }
    Ok(items)
}

/// alpaca_eval's own instructions in their order, where they lie in a data folder.
///
/// # Errors
/// If their file is wrong.
pub(super) fn official(session: &Session) -> Result<Option<Vec<Item>>, EvaluationError> {
    found(session, &ALPACA).map(|path| single_turn(&path)).transpose()
}

/// The outputs of an argument: read from a file, or written by the model now, from the store where it wrote them before.
///
/// # Errors
/// If the file is wrong or does not fit the instructions, or the model fails.
pub(super) fn outputs(
    session: &Session,
    loader: &mut Loader<'_>,
    name: &str,
    items: &[Item],
    options: &JudgingOptions,
    protocol: &Protocol,
) -> Result<Judged, EvaluationError> {
    if !is_file(name) {
        let resolved = session.experiment.model(name)?.asked(&options.texts);
        let ready = loader.load(&resolved, Missing::Train)?;
        let usual = if protocol.is_multi_turn() { fastchat::MAX_NEW_TOKENS } else { MAX_NEW_TOKENS };
        let before = ready.model.endpoint().map(Endpoint::usage);
        let (mut written, mut thoughts) = (Asked::default(), 0);
        let max_new_tokens = options.max_new_tokens.unwrap_or(usual);
        let counts = (&mut written, &mut thoughts);
        let set = write(session, &ready, items, max_new_tokens, protocol.is_multi_turn(), counts)?;
        written.run.since(before, &ready);
        return Ok(Judged { set, origin: Origin::of_entry(&ready.entry, ready.base.as_deref()), written, thoughts });
    }
    let path = Path::new(name);
    let mut set =
        if protocol.is_multi_turn() { fastchat::read_answers(path)? } else { alpaca_eval::read_outputs(path)?.outputs };
    if options.limit.is_some() {
        set.outputs.retain(|id, _| items.iter().any(|item| item.id == *id));
    }
    set.check(items).map_err(|error| EvaluationError::from(error).within(path.display().to_string()))?;
    let mut thoughts = 0;
    for text in set.outputs.values_mut().flatten() {
        let divided = split_marked_thinking(text);
        if divided.thinking().is_some() {
            thoughts += 1;
            *text = divided.answer().to_owned();
        }
    }
    Ok(Judged { origin: Origin::of_name(&set.model), set, written: Asked::default(), thoughts })
}

/// Lets a model answer all instructions, turn by turn. What it thought is neither shown nor sent back to it.
fn write(
    session: &Session,
    ready: &Ready,
    items: &[Item],
    max_new_tokens: usize,
    multi_turn: bool,
    (written, thoughts): (&mut Asked, &mut usize),
) -> Result<OutputSet, EvaluationError> {
    let store = session.store()?;
    let identity = ready.entry.identity.digest();
    let turns = items.iter().map(|item| item.turns.len()).max().unwrap_or(0);
    let mut texts: Vec<Vec<String>> = vec![vec![]; items.len()];
    for turn in 0..turns {
        let mut requests: Vec<(usize, Request)> = vec![];
        for (at, item) in items.iter().enumerate().filter(|(_, item)| item.turns.len() > turn) {
            let mut messages = vec![];
            for (asked, answer) in item.turns.iter().zip(&texts[at]) {
                messages.push(ChatMessage::new(ChatRole::User, asked));
                messages.push(ChatMessage::new(ChatRole::Assistant, answer));
            }
            messages.push(ChatMessage::new(ChatRole::User, &item.turns[turn]));
            let prompt = if ready.model.capabilities().chat {
                ready.model.apply_chat_template(&messages, ChatOptions { add_generation_prompt: true })?
            } else {
                messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n") + "\n\n"
            };
            // MT-Bench writes by question and category; everything else greedily.
            let temperature = if multi_turn { fastchat::temperature(item) } else { item.temperature.unwrap_or(0.0) };
            let sampling = Sampling { max_new_tokens, temperature, ..Sampling::default() };
            requests.push((at, Request::Generate { prompt, stop: vec![], sampling }));
        }
        let keys: Vec<RequestKey> = requests.iter().map(|(_, request)| request.key()).collect();
        let missing = store.missing(&identity, &keys)?;
        if !missing.is_empty() {
            let what = if turns > 1 {
                format!("write {}, turn {}", ready.name, turn + 1)
            } else {
                format!("write {}", ready.name)
            };
            let asked: Vec<&Request> = requests.iter().map(|(_, request)| request).collect();
            let called = ("outputs", "written");
            let open = Open { requests: &asked, keys: &keys, missing: &missing, title: &what, called, refused: None };
            let (answered, bar) = open.ask(session, ready, &store)?;
            written.run.requested += answered;
            bar.finish(&format!("{answered} outputs"));
        }
        let mut counted = BTreeSet::new();
        for ((at, request), key) in requests.iter().zip(&keys) {
            let found = store.get(&identity, key)?;
            let (Some(response), Request::Generate { prompt, .. }) = (found, request) else {
                return Err(EvaluationError::work(format!("the store lost an output of {}", ready.name)));
            };
            if counted.insert(key) {
                written.bill.add(ready, request, &response);
            }
            let Output::Text { text, .. } = &response.output else {
                return Err(EvaluationError::work(format!("the store lost an output of {}", ready.name)));
            };
            let divided = split_thinking_after(prompt, text);
            *thoughts += usize::from(divided.thinking().is_some());
            texts[*at].push(divided.answer().trim().to_owned());
        }
    }
    let outputs = items.iter().map(|item| item.id.clone()).zip(texts).collect();
    Ok(OutputSet { model: ready.name.clone(), outputs })
}
