//! Candidates made by recipes.

pub mod curves;
pub mod folder;
mod notes;
mod tasks;
mod watched;

use std::{
    borrow::Cow,
    path::{Component, Path, PathBuf},
};

use harness_core::{Digest, Hasher, file_part};
use harness_decoder::DecoderConfig;
use harness_engine::{ChatTemplate, ModelFiles, Placement, TextTokenizer};
use harness_metrics::comparison::{counted, thousands};
use harness_training::{
    Recipe,
    data::PreparedSet,
    parallel::Ranks,
    recipe::{ResolvedRecipe, Sharding},
    run::{self, Base, PlacedRun, Setting},
    trainer::{Estimate, TrainingSummary},
};

pub use self::notes::row_lines;
use self::{folder::DONE, notes::ending, tasks::TaskEvaluator, watched::Watched};
use serde_json::Value;

use crate::{
    EvaluationError, Session,
    events::Unwatched,
    experiment::{Candidate, ResolvedModel},
    models::{Missing, Trained, template_of},
};

/// A run that could be begun.
pub struct TrainingPlan {
    /// Its name.
    pub name: String,
    /// Where its result goes.
    pub folder: PathBuf,
    recipe: Recipe,
    base: Option<(String, PathBuf)>,
    files: Option<ModelFiles>,
}

/// What the caller wants otherwise than the recipe says.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Other values for keys of the recipe, by dotted name.
    pub set: Vec<(String, toml::Value)>,
    /// Updates to do.
    pub max_steps: Option<u64>,
    /// What each rank holds.
    pub sharding: Option<Sharding>,
}

impl Changes {
    /// A recipe file with these changes.
    ///
    /// # Errors
    /// If the recipe is wrong, or has no such key.
    pub fn load(&self, path: &Path) -> Result<Recipe, EvaluationError> {
        let mut recipe = Recipe::load_with(path, &self.set)?;
        recipe.training.max_steps = self.max_steps.or(recipe.training.max_steps);
        recipe.training.sharding = self.sharding.unwrap_or(recipe.training.sharding);
        Ok(recipe)
    }
}

/// Finds the result of a candidate's recipe, and trains it first if it is not there.
///
/// # Errors
/// If the recipe is wrong, the training fails, or the result is missing and must not be made.
pub fn ensure_trained(
    session: &Session,
    resolved: &ResolvedModel,
    missing: Missing,
) -> Result<Trained, EvaluationError> {
    let plan = TrainingPlan::new(session, resolved, None, None, &Changes::default())?;
    if !plan.folder.join(DONE).is_file() {
        if missing == Missing::Refuse {
            return Err(EvaluationError::usage(format!(
                "{} is not trained yet; `harness train {}` trains it",
                resolved.name, resolved.name
            )));
        }
        if session.is_rank {
            return Err(EvaluationError::usage(format!(
                "{} is not trained yet; train it before the ranks start: harness train {}",
                resolved.name, resolved.name
            )));
        }
        session.device.check()?;
        plan.run(session, true, Ranks::single())?;
    }
    let base = plan.base.as_ref().map_or_else(|| plan.folder.clone(), |(_, path)| path.clone());
    let base_name = plan.base.as_ref().map(|(name, _)| name.clone());
    Ok(Trained { folder: plan.folder, base, base_name, recipe: plan.recipe.hash() })
}

/// The model whose recipe is meant: a name of the experiment, or a recipe file.
///
/// # Errors
/// If there is no such model, or it has no recipe.
pub fn recipe_of(session: &Session, name: &str) -> Result<ResolvedModel, EvaluationError> {
    let path = Path::new(name);
    if !session.experiment.models.contains_key(name) && path.extension().is_some_and(|e| e == "toml") {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let candidate = Candidate::Recipe { path: path.to_owned(), base: None };
        return Ok(ResolvedModel { name, candidate, section: Default::default() });
    }
    let resolved = session.experiment.model(name)?;
    match resolved.candidate {
        Candidate::Recipe { .. } => Ok(resolved),
        _ => {
            Err(EvaluationError::usage(format!("{} has no recipe; give a model with `recipe`, or a recipe file", name)))
        }
    }
}

/// A recipe with its data found, and the prepared set that it trains on.
///
/// # Errors
/// If there is no such recipe, if its base cannot be loaded, or the data are wrong.
pub fn recipe_and_set(
    session: &Session,
    name: &str,
    base: Option<&str>,
    changes: &Changes,
) -> Result<(ResolvedRecipe, PreparedSet), EvaluationError> {
    let plan = TrainingPlan::new(session, &recipe_of(session, name)?, base, None, changes)?;
    let resolved = plan.resolve(session)?;
    let set = resolved.prepared_set(&*plan.tokenizer()?, plan.chat_template()?.as_ref(), &session.hashes())?;
    Ok((resolved, set))
}

/// The chat template of the base, or beside the tokenizer of the model made from scratch.
fn chat_template(recipe: &Recipe, files: Option<&ModelFiles>) -> Result<Option<ChatTemplate>, EvaluationError> {
    match (files, &recipe.model) {
        (Some(files), _) => Ok(files.chat_template.clone()),
        (None, Some(model)) => Ok(ChatTemplate::load(&recipe.path(&model.tokenizer), None)?),
        (None, None) => Ok(None),
    }
}

/// The recipe of a candidate and what it begins from; `base` goes before what experiment and recipe say.
fn recipe_and_base(
    session: &Session,
    resolved: &ResolvedModel,
    base: Option<&str>,
    changes: &Changes,
) -> Result<(Recipe, Option<ResolvedModel>), EvaluationError> {
    let Candidate::Recipe { path, base: named } = &resolved.candidate else {
        return Err(EvaluationError::usage(format!("{} has no recipe", resolved.name)));
    };
    let recipe = changes.load(path)?;
    let base = match (base, named, &recipe.base) {
        (Some(name), _, _) => Some(session.experiment.model(name)?),
        (None, Some(model), _) => Some((**model).clone()),
        (None, None, Some(name)) => Some(session.experiment.model(name)?),
        (None, None, None) => None,
    };
    Ok((recipe, base))
}

/// Fails if a model is made by a recipe that cannot train its base: before anything is trained or asked. `base` and
/// `changes` are what is wanted otherwise.
///
/// # Errors
/// As far as recipes and configurations alone tell it.
pub fn check(
    session: &Session,
    model: &ResolvedModel,
    base: Option<&str>,
    changes: &Changes,
) -> Result<(), EvaluationError> {
    match &model.candidate {
        Candidate::Base { .. } | Candidate::Endpoint { .. } => Ok(()),
        Candidate::Adapter { base, .. } => check(session, base, None, &Changes::default()),
        Candidate::Recipe { .. } => match recipe_and_base(session, model, base, changes)? {
            (recipe, Some(ResolvedModel { candidate: Candidate::Base { path }, .. })) => {
                recipe.check_base(&DecoderConfig::load(&path)?)?;
                Ok(())
            }
            (_, Some(base)) => check(session, &base, None, &Changes::default()),
            (_, None) => Ok(()),
        },
    }
}

impl TrainingPlan {
    /// The tokenizer of the base, or of the model made from scratch.
    fn tokenizer(&self) -> Result<Cow<'_, TextTokenizer>, EvaluationError> {
        match (&self.files, &self.recipe.model) {
            (Some(files), _) => Ok(Cow::Borrowed(&files.tokenizer)),
            (None, Some(model)) => Ok(Cow::Owned(TextTokenizer::load(&self.recipe.path(&model.tokenizer))?)),
            (None, None) => Err(EvaluationError::usage(format!("{} has no base", self.name))),
        }
    }

    fn chat_template(&self) -> Result<Option<ChatTemplate>, EvaluationError> {
        chat_template(&self.recipe, self.files.as_ref())
    }

    /// What names the run in `training.json`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn digest(&self, session: &Session) -> Result<Digest, EvaluationError> {
        let recipe = self.resolve(session)?.digest(self.chat_template()?.as_ref(), &session.hashes())?;
        Ok(run::run_digest(recipe, self.files.as_ref().map(|files| files.digest), self.tokenizer()?.digest()))
    }

    /// The tasks that are evaluated during training.
    fn tasks<'a>(&self, session: &'a Session) -> Result<Option<TaskEvaluator<'a>>, EvaluationError> {
        let options = &self.recipe.training;
        if options.eval_tasks.is_empty() {
            return Ok(None);
        }
        let base = self.base.as_ref().map(|(_, path)| path.as_path()).filter(|_| self.recipe.lora.is_some());
        let stored = self.recipe.quantization.as_ref();
        TaskEvaluator::new(session, &self.name, base, stored, &options.eval_tasks, options.eval_tasks_limit).map(Some)
    }

    /// What the run would take, measured on one update over these ranks; `None` on all ranks but the first.
    ///
    /// # Errors
    /// If data or base are wrong, or memory does not suffice.
    pub fn estimate(&self, session: &Session, ranks: Ranks) -> Result<Option<(Estimate, Value)>, EvaluationError> {
        let first = ranks.rank() == 0;
        if first {
            self.tasks(session)?;
        }
        let mut run = self.prepare(session, ranks)?;
        let estimate = run.estimate()?;
        Ok(first.then(|| (estimate, run.manifest().clone())))
    }

    /// The recipe with everything it names.
    fn resolve(&self, session: &Session) -> Result<ResolvedRecipe, EvaluationError> {
        let name = self.base.as_ref().map(|(name, _)| name.as_str());
        Ok(self.recipe.resolve(name, &session.locator())?.with_cache(session.prepared()))
    }

    /// The run that makes a model, begun or not; `base`, `out` and `changes` are what is wanted otherwise.
    ///
    /// # Errors
    /// If the recipe is wrong, or its base or data are missing.
    pub fn new(
        session: &Session,
        resolved: &ResolvedModel,
        base: Option<&str>,
        out: Option<&Path>,
        changes: &Changes,
    ) -> Result<Self, EvaluationError> {
        let (mut recipe, base) = recipe_and_base(session, resolved, base, changes)?;
        let told = base.as_ref().map(|base| (base.section.chat_template_kwargs.clone(), base.section.date));
        let template = base.as_ref().map(|base| template_of(session, base)).transpose()?.flatten();
        let base = match base {
            None => None,
            Some(ResolvedModel { name, candidate: Candidate::Base { path }, .. }) => {
                recipe.check_base(&DecoderConfig::load(&path)?)?;
                Some((name, path))
            }
            Some(ResolvedModel { name, candidate: Candidate::Recipe { .. }, .. }) => {
                let resolved = session.experiment.model(&name)?;
                let trained = ensure_trained(session, &resolved, Missing::Train)?;
                Some((name, trained.folder))
            }
            Some(model) => {
                return Err(EvaluationError::usage(format!(
                    "{}: the base {} is an adapter; expected a whole model",
                    resolved.name, model.name
                )));
            }
        };
        let mut files = base.as_ref().map(|(_, path)| ModelFiles::load(path)).transpose()?;
        if let (Some(files), Some(template)) = (&mut files, template) {
            files.chat_template = Some(template);
        }
        let mut resolved_recipe = recipe.resolve(base.as_ref().map(|(name, _)| name.as_str()), &session.locator())?;
        if let Some((kwargs, date)) = told
            && resolved_recipe.template.uses_chat_template()
        {
            // What the experiment tells the base's chat template, it is told in training too.
            recipe.data.chat_template_kwargs = kwargs.with(&recipe.data.chat_template_kwargs);
            recipe.data.date = recipe.data.date.take().or_else(|| date.map(|day| day.to_string()));
            resolved_recipe.recipe = recipe.clone();
        }
        let folder = match out {
            Some(folder) => folder.to_owned(),
            None => {
                let mut hasher = Hasher::new("training run");
                let template = chat_template(&recipe, files.as_ref())?;
                hasher.part(resolved_recipe.digest(template.as_ref(), &session.hashes())?.as_bytes());
                hasher.part(files.as_ref().map_or("scratch".to_owned(), |files| files.digest.to_string()));
                let id = hasher.finish().short();
                let (models, name) = (session.home.join("models"), &resolved.name);
                let earlier = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
                let earlier = Some(models.join(format!("{name}-{id}"))).filter(|folder| earlier && folder.exists());
                // Earlier versions wrote names as they are.
                earlier.unwrap_or_else(|| models.join(format!("{}-{id}", file_part(name))))
            }
        };
        Ok(Self { name: resolved.name.clone(), recipe, base, files, folder })
    }

    fn prepare(&self, session: &Session, ranks: Ranks) -> Result<Box<dyn PlacedRun>, EvaluationError> {
        let resolved = self.resolve(session)?;
        let absolute = self.base.as_ref().map(|(_, path)| {
            std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
        });
        let base = match (&self.base, &self.files, &absolute) {
            (Some((_, path)), Some(files), Some(name)) => Some(Base { name, path, files }),
            _ => None,
        };
        let (placement, compute) = (session.device, session.dtype);
        let setting = Setting { placement, compute, stop: session.stop().clone(), now };
        let run = run::prepare(setting, &resolved, base, &session.hashes(), &self.folder, ranks)?;
        if let Some(note) = &run.prepared().note {
            session.note(note);
        }
        Ok(run)
    }

    /// Trains; goes on from the latest checkpoint if there is one and `resume` says so.
    ///
    /// # Errors
    /// If the training fails, or the caller interrupts.
    pub fn run(&self, session: &Session, resume: bool, ranks: Ranks) -> Result<TrainingSummary, EvaluationError> {
        let (rank, world) = (ranks.rank(), ranks.world());
        let begun = world > 1 || !harness_training::checkpoint::steps(&self.folder).is_empty();
        let tasks = if rank == 0 { self.tasks(session)? } else { None };
        let prepare = || self.prepare(session, ranks.resuming(resume && begun));
        let mut run = match rank {
            0 => session.phase(format!("prepare {}", self.name), prepare)?,
            _ => prepare()?,
        };
        // One rank tells of it.
        let events = if rank == 0 { session.events() } else { &Unwatched };
        let trained = thousands(run.trainable_parameters() as u64);
        let stored = run.manifest()["weights_stored_as"].as_str().unwrap_or_default().to_owned();
        events.note(&format!(
            "train {}: {trained} trainable parameters, {}, weights stored as {stored}, computed in {}{} -> {}",
            self.name,
            counted(run.total_steps() as usize, "update"),
            run.device(),
            if world > 1 { format!(", {world} ranks") } else { String::new() },
            self.folder.display()
        ));
        row_lines(&run.prepared().rows).into_iter().for_each(|line| events.note(&format!("data: {line}")));
        let tokens = run.prepared().train_tokens;
        if tokens.truncated_samples + tokens.without_labels > 0 {
            let (cut, lost) = (thousands(tokens.truncated_samples as u64), thousands(tokens.truncated_tokens as u64));
            let left_out = match tokens.without_labels {
                0 => String::new(),
                count => format!("; left out because no token counts: {}", thousands(count as u64)),
            };
            let longest = self.recipe.data.max_length;
            events.note(&format!("data: {cut} samples lost {lost} tokens at data.max_length = {longest}{left_out}"));
        }
        if self.recipe.training.tf32 && session.device == Placement::Cpu {
            events.note("training.tf32 has no effect on the processor, which computes f32 products in full");
        }
        if self.recipe.training.paged_optimizer && session.device == Placement::Cpu {
            events.note("training.paged_optimizer has no effect on the processor, whose memory is the host's");
        }
        let mut watched = Watched { events: events.training(&self.name), tasks };
        let result = run.train(resume && begun, &mut watched);
        let summary = match result {
            Ok(summary) => summary,
            Err(error) => {
                watched.events.finished("stopped");
                return Err(error.into());
            }
        };
        watched.events.finished(&ending(&summary));
        if rank == 0 {
            curves::write(&self.folder, &self.name)?;
        }
        if summary.interrupted {
            return Err(EvaluationError::Interrupted(format!(
                "interrupted after update {} of {}; run the same command again to continue from the checkpoint in {}",
                summary.steps,
                summary.total_steps,
                self.folder.display()
            )));
        }
        Ok(summary)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
