//! A task read from a definition.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use harness_core::{Digest, Document, Request, Response, Sampling, canonical_json};
use harness_metrics::comparison::counted;
use harness_store::Row;
use rayon::prelude::*;
use serde_json::Value;

use crate::{
    BuildOptions, DocumentRequests, MetricSpec, OutputType, Prepared, PromptFormatter, PromptView, Scored, Task,
    TaskError,
    config::TaskConfig,
    data::DataSource,
    generation,
    native::ProcessDocs,
    prompt::{self, Message, SystemCounts, SystemMessage},
    resolved::{Resolved, Turn},
    sampler,
    template::{Template, columns},
};

/// A task in lm-eval's declarative form, with its documents loaded.
pub struct DeclarativeTask {
    pub(crate) config: TaskConfig,
    pub(crate) split: String,
    pub(crate) documents: Vec<Document>,
    pub(crate) columns: BTreeSet<String>,
    source: Arc<dyn DataSource>,
    pool: OnceLock<Result<Vec<Row>, String>>,
    pub(crate) multiple_input: bool,
    pub(crate) classes: usize,
    metrics: Vec<MetricSpec>,
}

/// The examples of the evaluated documents.
#[derive(Default)]
struct Examples {
    /// Row numbers of every document's examples.
    rows: Vec<Vec<usize>>,
    /// The examples by row number.
    turns: HashMap<usize, Turn>,
    /// Documents among whose examples stands a row of another place with their own question and answer.
    shared: Vec<usize>,
}

impl DeclarativeTask {
    /// Loads the evaluated split and looks at its first document, which decides what the templates mean.
    pub(crate) fn load(config: TaskConfig, source: Arc<dyn DataSource>) -> Result<Self, TaskError> {
        let data = |message: String| TaskError::Data { task: config.id.clone(), message };
        let split = config.test_split.clone().or_else(|| config.validation_split.clone());
        let split =
            split.ok_or_else(|| data("the definition has neither test_split nor validation_split".to_owned()))?;
        let rows = source.rows(&config.dataset, &split).map_err(data)?;
        let rows = processed(rows, config.process_docs).map_err(|(index, message)| TaskError::Document {
            task: config.id.clone(),
            split: split.clone(),
            index,
            key: "process_docs".to_owned(),
            message,
        })?;
        if rows.is_empty() {
            return Err(TaskError::NoDocuments { task: config.id.clone(), split });
        }
        let columns = rows.iter().flat_map(|row| row.keys().cloned()).collect();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let occurrences: Vec<usize> = rows
            .iter()
            .map(|row| {
                let count = seen.entry(canonical_json(row)).or_default();
                *count += 1;
                *count - 1
            })
            .collect();
        let documents = rows
            .into_par_iter()
            .zip(occurrences)
            .enumerate()
            .map(|(index, (row, occurrence))| Document::new(&config.id, &split, index, occurrence, row))
            .collect();
        let mut task = Self {
            config,
            split,
            documents,
            columns,
            source,
            pool: OnceLock::new(),
            multiple_input: false,
            classes: 0,
            metrics: Vec::new(),
        };
        let rows: Vec<&Row> = task.documents.iter().map(|doc| &doc.fields).collect();
        let fields =
            [Some(&task.config.doc_to_text), task.config.doc_to_choice.as_ref(), Some(&task.config.doc_to_target)];
        if let Some((key, message)) = task.missing_column(fields, &rows) {
            return Err(TaskError::Data { task: task.config.id.clone(), message: format!("{key}: {message}") });
        }
        let first = task.resolve(&task.documents[0].fields, 0)?;
        task.classes = first.choices.len();
        task.multiple_input = first.question.is_i64() && !first.choices.is_empty();
        task.metrics = task.config.metric_specs(task.classes);
        Ok(task)
    }

    /// The files behind the evaluated split and the examples, for manifests.
    pub fn data_files(&self) -> Vec<PathBuf> {
        let mut files = self.source.files(&self.config.dataset, &self.split);
        if let Some(split) = self.pool_split().filter(|split| *split != self.split) {
            files.extend(self.source.files(&self.config.dataset, split));
        }
        files
    }

    /// Name of the evaluated split.
    pub fn split(&self) -> &str {
        &self.split
    }

    /// The data set it reads.
    pub fn dataset(&self) -> &crate::DatasetConfig {
        &self.config.dataset
    }

    /// Whether the log-likelihood of the right text is asked for beside a generation.
    pub fn asks_for_references(&self) -> bool {
        self.config.asks_for_references()
    }

    pub(crate) fn document_error(&self, split: &str, index: usize, key: &str, message: impl Into<String>) -> TaskError {
        TaskError::Document {
            task: self.config.id.clone(),
            split: split.to_owned(),
            index,
            key: key.to_owned(),
            message: message.into(),
        }
    }

    fn pool_split(&self) -> Option<&str> {
        let config = &self.config;
        let splits = [&config.fewshot.split, &config.training_split, &config.validation_split, &config.test_split];
        match (&config.fewshot.split, &config.fewshot.samples) {
            (None, Some(_)) => None,
            _ => splits.into_iter().flatten().map(String::as_str).next(),
        }
    }

    /// The rows examples are drawn from.
    fn pool(&self) -> Result<&[Row], TaskError> {
        let load = || -> Result<Vec<Row>, String> {
            let rows = match (self.pool_split(), &self.config.fewshot.samples) {
                (Some(split), _) if split == self.split => self.documents.iter().map(|d| d.fields.clone()).collect(),
                (Some(split), _) => {
                    let rows = self.source.rows(&self.config.dataset, split)?;
                    processed(rows, self.config.fewshot.process_docs)
                        .map_err(|(index, message)| format!("process_docs of {split} row {index}: {message}"))?
                }
                (None, Some(samples)) => samples.clone(),
                (None, None) => Vec::new(),
            };
            let fewshot = &self.config.fewshot;
            let fields = [Some(&fewshot.doc_to_text), fewshot.doc_to_choice.as_ref(), Some(&fewshot.doc_to_target)];
            if let Some((key, message)) = self.missing_column(fields, &rows.iter().collect::<Vec<_>>()) {
                return Err(format!("few-shot {key}: {message}"));
            }
            match &self.config.fewshot.indices {
                None => Ok(rows),
                Some(indices) => indices
                    .iter()
                    .map(|&i| rows.get(i).cloned().ok_or_else(|| format!("fewshot_indices: there is no row {i}")))
                    .collect(),
            }
        };
        match self.pool.get_or_init(load) {
            Ok(rows) => Ok(rows),
            Err(message) => Err(TaskError::Data { task: self.config.id.clone(), message: message.clone() }),
        }
    }

    pub(crate) fn shots(&self, options: &BuildOptions) -> usize {
        match self.config.num_fewshot {
            Some(0) => 0,
            own => options.num_fewshot.or(own).unwrap_or(0),
        }
    }

    /// Whether examples are drawn from the evaluated split itself.
    fn shows_evaluated_split(&self, options: &BuildOptions) -> bool {
        self.shots(options) > 0 && self.pool_split() == Some(self.split.as_str())
    }

    /// Examples of the first `documents` documents. Where they come from the evaluated split, by whatever key, one more is
    /// drawn and rows equal to the document are left out, as lm-eval does where the definition names this split for
    /// both (and where it names neither, whatever the pool is then). Rows that two splits share stay, as there.
    fn examples(&self, documents: usize, options: &BuildOptions) -> Result<Examples, TaskError> {
        let n = self.shots(options);
        if n == 0 {
            return Ok(Examples { rows: vec![Vec::new(); documents], ..Examples::default() });
        }
        let pool = self.pool()?;
        let fewshot = &self.config.fewshot;
        let exclude = fewshot.split == self.config.test_split || self.shows_evaluated_split(options);
        let rows: Vec<&Row> = self.documents[..documents].iter().map(|doc| &doc.fields).collect();
        let chosen = sampler::choose(&rows, pool, n, fewshot.first_n, exclude, options.fewshot_seed);
        let chosen = chosen.ok_or_else(|| TaskError::Options {
            task: self.config.id.clone(),
            message: format!(
                "{n} examples were asked for, but {} has only {} documents to take them from{}",
                self.pool_split().map_or_else(|| "fewshot_config.samples".to_owned(), |s| format!("the split {s:?}")),
                pool.len(),
                if exclude { " (rows equal to the evaluated document are left out)" } else { "" }
            ),
        })?;
        let used: BTreeSet<usize> = chosen.iter().flatten().copied().collect();
        let turns = used
            .into_par_iter()
            .map(|row| match self.turn(&pool[row]) {
                Ok(turn) => Ok((row, turn)),
                Err((key, message)) => Err(self.document_error(
                    self.pool_split().unwrap_or("samples"),
                    row,
                    &format!("few-shot {key}"),
                    message,
                )),
            })
            .collect::<Result<HashMap<usize, Turn>, TaskError>>()?;
        // A document that cannot be an example is none; what is wrong with it is said where its prompt is built.
        let own = |document: usize| self.turn(&self.documents[document].fields).ok();
        let shown = |document: &usize| {
            let own = own(*document);
            own.is_some_and(|own| chosen[*document].iter().any(|row| turns.get(row) == Some(&own)))
        };
        let shared = (0..documents).into_par_iter().filter(shown).collect();
        Ok(Examples { rows: chosen, turns, shared })
    }

    /// Fails if no document of the split has a right choice, not even those after `built`, none of which has.
    fn check_answers(&self, built: &[DocumentRequests]) -> Result<(), TaskError> {
        let answered = |doc: &Document| {
            let Resolved { question, choices, target } = self.resolve(&doc.fields, doc.index).ok()?;
            self.gold(&question, &choices, &target).ok().filter(|(gold, _)| !gold.is_missing())
        };
        let Some(first) = built.first() else { return Ok(()) };
        if self.documents[built.len()..].par_iter().any(|doc| answered(doc).is_some()) {
            return Ok(());
        }
        let key = if self.multiple_input { "doc_to_text" } else { "doc_to_target" };
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let message = format!(
            "{key}: none of the {} documents of {} has its answer among its choices, so all would score 0; that of the \
             first is {:?}, with the choices {:?}; the columns are {}",
            self.documents.len(),
            self.split,
            first.target,
            first.choices,
            columns.join(", ")
        );
        Err(TaskError::Data { task: self.config.id.clone(), message })
    }

    /// The messages of a document's prompt up to its question, and `gen_prefix`.
    fn context(
        &self,
        doc: &Document,
        shots: &[usize],
        turns: &HashMap<usize, Turn>,
        options: &BuildOptions,
    ) -> Result<(Vec<Message>, String), TaskError> {
        let config = &self.config;
        let context = columns(&doc.fields);
        let text = |template: &Option<Template>, key: &str| {
            let text = self.text_of(template.as_ref(), &doc.fields, &context);
            text.map_err(|message| self.document_error(&self.split, doc.index, key, message))
        };
        let description = text(&config.description, "description")?;
        let instruction = options.system_instruction.as_deref().unwrap_or("");
        let mut messages: Vec<Message> =
            prompt::system(instruction, &description, &config.fewshot_delimiter).into_iter().collect();
        let fewshot_prefix =
            if shots.is_empty() { String::new() } else { text(&config.fewshot.gen_prefix, "gen_prefix")? };
        for (number, turn) in shots.iter().filter_map(|row| turns.get(row)).enumerate() {
            messages.extend(prompt::example(
                number,
                &turn.question,
                &turn.answer,
                &fewshot_prefix,
                &config.fewshot.target_delimiter,
                &config.fewshot.fewshot_delimiter,
            ));
        }
        Ok((messages, text(&config.gen_prefix, "gen_prefix")?))
    }

    /// Everything about one document.
    fn item(
        &self,
        index: usize,
        shots: &[usize],
        turns: &HashMap<usize, Turn>,
        options: &BuildOptions,
        formatter: Option<&dyn PromptFormatter>,
        system: &SystemCounts,
    ) -> Result<(Vec<Message>, DocumentRequests), TaskError> {
        let config = &self.config;
        let doc = &self.documents[index];
        let Resolved { question, choices, target } = self.resolve(&doc.fields, index)?;
        let error = |key: &str, message: String| self.document_error(&self.split, index, key, message);
        let (gold, text) = self.gold(&question, &choices, &target).map_err(|(key, m)| error(key, m))?;
        if config.output_type == OutputType::LogLikelihoodRolling {
            let requests = vec![Request::RollingLogLikelihood { text: text.clone() }];
            return Ok((Vec::new(), DocumentRequests { doc: doc.clone(), requests, target: text, gold, choices }));
        }
        let (before, gen_prefix) = self.context(doc, shots, turns, options)?;
        let lost = Cell::new(SystemMessage::Shown);
        let render = |messages: &[Message]| -> Result<String, TaskError> {
            if !options.apply_chat_template {
                return Ok(prompt::plain(messages));
            }
            let formatter = formatter.ok_or_else(|| TaskError::Options {
                task: config.id.clone(),
                message: "apply_chat_template needs a model with a chat template".to_owned(),
            })?;
            let (text, became) = prompt::chat(messages, options.fewshot_as_multiturn, formatter)
                .map_err(|source| TaskError::Chat { task: config.id.clone(), source })?;
            if became != SystemMessage::Shown {
                lost.set(became);
            }
            Ok(text)
        };
        let full = |question: &str, delimiter: &str| {
            let mut messages = before.clone();
            messages.extend(prompt::question_with_prefix(question, &gen_prefix, delimiter));
            messages
        };
        let mut shown = Vec::new();
        let mut contexts = Vec::new();
        if self.multiple_input {
            for choice in &choices {
                let messages = full(choice, "");
                contexts.push(render(&messages)?);
                shown = messages;
            }
        } else {
            let Value::String(question) = &question else {
                return Err(error("doc_to_text", format!("must give a string, found {question}")));
            };
            shown = full(question, &config.target_delimiter);
            contexts.push(render(&shown)?);
        }
        let requests = self.requests(contexts, &choices, &text, options)?;
        system.count(lost.get(), requests.len());
        Ok((shown, DocumentRequests { doc: doc.clone(), requests, target: text, gold, choices }))
    }

    /// Fails where answers are drawn of which no filter pipeline looks at all.
    fn check_repeats(&self, sampling: &Sampling) -> Result<(), TaskError> {
        let TaskConfig { id, repeats, pipelines, .. } = &self.config;
        let looked_at = pipelines.iter().filter_map(|pipeline| Some(pipeline.flow(*repeats).ok()?.looked_at)).max();
        match looked_at {
            Some(looked_at) if looked_at < *repeats && !sampling.is_greedy() => Err(TaskError::Options {
                task: id.clone(),
                message: format!(
                    "repeats: {repeats}, but its filters look at {} only; leave take_first out (the scores are averaged \
                     then), or put take_first_k or majority_vote before it",
                    if looked_at == 1 {
                        "the first answer".to_owned()
                    } else {
                        format!("the first {looked_at} answers")
                    }
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The requests of one document from its context (or one context a choice).
    fn requests(
        &self,
        mut contexts: Vec<String>,
        choices: &[String],
        target: &str,
        options: &BuildOptions,
    ) -> Result<Vec<Request>, TaskError> {
        let config = &self.config;
        let loglikelihood =
            |context: &str, continuation: String| Request::LogLikelihood { context: context.to_owned(), continuation };
        let delimiter = match &config.gen_prefix {
            _ if !options.apply_chat_template => config.target_delimiter.as_str(),
            Some(prefix) if !prefix.source().is_empty() && !prefix.source().ends_with(harness_python::is_space) => {
                config.target_delimiter.as_str()
            }
            _ => "",
        };
        let requests = match config.output_type {
            OutputType::LogLikelihood => vec![loglikelihood(&contexts[0], target.to_owned())],
            OutputType::LogLikelihoodRolling => vec![Request::RollingLogLikelihood { text: target.to_owned() }],
            OutputType::MultipleChoice => {
                let mut requests: Vec<Request> = if self.multiple_input {
                    contexts.iter().map(|context| loglikelihood(context, [delimiter, target].concat())).collect()
                } else {
                    let continuation = |choice: &String| loglikelihood(&contexts[0], [delimiter, choice].concat());
                    choices.iter().map(continuation).collect()
                };
                if config.metrics.iter().any(|metric| metric.unconditional) {
                    requests.extend(choices.iter().map(|choice| loglikelihood("", [delimiter, choice].concat())));
                }
                requests
            }
            OutputType::GenerateUntil => {
                let kwargs = self.generation_kwargs(options);
                let asked = |key: &str| options.generation_kwargs.get(key);
                if let (Some(temperature), None, Some(false)) = (
                    asked("temperature").filter(|value| value.as_f64() != Some(0.0)),
                    asked("do_sample"),
                    kwargs.get("do_sample").and_then(Value::as_bool),
                ) {
                    return Err(TaskError::Options {
                        task: config.id.clone(),
                        message: format!(
                            "--gen-kwargs temperature={temperature} has no effect, because the task sets do_sample: \
                             false; add do_sample=true"
                        ),
                    });
                }
                let (stop, mut sampling) = generation::settings(&kwargs)
                    .map_err(|message| TaskError::Options { task: config.id.clone(), message })?;
                if let Some(mark) = &options.think_end_token
                    && !options.generation_kwargs.contains_key(generation::THINK_END)
                {
                    sampling.think_end = Some(mark.clone()).filter(|mark| !mark.is_empty());
                }
                self.check_repeats(&sampling)?;
                let prompt = contexts.swap_remove(0);
                let mut requests: Vec<Request> = (0..config.repeats as u64)
                    .map(|repeat| {
                        let mut sampling = sampling.clone();
                        sampling.seed += repeat;
                        Request::Generate { prompt: prompt.clone(), stop: stop.clone(), sampling }
                    })
                    .collect();
                if self.asks_for_references() {
                    requests.push(loglikelihood(&prompt, [delimiter, target].concat()));
                }
                requests
            }
        };
        Ok(requests)
    }
}

impl Task for DeclarativeTask {
    fn id(&self) -> &str {
        &self.config.id
    }

    fn alias(&self) -> &str {
        &self.config.alias
    }

    fn version(&self) -> &str {
        &self.config.version
    }

    fn digest(&self) -> Digest {
        self.config.digest
    }

    fn definition(&self) -> &Value {
        &self.config.definition
    }

    fn output_type(&self) -> OutputType {
        self.config.output_type
    }

    fn num_fewshot(&self) -> usize {
        self.config.num_fewshot.unwrap_or(0)
    }

    fn documents(&self) -> &[Document] {
        &self.documents
    }

    fn metrics(&self) -> &[MetricSpec] {
        &self.metrics
    }

    fn build(&self, options: &BuildOptions, formatter: Option<&dyn PromptFormatter>) -> Result<Prepared, TaskError> {
        let available = self.documents.len();
        let count = options.limit.map_or(available, |limit| limit.of(available));
        let examples = self.examples(count, options)?;
        let system = SystemCounts::default();
        let documents = (examples.rows)
            .par_iter()
            .enumerate()
            .map(|(index, shots)| Ok(self.item(index, shots, &examples.turns, options, formatter, &system)?.1))
            .collect::<Result<Vec<_>, TaskError>>()?;
        let mut warnings = Vec::new();
        let id = &self.config.id;
        if let (Some(0), Some(asked @ 1..)) = (self.config.num_fewshot, options.num_fewshot) {
            warnings.push(format!(
                "{id}: the definition fixes num_fewshot to 0, so --num-fewshot {asked} has no effect (as in lm-eval)"
            ));
        }
        let unanswerable: Vec<usize> =
            documents.iter().filter(|document| document.gold.is_missing()).map(|document| document.doc.index).collect();
        // A document alone may be the exception.
        if unanswerable.len() == documents.len() && available > 1 && self.config.process_results.is_none() {
            self.check_answers(&documents)?;
        }
        if !unanswerable.is_empty() {
            let shown: Vec<String> = unanswerable.iter().take(5).map(usize::to_string).collect();
            let more = if unanswerable.len() > shown.len() { ", …" } else { "" };
            warnings.push(format!(
                "{id}: {} with no right choice, scored 0 (number {}{more})",
                counted(unanswerable.len(), "document"),
                shown.join(", ")
            ));
        }
        Ok(Prepared {
            documents,
            available,
            num_fewshot: self.shots(options),
            evaluated_split_shown: self.shows_evaluated_split(options),
            shared_examples: examples.shared,
            system_left_out: system.left_out.into_inner(),
            system_hidden: system.hidden.into_inner(),
            warnings,
        })
    }

    fn score(&self, item: &DocumentRequests, responses: &[Response]) -> Result<Scored, TaskError> {
        self.score_document(item, responses)
    }

    fn show(
        &self,
        index: usize,
        options: &BuildOptions,
        formatter: Option<&dyn PromptFormatter>,
    ) -> Result<PromptView, TaskError> {
        if index >= self.documents.len() {
            let message = format!("there is no document {index}; the last one is {}", self.documents.len() - 1);
            return Err(TaskError::Options { task: self.config.id.clone(), message });
        }
        let Examples { rows, turns, .. } = self.examples(index + 1, options)?;
        let (messages, item) = self.item(index, &rows[index], &turns, options, formatter, &SystemCounts::default())?;
        Ok(PromptView { pieces: prompt::pieces(&messages), item })
    }
}

/// Rows behind `process_docs`; an error names the row.
fn processed(rows: Vec<Row>, function: Option<ProcessDocs>) -> Result<Vec<Row>, (usize, String)> {
    let Some(function) = function else { return Ok(rows) };
    let rows: Vec<Option<Row>> = rows
        .into_par_iter()
        .enumerate()
        .map(|(index, row)| function.apply(row).map_err(|message| (index, message)))
        .collect::<Result<_, _>>()?;
    Ok(rows.into_iter().flatten().collect())
}

impl std::fmt::Debug for DeclarativeTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeclarativeTask")
            .field("id", &self.config.id)
            .field("documents", &self.documents.len())
            .finish_non_exhaustive()
    }
}
