//! A task's definition, typed.

use harness_core::{Digest, limit_name, limits};
use harness_metrics::Reads;
use harness_store::Row;
use serde_json::{Map, Value};

use crate::{
    Place, TaskError,
    filter::Pipeline,
    keys::{Keys, PYTHON_KEYS, TASK_KEYS, shown, text},
    metric::MetricConfig,
    native::{self, Answers, Native, NativeScores, ProcessDocs},
    task::{MetricSpec, OutputType},
    template::{Template, Templates},
    yaml::{Entry, Node, Yaml},
};

/// `doc_to_text`, `doc_to_target` and the like.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    /// A value that is the same for every document.
    Literal(Value),
    /// A column name or a template.
    Template(Template),
    /// A Python function that is computed here.
    Native(fn(&Row) -> Result<Value, String>),
}

impl Field {
    /// The column that the field can only mean: a bare name. lm-eval takes such a word for the text itself where the data lack
    /// the column, of every document alike.
    pub(crate) fn column(&self) -> Option<&str> {
        let Self::Template(template) = self else { return None };
        let name: &str = template.source();
        let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
        (is_name && name.starts_with(|c: char| c.is_alphabetic() || c == '_')).then_some(name)
    }
}

/// `process_results` of a document.
pub(crate) type ProcessResults = fn(&Row, &Answers<'_>) -> Result<NativeScores, String>;

/// Where the rows come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatasetConfig {
    /// `dataset_path`: a hub id, or `json`, `csv`, `parquet`, `text` with `data_files`.
    pub path: Option<String>,
    /// `dataset_name`: the configuration.
    pub name: Option<String>,
    /// `dataset_kwargs`.
    pub kwargs: Map<String, Value>,
    /// `local.names`: further names under which a data folder may hold the data set.
    pub aliases: Vec<String>,
    /// `local.name_column`: where one file holds all configurations, the column that names a row's.
    pub name_column: Option<String>,
    /// `local.columns`: the columns that are kept; all if empty.
    pub columns: Vec<String>,
    /// `local.derive_splits`: how splits are made of a data set that has none.
    pub derive: Option<DeriveSplits>,
    /// `local.pages`: the column whose lines are joined to WikiText pages, and the column of the pages.
    pub pages: Option<(String, String)>,
    /// `local.count_column`: the column whose words and bytes a rolling log-likelihood is divided by; the scored text
    /// if there is none.
    pub count_column: Option<String>,
    /// Place of the definition, for paths relative to it.
    pub file: String,
}

/// The 80/10/10 division of one split by the rule of [`harness_core::split_80_10_10`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeriveSplits {
    /// The split that is divided.
    pub from: String,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Columns that are stripped of white space at both ends first.
    pub strip: Vec<String>,
    /// Columns that must not be empty; rows where one is are dropped before the shuffle.
    pub required: Vec<String>,
}

/// How examples are chosen and written.
#[derive(Clone, Debug)]
pub(crate) struct Fewshot {
    pub first_n: bool,
    pub split: Option<String>,
    pub indices: Option<Vec<usize>>,
    pub samples: Option<Vec<Map<String, Value>>>,
    pub process_docs: Option<ProcessDocs>,
    pub doc_to_text: Field,
    pub doc_to_choice: Option<Field>,
    pub doc_to_target: Field,
    pub gen_prefix: Option<Template>,
    pub fewshot_delimiter: String,
    pub target_delimiter: String,
}

/// A task's definition with its templates compiled.
pub(crate) struct TaskConfig {
    pub id: String,
    pub alias: String,
    pub tags: Vec<String>,
    pub version: String,
    pub primary: Option<String>,
    pub dataset: DatasetConfig,
    pub training_split: Option<String>,
    pub validation_split: Option<String>,
    pub test_split: Option<String>,
    pub doc_to_text: Field,
    pub doc_to_target: Field,
    pub doc_to_choice: Option<Field>,
    pub description: Option<Template>,
    pub target_delimiter: String,
    pub fewshot_delimiter: String,
    pub fewshot: Fewshot,
    pub num_fewshot: Option<usize>,
    pub process_docs: Option<ProcessDocs>,
    pub process_results: Option<ProcessResults>,
    pub metrics: Vec<MetricConfig>,
    pub output_type: OutputType,
    pub generation_kwargs: Map<String, Value>,
    pub repeats: usize,
    pub pipelines: Vec<Pipeline>,
    pub gen_prefix: Option<Template>,
    pub definition: Value,
    pub digest: Digest,
}

impl TaskConfig {
    /// Reads the merged mapping of a definition.
    pub(crate) fn read(node: &Node) -> Result<Self, TaskError> {
        let with_class = class(node)?;
        let node = with_class.as_ref().unwrap_or(node);
        let keys = Keys::of(node, "a task", TASK_KEYS)?;
        let id = keys.require("task").and_then(|node| text("task", node))?;
        let native = |key: &str| keys.raw(key).and_then(|node| native::find(node, Some(&id)));
        let process_docs = native("process_docs").and_then(Native::process_docs);
        let process_results = match native("process_results") {
            Some(Native::Results(function)) => Some(function),
            _ => None,
        };
        for key in PYTHON_KEYS {
            if (*key == "process_docs" && process_docs.is_some())
                || (*key == "process_results" && process_results.is_some())
            {
                continue;
            }
            if let Some(found) = keys.get(key)? {
                return Err(TaskError::NeedsPython {
                    at: found.at.clone(),
                    key: (*key).to_owned(),
                    function: found.json().to_string(),
                });
            }
        }
        let templates = Templates::new();
        let template = |keys: &Keys<'_>, key: &str| -> Result<Option<Template>, TaskError> {
            match keys.get(key)? {
                Some(node) => Ok(Some(templates.compile(node, &text(key, node)?)?)),
                None => Ok(None),
            }
        };
        let description = template(&keys, "description")?;
        let gen_prefix = template(&keys, "gen_prefix")?;
        let doc_to_choice = keys.raw("doc_to_choice").map(|node| choices(node, &id, &templates)).transpose()?;
        let doc_to_text = field(&keys, "doc_to_text", &id, &templates)?;
        let doc_to_target = field(&keys, "doc_to_target", &id, &templates)?;
        let output_type = match keys.get("output_type")? {
            Some(node) => output_type(node)?,
            None => OutputType::GenerateUntil,
        };
        if output_type == OutputType::MultipleChoice && doc_to_choice.is_none() {
            return node.error("output_type multiple_choice needs doc_to_choice");
        }
        let target_delimiter = keys.text("target_delimiter")?.unwrap_or_else(|| " ".to_owned());
        let fewshot_delimiter = keys.text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".to_owned());
        let defaults = Fewshot {
            first_n: false,
            split: keys.text("fewshot_split")?,
            indices: None,
            samples: None,
            process_docs,
            doc_to_text: doc_to_text.clone(),
            doc_to_choice: doc_to_choice.clone(),
            doc_to_target: doc_to_target.clone(),
            gen_prefix: gen_prefix.clone(),
            fewshot_delimiter: fewshot_delimiter.clone(),
            target_delimiter: target_delimiter.clone(),
        };
        let fewshot = match keys.raw("fewshot_config") {
            Some(node) => fewshot(node, &id, defaults, &templates)?,
            None => defaults,
        };
        let metadata = keys.map("metadata")?.unwrap_or_default();
        let version = metadata.get("version").map_or_else(|| "0".to_owned(), harness_python::str);
        let generation_kwargs = keys.map("generation_kwargs")?;
        let generation_kwargs = crate::generation::defaults(generation_kwargs, &fewshot_delimiter);
        if let Err(message) = crate::generation::settings(&generation_kwargs) {
            return keys.get("generation_kwargs")?.unwrap_or(node).error(message);
        }
        let repeats = match keys.count("repeats")? {
            Some(0) => return keys.require("repeats")?.error("repeats must be an integer of at least 1, found 0"),
            Some(n) if n > limits().repeats => {
                let (most, name) = (limits().repeats, limit_name("repeats"));
                return keys.require("repeats")?.error(format!("repeats must be at most {most} {name}, found {n}"));
            }
            repeats => repeats.unwrap_or(1),
        };
        let pipelines: Vec<Pipeline> = match keys.list("filter_list")? {
            Some(items) => items.iter().map(Pipeline::read).collect::<Result<_, _>>()?,
            None => vec![Pipeline::none(repeats)],
        };
        let text = output_type == OutputType::GenerateUntil;
        if let Some(pipeline) = pipelines.iter().find(|pipeline: &&Pipeline| !text && !pipeline.is_trivial()) {
            let message = format!(
                "the filter pipeline {} works on text, but {} gives log-likelihoods; only take_first fits",
                pipeline.name,
                output_type.name()
            );
            return keys.get("filter_list")?.unwrap_or(node).error(message);
        }
        let function = process_results.and_then(|_| keys.raw("process_results"));
        let metrics = match (keys.raw("metric_list"), function) {
            (Some(Node { value: Yaml::List(items), .. }), Some(function)) => {
                crate::metric::read_native(items, function, &id)?
            }
            (Some(Node { value: Yaml::List(items), .. }), None) => {
                crate::metric::read(Some(items), output_type, &node.at)?
            }
            _ => crate::metric::read(keys.list("metric_list")?, output_type, &node.at)?,
        };
        if text {
            let fault = |pipeline| averages(pipeline, repeats, &metrics).err();
            if let Some(message) = pipelines.iter().find_map(fault) {
                return keys.get("filter_list")?.or(keys.get("repeats")?).unwrap_or(node).error(message);
            }
        }
        let definition = without_places(node);
        Ok(Self {
            alias: keys.text("task_alias")?.unwrap_or_else(|| id.clone()),
            tags: keys.texts("tag")?,
            version,
            primary: metadata.get("primary_metric").and_then(Value::as_str).map(str::to_owned),
            dataset: dataset(&keys, &node.at)?,
            training_split: keys.text("training_split")?,
            validation_split: keys.text("validation_split")?,
            test_split: keys.text("test_split")?,
            doc_to_text,
            doc_to_target,
            doc_to_choice,
            description,
            target_delimiter,
            fewshot_delimiter,
            fewshot,
            num_fewshot: keys.count("num_fewshot")?,
            process_docs,
            process_results,
            metrics,
            output_type,
            generation_kwargs,
            repeats,
            pipelines,
            gen_prefix,
            digest: Digest::of_json(&definition),
            definition,
            id,
        })
    }

    /// Whether the log-likelihood of the right text is asked for beside a generation.
    pub(crate) fn asks_for_references(&self) -> bool {
        self.metrics.iter().any(|metric| metric.reads == Some(Reads::Reference))
    }

    /// The metrics behind each pipeline, for tasks with this many choices.
    pub(crate) fn metric_specs(&self, classes: usize) -> Vec<MetricSpec> {
        let mut specs: Vec<MetricSpec> = Vec::new();
        for pipeline in &self.pipelines {
            for metric in &self.metrics {
                let key = metric.key(&pipeline.name);
                if specs.iter().all(|spec| spec.key != key) {
                    specs.push(MetricSpec {
                        key,
                        statistic: metric.scorer.statistic(classes),
                        higher_is_better: metric.higher_is_better,
                        scale: metric.scale,
                        primary: false,
                    });
                }
            }
        }
        let wanted = self.primary.as_deref();
        let primary = specs.iter().position(|s| wanted.is_some_and(|w| s.key.metric == w || s.key.to_string() == w));
        if let Some(spec) = specs.get_mut(primary.unwrap_or(0)) {
            spec.primary = true;
        }
        specs
    }
}

/// Fails where a pipeline leaves several answers to a document, which a metric cannot take.
fn averages(pipeline: &Pipeline, repeats: usize, metrics: &[MetricConfig]) -> Result<(), String> {
    let left = pipeline.flow(repeats)?.left;
    let single = |metric: &&MetricConfig| match metric.reads {
        Some(Reads::Text) => !metric.averages(),
        Some(_) => false,
        None => true,
    };
    match metrics.iter().find(single) {
        Some(metric) if left > 1 => Err(format!(
            "the filter pipeline {} leaves {left} answers per document (repeats: {repeats}), and {} takes one; end it \
             with majority_vote or take_first",
            pipeline.name, metric.name
        )),
        _ => Ok(()),
    }
}

/// The definition that a class stands for, below what the file says besides; `None` where there is no such class.
fn class(node: &Node) -> Result<Option<Node>, TaskError> {
    let task = node.get("task").map(|node| text("task", node)).transpose()?;
    let known = node.get("class").and_then(|class| Some((class, native::find(class, task.as_deref())?)));
    let (Yaml::Map(own), Some((class, Native::Class(source)))) = (&node.value, known) else { return Ok(None) };
    // The file is that of the class, so that functions are found in its family.
    let (base, _) = crate::yaml::parse_with_notes(&class.at.file, source)?;
    let Yaml::Map(mut entries) = base.value else { return base.error("a class must be a mapping") };
    let own: Vec<Entry> = own.iter().filter(|entry| entry.key != "class").cloned().collect();
    overlay(&mut entries, &own);
    Ok(Some(Node { value: Yaml::Map(entries), ..node.clone() }))
}

/// A field that is a string (column or template) or a literal value.
fn value(node: &Node, key: &str, task: &str, templates: &Templates) -> Result<Field, TaskError> {
    if let Some(Native::Field(function)) = native::find(node, Some(task)) {
        return Ok(Field::Native(function));
    }
    crate::keys::python(key, node)?;
    match &node.value {
        Yaml::Text(source) => Ok(Field::Template(templates.compile(node, source)?)),
        Yaml::Int(_) | Yaml::List(_) => Ok(Field::Literal(node.json())),
        _ => node.error(format!("{key} must be a string, an integer or a list, found {}", shown(node))),
    }
}

fn field(keys: &Keys<'_>, key: &str, task: &str, templates: &Templates) -> Result<Field, TaskError> {
    let node = keys.raw(key).map_or_else(|| keys.require(key), Ok)?;
    value(node, key, task, templates)
}

fn choices(node: &Node, task: &str, templates: &Templates) -> Result<Field, TaskError> {
    if let Some(Native::Field(function)) = native::find(node, Some(task)) {
        return Ok(Field::Native(function));
    }
    crate::keys::python("doc_to_choice", node)?;
    match &node.value {
        Yaml::Text(source) => Ok(Field::Template(templates.compile(node, source)?)),
        Yaml::List(items) if items.is_empty() => node.error("doc_to_choice is an empty list"),
        Yaml::List(items) => {
            let texts: Result<Vec<Value>, _> =
                items.iter().map(|i| text("doc_to_choice", i).map(Value::from)).collect();
            Ok(Field::Literal(Value::Array(texts?)))
        }
        Yaml::Map(entries) => {
            let texts: Result<Vec<Value>, _> =
                entries.iter().map(|e| text("doc_to_choice", &e.value).map(Value::from)).collect();
            Ok(Field::Literal(Value::Array(texts?)))
        }
        _ => node.error(format!("doc_to_choice must be a string, a list or a mapping, found {}", shown(node))),
    }
}

fn output_type(node: &Node) -> Result<OutputType, TaskError> {
    let types = [
        OutputType::LogLikelihood,
        OutputType::MultipleChoice,
        OutputType::LogLikelihoodRolling,
        OutputType::GenerateUntil,
    ];
    let name = text("output_type", node)?;
    match types.into_iter().find(|kind| kind.name() == name) {
        Some(kind) => Ok(kind),
        None => {
            let names = types.map(OutputType::name);
            node.error(format!("unknown output_type {name:?}; known: {}", names.join(", ")))
        }
    }
}

const FEWSHOT_KEYS: &[&str] = &[
    "sampler",
    "split",
    "process_docs",
    "fewshot_indices",
    "samples",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "gen_prefix",
    "fewshot_delimiter",
    "target_delimiter",
];

fn fewshot(node: &Node, task: &str, defaults: Fewshot, templates: &Templates) -> Result<Fewshot, TaskError> {
    let keys = Keys::of(node, "fewshot_config", FEWSHOT_KEYS)?;
    let mut fewshot = defaults;
    if let Some(found) = keys.raw("process_docs") {
        match native::find(found, Some(task)).and_then(Native::process_docs) {
            Some(function) => fewshot.process_docs = Some(function),
            None => {
                crate::keys::python("fewshot_config.process_docs", found)?;
                return found.error("process_docs must be a function");
            }
        }
    }
    if let Some(found) = keys.get("sampler")? {
        fewshot.first_n = match text("sampler", found)?.as_str() {
            "first_n" => true,
            "default" => false,
            other => return found.error(format!("unknown sampler {other:?}; known: default, first_n")),
        };
    }
    if let Some(split) = keys.text("split")? {
        fewshot.split = Some(split);
    }
    if let Some(items) = keys.list("fewshot_indices")? {
        let indices = items.iter().map(|item| match item.value {
            Yaml::Int(i) if i >= 0 => Ok(i as usize),
            _ => item.error(format!("fewshot_indices must hold row numbers, found {}", shown(item))),
        });
        fewshot.indices = Some(indices.collect::<Result<_, _>>()?);
    }
    if let Some(items) = keys.list("samples")? {
        let rows = items.iter().map(|item| match item.json() {
            Value::Object(row) => Ok(row),
            _ => item.error(format!("samples must hold mappings, found {}", shown(item))),
        });
        fewshot.samples = Some(rows.collect::<Result<_, _>>()?);
    }
    if let Some(found) = keys.raw("doc_to_text") {
        fewshot.doc_to_text = value(found, "doc_to_text", task, templates)?;
    }
    if let Some(found) = keys.raw("doc_to_target") {
        fewshot.doc_to_target = value(found, "doc_to_target", task, templates)?;
    }
    if let Some(found) = keys.raw("doc_to_choice") {
        fewshot.doc_to_choice = Some(choices(found, task, templates)?);
    }
    if let Some(found) = keys.get("gen_prefix")? {
        fewshot.gen_prefix = Some(templates.compile(found, &text("gen_prefix", found)?)?);
    }
    if let Some(delimiter) = keys.text("fewshot_delimiter")? {
        fewshot.fewshot_delimiter = delimiter;
    }
    if let Some(delimiter) = keys.text("target_delimiter")? {
        fewshot.target_delimiter = delimiter;
    }
    Ok(fewshot)
}

const LOCAL_KEYS: &[&str] = &["names", "name_column", "columns", "derive_splits", "pages", "count_column"];

fn dataset(keys: &Keys<'_>, at: &Place) -> Result<DatasetConfig, TaskError> {
    let mut dataset = DatasetConfig {
        path: keys.text("dataset_path")?,
        name: keys.text("dataset_name")?,
        kwargs: keys.map("dataset_kwargs")?.unwrap_or_default(),
        file: at.file.to_string(),
        ..DatasetConfig::default()
    };
    if let Some(node) = keys.get("dataset_kwargs")? {
        dataset.file = node.at.file.to_string();
    }
    if let Some(node) = keys.get("local")? {
        let local = Keys::of(node, "local", LOCAL_KEYS)?;
        dataset.aliases = local.texts("names")?;
        dataset.name_column = local.text("name_column")?;
        dataset.columns = local.texts("columns")?;
        dataset.count_column = local.text("count_column")?;
        if let Some(node) = local.get("pages")? {
            let pages = Keys::of(node, "local.pages", &["column", "into"])?;
            let column = |key: &str| pages.require(key).and_then(|node| text(key, node));
            dataset.pages = Some((column("column")?, column("into")?));
        }
        if let Some(node) = local.get("derive_splits")? {
            let derive = Keys::of(node, "local.derive_splits", &["from", "seed", "strip", "required"])?;
            dataset.derive = Some(DeriveSplits {
                from: derive.require("from").and_then(|node| text("from", node))?,
                seed: derive.count("seed")?.unwrap_or(42) as u64,
                strip: derive.texts("strip")?,
                required: derive.texts("required")?,
            });
        }
    }
    Ok(dataset)
}

/// The definition as JSON, without the keys that only say how it was found.
fn without_places(node: &Node) -> Value {
    match node.json() {
        Value::Object(mut map) => {
            for key in ["include", "tag", "group", "task_alias"] {
                map.shift_remove(key);
            }
            Value::Object(map)
        }
        other => other,
    }
}

/// Lays local entries over a base: local keys win, whole values are replaced.
pub(crate) fn overlay(base: &mut Vec<Entry>, local: &[Entry]) {
    for entry in local {
        match base.iter_mut().find(|other| other.key == entry.key) {
            Some(other) => *other = entry.clone(),
            None => base.push(entry.clone()),
        }
    }
}
