//! Small tasks as files: definitions and rows.

use serde_json::{Value, json};

/// Multiple choice, scored by log-likelihood.
pub const CHOICE: &str = r#"task: toy_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: toy_choice.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.0
"#;

/// Generation with an extracted answer.
pub const ANSWER: &str = r#"task: toy_answer
dataset_path: json
dataset_kwargs:
  data_files:
    test: toy_answer.jsonl
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["\n"]
  do_sample: false
  max_gen_toks: 12
filter_list:
  - name: letter
    filter:
      - function: regex
        regex_pattern: "([a-m])"
      - function: take_first
metric_list:
  - metric: exact_match
metadata:
  version: 1.0
"#;

/// Perplexity of texts.
pub const TEXT: &str = r#"task: toy_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: toy_text.jsonl
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
metadata:
  version: 1.0
"#;

const NAMES: [&str; 8] = ["Anna", "Ben", "Clara", "David", "Eva", "Finn", "Greta", "Hugo"];
const THINGS: [&str; 6] = ["apples", "books", "coins", "stones", "letters", "boats"];

/// Something about the n-th thing that happened.
fn story(n: usize) -> (String, usize) {
    let (have, give) = (n % 7 + 3, n % 3 + 1);
    let (name, thing) = (NAMES[n % NAMES.len()], THINGS[n / 3 % THINGS.len()]);
    (format!("{name} has {have} {thing} and gives {give} of them away in the year {}.", 1900 + n), have - give)
}

/// Rows of [`CHOICE`].
pub fn choice_rows(count: usize) -> Vec<Value> {
    let row = |n: usize| {
        let (text, left) = story(n);
        let choices: Vec<String> = (0..4).map(|i| format!("{} are left", left + i - n % 2)).collect();
        json!({"question": format!("{text} How many are left?"), "choices": choices, "answer": n % 2})
    };
    (0..count).map(row).collect()
}

/// Rows of [`ANSWER`].
pub fn answer_rows(count: usize) -> Vec<Value> {
    let row = |n: usize| {
        let letter = char::from(b'a' + (n % 13) as u8);
        json!({"question": format!("{} Which letter is meant?", story(n).0), "answer": letter.to_string()})
    };
    (0..count).map(row).collect()
}

/// Rows of [`TEXT`].
pub fn text_rows(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"text": format!("{} {}", story(n).0, story(n + 1).0)})).collect()
}

/// Rows to train on: instruction, context, response.
pub fn instruction_rows(count: usize) -> Vec<Value> {
    let row = |n: usize| {
        let (text, left) = story(n);
        json!({"instruction": "How many are left?", "context": text, "response": format!("{left} are left.")})
    };
    (0..count).map(row).collect()
}

/// Rows as JSON Lines.
pub fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}
