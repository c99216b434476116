//! `process_docs`: rows rewritten before anything is asked.

use std::sync::LazyLock;

use harness_python::PythonRegex;
use harness_store::Row;
use serde_json::{Value, json};

use super::{missing, text, texts};
use harness_python::{is_space, str as python_str, trim as strip};

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

/// The multilingual ARC: question and options cleaned as HellaSwag's, without the options that are empty.
pub(super) fn arc_multilingual(mut row: Row) -> Result<Option<Row>, String> {
    let query = format!("Question: {}\nAnswer:", clean(text(&row, "instruction")?)?);
    let mut choices = vec![];
    for letter in LETTERS {
        match row.get(&format!("option_{}", letter.to_lowercase())) {
            Some(Value::Null) => {}
            Some(Value::String(option)) if option.is_empty() => {}
            Some(Value::String(option)) => choices.push(clean(option)?),
            _ => return Err(missing(&row, &format!("option_{}", letter.to_lowercase()))),
        }
    }
    let gold = letter(&row, &LETTERS)?;
    row.insert("query".into(), Value::from(query));
    row.insert("choices".into(), Value::from(choices));
    row.insert("gold".into(), Value::from(gold));
    Ok(Some(row))
}

/// BIG-bench: questions without choices are left out.
pub(super) fn bigbench(row: Row) -> Result<Option<Row>, String> {
    let targets = row.get("multiple_choice_targets").ok_or_else(|| missing(&row, "multiple_choice_targets"))?;
    let some = targets.as_array().is_some_and(|targets| !targets.is_empty());
    Ok(some.then_some(row))
}

/// EusExams: questions without a right answer or without candidates are left out.
pub(super) fn eus_exams(row: Row) -> Result<Option<Row>, String> {
    let answer = row.get("answer").ok_or_else(|| missing(&row, "answer"))?;
    let candidates = row.get("candidates").ok_or_else(|| missing(&row, "candidates"))?;
    let known = answer.as_f64().is_some_and(|answer| [0.0, 1.0, 2.0, 3.0].contains(&answer));
    Ok((known && *candidates != json!(["", "", "", ""])).then_some(row))
}

/// MMLU-SR: the choices as a list, empty where there is none, and the answer's letter stripped.
pub(super) fn mmlusr(mut row: Row) -> Result<Option<Row>, String> {
    let cell = |column: &str| match row.get(column) {
        Some(Value::Null) => Ok(""),
        _ => text(&row, column),
    };
    let choices: Vec<&str> =
        ["choice1", "choice2", "choice3", "choice4"].into_iter().map(cell).collect::<Result<_, _>>()?;
    let (choices, answer) = (json!(choices), json!(strip(cell("answer")?)));
    row.insert("choices".into(), choices);
    row.insert("answer".into(), answer);
    Ok(Some(row))
}

/// TMMLU+: the choices as a list, and the position of the answer as `goal`.
pub(super) fn tmmluplus(mut row: Row) -> Result<Option<Row>, String> {
    let goal = letter(&row, &LETTERS[..4])?;
    let column = |name: &str| row.get(name).cloned().ok_or_else(|| missing(&row, name));
    let choices = LETTERS[..4].iter().map(|letter| column(letter)).collect::<Result<Vec<Value>, _>>()?;
    let question = column("question")?;
    row.insert("questions".into(), question);
    row.insert("choices".into(), Value::Array(choices));
    row.insert("goal".into(), Value::from(goal));
    Ok(Some(row))
}

const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

/// The position of the letter in the column `answer`.
fn letter(row: &Row, letters: &[&str]) -> Result<usize, String> {
    let answer = text(row, "answer")?;
    let found = letters.iter().position(|letter| *letter == answer);
    found.ok_or_else(|| format!("the column answer must be one of {}, found {answer:?}", letters.join(", ")))
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

    #[test]
    fn rows_are_kept_and_completed() {
        let arc = |answer: &str| {
            row(json!({"instruction": " What [a] is it? ", "option_a": "x [b]y", "option_b": "", "option_c": null,
                "option_d": "d", "option_e": "e", "answer": answer}))
        };
        let out = arc_multilingual(arc("D")).unwrap().unwrap();
        assert_eq!(
            (&out["query"], &out["choices"]),
            (&json!("Question: What is it?\nAnswer:"), &json!(["x y", "d", "e"]))
        );
        assert_eq!(out["gold"], 3, "counted among the letters, not among what is left");
        assert!(arc_multilingual(arc("1")).unwrap_err().contains("one of A, B, C, D, E, found \"1\""));
        assert!(bigbench(row(json!({"multiple_choice_targets": []}))).unwrap().is_none());
        assert!(bigbench(row(json!({"multiple_choice_targets": ["x"]}))).unwrap().is_some());
        let exam = |answer: Value, candidates: [&str; 4]| {
            eus_exams(row(json!({"answer": answer, "candidates": candidates}))).unwrap().is_some()
        };
        assert!(exam(json!(3), ["a", "b", "c", "d"]) && !exam(json!(-1), ["a", "b", "c", "d"]));
        assert!(!exam(json!(0), [""; 4]) && !exam(json!(null), ["a", "b", "c", "d"]));
        let out =
            mmlusr(row(json!({"choice1": "a", "choice2": null, "choice3": "c", "choice4": "d", "answer": " B "})));
        let out = out.unwrap().unwrap();
        assert_eq!((&out["choices"], &out["answer"]), (&json!(["a", "", "c", "d"]), &json!("B")));
        let out = tmmluplus(row(json!({"question": "Q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "C"})));
        let out = out.unwrap().unwrap();
        assert_eq!((&out["choices"], &out["goal"]), (&json!(["1", "2", "3", "4"]), &json!(2)));
    }
}
