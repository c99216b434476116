//! Judged rows of a comparison: the outputs of a suite's generation tasks before a judge.

use harness_core::{Output, canonical_json};
use harness_judges::{Item, Kind, OutputSet, Plan, PlanOptions, Protocol, Rubric};
use harness_metrics::comparison::{Caveat, Settings, Table};
use harness_tasks::Task as _;

use super::{
    backend::Judge,
    results::{Setting, results, table},
};
use crate::commands::{App, Failure, evaluate::Evaluated, suite::Suite};

/// What judging adds to a comparison.
#[derive(Default)]
pub(in crate::commands) struct Judged {
    /// A row of win rates against the base for every task that was judged.
    pub tables: Vec<Table>,
    /// What limits them.
    pub caveats: Vec<Caveat>,
}

/// Lets a judge compare every candidate's outputs with the base's on all generation tasks.
///
/// # Errors
/// If no task generates text, models were asked different documents, or the judge fails.
pub(in crate::commands) fn judge_suite(
    app: &App,
    suite: &Suite,
    models: &[Evaluated],
    judge: &Judge,
    protocol: &str,
    settings: &Settings,
) -> Result<Judged, Failure> {
    let protocol = Protocol::load(protocol)?;
    if protocol.kind != Kind::Pairwise || protocol.is_multi_turn() {
        return Err(Failure::usage(format!(
            "--judge-protocol {}: expected a protocol that compares two outputs of one turn",
            protocol.name
        )));
    }
    let rubric = if protocol.uses_rubric() { Some(Rubric::load("helpfulness")?) } else { None };
    let mut judged = Judged::default();
    for (number, task) in suite.tasks.iter().enumerate() {
        let Some((items, sets)) = outputs(models, number) else { continue };
        let pairs: Vec<(&OutputSet, &OutputSet)> = sets[1..].iter().map(|set| (&sets[0], set)).collect();
        let options = PlanOptions { seed: settings.seed, ..PlanOptions::default() };
        let plan = Plan::pairwise(&protocol, rubric.as_ref(), &items, &pairs, &options)?;
        let asked = judge.judge(app, &plan, &items, &sets)?;
        let setting = Setting { protocol: &protocol, judge, set: task.id(), items: &items, sets: &sets, settings };
        let mut row = table(&setting, &asked.judgments);
        // The row stands beside the task's own metric and does not take its place.
        row.primary = false;
        row.alias = Some(task.alias().to_owned());
        judged.tables.push(row);
        judged.caveats.extend(results(&setting, &asked.judgments)?.caveats);
    }
    if judged.tables.is_empty() {
        return Err(Failure::usage("--judge: no task of the suite generates text that could be judged"));
    }
    Ok(judged)
}

/// The documents of a task as items, and every model's texts for them; `None` if the task does not generate text.
fn outputs(models: &[Evaluated], task: usize) -> Option<(Vec<Item>, Vec<OutputSet>)> {
    let base = models.first()?;
    let mut items: Vec<Item> = vec![];
    for document in &base.prepared[task].documents {
        let prompt = match document.requests.first()? {
            harness_core::Request::Generate { prompt, .. } => prompt.clone(),
            _ => return None,
        };
        items.push(Item {
            id: document.doc.id.0.to_string(),
            turns: vec![prompt],
            reference: vec![document.target.clone()],
            category: None,
        });
    }
    let sets = models.iter().map(|model| {
        let outputs = model.prepared[task].documents.iter().zip(&model.responses[task]).map(|(document, responses)| {
            let text = match responses.first().map(|response| &response.output) {
                Some(Output::Text { text, .. }) => text.trim().to_owned(),
                Some(other) => canonical_json(other),
                None => String::new(),
            };
            (document.doc.id.0.to_string(), text)
        });
        OutputSet::single_turn(model.name.clone(), outputs)
    });
    let sets = sets.collect();
    (!items.is_empty()).then_some((items, sets))
}
