//! What is judged: instructions, and the outputs of models for them.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{Digest, DocId, Hasher};
use serde::{Deserialize, Serialize};

use crate::{JudgesError, Result, error::Coverage};

/// One instruction, of one or more turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Identity within its set: a question number, or the instruction's text where the set has no ids.
    pub id: String,
    /// What the user says, turn by turn; at least one.
    pub turns: Vec<String>,
    /// Reference answers by turn; empty where there is none.
    #[serde(default)]
    pub reference: Vec<String>,
    /// Category (MT-Bench) or part (AlpacaEval's `dataset`).
    #[serde(default)]
    pub category: Option<String>,
    /// Temperature that answers to it are sampled at, whatever its category (FastChat's `required_temperature`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

impl Item {
    /// An item of one turn, identified by its instruction.
    pub fn new(instruction: impl Into<String>) -> Self {
        let instruction = instruction.into();
        Self { id: instruction.clone(), turns: vec![instruction], reference: vec![], category: None, temperature: None }
    }

    /// The instruction of the first turn.
    pub fn instruction(&self) -> &str {
        self.turns.first().map(String::as_str).unwrap_or_default()
    }

    /// The item as a document of a comparison: a hash of the set's name, its id and its turns.
    pub fn doc_id(&self, set: &str) -> DocId {
        let mut hasher = Hasher::new("judged item");
        hasher.part(set).part(&self.id);
        for turn in &self.turns {
            hasher.part(turn);
        }
        DocId(hasher.finish())
    }
}

/// The outputs of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSet {
    /// Name of the model (`generator` in AlpacaEval, `model_id` in FastChat).
    pub model: String,
    /// Output by turn, by item id.
    pub outputs: BTreeMap<String, Vec<String>>,
}

impl OutputSet {
    /// Outputs of one turn, in the order of the items.
    pub fn single_turn(model: impl Into<String>, outputs: impl IntoIterator<Item = (String, String)>) -> Self {
        let outputs = outputs.into_iter().map(|(id, output)| (id, vec![output])).collect();
        Self { model: model.into(), outputs }
    }

    /// The same text for every item and turn: a null candidate, which no sound judge prefers.
    pub fn constant(model: impl Into<String>, text: &str, items: &[Item]) -> Self {
        let outputs = items.iter().map(|item| (item.id.clone(), vec![text.to_owned(); item.turns.len()])).collect();
        Self { model: model.into(), outputs }
    }

    /// The output of one item, turn by turn.
    pub fn get(&self, item: &str) -> Option<&[String]> {
        self.outputs.get(item).map(Vec::as_slice)
    }

    /// Checks that there is exactly one output for every item, with as many turns, and none besides.
    ///
    /// # Errors
    /// [`JudgesError::Coverage`], naming the instructions.
    pub fn check(&self, items: &[Item]) -> Result<()> {
        let known: BTreeSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
        let instruction = |id: &str| {
            let item = items.iter().find(|item| item.id == id);
            item.map_or_else(|| id.to_owned(), |item| item.instruction().to_owned())
        };
        let lacking = |item: &&Item| self.get(&item.id).is_none_or(|turns| turns.len() < item.turns.len());
        let problems = Coverage {
            missing: items.iter().filter(lacking).map(|item| instruction(&item.id)).collect(),
            duplicate: vec![],
            extra: self.outputs.keys().filter(|id| !known.contains(id.as_str())).cloned().collect(),
        };
        if problems.is_complete() {
            return Ok(());
        }
        Err(JudgesError::Coverage { source_name: format!("outputs of `{}`", self.model), problems })
    }

    /// Hash of name and outputs.
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_checked_both_ways() {
        let items = [Item::new("one"), Item::new("two")];
        let outputs = OutputSet::single_turn("m", [("one".into(), "1".into()), ("three".into(), "3".into())]);
        let error = outputs.check(&items).unwrap_err().to_string();
        assert!(
            error.starts_with("outputs of `m`: 1 instruction missing: \"two\"; 1 instruction not asked for: \"three\"")
        );
        assert!(OutputSet::constant("null", "no", &items).check(&items).is_ok());
    }
}
