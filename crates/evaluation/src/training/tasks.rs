//! Tasks evaluated while a candidate is trained.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_kernels::Quantization;
use harness_metrics::comparison::{Comparison, Settings};
use harness_tasks::{BuildOptions, Limit};

use crate::{
    EvaluationError, Session,
    evaluate::evaluate,
    experiment::{Candidate, ModelSection, ResolvedModel},
    models::{Loader, Missing, Trained},
    options::EvaluationOptions,
    suite::Suite,
    tables::{Noise, Scores, tables},
};

/// Evaluates what a run has made so far; the base and the tasks stay in memory between evaluations.
pub(super) struct TaskEvaluator<'a> {
    session: &'a Session,
    name: String,
    base: Option<PathBuf>,
    quantization: Option<&'static str>,
    think_end_token: Option<String>,
    loader: Loader<'a>,
    suite: Suite,
}

impl<'a> TaskEvaluator<'a> {
    /// For a run's tasks; `base` is the model under an adapter, none where a whole model is trained, and `quantization` how
    /// its weights are stored in training.
    ///
    /// # Errors
    /// If a task is unknown or its data are missing: before anything is trained.
    pub(super) fn new(
        session: &'a Session,
        name: &str,
        base: Option<&Path>,
        quantization: Option<&Quantization>,
        tasks: &[String],
        limit: Option<f64>,
    ) -> Result<Self, EvaluationError> {
        let limit = limit.map(|number| {
            Limit::from_number(number).ok_or_else(|| {
                EvaluationError::usage(format!(
                    "training.eval_tasks_limit = {number}: expected a number of documents, or a fraction between 0 and 1"
                ))
            })
        });
        let build = BuildOptions { limit: limit.transpose()?, ..BuildOptions::default() };
        let options = EvaluationOptions { tasks: tasks.to_vec(), build, ..EvaluationOptions::default() };
        let loader = Loader::new(session, session.device.limits(), untrained);
        let suite = Suite::load(session, &options)?;
        let is_it = |name: &&str| Quantization::from_name(name).as_ref() == quantization;
        let quantization = ["nf4", "nf4-plain"].into_iter().filter(|_| quantization.is_some()).find(is_it);
        let models = &session.experiment.models;
        let own = models.get(name);
        let below = own.and_then(|section| models.get(section.base.as_ref()?));
        let think_end_token = own.into_iter().chain(below).find_map(|section| section.think_end_token.clone());
        let (name, base) = (name.to_owned(), base.map(Path::to_owned));
        Ok(Self { session, name, base, quantization, think_end_token, loader, suite })
    }

    /// Metrics of the adapter or model in a folder, by task and metric.
    ///
    /// # Errors
    /// If it cannot be loaded or asked.
    pub(super) fn evaluate(&mut self, step: u64, folder: &Path) -> Result<BTreeMap<String, f64>, EvaluationError> {
        let candidate = match &self.base {
            None => Candidate::Base { path: folder.to_owned() },
            Some(base) => {
                let name = base.display().to_string();
                let candidate = Candidate::Base { path: base.clone() };
                let section =
                    ModelSection { quantization: self.quantization.map(str::to_owned), ..ModelSection::default() };
                let base = Box::new(ResolvedModel { name, candidate, section });
                Candidate::Adapter { path: folder.to_owned(), base }
            }
        };
        let section = ModelSection { think_end_token: self.think_end_token.clone(), ..ModelSection::default() };
        let resolved = ResolvedModel { name: format!("{}@{step}", self.name), candidate, section };
        let ready = self.loader.load(&resolved, Missing::Refuse)?;
        let evaluated = [evaluate(self.session, &self.suite, &ready, false)?];
        let facts = [evaluated[0].facts.clone()];
        let settings = Settings { resamples: 100, ..Settings::default() };
        let comparison = Comparison::compute(
            &tables(&self.suite, &[Scores::Evaluated(&evaluated[0])], &Noise::new()),
            &facts,
            &settings,
        )?;
        let value = |row: &harness_metrics::comparison::Row| {
            let (task, metric, filter) = (&row.task, &row.key.metric, &row.key.filter);
            let filter = if filter == "none" { String::new() } else { format!(",{filter}") };
            Some((format!("{task}/{metric}{filter}"), row.cells.first()?.value?))
        };
        Ok(comparison.rows.iter().filter_map(value).collect())
    }
}

/// What a run has made is there: nothing is trained on the way to it.
fn untrained(_: &Session, model: &ResolvedModel, _: Missing) -> Result<Trained, EvaluationError> {
    Err(EvaluationError::work(format!("{} is not trained", model.name)))
}
