//! `doc_to_text`, `doc_to_target` and `doc_to_choice` of known families.

use std::sync::LazyLock;

use harness_python::PythonRegex;
use harness_store::Row;
use serde_json::{Value, json};

use super::{missing, text, texts};
use harness_python::{is_space, literal_eval, str as python_str, trim as strip};

/// WinoGrande asks which of two contexts suits the rest of a sentence: the question is the number of the right one.
pub(super) fn winogrande_text(row: &Row) -> Result<Value, String> {
    match python_str(row.get("answer").ok_or_else(|| missing(row, "answer"))?).as_str() {
        "1" => Ok(json!(0)),
        "2" => Ok(json!(1)),
        other => Err(format!("the column answer must be \"1\" or \"2\", found {other:?}")),
    }
}

/// The sentence behind the gap.
pub(super) fn winogrande_target(row: &Row) -> Result<Value, String> {
    Ok(Value::from(strip(gap(row)?.1)))
}

/// The sentence up to the gap with each option in it.
pub(super) fn winogrande_choice(row: &Row) -> Result<Value, String> {
    let (before, _) = gap(row)?;
    Ok(json!([format!("{before}{}", text(row, "option1")?), format!("{before}{}", text(row, "option2")?)]))
}

fn gap(row: &Row) -> Result<(&str, &str), String> {
    text(row, "sentence")?.split_once('_').ok_or_else(|| "the column sentence has no gap `_`".to_owned())
}

/// WikiText with the tokenisation of the corpus undone.
pub(super) fn wikitext_target(row: &Row) -> Result<Value, String> {
    crate::wikitext::detokenize(text(row, "page")?).map(Value::from).map_err(|error| error.to_string())
}

/// RACE: the article, the questions answered so far, and the last question.
pub(super) fn race_text(row: &Row) -> Result<Value, String> {
    let problems = problems(row)?;
    let Some((last, earlier)) = problems.split_last() else { return Err(NO_PROBLEMS.into()) };
    let mut out = format!("Article: {}\n\n", text(row, "article")?);
    for problem in earlier {
        let question = problem["question"].as_str().unwrap_or_default();
        let answer = option(problem, answer(problem)?)?;
        match question.strip_suffix("  _  .") {
            Some(before) => out.push_str(&format!("{before} {answer}\n")),
            None => out.push_str(&format!("Question: {question}\nAnswer: {answer}\n")),
        }
    }
    out.push_str(last["question"].as_str().unwrap_or_default());
    Ok(Value::from(out))
}

/// The number of the right option of the last question.
pub(super) fn race_target(row: &Row) -> Result<Value, String> {
    let problems = problems(row)?;
    Ok(json!(answer(problems.last().ok_or(NO_PROBLEMS)?)?))
}

/// The four options of the last question.
pub(super) fn race_choice(row: &Row) -> Result<Value, String> {
    let problems = problems(row)?;
    let last = problems.last().ok_or(NO_PROBLEMS)?;
    (0..4).map(|i| option(last, i).map(Value::from)).collect()
}

const NO_PROBLEMS: &str = "the column problems is an empty list";

fn problems(row: &Row) -> Result<Vec<Value>, String> {
    let value = match row.get("problems") {
        Some(Value::String(text)) => literal_eval(text).ok_or("the column problems is not a Python list")?,
        Some(other) => other.clone(),
        None => return Err(missing(row, "problems")),
    };
    match value {
        Value::Array(problems) => Ok(problems),
        other => Err(format!("the column problems must be a list, found {other}")),
    }
}

fn answer(problem: &Value) -> Result<usize, String> {
    let letter = problem["answer"].as_str().unwrap_or_default();
    ["A", "B", "C", "D"]
        .iter()
        .position(|known| *known == letter)
        .ok_or_else(|| format!("an answer must be A to D, found {letter:?}"))
}

fn option(problem: &Value, index: usize) -> Result<&str, String> {
    problem["options"][index].as_str().ok_or_else(|| format!("a question of race has no option {}", index + 1))
}

/// LogiQA: passage, question, and the options with letters.
pub(super) fn logiqa_text(row: &Row) -> Result<Value, String> {
    let options = texts(row, "options")?;
    let listed: String =
        ["A", "B", "C", "D"].iter().zip(&options).map(|(l, option)| format!("{l}. {option}\n")).collect();
    let (context, question) = (text(row, "context")?, text(row, "question")?);
    Ok(Value::from(format!("Passage: {context}\nQuestion: {question}\nChoices:\n{listed}Answer:")))
}

/// The number of the right option.
pub(super) fn logiqa_target(row: &Row) -> Result<Value, String> {
    let label = strip(text(row, "label")?);
    let index = ["a", "b", "c", "d"].iter().position(|known| *known == label);
    index.map(|index| json!(index)).ok_or_else(|| format!("the column label must be a to d, found {label:?}"))
}

/// The five options in one line of text.
static MATHQA: LazyLock<PythonRegex> =
    LazyLock::new(|| PythonRegex::new(r"[abcd] \) .*?, |e \) .*?$").expect("a constant pattern"));

/// MathQA: the options, cut out of one line.
pub(super) fn mathqa_choice(row: &Row) -> Result<Value, String> {
    let found = MATHQA.find_all(text(row, "options")?).map_err(|error| error.to_string())?;
    let cut = |option: &str| option.chars().skip(4).collect::<String>().trim_end_matches([' ', ',']).to_owned();
    Ok(found.iter().map(|groups| Value::from(cut(groups[0]))).collect())
}

/// PubMedQA: the abstract and the question.
pub(super) fn pubmedqa_text(row: &Row) -> Result<Value, String> {
    let contexts = texts(row, "CONTEXTS")?.join("\n");
    Ok(Value::from(format!("Abstract: {contexts}\nQuestion: {}\nAnswer:", text(row, "QUESTION")?)))
}

/// MedQA: the question and four options with letters.
pub(super) fn medqa_text(row: &Row) -> Result<Value, String> {
    let mut out = format!("Question: {}\n", text(row, "sent1")?);
    for (letter, column) in [("A", "ending0"), ("B", "ending1"), ("C", "ending2"), ("D", "ending3")] {
        out.push_str(&format!("{letter}. {}\n", text(row, column)?));
    }
    Ok(Value::from(out + "Answer:"))
}

/// The number of the right option.
pub(super) fn medqa_target(row: &Row) -> Result<Value, String> {
    row.get("label").cloned().ok_or_else(|| missing(row, "label"))
}

/// CoQA: the story and the conversation so far.
pub(super) fn coqa_text(row: &Row) -> Result<Value, String> {
    let (questions, answers) = (turns(row, "questions")?, turns(row, "answers")?);
    let known = answers.len().saturating_sub(1);
    let mut out = format!("{}\n\n", text(row, "story")?);
    for i in 0..questions.len().max(known) {
        let question = questions.get(i).map_or("None", String::as_str);
        out.push_str(&format!("Q: {question}\n\n"));
        match answers[..known].get(i) {
            Some(answer) => out.push_str(&format!("A: {answer}\n\n")),
            None => out.push_str("A:"),
        }
    }
    Ok(Value::from(out))
}

/// All accepted answers to the last question.
pub(super) fn coqa_target(row: &Row) -> Result<Value, String> {
    let turn = turns(row, "questions")?.len().checked_sub(1).ok_or("the column questions is empty")?;
    let last = |list: &Value| list["input_text"][turn].as_str().map(str::to_owned);
    let first = row.get("answers").and_then(last).ok_or("the last question has no answer")?;
    let mut answers = vec![first];
    if let Some(Value::Object(more)) = row.get("additional_answers") {
        for other in more.values().filter_map(last) {
            if !answers.iter().any(|known| known.to_lowercase() == other.to_lowercase()) {
                answers.push(other);
            }
        }
    }
    Ok(Value::from(answers))
}

fn turns(row: &Row, column: &str) -> Result<Vec<String>, String> {
    let list = row.get(column).ok_or_else(|| missing(row, column))?["input_text"].as_array();
    list.map(|items| items.iter().map(python_str).collect())
        .ok_or_else(|| format!("the column {column} has no input_text"))
}

/// The first line of an answer.
pub(super) fn first_line(answer: &str) -> &str {
    answer.trim_matches(is_space).split('\n').next().unwrap_or_default()
}

/// AfriXNLI: the label as a word of the prompt.
pub(super) fn afrixnli_entailment(row: &Row) -> Result<Value, String> {
    label(row, ["entailment", "neutral", "contradiction"])
}

/// The same for prompts that ask whether the hypothesis is true.
pub(super) fn afrixnli_truth(row: &Row) -> Result<Value, String> {
    label(row, ["True", "Neither", "False"])
}

/// The same for prompts that allow for no conclusion; neutral is `false` there, as in lm-eval.
pub(super) fn afrixnli_inconclusive(row: &Row) -> Result<Value, String> {
    label(row, ["true", "false", "inconclusive"])
}

/// The word for the number in the column `label`.
fn label(row: &Row, words: [&str; 3]) -> Result<Value, String> {
    let label = row.get("label").ok_or_else(|| missing(row, "label"))?;
    let word = label.as_u64().and_then(|label| words.get(label as usize));
    word.map(|word| Value::from(*word)).ok_or_else(|| format!("the column label must be 0, 1 or 2, found {label}"))
}

/// MMLU-Pro: the question with its options by letter, and the beginning of the answer.
pub(super) fn mmlu_pro_text(row: &Row) -> Result<Value, String> {
    let mut prompt = format!("Question:\n{}\nOptions:\n", text(row, "question")?);
    for (letter, option) in ('A'..='J').zip(texts(row, "options")?) {
        prompt.push_str(&format!("{letter}. {}\n", strip(&option)));
    }
    prompt.push_str("Answer: Let's think step by step.");
    Ok(Value::from(prompt))
}

/// An example's reasoning without the words that the prompt ends with.
pub(super) fn mmlu_pro_target(row: &Row) -> Result<Value, String> {
    Ok(Value::from(text(row, "cot_content")?.replace("A: Let's think step by step. ", "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn winogrande_has_two_contexts() {
        let doc = row(json!({"sentence": "Ian sat while Dennis stood because _ was tired. ", "option1": "Ian",
            "option2": "Dennis", "answer": "2"}));
        assert_eq!(winogrande_text(&doc), Ok(json!(1)));
        assert_eq!(winogrande_target(&doc), Ok(json!("was tired.")));
        assert_eq!(winogrande_choice(&doc).unwrap()[0], "Ian sat while Dennis stood because Ian");
        assert!(winogrande_text(&row(json!({"answer": ""}))).is_err());
    }

    #[test]
    fn race_answers_what_was_asked_before() {
        let problems = "[{'question': 'Tom is  _  .', 'answer': 'B', 'options': ['a', 'b', 'c', 'd']}, \
            {'question': \"What's up?\", 'answer': 'C', 'options': ['e', 'f', 'g', 'h']}, \
            {'question': 'Who?', 'answer': 'A', 'options': ['i', 'j', 'k', 'l']}]";
        let doc = row(json!({"article": "Text.", "problems": problems}));
        let expected = "Article: Text.\n\nTom is b\nQuestion: What's up?\nAnswer: g\nWho?";
        assert_eq!(race_text(&doc), Ok(json!(expected)));
        assert_eq!((race_target(&doc), race_choice(&doc)), (Ok(json!(0)), Ok(json!(["i", "j", "k", "l"]))));
    }

    #[test]
    fn mathqa_options_are_cut_out_of_a_line() {
        let doc = row(json!({"options": "a ) rs . 400 , b ) rs . 300 , c ) 5 , 6 , d ) 350 , e ) none of these"}));
        assert_eq!(mathqa_choice(&doc), Ok(json!(["rs . 400", "rs . 300", "5", "350", "none of these"])));
    }
}
