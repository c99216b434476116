//! Judged rows of a comparison: the outputs of a suite's generation tasks before a judge.

use harness_core::{Digest, Output, Request, canonical_json, split_thinking_after};
use harness_judges::{Item, Kind, OutputSet, Plan, PlanOptions, Protocol, Rubric};
use harness_metrics::comparison::{Caveat, Settings, Table};
use harness_tasks::Task as _;
use serde_json::{Value, json};

use super::{
    backend::{Judge, JudgeOptions},
    case::Setting,
    origin::Origin,
    results::results,
    tables::tables,
};
use crate::{EvaluationError, Session, evaluate::Evaluated, models::Loader, suite::Suite};

/// What judging adds to a comparison.
#[derive(Default)]
pub struct Judged {
    /// Rows of win rates against the base for every task that was judged.
    pub tables: Vec<Table>,
    /// What limits them.
    pub caveats: Vec<Caveat>,
    /// Judge and protocol, for the manifest.
    pub record: Option<Value>,
}

/// A judge and how it is asked about the outputs of a suite.
pub struct Judging {
    judge: Judge,
    protocol: Protocol,
    rubric: Option<Rubric>,
}

impl Judging {
    /// Loads judges and protocol, before any model is asked.
    ///
    /// # Errors
    /// If one of them cannot be loaded, or the protocol does not compare two outputs of one turn.
    pub fn load(
        session: &Session,
        loader: &mut Loader<'_>,
        (names, protocol): (&[String], &str),
        from_store: bool,
    ) -> Result<Self, EvaluationError> {
        let protocol = Protocol::load(protocol)?;
        if protocol.kind != Kind::Pairwise || protocol.is_multi_turn() {
            return Err(EvaluationError::usage(format!(
                "--judge-protocol {}: expected a protocol that compares two outputs of one turn",
                protocol.name
            )));
        }
        let rubric = if protocol.uses_rubric() { Some(Rubric::load("helpfulness")?) } else { None };
        let judge = Judge::load(session, loader, names, JudgeOptions { from_store, ..JudgeOptions::default() })?;
        Ok(Self { judge, protocol, rubric })
    }

    /// Lets the judge compare every candidate's outputs with the base's on all generation tasks.
    ///
    /// # Errors
    /// If no task generates text, models were asked different documents, or the judge fails.
    pub fn judge(
        &self,
        session: &Session,
        suite: &Suite,
        models: &[Evaluated],
        settings: &Settings,
    ) -> Result<Judged, EvaluationError> {
        let Self { judge, protocol, rubric } = self;
        let mut judged = Judged { record: Some(self.record()), ..Judged::default() };
        let origins: Vec<Origin> =
            models.iter().map(|model| Origin::of_entry(&model.entry, model.facts.base.as_deref())).collect();
        let pairs: Vec<(usize, usize)> = (1..models.len()).map(|candidate| (0, candidate)).collect();
        for (number, task) in suite.tasks.iter().enumerate() {
            let Some((items, sets)) = outputs(suite, models, number)? else { continue };
            if let (Judge::Overlap, true) = (judge, items.iter().any(|item| item.reference[0].trim().is_empty())) {
                session
                    .note(format!("{}: not judged by overlap, because it has documents without a target", task.id()));
                continue;
            }
            let compared: Vec<(&OutputSet, &OutputSet)> = pairs.iter().map(|(a, b)| (&sets[*a], &sets[*b])).collect();
            let options = PlanOptions { seed: settings.seed, ..PlanOptions::default() };
            let plan = Plan::pairwise(protocol, rubric.as_ref(), &items, &compared, &options)?;
            let asked = judge.judge(session, &plan, &items, &sets)?;
            let setting = Setting {
                protocol,
                judge,
                set: task.id(),
                items: &items,
                sets: &sets,
                origins: &origins,
                pairs: &pairs,
                gold: None,
                calibration: None,
                settings,
            };
            let results = results(&setting, &plan, &asked)?;
            // The rows stand beside the task's own metric and do not take its place.
            judged.tables.extend(tables(&setting, &asked, &results).into_iter().map(|row| Table {
                primary: false,
                alias: Some(task.alias().to_owned()),
                ..row
            }));
            judged.caveats.extend(results.caveats);
        }
        if judged.tables.is_empty() {
            return Err(EvaluationError::usage("--judge: no task of the suite generates text that could be judged"));
        }
        Ok(judged)
    }

    fn record(&self) -> Value {
        json!({
            "judge": self.judge.name(),
            "identities": self.judge.identities(),
            "protocol": {
                "name": self.protocol.name, "version": self.protocol.version, "digest": self.protocol.digest(),
            },
            "rubric": self.rubric.as_ref().map(|rubric| -> Digest { rubric.digest() }),
        })
    }
}

/// What is put before a judge: items, and every model's texts for them.
type Material = (Vec<Item>, Vec<OutputSet>);

/// The documents of a task as items, and every model's texts for them; `None` if the task does not generate text. The
/// judge sees the prompts as text, whatever chat template they were put in.
fn outputs(suite: &Suite, models: &[Evaluated], task: usize) -> Result<Option<Material>, EvaluationError> {
    let plain = if suite.uses_chat_template() { Some(suite.plain(task)?) } else { None };
    let Some(base) = models.first() else { return Ok(None) };
    let mut items: Vec<Item> = vec![];
    for (at, document) in base.prepared[task].documents.iter().enumerate() {
        let shown = plain.as_ref().and_then(|plain| plain.documents.get(at)).unwrap_or(document);
        let Some(Request::Generate { prompt, .. }) = shown.requests.first() else { return Ok(None) };
        items.push(Item {
            id: document.doc.id.0.to_string(),
            turns: vec![prompt.clone()],
            reference: vec![document.target.clone()],
            category: None,
            temperature: None,
        });
    }
    let sets = models.iter().map(|model| {
        let outputs = model.prepared[task].documents.iter().zip(&model.responses[task]).map(|(document, responses)| {
            let text = match (responses.first().map(|response| &response.output), document.requests.first()) {
                (Some(Output::Text { text, .. }), Some(Request::Generate { prompt, .. })) => {
                    split_thinking_after(prompt, text).answer().trim().to_owned()
                }
                (Some(other), _) => canonical_json(other),
                (None, _) => String::new(),
            };
            (document.doc.id.0.to_string(), text)
        });
        OutputSet::single_turn(model.name.clone(), outputs)
    });
    let sets = sets.collect();
    Ok((!items.is_empty()).then_some((items, sets)))
}
