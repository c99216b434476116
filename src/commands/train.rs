//! `harness train`, and the training of candidates that a comparison finds missing.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use harness_core::{Digest, Hasher};
use harness_engine::{ChatTemplate, ModelFiles, Placement, TextTokenizer};
use harness_metrics::comparison::thousands;
use harness_training::{
    Recipe,
    backend::CpuBackend,
    data::PreparedSet,
    parallel::{Ranks, all_gather_f64},
    recipe::{ResolvedRecipe, Sharding},
    run::{self, Base, PlacedRun, Setting},
    trainer::TrainingSummary,
};
use serde_json::json;

use super::{
    App, Failure,
    eval_tasks::TaskEvaluator,
    launch,
    load::Missing,
    matrix, outline,
    progress::{Progress, TrainingProgress},
    run_folder::{self, DONE},
    texts::template_of,
    train_output::{counted, describe, ending, plots, row_lines},
};
use crate::{
    cli::TrainArgs,
    experiment::{Candidate, ResolvedModel},
};

/// A finished run.
pub(super) struct Trained {
    /// The adapter's or model's folder.
    pub folder: PathBuf,
    /// The base's folder or file; the result's own folder for a model from scratch.
    pub base: PathBuf,
    /// Name of the base.
    pub base_name: Option<String>,
    /// Hash of the recipe.
    pub recipe: Digest,
}

/// A run that could be begun.
struct Plan {
    name: String,
    recipe: Recipe,
    base: Option<(String, PathBuf)>,
    files: Option<ModelFiles>,
    folder: PathBuf,
}

/// What the caller wants otherwise than the recipe says.
#[derive(Default)]
pub(super) struct Changes {
    set: Vec<(String, toml::Value)>,
    max_steps: Option<u64>,
    sharding: Option<Sharding>,
}

impl Changes {
    /// What the arguments of a run say.
    pub(super) fn of(args: &TrainArgs) -> Result<Self, Failure> {
        let sharding = args.sharding.as_ref().map(|kind| if kind == "fsdp" { Sharding::Fsdp } else { Sharding::None });
        Ok(Self { set: changes(&args.set)?, max_steps: args.max_steps, sharding })
    }

    /// Keys of the recipe alone.
    pub(super) fn keys(set: &[String]) -> Result<Self, Failure> {
        Ok(Self { set: changes(set)?, ..Self::default() })
    }

    /// A recipe file with these changes.
    pub(super) fn load(&self, path: &Path) -> Result<Recipe, Failure> {
        let mut recipe = Recipe::load_with(path, &self.set)?;
        recipe.training.max_steps = self.max_steps.or(recipe.training.max_steps);
        recipe.training.sharding = self.sharding.unwrap_or(recipe.training.sharding);
        Ok(recipe)
    }
}

/// Reads `KEY=VALUE`; a value that is no TOML is a text.
fn changes(set: &[String]) -> Result<Vec<(String, toml::Value)>, Failure> {
    let read = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(|| {
            Failure::usage(format!("--set {text}: expected KEY=VALUE, such as training.learning_rate=1e-4"))
        })?;
        let value = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
        let text = || toml::Value::String(text.split_once('=').map_or("", |(_, value)| value).to_owned());
        Ok((key.trim().to_owned(), value.unwrap_or_else(text)))
    };
    set.iter().map(read).collect()
}

/// Finds the result of a candidate's recipe, and trains it first if it is not there.
///
/// # Errors
/// If the recipe is wrong, the training fails, or the result is missing and must not be made.
pub(super) fn ensure_trained(app: &App, resolved: &ResolvedModel, missing: Missing) -> Result<Trained, Failure> {
    let plan = Plan::new(app, resolved, None, None, &Changes::default())?;
    if !plan.folder.join(DONE).is_file() {
        if missing == Missing::Refuse {
            return Err(Failure::usage(format!(
                "{} is not trained yet; `harness train {}` makes it",
                resolved.name, resolved.name
            )));
        }
        if launch::place()?.is_some() {
            return Err(Failure::usage(format!(
                "{} is not trained yet; train it before the ranks start: harness train {}",
                resolved.name, resolved.name
            )));
        }
        app.device.check()?;
        plan.run(app, true, Ranks::single())?;
    }
    let base = plan.base.as_ref().map_or_else(|| plan.folder.clone(), |(_, path)| path.clone());
    let base_name = plan.base.as_ref().map(|(name, _)| name.clone());
    Ok(Trained { folder: plan.folder, base, base_name, recipe: plan.recipe.hash() })
}

/// Runs `harness train`.
///
/// # Errors
/// If the recipe is wrong or the training fails.
pub(super) fn train(app: &App, args: &TrainArgs) -> Result<(), Failure> {
    match train_here(app, args) {
        // All ranks that were started together have the same arguments and files; rank 0 tells what is wrong with them.
        Err(failure) if failure.code() == 2 && launch::follows() => Err(failure.silent()),
        result => result,
    }
}

fn train_here(app: &App, args: &TrainArgs) -> Result<(), Failure> {
    if args.max_steps == Some(0) {
        return Err(Failure::usage("--max-steps 0: expected at least 1"));
    }
    if let Some(path) = &args.matrix {
        // A plan by formula needs no GPU.
        if !args.dry_run {
            app.device.check()?;
        }
        return matrix::train(app, args, path);
    }
    let place = launch::place()?;
    match args.nproc {
        Some(0) => return Err(Failure::usage("--nproc 0: expected at least 1")),
        Some(n) if n > 1 && place.is_none() && !args.dry_run => {
            app.device.check_ranks(n)?;
            return launch::spawn(app, n);
        }
        _ => {}
    }
    let resolved = recipe_of(app, args.name.as_deref().unwrap_or_default())?;
    let changes = Changes::of(args)?;
    let world = place.as_ref().map_or(args.nproc.unwrap_or(1), |place| place.world);
    if args.dry_run {
        if let Some(shape) = outline::shape(app, &resolved, args.base.as_deref(), &changes)? {
            return if launch::follows() { Ok(()) } else { shape.describe(app, world) };
        }
        if world > 1 && place.is_none() {
            app.device.check_ranks(world)?;
            return launch::spawn(app, world);
        }
    }
    // Before a base is hashed or trained.
    match &place {
        Some(_) => app.device.check_ranks(1)?,
        None => app.device.check()?,
    }
    let plan = Plan::new(app, &resolved, args.base.as_deref(), args.out.as_deref(), &changes)?;
    if args.out.is_some() && !args.force && !args.dry_run {
        run_folder::check(&plan.folder, plan.digest(app)?)?;
    }
    let ranks = launch::connect(app, place.as_ref())?;
    let first = ranks.rank() == 0;
    if args.dry_run {
        return plan.dry_run(app, ranks);
    }
    // What rank 0 finds counts: the folder may be on its host alone.
    let mine = [f64::from(u8::from(plan.folder.join(DONE).is_file()))];
    let done = all_gather_f64(&*ranks.collective::<CpuBackend>(), &mine)?[0] == [1.0];
    if done && !args.force {
        if !first {
            return Ok(());
        }
        app.progress().say(format!("{} is already there; --force trains it again", plan.folder.display()));
        return app.output(&json!({ "name": plan.name, "folder": plan.folder, "trained": false }), || {
            plan.folder.display().to_string()
        });
    }
    let begun = harness_training::checkpoint::steps(&plan.folder);
    if args.resume && begun.is_empty() && first {
        return Err(Failure::usage(format!("--resume: {} holds no checkpoint", plan.folder.display())));
    }
    if args.force && first {
        run_folder::remove(&plan.folder)?;
    }
    let summary = plan.run(app, !args.force, ranks)?;
    if !first {
        return Ok(());
    }
    app.output(&json!({ "name": plan.name, "folder": plan.folder, "trained": true, "summary": summary }), || {
        plan.folder.display().to_string()
    })
}

/// The model whose recipe is meant: a name of the experiment, or a recipe file.
fn recipe_of(app: &App, name: &str) -> Result<ResolvedModel, Failure> {
    let path = Path::new(name);
    if !app.experiment.models.contains_key(name) && path.extension().is_some_and(|e| e == "toml") {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let candidate = Candidate::Recipe { path: path.to_owned(), base: None };
        return Ok(ResolvedModel { name, candidate, section: Default::default() });
    }
    let resolved = app.experiment.model(name)?;
    match resolved.candidate {
        Candidate::Recipe { .. } => Ok(resolved),
        _ => Err(Failure::usage(format!("{} has no recipe; give a model with `recipe`, or a recipe file", name))),
    }
}

/// A recipe with its data found, and the prepared set that it trains on.
///
/// # Errors
/// If there is no such recipe, if its base cannot be loaded, or the data are wrong.
pub(super) fn recipe_and_set(
    app: &App,
    name: &str,
    base: Option<&str>,
    changes: &Changes,
) -> Result<(ResolvedRecipe, PreparedSet), Failure> {
    let plan = Plan::new(app, &recipe_of(app, name)?, base, None, changes)?;
    let resolved = plan.resolve(app)?;
    let set = resolved.prepared_set(&*plan.tokenizer()?, plan.chat_template()?.as_ref(), &app.hashes())?;
    Ok((resolved, set))
}

/// The chat template of the base, or beside the tokenizer of the model made from scratch.
fn chat_template(recipe: &Recipe, files: Option<&ModelFiles>) -> Result<Option<ChatTemplate>, Failure> {
    match (files, &recipe.model) {
        (Some(files), _) => Ok(files.chat_template.clone()),
        (None, Some(model)) => Ok(ChatTemplate::load(&recipe.path(&model.tokenizer), None)?),
        (None, None) => Ok(None),
    }
}

/// The recipe of a candidate and what it begins from; `base` goes before what experiment and recipe say.
fn recipe_and_base(
    app: &App,
    resolved: &ResolvedModel,
    base: Option<&str>,
    changes: &Changes,
) -> Result<(Recipe, Option<ResolvedModel>), Failure> {
    let Candidate::Recipe { path, base: named } = &resolved.candidate else {
        return Err(Failure::usage(format!("{} has no recipe", resolved.name)));
    };
    let recipe = changes.load(path)?;
    let base = match (base, named, &recipe.base) {
        (Some(name), _, _) => Some(app.experiment.model(name)?),
        (None, Some(model), _) => Some((**model).clone()),
        (None, None, Some(name)) => Some(app.experiment.model(name)?),
        (None, None, None) => None,
    };
    Ok((recipe, base))
}

/// Fails if a model is made by a recipe that cannot train its base: before anything is trained or asked. `base` and
/// `changes` are what is wanted otherwise.
///
/// # Errors
/// As far as recipes and configurations alone tell it.
pub(super) fn check(app: &App, model: &ResolvedModel, base: Option<&str>, changes: &Changes) -> Result<(), Failure> {
    match &model.candidate {
        Candidate::Base { .. } | Candidate::Endpoint { .. } => Ok(()),
        Candidate::Adapter { base, .. } => check(app, base, None, &Changes::default()),
        Candidate::Recipe { .. } => match recipe_and_base(app, model, base, changes)? {
            (recipe, Some(ResolvedModel { candidate: Candidate::Base { path }, .. })) => {
                recipe.check_base(&ModelFiles::load_config(&path)?)?;
                Ok(())
            }
            (_, Some(base)) => check(app, &base, None, &Changes::default()),
            (_, None) => Ok(()),
        },
    }
}

impl Plan {
    /// The tokenizer of the base, or of the model made from scratch.
    fn tokenizer(&self) -> Result<Cow<'_, TextTokenizer>, Failure> {
        match (&self.files, &self.recipe.model) {
            (Some(files), _) => Ok(Cow::Borrowed(&files.tokenizer)),
            (None, Some(model)) => Ok(Cow::Owned(TextTokenizer::load(&self.recipe.path(&model.tokenizer))?)),
            (None, None) => Err(Failure::usage(format!("{} has no base", self.name))),
        }
    }

    fn chat_template(&self) -> Result<Option<ChatTemplate>, Failure> {
        chat_template(&self.recipe, self.files.as_ref())
    }

    /// What names the run in `training.json`.
    fn digest(&self, app: &App) -> Result<Digest, Failure> {
        let recipe = self.resolve(app)?.digest(self.chat_template()?.as_ref(), &app.hashes())?;
        Ok(run::run_digest(recipe, self.files.as_ref().map(|files| files.digest), self.tokenizer()?.digest()))
    }

    /// The tasks that are evaluated during training.
    fn tasks<'a>(&self, app: &'a App) -> Result<Option<TaskEvaluator<'a>>, Failure> {
        let options = &self.recipe.training;
        if options.eval_tasks.is_empty() {
            return Ok(None);
        }
        let base = self.base.as_ref().map(|(_, path)| path.as_path()).filter(|_| self.recipe.lora.is_some());
        let stored = self.recipe.quantization.as_ref();
        TaskEvaluator::new(app, &self.name, base, stored, &options.eval_tasks, options.eval_tasks_limit).map(Some)
    }

    /// Prints what the run would take, measured over these ranks.
    fn dry_run(&self, app: &App, ranks: Ranks) -> Result<(), Failure> {
        let (first, world) = (ranks.rank() == 0, ranks.world());
        if first {
            self.tasks(app)?;
        }
        let (mut run, _) = self.prepare(app, ranks)?;
        let estimate = run.estimate()?;
        if !first {
            return Ok(());
        }
        let object = json!({ "estimate": estimate, "run": run.manifest(), "ranks": world });
        app.output(&object, || describe(&self.name, &estimate, world))
    }

    /// The recipe with everything it names.
    fn resolve(&self, app: &App) -> Result<ResolvedRecipe, Failure> {
        let name = self.base.as_ref().map(|(name, _)| name.as_str());
        Ok(self.recipe.resolve(name, &app.locator())?.with_cache(app.prepared()))
    }

    fn new(
        app: &App,
        resolved: &ResolvedModel,
        base: Option<&str>,
        out: Option<&Path>,
        changes: &Changes,
    ) -> Result<Self, Failure> {
        let (mut recipe, base) = recipe_and_base(app, resolved, base, changes)?;
        let told = base.as_ref().map(|base| (base.section.chat_template_kwargs.clone(), base.section.date));
        let template = base.as_ref().map(|base| template_of(app, base)).transpose()?.flatten();
        let base = match base {
            None => None,
            Some(ResolvedModel { name, candidate: Candidate::Base { path }, .. }) => {
                recipe.check_base(&ModelFiles::load_config(&path)?)?;
                Some((name, path))
            }
            Some(ResolvedModel { name, candidate: Candidate::Recipe { .. }, .. }) => {
                let resolved = app.experiment.model(&name)?;
                let trained = ensure_trained(app, &resolved, Missing::Train)?;
                Some((name, trained.folder))
            }
            Some(model) => {
                return Err(Failure::usage(format!(
                    "{}: the base {} is an adapter; expected a whole model",
                    resolved.name, model.name
                )));
            }
        };
        let mut files = base.as_ref().map(|(_, path)| ModelFiles::load(path)).transpose()?;
        if let (Some(files), Some(template)) = (&mut files, template) {
            files.chat_template = Some(template);
        }
        let mut resolved_recipe = recipe.resolve(base.as_ref().map(|(name, _)| name.as_str()), &app.locator())?;
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
                hasher.part(resolved_recipe.digest(template.as_ref(), &app.hashes())?.as_bytes());
                hasher.part(files.as_ref().map_or("scratch".to_owned(), |files| files.digest.to_string()));
                let id = hasher.finish().short();
                app.home.join("models").join(format!("{}-{id}", resolved.name))
            }
        };
        Ok(Self { name: resolved.name.clone(), recipe, base, files, folder })
    }

    fn prepare(&self, app: &App, ranks: Ranks) -> Result<(Box<dyn PlacedRun>, PathBuf), Failure> {
        let resolved = self.resolve(app)?;
        let absolute = self.base.as_ref().map(|(_, path)| {
            std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
        });
        let base = match (&self.base, &self.files, &absolute) {
            (Some((_, path)), Some(files), Some(name)) => Some(Base { name, path, files }),
            _ => None,
        };
        let (placement, compute) = (app.device, app.dtype);
        let setting = Setting { placement, compute, stop: app.stop_flag(), now };
        let run = run::prepare(setting, &resolved, base, &app.hashes(), &self.folder, ranks)?;
        if let Some(note) = &run.prepared().note {
            app.progress().say(note);
        }
        Ok((run, self.folder.clone()))
    }

    /// Trains; goes on from the latest checkpoint if there is one and `resume` says so.
    fn run(&self, app: &App, resume: bool, ranks: Ranks) -> Result<TrainingSummary, Failure> {
        let (rank, world) = (ranks.rank(), ranks.world());
        let begun = world > 1 || !harness_training::checkpoint::steps(&self.folder).is_empty();
        let tasks = if rank == 0 { self.tasks(app)? } else { None };
        let (mut run, folder) = self.prepare(app, ranks.resuming(resume && begun))?;
        let progress = if rank == 0 { app.progress() } else { Progress::new(true, false) };
        let trained = thousands(run.trainable_parameters() as u64);
        let stored = run.manifest()["weights_stored_as"].as_str().unwrap_or_default().to_owned();
        progress.say(format!(
            "train {}: {trained} trainable parameters, {}, weights stored as {stored}, computed in {}{} -> {}",
            self.name,
            counted(run.total_steps(), "update"),
            run.device(),
            if world > 1 { format!(", {world} ranks") } else { String::new() },
            folder.display()
        ));
        row_lines(&run.prepared().rows).into_iter().for_each(|line| progress.say(format!("data: {line}")));
        let tokens = run.prepared().train_tokens;
        if tokens.truncated_samples + tokens.without_labels > 0 {
            let (cut, lost) = (thousands(tokens.truncated_samples as u64), thousands(tokens.truncated_tokens as u64));
            let left_out = match tokens.without_labels {
                0 => String::new(),
                count => format!("; {} are left out, as no token of theirs counts", thousands(count as u64)),
            };
            let longest = self.recipe.data.max_length;
            progress.say(format!("data: {cut} samples lost {lost} tokens at data.max_length = {longest}{left_out}"));
        }
        if self.recipe.training.tf32 && app.device == Placement::Cpu {
            progress.say("training.tf32 has no effect on the processor, which computes f32 products in full");
        }
        if self.recipe.training.paged_optimizer && app.device == Placement::Cpu {
            progress.say("training.paged_optimizer has no effect on the processor, whose memory is the host's");
        }
        let mut display = TrainingProgress::new(progress, &self.name, tasks);
        let result = run.train(resume && begun, &mut display);
        let summary = match result {
            Ok(summary) => summary,
            Err(error) => {
                display.finish("stopped");
                return Err(error.into());
            }
        };
        display.finish(&ending(&summary));
        if rank == 0 {
            plots(&folder, &self.name)?;
        }
        if summary.interrupted {
            let failure = Failure::work(format!(
                "interrupted after update {} of {}; the same command goes on from the checkpoint in {}",
                summary.steps,
                summary.total_steps,
                folder.display()
            ));
            // One rank tells it.
            return Err(if rank == 0 { failure } else { failure.silent() });
        }
        Ok(summary)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
