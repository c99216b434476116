//! Answers to the requests of all tasks, and their scores.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use harness_core::{
    Digest, Finish, Hasher, LanguageModel, Output, Request, RequestKey, Response, SampleScore, Sampling,
    canonical_json, split_thinking_after,
};
use harness_metrics::comparison::{ModelFacts, TaskFacts, counted};
use harness_store::{DiskStore, ModelEntry, RunStore as _};
use harness_tasks::{AnswerOutcome, DeclarativeTask, Prepared, PromptFormatter, Scored, Task as _};

use crate::{
    EvaluationError, Session,
    ask::{Open, ask_together},
    models::Ready,
    provenance::ModelFiles,
    suite::Suite,
};

/// What one model scored.
pub struct Evaluated {
    /// Its name.
    pub name: String,
    /// What is known of its answers.
    pub facts: ModelFacts,
    /// Scores by task (in the order of the suite), then by document.
    pub scored: Vec<Vec<Scored>>,
    /// Responses by task, then by document.
    pub responses: Vec<Vec<Vec<Response>>>,
    /// The requests it was asked.
    pub prepared: Vec<Arc<Prepared>>,
    /// For the manifest.
    pub entry: ModelEntry,
    /// The files it was made from, where they were hashed.
    pub files: ModelFiles,
    /// Seconds spent on answering.
    pub seconds: f64,
    /// The mark that ends its thinking, where the experiment names one.
    pub think_end_token: Option<String>,
}

impl Evaluated {
    /// All scores of one task.
    pub fn scores(&self, task: usize) -> impl Iterator<Item = &SampleScore> {
        self.scored[task].iter().flat_map(|scored| &scored.scores)
    }
}

/// Asks a model what is not stored yet, and scores everything from the store.
///
/// # Errors
/// If the model or the store fails, if the user interrupts, or, with `from_store`, if something is missing.
pub fn evaluate(
    session: &Session,
    suite: &Suite,
    ready: &Ready,
    from_store: bool,
) -> Result<Evaluated, EvaluationError> {
    let all = evaluate_all(session, suite, std::slice::from_ref(ready), from_store)?;
    all.into_iter().next().ok_or_else(|| EvaluationError::work("no model was evaluated"))
}

/// The same for several models: what those over one base generate is decoded in one batch.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_all(
    session: &Session,
    suite: &Suite,
    ready: &[Ready],
    from_store: bool,
) -> Result<Vec<Evaluated>, EvaluationError> {
    let store = session.store()?;
    let mut asked = BTreeSet::new();
    let questions = |ready| Questions::of(session, suite, ready, &store, &mut asked);
    let all: Vec<Questions> = ready.iter().map(questions).collect::<Result<_, _>>()?;
    let seconds = ask(session, ready, &all, &store, from_store)?;
    let questions = ready.iter().zip(all).zip(seconds);
    questions.map(|((ready, all), seconds)| score(session, suite, (ready, all, seconds), &store)).collect()
}

/// What a model is asked.
struct Questions {
    prepared: Vec<Arc<Prepared>>,
    keys: Vec<RequestKey>,
    /// Which of all requests have no response in the store, and are not asked before under another name of the model.
    missing: Vec<usize>,
    /// Whether one of those is a text to generate.
    generates: bool,
}

impl Questions {
    fn of(
        session: &Session,
        suite: &Suite,
        ready: &Ready,
        store: &DiskStore,
        asked: &mut BTreeSet<(Digest, RequestKey)>,
    ) -> Result<Self, EvaluationError> {
        let prepared = prepare(session, suite, ready)?;
        let model = ready.entry.identity.digest();
        let keys: Vec<RequestKey> = requests(&prepared).map(Request::key).collect();
        let mut missing = store.missing(&model, &keys)?;
        missing.retain(|&at| asked.insert((model, keys[at])));
        let report = store.report(&model)?;
        if report.has_losses() {
            session.note(format!("store of {}: {report}", ready.name));
        }
        let open: Vec<&Request> = requests(&prepared).collect();
        let generates = missing.iter().any(|&at| matches!(open[at], Request::Generate { .. }));
        Ok(Self { prepared, keys, missing, generates })
    }
}

fn requests(prepared: &[Arc<Prepared>]) -> impl Iterator<Item = &Request> {
    prepared.iter().flat_map(|prepared| prepared.documents.iter().flat_map(|document| &document.requests))
}

/// Scores a model's responses, all of which are stored.
fn score(
    session: &Session,
    suite: &Suite,
    (ready, questions, seconds): (&Ready, Questions, f64),
    store: &DiskStore,
) -> Result<Evaluated, EvaluationError> {
    let (model, Questions { prepared, keys, .. }) = (ready.entry.identity.digest(), questions);
    let mut evaluated = Evaluated {
        name: ready.name.clone(),
        facts: ModelFacts {
            model: ready.name.clone(),
            identity: Some(model),
            base: ready.base.clone(),
            adapter_is_noop: ready.model.adapter_is_no_op(),
            conditions: conditions(ready, suite),
            ..ModelFacts::default()
        },
        scored: vec![],
        responses: vec![],
        prepared,
        entry: ready.entry.clone(),
        files: ModelFiles::default(),
        seconds,
        think_end_token: ready.think_end_token.clone(),
    };
    let mut keys = keys.into_iter();
    let documents: usize = evaluated.prepared.iter().map(|prepared| prepared.documents.len()).sum();
    let bar = session.stage(&format!("score {}", ready.name), documents as u64);
    for (task, prepared) in suite.tasks.iter().zip(&evaluated.prepared) {
        let mut facts = TaskFacts {
            repeats: 1,
            conditions: task_conditions(task, prepared),
            examples_from_test: if prepared.evaluated_split_shown { prepared.documents.len() } else { 0 },
            shared_examples: prepared.shared_examples.clone(),
            system_left_out: prepared.system_left_out,
            system_hidden: prepared.system_hidden,
            ..TaskFacts::default()
        };
        let mut outputs = Hasher::new("outputs");
        let (mut scored, mut responses) = (vec![], vec![]);
        for document in &prepared.documents {
            if session.interrupted() {
                return Err(EvaluationError::Interrupted(format!(
                    "interrupted: all answers of {} are stored; run the same command again to score them",
                    ready.name
                )));
            }
            let mut answers = vec![];
            for (request, key) in document.requests.iter().zip(keys.by_ref()) {
                let response = store.get(&model, &key)?.ok_or_else(|| {
                    EvaluationError::work(format!("the store lost the response to request {} of {}", key.0, ready.name))
                })?;
                facts.count(request, &response);
                outputs.part(canonical_json(&response.output));
                answers.push(response);
            }
            let sampled =
                |request: &&Request| matches!(request, Request::Generate { sampling, .. } if !sampling.is_greedy());
            let asked = document.requests.iter().zip(&answers);
            facts.stopped_in_thinking += asked.filter(|(request, answer)| stopped_in_thinking(request, answer)).count();
            facts.sampled += document.requests.iter().filter(sampled).count();
            let generations = document.requests.iter().filter(|r| matches!(r, Request::Generate { .. })).count();
            facts.repeats = facts.repeats.max(generations);
            if let Some(hash) = telling_outputs(&answers) {
                facts.documents.insert(document.doc.id, hash);
            }
            let result = task.score(document, &answers)?;
            if document.gold.is_missing() {
                facts.no_right_choice.push(document.doc.index);
            }
            if result.answers.iter().any(|answer| answer.outcome == AnswerOutcome::PatternTooCostly) {
                facts.costly_patterns.push(document.doc.index);
            }
            scored.push(result);
            responses.push(answers);
            bar.step();
        }
        facts.outputs = Some(outputs.finish());
        evaluated.facts.tasks.insert(task.id().to_owned(), facts);
        evaluated.scored.push(scored);
        evaluated.responses.push(responses);
    }
    bar.finish("");
    Ok(evaluated)
}

/// Whether a stop string ended a text inside its thinking.
pub fn stopped_in_thinking(request: &Request, response: &Response) -> bool {
    match (request, &response.output) {
        (Request::Generate { prompt, .. }, Output::Text { text, finish: Finish::Stop, .. }) => {
            split_thinking_after(prompt, text).is_open()
        }
        _ => false,
    }
}

/// What all answers of a model are made under.
fn conditions(ready: &Ready, suite: &Suite) -> BTreeMap<String, String> {
    let identity = &ready.entry.identity;
    let mut conditions = identity.extra.clone();
    conditions.insert("dtype".to_owned(), identity.dtype.clone());
    if suite.uses_chat_template() {
        let template = identity.chat_template.map_or("none".to_owned(), |digest| digest.short());
        conditions.insert("chat template".to_owned(), template);
    }
    conditions
}

/// What the answers to a task are made under: the prompts to the last letter, examples, sampling.
fn task_conditions(task: &DeclarativeTask, prepared: &Prepared) -> BTreeMap<String, String> {
    let mut prompts = Hasher::new("prompts");
    let mut sampling = BTreeSet::new();
    for request in prepared.documents.iter().flat_map(|document| &document.requests) {
        match request {
            Request::LogLikelihood { context, continuation } => {
                prompts.part(context).part(continuation);
            }
            Request::RollingLogLikelihood { text } => {
                prompts.part(text);
            }
            Request::Generate { prompt, stop, sampling: how } => {
                prompts.part(prompt);
                // How a model marks its thinking is its own, as a template is.
                sampling.insert(canonical_json(&(stop, Sampling { think_end: None, ..how.clone() })));
            }
        }
    }
    let mut conditions = BTreeMap::from([
        ("prompts".to_owned(), prompts.finish().short()),
        ("examples".to_owned(), prepared.num_fewshot.to_string()),
        ("version".to_owned(), task.version().to_owned()),
    ]);
    if !sampling.is_empty() {
        conditions.insert("sampling".to_owned(), sampling.into_iter().collect::<Vec<_>>().join(" "));
    }
    conditions
}

/// Log-probabilities nearer to 0 than this are rounded alike for different models.
const CERTAIN: f64 = 1e-3;

/// Hash of the outputs of a document, if they hold log-probabilities that two models do not share by accident.
fn telling_outputs(answers: &[Response]) -> Option<Digest> {
    let telling = |output: &Output| match output {
        Output::LogLikelihood { token_logprobs, .. } | Output::Text { token_logprobs, .. } => {
            token_logprobs.iter().filter(|&&logprob| f64::from(logprob.abs()) > CERTAIN).count()
        }
        Output::RollingLogLikelihood { .. } => 1,
    };
    let count: usize = answers.iter().map(|answer| telling(&answer.output)).sum();
    (count >= 2).then(|| {
        let mut hasher = Hasher::new("outputs");
        answers.iter().for_each(|answer| {
            hasher.part(canonical_json(&answer.output));
        });
        hasher.finish()
    })
}

/// The requests of all tasks as this model is asked them.
///
/// # Errors
/// If a document does not fit its task, or the chat template fails.
pub fn prepare(session: &Session, suite: &Suite, ready: &Ready) -> Result<Vec<Arc<Prepared>>, EvaluationError> {
    let mut warnings = BTreeSet::new();
    let mut all = vec![];
    for number in 0..suite.tasks.len() {
        let prepared = prepare_one(suite, number, ready)?;
        warnings.extend(prepared.warnings.iter().cloned());
        all.push(Arc::new(prepared));
    }
    for warning in warnings {
        session.note(format!("{}: {warning}", ready.name));
    }
    Ok(all)
}

/// Computed tokens as a share of those asked for.
pub fn share(computed: u64, requested: u64) -> String {
    let share = computed as f64 / requested.max(1) as f64;
    // Generations compute their new tokens besides what was asked for.
    match computed {
        1.. if computed < requested => format!("{:.1} %, {:.1} times fewer", 100.0 * share, 1.0 / share),
        _ => format!("{:.1} %", 100.0 * share),
    }
}

/// The requests of one task as this model is asked them.
///
/// # Errors
/// If a document does not fit the task's templates, or the chat template fails.
pub fn prepare_one(suite: &Suite, task: usize, ready: &Ready) -> Result<Prepared, EvaluationError> {
    let model: &dyn LanguageModel = &*ready.model;
    let formatter: Option<&dyn PromptFormatter> = if suite.uses_chat_template() { Some(&model) } else { None };
    Ok(suite.tasks[task].build(&suite.options_of(task, ready.think_end_token.as_deref()), formatter)?)
}

/// Asks models for the missing responses and stores each as it comes; returns the seconds that each took, of those that
/// are asked together the same share.
fn ask(
    session: &Session,
    ready: &[Ready],
    all: &[Questions],
    store: &DiskStore,
    from_store: bool,
) -> Result<Vec<f64>, EvaluationError> {
    let mut seconds = vec![0.0; ready.len()];
    for group in groups(ready, all) {
        let names: Vec<&str> = group.iter().map(|&at| ready[at].name.as_str()).collect();
        if let [at] = group[..]
            && all[at].missing.is_empty()
        {
            session.note(format!("evaluate {}: all {} responses are stored", names[0], all[at].keys.len()));
            continue;
        }
        if let Some(&at) = group.first().filter(|_| from_store) {
            return Err(EvaluationError::usage(format!(
                "--from-store: {} of {} responses of {} are not stored; run without --from-store to get them",
                all[at].missing.len(),
                all[at].keys.len(),
                names[0]
            )));
        }
        let title = format!("evaluate {}", names.join(", "));
        let of: Vec<Vec<&Request>> = group.iter().map(|&at| requests(&all[at].prepared).collect()).collect();
        let (called, title) = (("requests", "answered"), title.as_str());
        let mut asked: Vec<(&Ready, Open<'_>)> = vec![];
        for (&at, requests) in group.iter().zip(&of) {
            let Questions { keys, missing, .. } = &all[at];
            asked.push((&ready[at], Open { requests, keys, missing, title, called, refused: None }));
        }
        let counts = || {
            let stats = group.iter().map(|&at| ready[at].model.stats());
            stats.fold([0, 0], |[a, b], stats| [a + stats.computed_tokens, b + stats.requested_tokens])
        };
        let before = counts();
        let (answered, bar) = if asked.len() == 1 {
            let (ready, open) = asked.swap_remove(0);
            open.ask(session, ready, store)?
        } else {
            ask_together(session, &asked, store)?
        };
        let [computed, requested] = [0, 1].map(|at| counts()[at] - before[at]);
        let took = bar.seconds();
        bar.finish(&format!(
            "{}, {:.1} a second; {computed} token positions computed, {requested} asked for ({})",
            counted(answered, "request"),
            answered as f64 / took.max(1e-9),
            share(computed, requested)
        ));
        group.iter().for_each(|&at| seconds[at] = took / group.len() as f64);
    }
    Ok(seconds)
}

/// Models that are asked together: those over one base that generate something, at the place of the first of them.
fn groups(ready: &[Ready], all: &[Questions]) -> Vec<Vec<usize>> {
    let base = |at: usize| ready[at].model.local().filter(|_| all[at].generates);
    let mut groups: Vec<Vec<usize>> = vec![];
    for at in 0..ready.len() {
        let same = |group: &&mut Vec<usize>| base(at).zip(base(group[0])).is_some_and(|(a, b)| a.shares_weights(b));
        match groups.iter_mut().find(same) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}
