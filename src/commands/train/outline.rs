//! What a recipe would take over a base of which there are no weights: its configuration is enough.

use std::path::{Path, PathBuf};

use harness_decoder::DecoderConfig;
use harness_engine::{ChatTemplate, TextTokenizer};
use harness_evaluation::{
    experiment::{Candidate, ResolvedModel},
    training::Changes,
};
use harness_metrics::comparison::thousands;
use harness_training::{
    Recipe,
    run::{Outline, outline},
};
use serde_json::json;

use super::{App, Failure, output::Outcome};

/// A recipe over a base that is only a shape.
pub(super) struct Shape {
    name: String,
    recipe: Recipe,
    base: String,
    folder: PathBuf,
}

/// The shape that is meant, with these changes of the recipe, if the base of a recipe is a folder with a configuration and
/// without weights.
///
/// # Errors
/// If the recipe is wrong.
pub(super) fn shape(
    app: &App,
    resolved: &ResolvedModel,
    base: Option<&str>,
    changes: &Changes,
) -> Result<Option<Shape>, Failure> {
    let Candidate::Recipe { path, base: named } = &resolved.candidate else { return Ok(None) };
    if base.is_none() && named.is_some() {
        return Ok(None);
    }
    let recipe = changes.load(path)?;
    let Some(base) = base.map(str::to_owned).or_else(|| recipe.base.clone()) else { return Ok(None) };
    let section = app.experiment.models.get(&base).and_then(|section| section.path.as_ref());
    let folder = section.map_or_else(|| PathBuf::from(&base), |path| app.experiment.folder.join(path));
    let name = resolved.name.clone();
    Ok(is_shape(&folder).then_some(Shape { name, recipe, base, folder }))
}

fn is_shape(folder: &Path) -> bool {
    let has_weights = |path: PathBuf| path.extension().is_some_and(|end| end == "safetensors" || end == "gguf");
    let entries = || std::fs::read_dir(folder).into_iter().flatten().flatten();
    folder.join("config.json").is_file() && !entries().any(|entry| has_weights(entry.path()))
}

impl Shape {
    /// The base's configuration.
    ///
    /// # Errors
    /// If it cannot be read, or the recipe cannot train such a base.
    pub(super) fn config(&self) -> Result<DecoderConfig, Failure> {
        let config = DecoderConfig::load(&self.folder)?;
        self.recipe.check_base(&config)?;
        Ok(config)
    }

    /// The outline of the run over so many ranks.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, data or configuration.
    pub(super) fn describe(&self, app: &App, ranks: usize) -> Result<Outcome, Failure> {
        let config = self.config()?;
        let tokenizer = match self.folder.join("tokenizer.json").is_file() {
            true => Some((TextTokenizer::load(&self.folder)?, ChatTemplate::load(&self.folder, None)?)),
            false => None,
        };
        let tokenizer = tokenizer.as_ref().map(|(tokenizer, template)| (tokenizer, template.as_ref()));
        let resolved = self.recipe.resolve(Some(&self.base), &app.locator())?.with_cache(app.prepared());
        let outline = outline(&resolved, &config, tokenizer, &app.hashes(), app.device, ranks)?;
        let object = json!({ "outline": outline, "base": self.folder, "ranks": ranks });
        Ok(Outcome { object, text: self.text(&outline, ranks) })
    }

    fn text(&self, outline: &Outline, ranks: usize) -> String {
        let number = |value: Option<u64>| value.map_or("unknown without a tokenizer".to_owned(), thousands);
        let Outline { trainable_parameters, parameters, rows, .. } = outline;
        let mib = |bytes: u64| thousands((bytes + (1 << 19)) >> 20);
        let (trained, all) = (thousands(*trainable_parameters as u64), thousands(*parameters as u64));
        let each = if ranks > 1 { format!(" on each of {ranks} ranks") } else { String::new() };
        let paged = match outline.paged_bytes {
            0 => String::new(),
            bytes => format!(", beside {} MiB of host memory", mib(bytes)),
        };
        format!(
            "{}\n  rows                  {} training, {} validation, {} test\n  updates               {}\n  tokens                {}\n  \
             trainable parameters  {trained} of {all}\n  memory                {} MiB{each}{paged}, by formula\n  \
             speed and time        not measured: {} has no weights\n",
            self.name,
            thousands(rows.train as u64),
            thousands(rows.validation as u64),
            thousands(rows.test as u64),
            number(outline.steps),
            number(outline.tokens),
            mib(outline.memory_bytes),
            self.folder.display()
        )
    }
}
