//! IFEval: does an answer follow instructions that can be checked by rule (Zhou et al. 2023, arXiv:2311.07911)?
//!
//! Twenty-one of the 25 checks are those of the paper's program. Four need models that are trained elsewhere, and follow rules
//! of this program instead: the number of sentences (`sentences`), and the language of a text (`language`), which the checks
//! for English in one case need too.

mod capitals;
mod instructions;
mod language;
mod sentences;

use harness_metrics::mean_stats;
use harness_store::Row;
use instructions::Instruction;
use serde_json::{Map, Value};

use super::{
    Answers, missing,
    results::{NativeScore, NativeScores, generated},
    texts,
};
use harness_python::trim as strip;

/// Whether all instructions are followed, and how many of them, by the answer itself (strict) and by the best of its
/// variants without emphasis, first and last line (loose).
pub(super) fn results(row: &Row, answers: &Answers<'_>) -> Result<NativeScores, String> {
    let response = generated(answers)?;
    let ids = texts(row, "instruction_id_list")?;
    let arguments = row.get("kwargs").ok_or_else(|| missing(row, "kwargs"))?;
    let arguments = arguments.as_array().filter(|list| list.len() == ids.len()).ok_or_else(|| {
        format!("the column kwargs must be a list of {} mappings, one per instruction, found {arguments}", ids.len())
    })?;
    let none = Map::new();
    let instructions: Vec<Instruction> = ids
        .iter()
        .zip(arguments)
        .map(|(id, arguments)| Instruction::read(id, arguments.as_object().unwrap_or(&none)))
        .collect::<Result<_, _>>()?;
    let follows =
        |instruction: &Instruction, response: &str| !strip(response).is_empty() && instruction.check(response);
    let strict: Vec<bool> = instructions.iter().map(|instruction| follows(instruction, response)).collect();
    let variants = variants(response);
    let loose: Vec<bool> =
        instructions.iter().map(|instruction| variants.iter().any(|variant| follows(instruction, variant))).collect();
    let mut scores = NativeScores::new();
    for (prompt_level, inst_level, followed) in [
        ("prompt_level_strict_acc", "inst_level_strict_acc", &strict),
        ("prompt_level_loose_acc", "inst_level_loose_acc", &loose),
    ] {
        let all = followed.iter().all(|&one| one);
        let count = followed.iter().filter(|&&one| one).count();
        scores.push(NativeScore::new(prompt_level, mean_stats(f64::from(u8::from(all)))).logged(Value::from(all)));
        let stats = vec![count as f64, followed.len() as f64];
        scores.push(NativeScore::new(inst_level, stats).logged(Value::from(followed.clone())));
    }
    Ok(scores)
}

/// The answer, and the answer without its first line, its last line, both; each with and without asterisks.
fn variants(response: &str) -> Vec<String> {
    let lines: Vec<&str> = response.split('\n').collect();
    let part = |from: usize, to: usize| strip(&lines.get(from..to).unwrap_or_default().join("\n")).to_owned();
    let n = lines.len();
    let whole = [response.to_owned(), part(1, n), part(0, n - 1), part(1, n - 1)];
    let bare: Vec<String> = whole.iter().map(|text| text.replace('*', "")).collect();
    whole.into_iter().chain(bare).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scores(row: &Value, answer: &str) -> Vec<(f64, f64)> {
        let scores = results(row.as_object().unwrap(), &Answers::Text(answer)).unwrap();
        scores.iter().map(|score| (score.stats[0], score.stats[1])).collect()
    }

    #[test]
    fn loose_forgives_an_introduction() {
        let row = json!({"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]});
        assert_eq!(scores(&row, "\"No comma\""), [(1.0, 1.0), (2.0, 2.0), (1.0, 1.0), (2.0, 2.0)]);
        let found = scores(&row, "Sure, here it is:\n\"No comma\"");
        assert_eq!(found, [(0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (2.0, 2.0)]);
        assert_eq!(scores(&row, " \n"), [(0.0, 1.0), (0.0, 2.0), (0.0, 1.0), (0.0, 2.0)], "nothing follows nothing");
    }

    #[test]
    fn what_cannot_be_checked_is_said() {
        let error = |row: Value| results(row.as_object().unwrap(), &Answers::Text("x")).unwrap_err();
        let of = |id: &str, kwargs: Value| error(json!({"instruction_id_list": [id], "kwargs": [kwargs]}));
        assert!(of("keywords:colour", json!({})).contains("keywords:colour"));
        let missing = of("length_constraints:number_words", json!({"relation": "at least", "num_words": null}));
        assert!(missing.contains("num_words"), "{missing}");
        assert!(error(json!({"instruction_id_list": ["a", "b"], "kwargs": [{}]})).contains("list of 2 mappings"));
    }
}
