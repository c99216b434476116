//! Filter pipelines: from raw generations to the answer that is scored; lm-eval's filters.
//!
//! Filters are total: no match gives the fallback, and a pattern that backtracks too much gives the fallback too; both
//! are reported with the answer.

use std::collections::BTreeMap;

use harness_core::nearest_few;
use harness_python::{PythonRegex, RegexError};
use serde_json::{Map, Value};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::{
    TaskError,
    keys::{Keys, text},
    task::{Answer, AnswerOutcome},
    yaml::{Node, Yaml},
};
use harness_python::{is_space, str as python_str, trim as strip};

const FILTERS: [&str; 11] = [
    "regex",
    "multi_choice_regex",
    "take_first",
    "take_first_k",
    "majority_vote",
    "lowercase",
    "uppercase",
    "map",
    "remove_whitespace",
    "format_span",
    "regex_pos",
];

/// A named sequence of filters.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub name: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Regex(Extract),
    MultiChoiceRegex { extract: Extract, ignore: Ignore },
    TakeFirst,
    TakeFirstK(usize),
    MajorityVote,
    Lowercase,
    Uppercase,
    Map { mapping: BTreeMap<String, Value>, default: Value },
    RemoveWhitespace,
    FormatSpan(PythonRegex),
    RegexPos(PythonRegex),
}

/// `findall`, one match of it, the fallback.
#[derive(Clone, Debug)]
struct Extract {
    pattern: PythonRegex,
    group_select: i64,
    fallback: String,
}

/// What is removed from responses and choices before they are compared.
#[derive(Clone, Debug)]
struct Ignore {
    case: bool,
    punctuation: bool,
    regexes: Vec<PythonRegex>,
}

/// What a pipeline does with the answers of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// How many of the first answers have a say.
    pub looked_at: usize,
    /// How many answers reach the metrics.
    pub left: usize,
}

/// One response on its way through a pipeline.
type Item = (Value, AnswerOutcome);

impl Pipeline {
    /// The pipeline of tasks without a filter list: the one answer, or of several all, whose scores are averaged. (lm-eval
    /// scores the first and drops the others.)
    pub(crate) fn none(repeats: usize) -> Self {
        let steps = if repeats > 1 { Vec::new() } else { vec![Step::TakeFirst] };
        Self { name: "none".to_owned(), steps }
    }

    /// Reads one entry of `filter_list`.
    pub(crate) fn read(node: &Node) -> Result<Self, TaskError> {
        let keys = Keys::of(node, "a filter_list entry", &["name", "filter"])?;
        let name = keys.require("name").and_then(|node| text("name", node))?;
        let steps = match keys.list("filter")? {
            Some(items) => items.iter().map(Step::read).collect::<Result<_, _>>()?,
            None => vec![Step::TakeFirst],
        };
        Ok(Self { name, steps })
    }

    /// What becomes of a document's answers.
    ///
    /// # Errors
    /// If a step needs more answers than there are, which ends lm-eval too.
    pub(crate) fn flow(&self, repeats: usize) -> Result<Flow, String> {
        let mut flow = Flow { looked_at: repeats, left: repeats };
        let (mut combined, mut single) = (false, false);
        for step in &self.steps {
            let left = match step {
                Step::TakeFirst => {
                    single = true;
                    1
                }
                Step::TakeFirstK(_) | Step::MajorityVote if single => {
                    return Err(format!(
                        "the filter pipeline {}: take_first has left one answer to choose from",
                        self.name
                    ));
                }
                Step::TakeFirstK(k) if *k > flow.left => {
                    let (name, left) = (&self.name, flow.left);
                    return Err(format!(
                        "the filter pipeline {name}: take_first_k with k {k}, but there {} (repeats: {repeats})",
                        if left == 1 { "is 1 answer".to_owned() } else { format!("are {left} answers") }
                    ));
                }
                Step::TakeFirstK(k) => *k,
                Step::MajorityVote => 1,
                Step::Regex(_)
                | Step::MultiChoiceRegex { .. }
                | Step::Lowercase
                | Step::Uppercase
                | Step::Map { .. }
                | Step::RemoveWhitespace
                | Step::FormatSpan(_)
                | Step::RegexPos(_) => flow.left,
            };
            combined |= matches!(step, Step::MajorityVote);
            flow.left = left;
            if !combined {
                flow.looked_at = left;
            }
        }
        Ok(flow)
    }

    /// Whether the pipeline only picks the first response.
    pub(crate) fn is_trivial(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::TakeFirst))
    }

    /// The answer of one document's responses.
    pub(crate) fn apply(&self, responses: &[String], doc: &Map<String, Value>) -> Answer {
        let mut items: Vec<Item> =
            responses.iter().map(|text| (Value::from(text.as_str()), AnswerOutcome::Parsed)).collect();
        let mut single = false;
        for step in &self.steps {
            match step {
                Step::TakeFirst => {
                    items.truncate(1);
                    single = true;
                }
                Step::TakeFirstK(k) => items.truncate(*k),
                Step::MajorityVote => items = majority(items),
                Step::Regex(_)
                | Step::MultiChoiceRegex { .. }
                | Step::Lowercase
                | Step::Uppercase
                | Step::Map { .. }
                | Step::RemoveWhitespace
                | Step::FormatSpan(_)
                | Step::RegexPos(_) => items.iter_mut().for_each(|item| step.apply(item, doc)),
            }
        }
        let outcome = items
            .iter()
            .map(|(_, outcome)| *outcome)
            .find(|&o| o == AnswerOutcome::Parsed)
            .unwrap_or_else(|| items.first().map_or(AnswerOutcome::Fallback, |(_, outcome)| *outcome));
        let value = if single {
            items.into_iter().next().map_or(Value::Null, |(value, _)| value)
        } else {
            items.into_iter().map(|(value, _)| value).collect()
        };
        Answer { filter: self.name.clone(), value, outcome }
    }
}

/// The most frequent response; the first seen wins ties.
fn majority(items: Vec<Item>) -> Vec<Item> {
    let votes = |item: &Item| items.iter().filter(|other| other.0 == item.0).count();
    let mut best: Option<(usize, &Item)> = None;
    for item in &items {
        let count = votes(item);
        if best.is_none_or(|(most, _)| count > most) {
            best = Some((count, item));
        }
    }
    best.map(|(_, item)| item.clone()).into_iter().collect()
}

impl Extract {
    fn read(keys: &Keys<'_>) -> Result<Self, TaskError> {
        let pattern = match keys.get("regex_pattern")? {
            Some(node) => compile("regex_pattern", node)?,
            None => PythonRegex::new(r"#### (\-?[0-9\.\,]+)")
                .unwrap_or_else(|_| unreachable!("the default pattern is valid")),
        };
        let group_select = match keys.get("group_select")? {
            None => 0,
            Some(Node { value: Yaml::Int(i), .. }) => *i,
            Some(node) => return node.error("group_select must be an integer; -1 is the last match"),
        };
        Ok(Self { pattern, group_select, fallback: keys.text("fallback")?.unwrap_or_else(|| "[invalid]".to_owned()) })
    }

    /// The selected match: `None` where there is none, `Some("")` where it is empty.
    fn select(&self, pattern: &PythonRegex, response: &str) -> Result<Option<String>, RegexError> {
        let mut matches = pattern.find_all(response)?;
        let count = matches.len() as i64;
        let index = if self.group_select < 0 { count + self.group_select } else { self.group_select };
        if index < 0 || index >= count {
            return Ok(None);
        }
        let groups = matches.swap_remove(index as usize);
        let chosen = match groups.as_slice() {
            [only] => Some(*only),
            many => many.iter().copied().find(|group| !group.is_empty()),
        };
        Ok(chosen.map(|text| strip(text).to_owned()))
    }
}

fn compile(key: &str, node: &Node) -> Result<PythonRegex, TaskError> {
    PythonRegex::new(&text(key, node)?).or_else(|error| node.error(error.to_string()))
}

impl Ignore {
    fn clean(&self, text: &str) -> Result<String, RegexError> {
        let mut text = text.to_owned();
        for regex in &self.regexes {
            text = regex.sub("", &text, 0)?;
        }
        if self.case {
            text = text.to_lowercase();
        }
        if self.punctuation {
            text.retain(|c| c.general_category_group() != GeneralCategoryGroup::Punctuation);
        }
        Ok(text)
    }
}

fn unknown<T>(at: &Node, name: &str) -> Result<T, TaskError> {
    let close = nearest_few(name, FILTERS);
    let hint =
        if close.is_empty() { format!("; known: {}", FILTERS.join(", ")) } else { crate::error::suggest(&close) };
    at.error(format!("unknown filter {name:?}{hint}"))
}

impl Step {
    fn read(node: &Node) -> Result<Self, TaskError> {
        let Yaml::Map(entries) = &node.value else {
            return node.error(format!("a filter must be a mapping with the key function, found {}", node.kind()));
        };
        let Some(function) = entries.iter().find(|entry| entry.key == "function") else {
            return node.error("a filter lacks the key function");
        };
        let name = text("function", &function.value)?;
        // Its keys say nothing of a filter that is not known.
        if !FILTERS.contains(&name.as_str()) && !["custom", "decontaminate"].contains(&name.as_str()) {
            return unknown(&function.value, &name);
        }
        let known: &[&str] = match name.as_str() {
            "regex" | "regex_pos" => &["function", "regex_pattern", "group_select", "fallback"],
            "multi_choice_regex" => &[
                "function",
                "regex_pattern",
                "group_select",
                "fallback",
                "ignore_case",
                "ignore_punctuation",
                "regexes_to_ignore",
            ],
            "map" => &["function", "mapping_dict", "default_value"],
            "take_first_k" => &["function", "k"],
            "custom" => &["function", "filter_fn"],
            _ => &["function"],
        };
        let keys = Keys::of(node, &name, known)?;
        Ok(match name.as_str() {
            "regex" => Self::Regex(Extract::read(&keys)?),
            "multi_choice_regex" => {
                let regexes = match keys.list("regexes_to_ignore")? {
                    Some(items) => items.iter().map(|n| compile("regexes_to_ignore", n)).collect::<Result<_, _>>()?,
                    None => Vec::new(),
                };
                let ignore = Ignore {
                    case: keys.flag("ignore_case")?.unwrap_or(false),
                    punctuation: keys.flag("ignore_punctuation")?.unwrap_or(false),
                    regexes,
                };
                Self::MultiChoiceRegex { extract: Extract::read(&keys)?, ignore }
            }
            "take_first" => Self::TakeFirst,
            "take_first_k" => match keys.count("k")? {
                Some(k) if k > 0 => Self::TakeFirstK(k),
                _ => return node.error("take_first_k needs k, an integer of at least 1"),
            },
            "majority_vote" => Self::MajorityVote,
            "lowercase" => Self::Lowercase,
            "uppercase" => Self::Uppercase,
            "map" => {
                let mapping = keys.map("mapping_dict")?.unwrap_or_default().into_iter().collect();
                let default = keys.get("default_value")?.map_or(Value::Null, Node::json);
                Self::Map { mapping, default }
            }
            "remove_whitespace" => Self::RemoveWhitespace,
            "format_span" => {
                let pattern = PythonRegex::new(r"\b(PER|LOC|ORG|DATE):\s*([^$]+)");
                Self::FormatSpan(pattern.or_else(|error| node.error(error.to_string()))?)
            }
            "regex_pos" => {
                let pattern = PythonRegex::new(r"\('([^']*)', '([^']*)'\)");
                Self::RegexPos(pattern.or_else(|error| node.error(error.to_string()))?)
            }
            "custom" => {
                let function = keys.require("filter_fn")?;
                return function.error("the filter custom needs Python, which is not run here");
            }
            "decontaminate" => return node.error("the filter decontaminate is not supported"),
            other => return unknown(&function.value, other),
        })
    }

    fn apply(&self, item: &mut Item, doc: &Map<String, Value>) {
        let response = item.0.as_str().unwrap_or_default();
        let text = |f: &dyn Fn(&str) -> String, value: &Value| match value {
            Value::String(text) => Value::from(f(text)),
            other => other.clone(),
        };
        match self {
            Self::Regex(extract) => *item = extracted(extract.select(&extract.pattern, response), extract),
            Self::MultiChoiceRegex { extract, ignore } => {
                *item = extracted(choose(extract, ignore, response, doc).map(|m| m.filter(|m| !m.is_empty())), extract);
            }
            Self::Lowercase => item.0 = text(&str::to_lowercase, &item.0),
            Self::Uppercase => item.0 = text(&str::to_uppercase, &item.0),
            Self::RemoveWhitespace => item.0 = text(&|t| strip(t).to_owned(), &item.0),
            Self::Map { mapping, default } => {
                item.0 = mapping.get(&python_str(&item.0)).unwrap_or(default).clone();
            }
            Self::FormatSpan(pattern) => match format_span(response, pattern) {
                Ok(formatted) => item.0 = Value::from(formatted),
                Err(_) => *item = (Value::from(""), AnswerOutcome::PatternTooCostly),
            },
            Self::RegexPos(pattern) => {
                *item = match pattern.find_all(response) {
                    Ok(tags) if !tags.is_empty() => (tags.iter().map(|m| Value::from(m[1])).collect(), item.1),
                    Ok(_) => (Value::from(vec!["invalid"]), AnswerOutcome::Fallback),
                    Err(_) => (Value::from(vec!["invalid"]), AnswerOutcome::PatternTooCostly),
                };
            }
            Self::TakeFirst | Self::TakeFirstK(_) | Self::MajorityVote => {}
        }
    }
}

fn extracted(found: Result<Option<String>, RegexError>, extract: &Extract) -> Item {
    match found {
        Ok(Some(text)) => (Value::from(text), AnswerOutcome::Parsed),
        Ok(None) => (Value::from(extract.fallback.as_str()), AnswerOutcome::Fallback),
        Err(_) => (Value::from(extract.fallback.as_str()), AnswerOutcome::PatternTooCostly),
    }
}

/// The pattern, else the text of a choice, else a letter after a colon.
fn choose(
    extract: &Extract,
    ignore: &Ignore,
    response: &str,
    doc: &Map<String, Value>,
) -> Result<Option<String>, RegexError> {
    if let Some(found) = extract.select(&extract.pattern, response)?.filter(|found| !found.is_empty()) {
        return Ok(Some(found));
    }
    let choices = doc.get("choices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let letters: Vec<String> =
        (b'A'..).take(choices.len().min(58)).map(|letter| char::from(letter).to_string()).collect();
    let mut texts = Vec::new();
    for choice in choices {
        texts.push(ignore.clean(strip(&python_str(choice)))?);
    }
    let pattern = texts.iter().map(|text| PythonRegex::escape(text)).collect::<Vec<_>>().join("|");
    if let Ok(pattern) = PythonRegex::new(&pattern) {
        let found = extract.select(&pattern, &ignore.clean(response)?)?.filter(|found| !found.is_empty());
        if let Some(found) = found {
            let letter = texts.iter().rposition(|text| *text == found).map(|i| format!("({})", letters[i]));
            return Ok(Some(letter.unwrap_or(found)));
        }
    }
    let pattern = format!(r":[\s]*({})", letters.iter().map(|l| PythonRegex::escape(l)).collect::<Vec<_>>().join("|"));
    let Ok(pattern) = PythonRegex::new(&pattern) else { return Ok(None) };
    let found = extract.select(&pattern, response)?.filter(|found| !found.is_empty());
    Ok(found.map(|letter| if letters.contains(&letter) { format!("({letter})") } else { letter }))
}

/// Named entities as `label: value $ label: value`.
fn format_span(response: &str, pattern: &PythonRegex) -> Result<String, RegexError> {
    const LABELS: [(&str, &str); 15] = [
        ("person", "PER"),
        ("location", "LOC"),
        ("organization", "ORG"),
        ("counties", "LOC"),
        ("places", "LOC"),
        ("people", "PER"),
        ("persons", "PER"),
        ("company", "ORG"),
        ("country", "LOC"),
        ("continent", "LOC"),
        ("time", "DATE"),
        ("date", "DATE"),
        ("per", "PER"),
        ("loc", "LOC"),
        ("org", "ORG"),
    ];
    let mut text = response.to_lowercase();
    for (word, label) in LABELS {
        text = text.replace(word, label);
    }
    let text = text.replace("$$", "$");
    let text = text.trim_end_matches('$').replace('\n', "$");
    let mut entities = Vec::new();
    for found in pattern.find_all(text.trim_matches(is_space))? {
        for entity in found[1].split(',').map(strip) {
            if entity.to_lowercase() != "none" {
                entities.push(format!("{}: {entity}", found[0].to_lowercase()));
            }
        }
    }
    Ok(entities.join(" $ "))
}
