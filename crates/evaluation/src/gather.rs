//! Models to compare: own ones are placed, loaded and asked, imported results are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use harness_core::{DocId, LanguageModel};
use harness_metrics::comparison::{Caveat, Comparison, ComparisonError, ModelFacts, Settings, Table};
use harness_tasks::Task as _;

use crate::{
    EvaluationError, Session,
    evaluate::{Evaluated, evaluate_all},
    events::Stage,
    experiment::ResolvedModel,
    import::{ImportRecord, imported_tables, not_shared, require, require_of_suite},
    judging::{Judged, Judging},
    models::{Loader, Missing, Ready, caveats},
    noise,
    options::{EvaluationOptions, PromptOptions},
    probe,
    provenance::{Training, model_files, split_leaks},
    suite::Suite,
    tables::{Noise, Scores, tables},
    training::{Changes, check, ensure_trained},
};

/// A model of a comparison.
pub enum Subject {
    /// A model that can be asked.
    Model(Box<ResolvedModel>),
    /// A model of the caller's own.
    Given {
        /// Its name in reports.
        name: String,
        /// The model.
        model: Arc<dyn LanguageModel>,
    },
    /// Results of another tool.
    Imported(Box<ImportRecord>),
}

impl Subject {
    /// The name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Model(model) => &model.name,
            Self::Given { name, .. } => name,
            Self::Imported(record) => &record.name,
        }
    }

    /// What names stand for: models of the experiment, then imports, then paths.
    ///
    /// # Errors
    /// If there is no such model, or two have the same name.
    pub fn resolve<'a>(
        session: &Session,
        names: impl IntoIterator<Item = &'a str>,
        texts: &PromptOptions,
    ) -> Result<Vec<Self>, EvaluationError> {
        let mut subjects: Vec<Self> = vec![];
        for name in names {
            let subject = match imported(session, name)? {
                Some(record) => Self::Imported(Box::new(record)),
                None => Self::Model(Box::new(session.experiment.model(name)?.asked(texts))),
            };
            if subjects.iter().any(|other| other.name() == subject.name()) {
                return Err(EvaluationError::usage(format!(
                    "two models are called {:?}; give them different names in harness.toml to compare them",
                    subject.name()
                )));
            }
            subjects.push(subject);
        }
        Ok(subjects)
    }
}

/// The imported results of a name that is no model of the experiment.
fn imported(session: &Session, name: &str) -> Result<Option<ImportRecord>, EvaluationError> {
    if session.experiment.models.contains_key(name) {
        return Ok(None);
    }
    session.phase(format!("read {name}"), || ImportRecord::find(&session.home, name))
}

/// How models are asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// What is done about candidates that are not trained.
    pub missing: Missing,
    /// Whether only stored answers are scored.
    pub from_store: bool,
    /// Documents a task that are scored again to see the numerical noise; 0 for none.
    pub probe: usize,
    /// Whether documents are added until all verdicts are decided.
    pub until_decided: bool,
}

impl Default for Asking {
    /// What is missing is trained and asked, and eight documents of each task are asked again.
    fn default() -> Self {
        Self { missing: Missing::Train, from_store: false, probe: 8, until_decided: false }
    }
}

/// Everything a comparison is made of.
pub struct Gathered {
    /// The tasks; `None` where all results are imported.
    pub suite: Option<Suite>,
    /// Models that were asked, in their order.
    pub evaluated: Vec<Evaluated>,
    /// Imported results.
    pub imported: Vec<ImportRecord>,
    /// For each model, in order: imported or not, and the position among its kind.
    order: Vec<(bool, usize)>,
    /// Training of the models that were trained here.
    pub trainings: Vec<(String, Training)>,
    /// How models are asked with texts of their own, or otherwise than they were trained.
    asked_how: Vec<Caveat>,
    /// Largest changes when documents were scored again.
    noise: Noise,
    facts: Vec<ModelFacts>,
    tasks: Vec<String>,
    judged: Judged,
}

impl Gathered {
    /// The scores of the models in their order.
    pub fn scores(&self) -> Vec<Scores<'_>> {
        self.order
            .iter()
            .map(|&(imported, at)| match imported {
                true => Scores::Imported(&self.imported[at]),
                false => Scores::Evaluated(&self.evaluated[at]),
            })
            .collect()
    }

    /// The judge and its protocol, for the manifest.
    pub fn judging(&self) -> Option<&serde_json::Value> {
        self.judged.record.as_ref()
    }

    /// The tables of the comparison.
    pub fn tables(&self) -> Vec<Table> {
        match &self.suite {
            Some(suite) => {
                let mut tables = tables(suite, &self.scores(), &self.noise);
                tables.extend(self.judged.tables.iter().cloned());
                tables
            }
            None => imported_tables(&self.imported.iter().collect::<Vec<_>>(), &self.tasks),
        }
    }

    /// The comparison, with the caveats that only files can tell, and its stage, which goes on.
    ///
    /// # Errors
    /// If there is nothing to compare, the documents do not fit, or the session is stopped.
    pub fn compare(&self, session: &Session, settings: &Settings) -> Result<(Comparison, Stage), EvaluationError> {
        let tables = session.phase("collect scores", || self.tables());
        if tables.is_empty() {
            let names: Vec<String> = self.scores().iter().map(|scores| scores.name().to_owned()).collect();
            return Err(EvaluationError::usage(format!(
                "{} have no task and metric in common; choose what they share with \
                 --tasks",
                names.join(", ")
            )));
        }
        let compared: BTreeSet<&str> = tables.iter().map(|table| table.task.as_str()).collect();
        let mut facts = self.facts.clone();
        for facts in facts.iter_mut().filter(|facts| facts.source.is_some()) {
            facts.tasks.retain(|task, _| compared.contains(task.as_str()));
        }
        let (stage, mut begun) = (session.stage("compare", tables.len() as u64), 0_usize);
        let mut next = || {
            if begun > 0 {
                stage.step();
            }
            begun += 1;
            !session.interrupted()
        };
        let computed = Comparison::compute_watched(&tables, &facts, settings, &mut next);
        let mut comparison = computed.map_err(|error| match error {
            ComparisonError::Stopped => EvaluationError::Interrupted(format!(
                "interrupted in row {begun} of {} of the comparison; all answers are stored: run the same command again",
                tables.len()
            )),
            error => error.with_labels(&self.labels()).into(),
        })?;
        comparison.caveats.extend(self.asked_how.iter().cloned());
        comparison.caveats.extend(split_leaks(&self.trainings));
        comparison.caveats.extend(self.judged.caveats.iter().cloned());
        comparison.caveats.extend(self.imported.iter().flat_map(|record| record.judged(&compared)));
        let own: Vec<&str> = self.evaluated.iter().map(|model| model.name.as_str()).collect();
        let records: Vec<&ImportRecord> = self.imported.iter().collect();
        comparison.caveats.extend(not_shared(&tables, self.suite.as_ref(), (&own, &records), &self.tasks));
        Ok((comparison, stage))
    }

    /// The tools' own ids of documents.
    fn labels(&self) -> BTreeMap<DocId, String> {
        let tasks = self.imported.iter().flat_map(|record| &record.tasks);
        tasks.flat_map(|task| &task.labels).map(|(doc, label)| (*doc, label.clone())).collect()
    }
}

/// Places, loads and asks all models, then the judge, of which names and protocol are given, about what they wrote.
///
/// # Errors
/// If a model or judge cannot be trained, loaded or asked.
pub fn gather(
    session: &Session,
    subjects: &[Subject],
    options: &EvaluationOptions,
    asking: Asking,
    settings: &Settings,
    judging: Option<(&[String], &str)>,
) -> Result<Gathered, EvaluationError> {
    let limits = options.limits.unwrap_or_else(|| session.device.limits());
    if judging.is_some() && subjects.iter().any(|subject| matches!(subject, Subject::Imported(_))) {
        return Err(EvaluationError::usage("--judge: imported results contain no outputs to judge"));
    }
    let own: Vec<&Subject> = subjects.iter().filter(|subject| !matches!(subject, Subject::Imported(_))).collect();
    let mut counts = [0usize; 2];
    let order = subjects
        .iter()
        .map(|subject| {
            let imported = matches!(subject, Subject::Imported(_));
            let at = counts[usize::from(imported)];
            counts[usize::from(imported)] += 1;
            (imported, at)
        })
        .collect();
    let imported: Vec<ImportRecord> = subjects
        .iter()
        .filter_map(|subject| match subject {
            Subject::Imported(record) => Some((**record).clone()),
            Subject::Model(_) | Subject::Given { .. } => None,
        })
        .collect();
    let suite = if own.is_empty() { None } else { Some(Suite::load(session, options)?) };
    match &suite {
        None => require(&imported.iter().collect::<Vec<_>>(), &options.tasks)?,
        Some(suite) if !options.tasks.is_empty() => require_of_suite(&imported, suite)?,
        Some(_) => {}
    }
    let mut gathered = Gathered {
        suite,
        evaluated: vec![],
        imported,
        order,
        trainings: vec![],
        asked_how: vec![],
        noise: Noise::new(),
        facts: vec![],
        tasks: options.tasks.clone(),
        judged: Judged::default(),
    };
    if let Some(suite) = &gathered.suite {
        for subject in &own {
            if let Subject::Model(model) = subject {
                check(session, model, None, &Changes::default())?;
            }
        }
        let mut loader = Loader::new(session, limits, ensure_trained).with_remote(options.remote.clone());
        // All candidates and the judge are there before the first one is asked anything.
        let mut places = vec![];
        for subject in &own {
            if let Subject::Model(model) = subject {
                places.push(loader.place(model, asking.missing)?);
            }
        }
        let (mut ready, mut places): (Vec<Ready>, _) = (vec![], places.into_iter());
        for subject in &own {
            match subject {
                Subject::Model(model) => ready.extend(places.next().map(|at| loader.load_at(model, at)).transpose()?),
                Subject::Given { name, model } => ready.push(Ready::given(name, Arc::clone(model))),
                Subject::Imported(_) => {}
            }
        }
        let judging =
            judging.map(|judging| Judging::load(session, &mut loader, judging, asking.from_store)).transpose()?;
        if !asking.from_store {
            ready.iter().try_for_each(|ready| probe::require(session, suite, ready))?;
        }
        gathered.asked_how =
            ready.iter().flat_map(|ready| caveats(session, suite.uses_chat_template(), ready)).collect();
        gathered.evaluated = if asking.until_decided {
            until_decided(session, suite, &ready, asking, settings)?
        } else {
            evaluate_all(session, suite, &ready, asking.from_store)?
        };
        for (ready, evaluated) in ready.iter().zip(&mut gathered.evaluated) {
            if let Some(training) = Training::of_model(ready) {
                evaluated.facts.recipe = training.recipe();
                for (task, seen) in training.seen(suite) {
                    evaluated.facts.tasks.entry(task).or_default().seen = seen;
                }
                gathered.trainings.push((ready.name.clone(), training));
            }
            evaluated.files =
                session.phase(format!("hash {}", ready.name), || model_files(ready, &session.hashes()))?;
            if asking.probe > 0 {
                let found = noise::floor(session, suite, ready, evaluated, (asking.probe, asking.from_store))?;
                for (place, change) in found {
                    let largest = gathered.noise.entry(place).or_insert(0.0);
                    *largest = largest.max(change);
                }
            }
        }
        if let Some(judging) = judging {
            gathered.judged = judging.judge(session, suite, &gathered.evaluated, settings)?;
        }
    }
    gathered.facts = gathered.scores().iter().map(Scores::facts).collect();
    Ok(gathered)
}

/// Documents of each task that are asked at first, and the factor by which they grow.
const FIRST_BLOCK: usize = 32;

/// Asks blocks of documents of all tasks until the sequential tests decide about each, or no document is left.
fn until_decided(
    session: &Session,
    suite: &Suite,
    ready: &[Ready],
    asking: Asking,
    settings: &Settings,
) -> Result<Vec<Evaluated>, EvaluationError> {
    let all: Vec<usize> = (0..suite.tasks.len())
        .map(|task| {
            let documents = suite.tasks[task].documents().len();
            suite.options(task).limit.map_or(documents, |limit| limit.of(documents))
        })
        .collect();
    let mut asked: Vec<usize> = all.iter().map(|&all| all.min(FIRST_BLOCK)).collect();
    loop {
        let part = suite.with_documents(&asked);
        let evaluated = evaluate_all(session, &part, ready, asking.from_store)?;
        let scores: Vec<Scores<'_>> = evaluated.iter().map(Scores::Evaluated).collect();
        let tables: Vec<Table> = tables(&part, &scores, &BTreeMap::new());
        let comparison = session.phase("look", || Comparison::compute(&tables, &[], settings))?;
        let open = |task: usize| {
            let id = suite.tasks[task].id();
            let mut rows = comparison.rows.iter().filter(|row| row.task == id && row.primary);
            rows.any(|row| row.contrasts.iter().any(|c| c.verdict == harness_metrics::comparison::Verdict::Undecided))
        };
        let undecided: Vec<usize> = (0..all.len()).filter(|&task| open(task)).collect();
        let left: Vec<usize> = undecided.iter().copied().filter(|&task| asked[task] < all[task]).collect();
        let (used, total): (usize, usize) = (asked.iter().sum(), all.iter().sum());
        session.note(format!(
            "look at {used} of {total} documents: {} of {} tasks decided",
            all.len() - undecided.len(),
            all.len()
        ));
        if left.is_empty() {
            return Ok(evaluated);
        }
        for task in left {
            asked[task] = (asked[task] + asked[task] / 2).min(all[task]);
        }
    }
}

/// Caveats other than those of precision.
pub fn alarms(comparison: &Comparison) -> impl Iterator<Item = &Caveat> {
    comparison.caveats.iter().filter(|caveat| !caveat.is_statistical())
}
