//! Comparisons that were made, kept below `HARNESS_HOME/comparisons`: to be rendered again, and to count looks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{Digest, canonical_json};
use harness_metrics::comparison::{Caveat, Settings};
use harness_reports::Report;
use harness_store::{Manifest, atomic_write};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{EvaluationError, Session, gather::Gathered, options::EvaluationOptions};

/// What makes a comparison the same, and what makes it another look at the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Hash of models without their training seeds, tasks and settings.
    pub family: Digest,
    /// Seeds by what they are of.
    pub seeds: BTreeMap<String, String>,
}

/// A stored comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// Which look it was.
    pub look: Look,
    /// The report.
    pub report: Report,
    /// Where the numbers come from; `None` where all results are imported.
    pub manifest: Option<Manifest>,
}

impl Look {
    /// The look of a comparison.
    pub fn of(gathered: &Gathered, options: &EvaluationOptions, settings: &Settings) -> Self {
        let mut seeds = BTreeMap::from([
            ("resampling".to_owned(), settings.seed.to_string()),
            ("examples".to_owned(), options.build.fewshot_seed.to_string()),
        ]);
        let mut models = vec![];
        for scores in gathered.scores() {
            let facts = scores.facts();
            let mut recipe = facts.recipe.clone();
            for name in ["training.seed", "data.shuffle_seed"] {
                if let Some(seed) = recipe.remove(name) {
                    seeds.insert(format!("{name} of {}", facts.model), seed);
                }
            }
            // What was trained is known by its recipe, anything else by its content.
            let identity = if recipe.is_empty() { facts.identity.or(facts.source) } else { facts.source };
            models.push(json!({"name": facts.model, "recipe": recipe, "identity": identity}));
        }
        let tasks: Vec<(String, usize)> = gathered
            .tables()
            .iter()
            .map(|table| (format!("{} {}", table.task, table.key), table.columns.first().map_or(0, |c| c.scores.len())))
            .collect();
        let examples = json!({"num_fewshot": options.build.num_fewshot, "chat": options.build.apply_chat_template});
        let tasks: Vec<String> = if settings.sequential {
            tasks.into_iter().map(|(task, _)| task).collect()
        } else {
            tasks.into_iter().map(|(task, n)| format!("{task} {n}")).collect()
        };
        Self { family: Digest::of(canonical_json(&json!([models, tasks, examples]))), seeds }
    }

    /// The file of this look.
    fn path(&self, home: &Path) -> PathBuf {
        let variant = Digest::of_json(&self.seeds);
        folder(home).join(format!("{}-{}.json", self.family.short(), variant.short()))
    }

    /// The caveat of earlier looks with other seeds, if there are any.
    pub fn earlier(&self, home: &Path) -> Option<Caveat> {
        let mut with = vec![];
        for (_, stored) in list(home) {
            if stored.look.family == self.family && stored.look.seeds != self.seeds {
                let differs = |(name, seed): (&String, &String)| {
                    (self.seeds.get(name) != Some(seed)).then(|| format!("{name} seed {seed}"))
                };
                with.push(stored.look.seeds.iter().filter_map(differs).collect::<Vec<_>>().join(", "));
            }
        }
        with.sort();
        (!with.is_empty()).then_some(Caveat::ManyLooks { earlier: with.len(), with })
    }
}

fn folder(home: &Path) -> PathBuf {
    home.join("comparisons")
}

/// Keeps a comparison.
///
/// # Errors
/// If it cannot be written.
pub fn keep(session: &Session, stored: &Stored) -> Result<PathBuf, EvaluationError> {
    let path = stored.look.path(&session.home);
    let text =
        serde_json::to_string(stored).map_err(|e| EvaluationError::work(format!("cannot keep the comparison: {e}")))?;
    atomic_write(&path, text + "\n")?;
    Ok(path)
}

/// All stored comparisons by their ids, in their order; files of other versions are passed over.
pub fn list(home: &Path) -> Vec<(String, Stored)> {
    let Ok(entries) = std::fs::read_dir(folder(home)) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: PathBuf| {
        let id = path.file_stem()?.to_string_lossy().into_owned();
        Some((id, serde_json::from_str(&harness_core::read_text(&path).ok()?).ok()?))
    };
    paths.into_iter().filter_map(read).collect()
}

/// A comparison by its id (or the beginning of one), or from the folder that `--out` wrote.
///
/// # Errors
/// If there is none, or the manifest was changed.
pub fn find(session: &Session, name: &str) -> Result<(Report, Option<Manifest>), EvaluationError> {
    let path = Path::new(name);
    let file = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    if file.is_file() {
        let text = harness_core::read_text(&file)
            .map_err(|e| EvaluationError::usage(format!("cannot read {}: {e}", file.display())))?;
        let report: Report =
            serde_json::from_str(&text).map_err(|e| EvaluationError::usage(format!("{}: {e}", file.display())))?;
        let manifest = file.with_file_name("manifest.json");
        let manifest = if manifest.is_file() { Some(Manifest::read(&manifest)?) } else { None };
        return Ok((report, manifest));
    }
    let all = list(&session.home);
    let mut found: Vec<&(String, Stored)> = all.iter().filter(|(id, _)| id.starts_with(name)).collect();
    match (found.pop(), found.is_empty()) {
        (Some((_, stored)), true) => Ok((stored.report.clone(), stored.manifest.clone())),
        (Some(_), false) => Err(EvaluationError::usage(format!(
            "{name}: several stored comparisons begin like this; give more of the id"
        ))),
        (None, _) => {
            let ids: Vec<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
            let known = if ids.is_empty() { "none yet".to_owned() } else { ids.join(", ") };
            Err(EvaluationError::usage(format!(
                "{name}: neither a report folder nor a stored comparison; stored comparisons: {known}"
            )))
        }
    }
}
