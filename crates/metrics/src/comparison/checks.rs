//! Finding caveats.

use super::{
    Caveat, Cell, Dropped, Family, IdenticalTask, IrregularShare, ModelFacts, NamedDocuments, Row, Settings, Share,
    TaskFacts, TestMethod, Underpowered,
    alignment::Aligned,
    facts::no_answer,
    inference::{POWER, fewest_units},
    table::Table,
};
use crate::stats::Correction;

/// Fewer answers of text alone that are equal say nothing.
const FEW_ANSWERS: usize = 20;

/// Documents that alignment left out of a table.
pub(super) fn dropped(table: &Table, aligned: &Aligned) -> Option<Dropped> {
    let dropped: Vec<(String, usize)> = table
        .columns
        .iter()
        .filter(|column| column.aggregate.is_none())
        .zip(&aligned.dropped)
        .filter(|&(_, &count)| count > 0)
        .map(|(column, &count)| (column.model.clone(), count))
        .collect();
    let (task, key, used) = (table.task.clone(), table.key.clone(), aligned.columns.units());
    (!dropped.is_empty()).then_some(Dropped { task, key, used, dropped })
}

/// The caveat of all tables with documents left out.
pub(super) fn partial_overlap(rows: Vec<Dropped>) -> Option<Caveat> {
    (!rows.is_empty()).then_some(Caveat::PartialOverlap { rows })
}

/// Models that are the same, adapters that do nothing, outputs that are equal.
pub(super) fn models(models: &[String], facts: &[ModelFacts]) -> Vec<Caveat> {
    let ordered: Vec<&ModelFacts> =
        models.iter().filter_map(|model| facts.iter().find(|facts| &facts.model == model)).collect();
    let mut caveats = Vec::new();
    for facts in &ordered {
        if facts.adapter_is_noop {
            caveats.push(Caveat::NoOpAdapter { model: facts.model.clone(), base: facts.base.clone() });
        }
    }
    for (i, a) in ordered.iter().enumerate() {
        for b in &ordered[i + 1..] {
            let pair = [a.model.clone(), b.model.clone()];
            if a.identity.is_some() && a.identity == b.identity {
                caveats.push(Caveat::SameModelTwice { models: pair });
                continue;
            }
            let both: Vec<(&String, &TaskFacts, &TaskFacts)> =
                a.tasks.iter().filter_map(|(task, one)| Some((task, one, b.tasks.get(task)?))).collect();
            // A few short answers without log-probabilities can be equal by chance.
            let telling = |one: &TaskFacts| !one.documents.is_empty() || one.requests >= FEW_ANSWERS;
            let known =
                both.iter().filter(|(_, one, other)| one.outputs.is_some() && other.outputs.is_some() && telling(one));
            let tasks: Vec<IdenticalTask> = known
                .clone()
                .filter(|(_, one, other)| one.outputs == other.outputs)
                .map(|(task, one, _)| IdenticalTask { task: (*task).clone(), requests: one.requests })
                .collect();
            if !tasks.is_empty() {
                caveats.push(Caveat::IdenticalOutputs { models: pair, tasks, of: known.count() });
            }
        }
    }
    caveats
}

/// Rows without documents, and primary rows with too few of them.
pub(super) fn rows(rows: &[Row], settings: &Settings) -> Vec<Caveat> {
    let mut caveats = Vec::new();
    let mut empty: Vec<String> = rows
        .iter()
        .filter(|row| row.n.unwrap_or(0) == 0 && row.cells.iter().all(|c| c.value.is_none()))
        .map(|row| row.task.clone())
        .collect();
    empty.dedup();
    if !empty.is_empty() {
        caveats.push(Caveat::NoDocuments { tasks: empty });
    }
    let tested: Vec<&Row> =
        rows.iter().filter(|row| row.primary && row.n > Some(0) && !row.contrasts.is_empty()).collect();
    let weak: Vec<Underpowered> = tested.iter().filter_map(|row| underpowered(row, settings.alpha)).collect();
    if !weak.is_empty() {
        caveats.push(Caveat::TooFewDocuments { power: POWER, rows: weak, of: tested.len() });
    }
    caveats
}

fn underpowered(row: &Row, alpha: f64) -> Option<Underpowered> {
    let (margin, n) = (row.margin?, row.n?);
    let enough_to_test = row.clusters.unwrap_or(n) >= fewest_units(alpha);
    // A contrast without a detectable difference comes first, then the one with the largest.
    let worst = row.contrasts.iter().max_by(|a, b| {
        let size = |d: Option<f64>| d.unwrap_or(f64::INFINITY);
        size(a.detectable).total_cmp(&size(b.detectable))
    })?;
    // With enough documents, nothing detectable means that the two never differ, which says nothing about power.
    if worst.detectable.map_or(enough_to_test, |detectable| detectable <= margin) {
        return None;
    }
    // The standard error falls with the root of the number of documents.
    let needed = worst.detectable.map(|detectable| (n as f64 * (detectable / margin).powi(2)).ceil() as u64);
    Some(Underpowered {
        task: row.task.clone(),
        key: row.key.clone(),
        model: worst.model.clone(),
        n,
        scale: row.scale,
        detectable: worst.detectable,
        margin,
        needed,
    })
}

/// Families whose correction the smallest p of random permutations may not survive.
pub(super) fn resamples(rows: &[Row], families: &[Family], settings: &Settings) -> Option<Caveat> {
    if settings.correction == Correction::None {
        return None;
    }
    let sampled = |family: &&Family| {
        let mut tests = rows.iter().filter(|row| row.family == family.name).flat_map(|row| &row.contrasts);
        tests.any(|contrast| contrast.test == Some(TestMethod::PermutationSampled))
    };
    let coarse = |family: &&Family| family.tests as f64 / (settings.resamples + 1) as f64 > settings.alpha;
    let families: Vec<(String, usize)> =
        families.iter().filter(sampled).filter(coarse).map(|family| (family.name.clone(), family.tests)).collect();
    let most = families.iter().map(|&(_, tests)| tests).max()?;
    let needed = (most as f64 / settings.alpha).ceil() as usize;
    Some(Caveat::TooFewResamples { resamples: settings.resamples, needed, families })
}

/// Answers that were not parsed, cut, or asked under other conditions.
pub(super) fn answers(rows: &[Row], models: &[String], facts: &[ModelFacts]) -> Vec<Caveat> {
    let mut unparsed = Vec::new();
    for row in rows.iter().filter(|row| !row.pooled && !row.judged) {
        let unread = |cell: &&Cell| cell.unparsed > 0 && !no_answer(facts, &row.task, &cell.model);
        for cell in row.cells.iter().filter(unread) {
            unparsed.push(Share {
                task: row.task.clone(),
                key: Some(row.key.clone()),
                model: cell.model.clone(),
                count: cell.unparsed,
                of: row.n.unwrap_or_default(),
            });
        }
    }
    let shares = |count: fn(&TaskFacts) -> usize| {
        let mut shares = Vec::new();
        for facts in models.iter().filter_map(|model| facts.iter().find(|facts| &facts.model == model)) {
            for (task, of_task) in facts.tasks.iter().filter(|(_, of_task)| count(of_task) > 0) {
                let (count, of) = (count(of_task), of_task.requests);
                shares.push(Share { task: task.clone(), key: None, model: facts.model.clone(), count, of });
            }
        }
        shares
    };
    let named = |documents: fn(&TaskFacts) -> &Vec<usize>, by_model: bool| {
        let mut named: Vec<NamedDocuments> = Vec::new();
        for facts in models.iter().filter_map(|model| facts.iter().find(|facts| &facts.model == model)) {
            for (task, of_task) in facts.tasks.iter().filter(|(_, of_task)| !documents(of_task).is_empty()) {
                let (task, model) = (task.clone(), by_model.then(|| facts.model.clone()));
                if named.iter().all(|other| (&other.task, &other.model) != (&task, &model)) {
                    named.push(NamedDocuments { task, model, documents: documents(of_task).clone() });
                }
            }
        }
        named
    };
    let (no_right_choice, costly) =
        (named(|facts| &facts.no_right_choice, false), named(|facts| &facts.costly_patterns, true));
    let shared_examples = named(|facts| &facts.shared_examples, false);
    let mut from_test: Vec<(String, usize)> = Vec::new();
    for facts in models.iter().filter_map(|model| facts.iter().find(|facts| &facts.model == model)) {
        for (task, of_task) in facts.tasks.iter().filter(|(_, of_task)| of_task.examples_from_test > 0) {
            if from_test.iter().all(|(other, _)| other != task) {
                from_test.push((task.clone(), of_task.examples_from_test));
            }
        }
    }
    let mut caveats = Vec::new();
    let mut add = |shares: Vec<Share>, caveat: fn(Vec<Share>) -> Caveat| {
        if !shares.is_empty() {
            caveats.push(caveat(shares));
        }
    };
    add(unparsed, |shares| Caveat::UnparsedAnswers { shares });
    add(shares(|facts| facts.truncated), |shares| Caveat::TruncatedContexts { shares });
    add(shares(|facts| facts.cut_by_limit), |shares| Caveat::AnswersCutByLimit { shares });
    add(shares(|facts| facts.cut_in_thinking), |shares| Caveat::CutInThinking { shares });
    add(shares(|facts| facts.thinking_scored), |shares| Caveat::ThinkingScored { shares });
    add(shares(|facts| facts.boundary_shifted), |shares| Caveat::BoundaryShifts { shares });
    add(shares(|facts| facts.first_unscored), |shares| Caveat::FirstTokensUnscored { shares });
    add(shares(|facts| facts.system_left_out), |shares| Caveat::SystemLeftOut { shares });
    add(shares(|facts| facts.system_hidden), |shares| Caveat::SystemHidden { shares });
    add(shares(|facts| facts.stopped_in_thinking), |shares| Caveat::StoppedInThinking { shares });
    if !from_test.is_empty() {
        caveats.push(Caveat::ExamplesFromTest { tasks: from_test });
    }
    if !shared_examples.is_empty() {
        caveats.push(Caveat::SharedExamples { tasks: shared_examples });
    }
    let irregular = irregular(models, facts);
    if !irregular.is_empty() {
        caveats.push(Caveat::IrregularAnswers { shares: irregular });
    }
    if !no_right_choice.is_empty() {
        caveats.push(Caveat::NoRightChoice { tasks: no_right_choice });
    }
    if !costly.is_empty() {
        caveats.push(Caveat::CostlyPatterns { tasks: costly });
    }
    caveats
}

/// Answers that are none, by reason.
fn irregular(models: &[String], facts: &[ModelFacts]) -> Vec<IrregularShare> {
    let mut shares = Vec::new();
    for facts in models.iter().filter_map(|model| facts.iter().find(|facts| &facts.model == model)) {
        for (task, of_task) in &facts.tasks {
            for (&reason, &count) in &of_task.irregular {
                let (task, model, of) = (task.clone(), facts.model.clone(), of_task.requests);
                shares.push(IrregularShare { reason, share: Share { task, key: None, model, count, of } });
            }
        }
    }
    shares
}
