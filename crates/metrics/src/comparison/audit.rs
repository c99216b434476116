//! Audits: what of models, answers and rows would make their comparison misleading.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Caveat, Cell, Confounded, DifferentCondition, FilterConflict, ModelFacts, Overlap, Row, SameScores, SeenDocuments,
    Share, SharedOutputs, TaskFacts, Verdict,
    alignment::Aligned,
    facts::{no_answer, ordered},
    imports,
    table::Table,
};

/// Documents with outputs equal to the last bit that are no accident any more.
const SHARED: usize = 3;
/// Chance below which equal scores are reported.
const CHANCE: f64 = 1e-6;
/// Agreement that two different models may have: on right or wrong answers, and on graded scores.
const AGREEMENT: [f64; 2] = [0.9, 0.5];
/// Distinct values from which scores count as graded.
const GRADED: usize = 10;

/// Outputs shared in part, differing conditions, randomness without repeats, confounded recipes.
pub(super) fn models(models: &[String], facts: &[ModelFacts]) -> Vec<Caveat> {
    let ordered = ordered(models, facts);
    let mut caveats = Vec::new();
    for (i, a) in ordered.iter().enumerate() {
        for b in &ordered[i + 1..] {
            let pair = [a.model.clone(), b.model.clone()];
            let same_model = a.identity.is_some() && a.identity == b.identity;
            let shared: Vec<SharedOutputs> = a
                .tasks
                .iter()
                .filter_map(|(task, one)| shared(task, one, b.tasks.get(task)?))
                .filter(|_| !same_model && !a.adapter_is_noop && !b.adapter_is_noop)
                .collect();
            if !shared.is_empty() {
                caveats.push(Caveat::SharedOutputs { models: pair, tasks: shared });
            }
        }
    }
    caveats.extend(conditions(&ordered));
    let mut alone = Vec::new();
    for facts in &ordered {
        for (task, of) in facts.tasks.iter().filter(|(_, of)| of.sampled > 0 && of.repeats == 1) {
            let (count, of) = (of.sampled, of.requests);
            alone.push(Share { task: task.clone(), key: None, model: facts.model.clone(), count, of });
        }
    }
    if !alone.is_empty() {
        caveats.push(Caveat::SampledOnce { shares: alone });
    }
    let confounded = confounded(&ordered);
    if !confounded.is_empty() {
        caveats.push(Caveat::ConfoundedCandidates { pairs: confounded });
    }
    caveats
}

/// Documents of a task with outputs equal to the last bit, where not all are (that is another caveat).
fn shared(task: &str, one: &TaskFacts, other: &TaskFacts) -> Option<SharedOutputs> {
    let all = one.outputs.is_some() && one.outputs == other.outputs;
    let common = one.documents.iter().filter_map(|(doc, hash)| Some((hash, other.documents.get(doc)?)));
    let (of, same) = common.fold((0, 0), |(of, same), (a, b)| (of + 1, same + usize::from(a == b)));
    (!all && same >= SHARED).then(|| SharedOutputs { task: task.to_owned(), same, of })
}

/// What the models' answers were made under, where it differs.
fn conditions(ordered: &[&ModelFacts]) -> Option<Caveat> {
    let mut found: Vec<DifferentCondition> = Vec::new();
    let mut collect = |task: Option<&str>, of: Vec<(&str, &BTreeMap<String, String>)>| {
        let names: BTreeSet<&String> = of.iter().flat_map(|(_, conditions)| conditions.keys()).collect();
        for name in names {
            let values: Vec<(String, String)> = of
                .iter()
                .filter_map(|(model, conditions)| Some(((*model).to_owned(), conditions.get(name)?.clone())))
                .collect();
            if values.iter().any(|(_, value)| *value != values[0].1) {
                found.push(DifferentCondition { what: name.clone(), task: task.map(str::to_owned), values });
            }
        }
    };
    collect(None, ordered.iter().map(|facts| (facts.model.as_str(), &facts.conditions)).collect());
    let tasks: BTreeSet<&String> = ordered.iter().flat_map(|facts| facts.tasks.keys()).collect();
    for task in tasks {
        let of = ordered.iter().filter_map(|facts| Some((facts.model.as_str(), &facts.tasks.get(task)?.conditions)));
        collect(Some(task), of.collect());
    }
    (!found.is_empty()).then_some(Caveat::DifferentConditions { conditions: found })
}

/// Pairs of candidates whose recipes differ in more than their names say, or in more than one thing where they say
/// nothing.
fn confounded(ordered: &[&ModelFacts]) -> Vec<Confounded> {
    let mut found = Vec::new();
    for (i, a) in ordered.iter().enumerate() {
        for b in ordered[i + 1..].iter().filter(|b| !a.recipe.is_empty() && !b.recipe.is_empty()) {
            let names: BTreeSet<&String> = a.recipe.keys().chain(b.recipe.keys()).collect();
            let value = |facts: &ModelFacts, name: &String| facts.recipe.get(name).cloned().unwrap_or("none".into());
            let mut differences: Vec<(String, String, String)> = names
                .into_iter()
                .map(|name| (name.clone(), value(a, name), value(b, name)))
                .filter(|(_, one, other)| one != other)
                .collect();
            let before = differences.len();
            differences.retain(|(_, one, other)| !(names_value(&a.model, one) && names_value(&b.model, other)));
            let claimed = before > differences.len();
            if claimed && scales_with_rank(a, b) {
                differences.retain(|(name, ..)| name != "lora.alpha");
            }
            if !differences.is_empty() && (claimed || differences.len() > 1) {
                found.push(Confounded { models: [a.model.clone(), b.model.clone()], claimed, differences });
            }
        }
    }
    found
}

/// Whether a model's name holds a value as a word: `r8` holds 8, `lr2e-3` holds 2e-3.
fn names_value(name: &str, value: &str) -> bool {
    let parts = |text: &str| -> Vec<String> {
        let mut parts: Vec<String> = vec![String::new()];
        for c in text.to_lowercase().chars() {
            let last = parts.last_mut().expect("never empty");
            let goes_on = last.chars().next_back().is_none_or(|before| before.is_ascii_digit() == c.is_ascii_digit());
            if !c.is_alphanumeric() {
                parts.push(String::new());
            } else if goes_on {
                last.push(c);
            } else {
                parts.push(c.to_string());
            }
        }
        parts
    };
    name.to_lowercase().contains(&value.to_lowercase()) && !value.is_empty() && {
        let wanted: Vec<String> = parts(value).into_iter().filter(|part| !part.is_empty()).collect();
        let held: Vec<String> = parts(name).into_iter().filter(|part| !part.is_empty()).collect();
        held.windows(wanted.len().max(1)).any(|window| window == wanted)
    }
}

/// Whether `lora.alpha` over `lora.rank` is the same in both recipes, as is usual when the rank is varied.
fn scales_with_rank(a: &ModelFacts, b: &ModelFacts) -> bool {
    let ratio = |facts: &ModelFacts| {
        let number = |name: &str| facts.recipe.get(name)?.parse::<f64>().ok();
        Some(number("lora.alpha")? / number("lora.rank")?)
    };
    ratio(a).is_some() && ratio(a) == ratio(b)
}

/// Pairs of columns whose scores are equal on more documents than chance allows. Models whose outputs are known are
/// left to the comparison of outputs, which says more.
pub(super) fn same_scores(table: &Table, aligned: &Aligned, facts: &[ModelFacts]) -> Vec<([String; 2], SameScores)> {
    let columns = &aligned.columns;
    if !columns.statistic().is_mean() || table.pooled {
        return Vec::new();
    }
    let outputs_known = |column: usize| {
        let model = &table.columns[aligned.with_scores[column]].model;
        let facts = facts.iter().find(|facts| &facts.model == model);
        facts.and_then(|facts| facts.tasks.get(&table.task)).is_some_and(|of| of.outputs.is_some())
    };
    let mut found = Vec::new();
    for a in 0..columns.count() {
        for b in a + 1..columns.count() {
            if outputs_known(a) && outputs_known(b) {
                continue;
            }
            let score = |unit: usize, column: usize| columns.vector(unit, column)[0].to_bits();
            let n = columns.units();
            let same = (0..n).filter(|&unit| score(unit, a) == score(unit, b)).count();
            let distinct: BTreeSet<u64> = (0..n).map(|unit| score(unit, a)).collect();
            let graded = distinct.len() >= GRADED;
            let enough = if graded { same as f64 >= 0.98 * n as f64 } else { same == n };
            // At most so many documents would agree by chance: the tail of a binomial, bounded by Chernoff.
            let allowed = AGREEMENT[usize::from(graded)];
            let share = same as f64 / n.max(1) as f64;
            let divergence = relative_entropy(share, allowed);
            if distinct.len() > 1 && enough && share > allowed && (-(n as f64) * divergence).exp() < CHANCE {
                let names = [a, b].map(|column| table.columns[aligned.with_scores[column]].model.clone());
                found.push((names, SameScores { task: table.task.clone(), key: table.key.clone(), same, of: n }));
            }
        }
    }
    found
}

/// Kullback and Leibler's divergence of two coins.
fn relative_entropy(p: f64, q: f64) -> f64 {
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    term(p, q) + term(1.0 - p, 1.0 - q)
}

/// Rows of equal scores by pair of models.
pub(super) fn same_scores_caveat(found: Vec<([String; 2], SameScores)>) -> Vec<Caveat> {
    let mut pairs: BTreeMap<[String; 2], Vec<SameScores>> = BTreeMap::new();
    for (models, rows) in found {
        pairs.entry(models).or_default().push(rows);
    }
    pairs.into_iter().map(|(models, rows)| Caveat::SameScores { models, rows }).collect()
}

/// Documents of a row that candidates were trained on, with the difference without them.
pub(super) fn seen(table: &Table, aligned: &Aligned, row: &Row, facts: &[ModelFacts]) -> Vec<SeenDocuments> {
    let columns = &aligned.columns;
    let mut found = Vec::new();
    for (j, &column) in aligned.with_scores.iter().enumerate() {
        let model = &table.columns[column].model;
        let Some(facts) = facts.iter().find(|facts| &facts.model == model) else { continue };
        let overlap = |unit: usize| facts.tasks.values().find_map(|of| of.seen.get(&aligned.documents[unit]));
        let overlaps: Vec<Option<&Overlap>> = (0..columns.units()).map(overlap).collect();
        let count = |kind| overlaps.iter().filter(|found| **found == Some(&kind)).count();
        let (exact, ngram) = (count(Overlap::Exact), count(Overlap::Ngram));
        if exact + ngram == 0 {
            continue;
        }
        let clean: Vec<usize> = (0..columns.units()).filter(|&unit| overlaps[unit].is_none()).collect();
        let value = |column: usize| {
            let sums = columns.statistic().sum(clean.iter().map(|&unit| columns.vector(unit, column)));
            Some(columns.statistic().value(&sums)).filter(|value| value.is_finite() && !clean.is_empty())
        };
        let with_base = row.with_base().find(|contrast| &contrast.model == model);
        found.push(SeenDocuments {
            task: table.task.clone(),
            key: table.key.clone(),
            model: model.clone(),
            scale: table.scale,
            exact,
            ngram,
            of: columns.units(),
            difference: with_base.and_then(|contrast| contrast.difference),
            clean: with_base.and_then(|_| Some(value(j)? - value(0)?)),
        });
    }
    found
}

/// The caveat of all rows with documents of training data; rows that are not a task's main one only where no main row
/// says the same.
pub(super) fn seen_caveat(rows: Vec<SeenDocuments>) -> Option<Caveat> {
    (!rows.is_empty()).then_some(Caveat::TrainedOnTest { rows })
}

/// Rows in which nothing was parsed, that turn with the filter, or whose difference lies below the noise.
pub(super) fn rows(rows: &[Row], facts: &[ModelFacts]) -> Vec<Caveat> {
    let mut caveats = Vec::new();
    let mut nothing = Vec::new();
    let own = rows.iter().filter(|row| !row.pooled && !row.judged);
    for (row, n) in own.filter_map(|row| Some((row, row.n.filter(|&n| n > 0)?))) {
        let zero = |cell: &&Cell| cell.value == Some(0.0) && 10 * cell.unparsed >= 9 * n;
        for cell in row.cells.iter().filter(zero).filter(|cell| !no_answer(facts, &row.task, &cell.model)) {
            nothing.push(Share {
                task: row.task.clone(),
                key: Some(row.key.clone()),
                model: cell.model.clone(),
                count: cell.unparsed,
                of: n,
            });
        }
    }
    let zeros = imports::zero_filters(rows, facts);
    if !nothing.is_empty() || !zeros.is_empty() {
        caveats.push(Caveat::NothingParsed { shares: nothing, zeros });
    }
    let mut conflicts = Vec::new();
    for (i, one) in rows.iter().enumerate() {
        let siblings = rows[i + 1..].iter();
        for other in
            siblings.filter(|o| o.task == one.task && o.key.metric == one.key.metric && o.key.filter != one.key.filter)
        {
            conflicts.extend(one.contrasts.iter().zip(&other.contrasts).filter_map(|(a, b)| {
                let decided = |verdict| matches!(verdict, Verdict::Better | Verdict::Worse);
                let turned = a.difference? * b.difference? < 0.0 && (decided(a.verdict) || decided(b.verdict));
                turned.then(|| FilterConflict {
                    task: one.task.clone(),
                    model: a.model.clone(),
                    scale: one.scale,
                    filters: [one.key.clone(), other.key.clone()],
                    differences: [a.difference.unwrap_or_default(), b.difference.unwrap_or_default()],
                    verdicts: [a.verdict, b.verdict],
                })
            }));
        }
    }
    if !conflicts.is_empty() {
        caveats.push(Caveat::FilterConflicts { rows: conflicts });
    }
    let mut below = Vec::new();
    for row in rows {
        let Some(noise) = row.noise.filter(|&noise| noise > 0.0) else { continue };
        for contrast in &row.contrasts {
            let difference = contrast.difference.unwrap_or(0.0);
            if difference != 0.0 && difference.abs() <= noise && contrast.p_corrected.is_some_and(|p| p <= 0.05) {
                let (task, key, model) = (row.task.clone(), row.key.clone(), contrast.model.clone());
                below.push(super::BelowNoise { task, key, model, scale: row.scale, difference, noise });
            }
        }
    }
    if !below.is_empty() {
        caveats.push(Caveat::BelowNoise { rows: below });
    }
    caveats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_values_as_words() {
        assert!(names_value("r8", "8") && names_value("r32", "32") && names_value("sft-lr2e-3", "2e-3"));
        assert!(!names_value("r32", "3") && !names_value("r8", "") && !names_value("base", "8"));
    }
}
