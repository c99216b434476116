//! `process_docs`: rows rewritten before anything is asked.

use std::sync::LazyLock;

use harness_metrics::PythonRegex;
use harness_store::Row;
use serde_json::{Value, json};

use super::{missing, text, texts};
use crate::python::text::{is_space, str as python_str, strip};

/// Brackets left over from WikiHow.
static BRACKETS: LazyLock<PythonRegex> = LazyLock::new(|| PythonRegex::new(r"\[.*?\]").expect("a constant pattern"));

/// HellaSwag: the activity and the context as `query`, the endings as `choices`, both cleaned, the label as `gold`.
pub(super) fn hellaswag(mut row: Row) -> Result<Option<Row>, String> {
    let context = format!("{} {}", text(&row, "ctx_a")?, capitalize(text(&row, "ctx_b")?));
    let query = clean(&format!("{}: {context}", text(&row, "activity_label")?))?;
    let choices: Vec<String> = texts(&row, "endings")?.iter().map(|ending| clean(ending)).collect::<Result<_, _>>()?;
    let label = row.get("label").ok_or_else(|| missing(&row, "label"))?;
    let text = python_str(label);
    let gold: i64 = strip(&text).parse().map_err(|_| format!("the column label must hold a number, found {label}"))?;
    row.insert("query".into(), Value::from(query));
    row.insert("choices".into(), Value::from(choices));
    row.insert("gold".into(), Value::from(gold));
    Ok(Some(row))
}

fn clean(text: &str) -> Result<String, String> {
    let text = strip(text).replace(" [title]", ". ");
    Ok(BRACKETS.remove_all(&text).map_err(|e| e.to_string())?.replace("  ", " "))
}

/// `str.capitalize`: the first letter large, all others small.
fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
}

/// Arithmetic: the prompt stripped, with single line breaks and `Question:`, `Answer:` spelled out.
pub(super) fn arithmetic(mut row: Row) -> Result<Option<Row>, String> {
    let context =
        strip(text(&row, "context")?).replace("\n\n", "\n").replace("Q:", "Question:").replace("A:", "Answer:");
    let completion = text(&row, "completion")?.to_owned();
    row.insert("context".into(), Value::from(context));
    row.insert("completion".into(), Value::from(completion));
    Ok(Some(row))
}

/// DROP: all answers of a question that differ, each a list of texts, as `answers`.
pub(super) fn drop(mut row: Row) -> Result<Option<Row>, String> {
    let validated = row.get("validated_answers").cloned().unwrap_or(Value::Null);
    let count = validated["number"].as_array().map_or(0, Vec::len);
    let mut candidates = vec![row.get("answer").cloned().ok_or_else(|| missing(&row, "answer"))?];
    for i in 0..count {
        candidates.push(json!({
            "number": validated["number"][i], "date": validated["date"][i], "spans": validated["spans"][i],
        }));
    }
    let mut answers: Vec<Value> = Vec::new();
    for candidate in &candidates {
        let number = &candidate["number"];
        let answer = if *number != json!("") {
            json!([python_str(number)])
        } else if candidate["spans"].as_array().is_some_and(|spans| !spans.is_empty()) {
            candidate["spans"].clone()
        } else {
            let part = |key: &str| candidate["date"][key].as_str().unwrap_or_default();
            json!([strip(&format!("{} {} {}", part("day"), part("month"), part("year")))])
        };
        if !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    let id = row.get("query_id").cloned().unwrap_or(Value::Null);
    row.insert("id".into(), id);
    row.insert("answers".into(), Value::Array(answers));
    Ok(Some(row))
}

/// WSC273: one blank between words, possessive options, and pronouns in small letters inside of a sentence.
pub(super) fn wsc273(mut row: Row) -> Result<Option<Row>, String> {
    const UPPER: [&str; 11] = ["A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"];
    let sentence = text(&row, "text")?.replace("  ", " ");
    let pronoun = text(&row, "pronoun")?.to_lowercase();
    let at = row.get("pronoun_loc").and_then(Value::as_i64).ok_or_else(|| missing(&row, "pronoun_loc"))?;
    let chars: Vec<char> = sentence.chars().collect();
    // Python counts negative positions from the end.
    let before = if at - 2 < 0 { chars.len() as i64 + at - 2 } else { at - 2 };
    let starts = usize::try_from(before).ok().and_then(|i| chars.get(i)) == Some(&'.');
    let mut options = texts(&row, "options")?;
    for option in options.iter_mut().take(2) {
        if ["my", "his", "her", "our", "their"].contains(&pronoun.as_str()) {
            option.push_str("'s");
        }
        let first = option.split(is_space).find(|word| !word.is_empty()).unwrap_or_default().to_owned();
        if !starts && UPPER.contains(&first.as_str()) {
            *option = option.replace(&first, &first.to_lowercase());
        }
    }
    row.insert("text".into(), Value::from(sentence));
    row.insert("options".into(), Value::from(options));
    Ok(Some(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn hellaswag_is_cleaned() {
        let doc = row(
            json!({"activity_label": "Roof shingle removal", "ctx_a": "A man [title] sits", "ctx_b": "he STARTS [step] up",
            "endings": ["is  using wrap.", " [header] flips"], "label": "1"}),
        );
        let out = hellaswag(doc).unwrap().unwrap();
        assert_eq!(out["query"], "Roof shingle removal: A man. sits He starts up");
        assert_eq!(out["choices"], json!(["is using wrap.", " flips"]));
        assert_eq!(out["gold"], 1);
    }
}
