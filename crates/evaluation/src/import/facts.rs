//! `--facts FILE`: what an imported model was trained with.

use std::{collections::BTreeMap, path::Path};

use harness_store::read_text_file;
use harness_training::{Recipe, TrainingRecord};
use serde_json::Value;

use crate::{
    EvaluationError,
    provenance::{flatten, recipe_of},
};

/// Names that other tools give what a recipe names so.
const NAMES: [(&str, &str); 9] = [
    ("r", "lora.rank"),
    ("rank", "lora.rank"),
    ("lora_r", "lora.rank"),
    ("lora_rank", "lora.rank"),
    ("alpha", "lora.alpha"),
    ("lora_alpha", "lora.alpha"),
    ("dropout", "lora.dropout"),
    ("lora_dropout", "lora.dropout"),
    ("learning_rate", "training.learning_rate"),
];

/// Facts by name: of a recipe with its defaults, of a `training.json`, of a JSON object such as PEFT's
/// `adapter_config.json`, or of a list of keys, in TOML or as lines of `KEY = VALUE` or `KEY: VALUE`.
///
/// # Errors
/// If the file cannot be read or a line of it is no key with a value.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, EvaluationError> {
    if path.extension().is_some_and(|end| end == "toml")
        && let Ok(recipe) = Recipe::load(path)
    {
        let value = serde_json::to_value(recipe).map_err(|e| EvaluationError::work(e.to_string()))?;
        return Ok(named(&value));
    }
    let text = read_text_file(path).map_err(|e| EvaluationError::usage(format!("--facts {}: {e}", path.display())))?;
    if let Ok(Value::Object(object)) = serde_json::from_str(&text) {
        let value = Value::Object(object);
        if value["recipe"].is_object() {
            let record: TrainingRecord = serde_json::from_value(value)
                .map_err(|e| EvaluationError::usage(format!("--facts {}: {e}", path.display())))?;
            return Ok(recipe_of(&record));
        }
        return Ok(named(&value));
    }
    if let Ok(table) = toml::from_str::<Value>(&text) {
        return Ok(named(&table));
    }
    let mut facts = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.split_once('=').or_else(|| line.split_once(':'));
        let Some((key, value)) = pair.map(|(key, value)| (key.trim(), value.trim())).filter(|(key, _)| !key.is_empty())
        else {
            let place = path.display();
            return Err(EvaluationError::usage(format!(
                "--facts {place}, line {}: expected KEY = VALUE, found {line:?}",
                i + 1
            )));
        };
        facts.insert(name(key), number(value.trim_matches(['"', '\''])));
    }
    if facts.is_empty() {
        return Err(EvaluationError::usage(format!("--facts {}: the file holds no facts", path.display())));
    }
    Ok(facts)
}

fn named(value: &Value) -> BTreeMap<String, String> {
    let (mut flat, mut value) = (BTreeMap::new(), value.clone());
    for list in value.as_object_mut().into_iter().flatten().filter_map(|(_, value)| value.as_array_mut()) {
        // PEFT writes its lists of modules in any order.
        list.sort_by_key(Value::to_string);
    }
    flatten("", &value, &mut flat);
    // What a run is called and where it was written says nothing about it.
    flat.retain(|name, _| !matches!(name.as_str(), "name" | "output_dir" | "run_name" | "inference_mode"));
    flat.into_iter().map(|(key, value)| (name(&key), number(&value))).collect()
}

fn name(key: &str) -> String {
    NAMES.iter().find(|(other, _)| *other == key).map_or(key, |(_, own)| own).to_owned()
}

/// Numbers in one form: 2e-4 is 0.0002.
fn number(value: &str) -> String {
    value.parse::<f64>().ok().filter(|x| x.is_finite()).map_or_else(|| value.to_owned(), |x| x.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, text: &str) -> Result<BTreeMap<String, String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.message())
    }

    #[test]
    fn facts_of_several_forms() {
        let peft = facts("adapter_config.json", r#"{"r": 8, "lora_alpha": 16, "modules_to_save": null}"#).unwrap();
        let lines = facts("facts.txt", "# of the paper\nr: 8\nlora_alpha = 16.0\n").unwrap();
        assert_eq!(peft, lines);
        assert_eq!(peft["lora.alpha"], "16");
        let list = facts("facts.toml", "learning_rate = 2e-4\nschedule = \"cosine\"\n").unwrap();
        assert_eq!((list["training.learning_rate"].as_str(), list["schedule"].as_str()), ("0.0002", "cosine"));
        assert!(facts("facts.txt", "r: 8\nno fact\n").unwrap_err().contains("line 2: expected KEY = VALUE"));
    }
}
