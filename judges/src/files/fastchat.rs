//! FastChat's question, answer and judgment files (JSON Lines).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use harness_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{bad_row, json_lines, kind_of, rows, text, texts, write};
use crate::{Item, JudgesError, Judgment, Order, OutputSet, Plan, Purpose, Result, Subject, error::Coverage};

/// The temperature that an answer is sampled at: what the question requires, else MT-Bench's by category, 0.7 for others.
pub fn temperature(item: &Item) -> f64 {
    match item.category.as_deref() {
        _ if item.temperature.is_some() => item.temperature.unwrap_or_default(),
        Some("extraction" | "math" | "coding" | "reasoning") => 0.0,
        Some("stem" | "humanities") => 0.1,
        _ => 0.7,
    }
}

/// Most tokens of an MT-Bench answer.
pub const MAX_NEW_TOKENS: usize = 1024;

/// Reads questions: FastChat's `question.jsonl` (`question_id`, `category`, `turns`, optional `reference` and
/// `required_temperature`), or the hub's form (`prompt_id`, `category`, `prompt`, `reference`).
///
/// # Errors
/// If the file cannot be read, a row is not as expected, or an id is there twice.
pub fn read_questions(path: &Path) -> Result<Vec<Item>> {
    let mut items = vec![];
    let mut seen = BTreeSet::new();
    for (number, row) in rows(path)? {
        let hub = row.contains_key("prompt_id");
        let (id, turns) = if hub { ("prompt_id", "prompt") } else { ("question_id", "turns") };
        let id = id_of(path, number, &row, id)?;
        if !seen.insert(id.clone()) {
            return Err(bad_row(path, number, format!("question {id} a second time"), "each question once"));
        }
        let turns = texts(path, number, &row, turns)?;
        if turns.is_empty() {
            return Err(bad_row(path, number, "no turns", "at least one"));
        }
        let reference = match row.get("reference") {
            None | Some(Value::Null) => vec![],
            Some(_) => texts(path, number, &row, "reference")?,
        };
        let category = row.get("category").and_then(Value::as_str).map(str::to_owned);
        let temperature = match row.get("required_temperature") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_f64().filter(|t| t.is_finite() && *t >= 0.0).ok_or_else(|| {
                bad_row(path, number, format!("{value} in `required_temperature`"), "a number of at least 0")
            })?),
        };
        items.push(Item { id, turns, reference, category, temperature });
    }
    Ok(items)
}

/// Puts reference answers (FastChat's `reference_answer/gpt-4.jsonl`) into questions; questions without one keep theirs.
pub fn with_references(mut items: Vec<Item>, references: &OutputSet) -> Vec<Item> {
    for item in &mut items {
        if let Some(turns) = references.get(&item.id) {
            item.reference = turns.to_vec();
        }
    }
    items
}

fn id_of(path: &Path, number: usize, row: &Map<String, Value>, column: &str) -> Result<String> {
    match row.get(column) {
        Some(Value::Number(id)) => Ok(id.to_string()),
        Some(Value::String(id)) => Ok(id.clone()),
        other => Err(bad_row(path, number, format!("{} in `{column}`", kind_of(other)), "a number or a text")),
    }
}

/// An id as FastChat writes it: a number where it is one.
fn id_value(id: &str) -> Value {
    id.parse::<i64>().map_or_else(|_| json!(id), |number| json!(number))
}

/// Reads an answer file: `question_id`, `model_id`, `choices[0].turns`.
///
/// # Errors
/// If the file cannot be read, a row is not as expected, rows are of different models, or a question is there twice.
pub fn read_answers(path: &Path) -> Result<OutputSet> {
    let mut outputs = BTreeMap::new();
    let mut model: Option<String> = None;
    let mut duplicate = vec![];
    for (number, row) in rows(path)? {
        let id = id_of(path, number, &row, "question_id")?;
        let name = text(path, number, &row, "model_id")?;
        if let Some(first) = model.as_deref().filter(|first| *first != name) {
            return Err(bad_row(path, number, format!("model `{name}`"), &format!("`{first}`: one model per file")));
        }
        model = Some(name.to_owned());
        let choice = row.get("choices").and_then(|choices| choices.get(0)).and_then(Value::as_object);
        let choice = choice.ok_or_else(|| bad_row(path, number, "no answer in `choices`", "choices[0].turns"))?;
        if outputs.insert(id.clone(), texts(path, number, choice, "turns")?).is_some() {
            duplicate.push(id);
        }
    }
    let source_name = path.display().to_string();
    if !duplicate.is_empty() {
        return Err(JudgesError::Coverage { source_name, problems: Coverage { duplicate, ..Coverage::default() } });
    }
    let model = model.ok_or_else(|| bad_row(path, 1, "no rows", "one per question"))?;
    Ok(OutputSet { model, outputs })
}

/// Writes an answer file, in the order of the items. `tstamp` is in seconds since 1970.
///
/// # Errors
/// If an answer is missing, or the file cannot be written.
pub fn write_answers(path: &Path, items: &[Item], answers: &OutputSet, tstamp: f64) -> Result<()> {
    answers.check(items)?;
    let record = |item: &Item| {
        let turns = answers.get(&item.id).unwrap_or_default();
        json!({
            "question_id": id_value(&item.id),
            "answer_id": Digest::of_json(&(&answers.model, &item.id, turns)).short(),
            "model_id": answers.model,
            "choices": [{"index": 0, "turns": turns}],
            "tstamp": tstamp,
        })
    };
    write(path, &json_lines(&items.iter().map(record).collect::<Vec<_>>()))
}

/// One line of a file of single judgments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SingleJudgment {
    /// The question.
    pub question_id: Value,
    /// The model.
    pub model: String,
    /// Judge and prompt.
    pub judge: [String; 2],
    /// What the judge saw.
    pub user_prompt: String,
    /// What it answered.
    pub judgment: String,
    /// The rating; −1 where there is none.
    pub score: f64,
    /// Turn, from 1.
    pub turn: usize,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// One line of a file of pairwise judgments: both games of one turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairJudgment {
    /// The question.
    pub question_id: Value,
    /// The first model (the baseline).
    pub model_1: String,
    /// The second model.
    pub model_2: String,
    /// `model_1`, `model_2`, `tie` or `error`: the game with model_1 shown first.
    pub g1_winner: String,
    /// The game with model_2 shown first.
    pub g2_winner: String,
    /// Judge and prompt.
    pub judge: [String; 2],
    /// What the judge saw in game 1.
    pub g1_user_prompt: String,
    /// What it answered.
    pub g1_judgment: String,
    /// What the judge saw in game 2.
    pub g2_user_prompt: String,
    /// What it answered.
    pub g2_judgment: String,
    /// Turn, from 1.
    pub turn: usize,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// FastChat's name of a winner, from a preference for the candidate (model_2).
pub fn winner_name(preference: Option<f64>) -> &'static str {
    match preference {
        None => "error",
        Some(x) if x < 0.5 => "model_1",
        Some(x) if x > 0.5 => "model_2",
        Some(_) => "tie",
    }
}

/// What the judge saw, by question.
fn user_prompts(plan: &Plan) -> BTreeMap<crate::QuestionId, (&str, &str)> {
    plan.questions
        .iter()
        .map(|q| (q.id, (q.messages.last().map(|m| m.content.as_str()).unwrap_or_default(), q.template.as_str())))
        .collect()
}

/// The main judgments of a single grading as FastChat writes them.
pub fn single_judgments(plan: &Plan, judgments: &[Judgment], judge: &str, tstamp: f64) -> Vec<SingleJudgment> {
    let prompts = user_prompts(plan);
    judgments
        .iter()
        .filter(|judgment| judgment.purpose == Purpose::Main)
        .filter_map(|judgment| {
            let Subject::Single { model } = &judgment.subject else { return None };
            let (user_prompt, template) = prompts.get(&judgment.question).copied().unwrap_or_default();
            Some(SingleJudgment {
                question_id: id_value(&judgment.item),
                model: model.clone(),
                judge: [judge.to_owned(), template.to_owned()],
                user_prompt: user_prompt.to_owned(),
                judgment: judgment.raw.clone(),
                score: judgment.score().unwrap_or(-1.0),
                turn: judgment.turn,
                tstamp,
            })
        })
        .collect()
}

/// The main judgments of a pairwise comparison as FastChat writes them; pairs of which one order was not asked are left
/// out.
pub fn pair_judgments(plan: &Plan, judgments: &[Judgment], judge: &str, tstamp: f64) -> Vec<PairJudgment> {
    let prompts = user_prompts(plan);
    let mut games: BTreeMap<(&str, &Subject, usize), [Option<&Judgment>; 2]> = BTreeMap::new();
    let mut order = vec![];
    for judgment in judgments.iter().filter(|judgment| judgment.purpose == Purpose::Main) {
        let key = (judgment.item.as_str(), &judgment.subject, judgment.turn);
        let entry = games.entry(key).or_insert_with(|| {
            order.push(key);
            [None, None]
        });
        entry[usize::from(judgment.order == Order::CandidateFirst)] = Some(judgment);
    }
    let record = |key| {
        let (item, subject, turn): (&str, &Subject, usize) = key;
        let [Some(first), Some(second)] = games[&key] else { return None };
        let Subject::Pair { baseline, candidate } = subject else { return None };
        let seen = |j: &Judgment| prompts.get(&j.question).copied().unwrap_or_default();
        Some(PairJudgment {
            question_id: id_value(item),
            model_1: baseline.clone(),
            model_2: candidate.clone(),
            g1_winner: winner_name(first.candidate_preference()).into(),
            g2_winner: winner_name(second.candidate_preference()).into(),
            judge: [judge.to_owned(), seen(first).1.to_owned()],
            g1_user_prompt: seen(first).0.to_owned(),
            g1_judgment: first.raw.clone(),
            g2_user_prompt: seen(second).0.to_owned(),
            g2_judgment: second.raw.clone(),
            turn,
            tstamp,
        })
    };
    order.into_iter().filter_map(record).collect()
}

/// Writes judgments, single or pairwise, one a line.
///
/// # Errors
/// If the file cannot be written.
pub fn write_judgments<T: Serialize>(path: &Path, judgments: &[T]) -> Result<()> {
    write(path, &json_lines(judgments))
}

/// Reads judgments of one kind ([`SingleJudgment`] or [`PairJudgment`]).
///
/// # Errors
/// If the file cannot be read, or a line is not as FastChat writes it.
pub fn read_judgments<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let parse = |(number, row)| {
        serde_json::from_value(Value::Object(row))
            .map_err(|error| bad_row(path, number, error.to_string(), "a judgment as FastChat writes it"))
    };
    rows(path)?.into_iter().map(parse).collect()
}
