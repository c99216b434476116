//! `harness train`, and the training of candidates that a comparison finds missing.

use std::path::{Path, PathBuf};

use harness_core::{Digest, Hasher};
use harness_engine::{ModelFiles, Placement, TextTokenizer};
use harness_reports::{ReportError, Series, line_chart};
use harness_training::{
    Recipe,
    backend::CpuBackend,
    parallel::{Ranks, all_gather_f64},
    recipe::{ResolvedRecipe, Sharding},
    run::{self, Base, PlacedRun, Setting},
    telemetry::{MetricLine, read_lines},
    trainer::{Estimate, TrainingSummary},
};
use serde_json::json;

use super::{
    App, Failure,
    eval_tasks::TaskEvaluator,
    launch,
    load::Missing,
    matrix, outline,
    progress::{Progress, TrainingProgress},
};
use crate::{
    cli::TrainArgs,
    experiment::{Candidate, ResolvedModel},
};

/// Written last: its presence says that the run is finished.
const DONE: &str = "training.json";

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
struct Changes {
    set: Vec<(String, toml::Value)>,
    max_steps: Option<u64>,
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
        app.device.check()?;
        return matrix::train(app, args, path);
    }
    let place = launch::place()?;
    match args.nproc {
        Some(0) => return Err(Failure::usage("--nproc 0: expected at least 1")),
        Some(n) if n > 1 && place.is_none() => {
            // A plan by formula needs no GPU; the ranks check where one does.
            if !args.dry_run {
                app.device.check_ranks(n)?;
            }
            return launch::spawn(app, n);
        }
        _ => {}
    }
    let resolved = recipe_of(app, args.name.as_deref().unwrap_or_default())?;
    let changes = Changes { set: changes(&args.set)?, max_steps: args.max_steps };
    let sharding = args.sharding.as_ref().map(|kind| if kind == "fsdp" { Sharding::Fsdp } else { Sharding::None });
    if args.dry_run
        && let Some(shape) = outline::shape(app, &resolved, args.base.as_deref(), &changes.set)?
    {
        let ranks = place.as_ref().map_or(1, |place| place.world);
        return shape.with_sharding(sharding).describe(app, ranks);
    }
    // Before a base is hashed or trained.
    match &place {
        Some(_) => app.device.check_ranks(1)?,
        None => app.device.check()?,
    }
    let mut plan = Plan::new(app, &resolved, args.base.as_deref(), args.out.as_deref(), &changes)?;
    if let Some(sharding) = sharding {
        plan.recipe.training.sharding = sharding;
    }
    let ranks = launch::connect(app, place.as_ref())?;
    let first = ranks.rank() == 0;
    if args.dry_run {
        let (mut run, _) = plan.prepare(app, ranks)?;
        let estimate = run.estimate()?;
        let value = json!({ "estimate": estimate, "run": run.manifest() });
        return if first { app.output(&value, || describe(&plan.name, &estimate)) } else { Ok(()) };
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
    if args.force && first && plan.folder.exists() {
        std::fs::remove_dir_all(&plan.folder)
            .map_err(|e| Failure::work(format!("cannot remove {}: {e}", plan.folder.display())))?;
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

/// A recipe with its data found, and the tokenizer that its model has.
///
/// # Errors
/// If there is no such recipe, or its base cannot be loaded.
pub(super) fn recipe_and_tokenizer(
    app: &App,
    name: &str,
    base: Option<&str>,
) -> Result<(ResolvedRecipe, TextTokenizer), Failure> {
    let plan = Plan::new(app, &recipe_of(app, name)?, base, None, &Changes::default())?;
    let resolved = plan.resolve(app)?;
    let tokenizer = match (plan.files, &plan.recipe.model) {
        (Some(files), _) => files.tokenizer,
        (None, Some(model)) => TextTokenizer::load(&plan.recipe.path(&model.tokenizer))?,
        (None, None) => return Err(Failure::usage(format!("{name} has no base"))),
    };
    Ok((resolved, tokenizer))
}

impl Plan {
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
        let Candidate::Recipe { path, base: named } = &resolved.candidate else {
            return Err(Failure::usage(format!("{} has no recipe", resolved.name)));
        };
        let mut recipe = Recipe::load_with(path, &changes.set)?;
        if let Some(steps) = changes.max_steps {
            recipe.training.max_steps = Some(steps);
        }
        let base = match (base, named, &recipe.base) {
            (Some(name), _, _) => Some(app.experiment.model(name)?),
            (None, Some(model), _) => Some((**model).clone()),
            (None, None, Some(name)) => Some(app.experiment.model(name)?),
            (None, None, None) => None,
        };
        let base = match base {
            None => None,
            Some(ResolvedModel { name, candidate: Candidate::Base { path }, .. }) => Some((name, path)),
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
        let files = base.as_ref().map(|(_, path)| ModelFiles::load(path)).transpose()?;
        let resolved_recipe = recipe.resolve(base.as_ref().map(|(name, _)| name.as_str()), &app.locator())?;
        let folder = match out {
            Some(folder) => folder.to_owned(),
            None => {
                let mut hasher = Hasher::new("training run");
                hasher.part(resolved_recipe.digest(&app.hashes())?.as_bytes());
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
        let (mut run, folder) = self.prepare(app, ranks.resuming(resume && begun))?;
        let progress = if rank == 0 { app.progress() } else { Progress::new(true, false) };
        let trained = run.trainable_parameters();
        let stored = run.manifest()["weights_stored_as"].as_str().unwrap_or_default().to_owned();
        progress.say(format!(
            "train {}: {trained} trainable parameters, {} updates, weights stored as {stored}, computed in {}{} -> {}",
            self.name,
            run.total_steps(),
            run.device(),
            if world > 1 { format!(", {world} ranks") } else { String::new() },
            folder.display()
        ));
        let tokens = run.prepared().train_tokens;
        if tokens.truncated_samples + tokens.without_labels > 0 {
            progress.say(format!(
                "data: {} samples lost {} tokens at data.max_length = {}; {} are left out, as no token of theirs counts",
                tokens.truncated_samples, tokens.truncated_tokens, self.recipe.data.max_length, tokens.without_labels
            ));
        }
        if self.recipe.training.tf32 && app.device == Placement::Cpu {
            progress.say("training.tf32 has no effect on the processor, which computes f32 products in full");
        }
        if self.recipe.training.paged_optimizer && app.device == Placement::Cpu {
            progress.say("training.paged_optimizer has no effect on the processor, whose memory is the host's");
        }
        let options = &self.recipe.training;
        let tasks = match options.eval_tasks.as_slice() {
            [] => None,
            _ if rank > 0 => None,
            tasks => {
                let base = self.base.as_ref().map(|(_, path)| path.as_path()).filter(|_| self.recipe.lora.is_some());
                Some(TaskEvaluator::new(app, &self.name, base, tasks, options.eval_tasks_limit)?)
            }
        };
        let mut display = TrainingProgress::new(progress, &self.name, tasks);
        let result = run.train(resume && begun, &mut display);
        let summary = match result {
            Ok(summary) => summary,
            Err(error) => {
                display.finish("stopped");
                return Err(error.into());
            }
        };
        display.finish(&format!(
            "{} updates, {} tokens, {:.0} tokens/s, {}",
            summary.steps,
            summary.tokens,
            summary.tokens_per_second,
            summary
                .best
                .as_ref()
                .map_or("no validation".to_owned(), |best| format!("best validation loss {:.4}", best.eval_loss))
        ));
        if rank == 0 {
            plots(&folder, &self.name)?;
        }
        if summary.interrupted {
            return Err(Failure::work(format!(
                "interrupted after update {} of {}; the same command goes on from the checkpoint in {}",
                summary.steps,
                summary.total_steps,
                folder.display()
            )));
        }
        Ok(summary)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Curves of a run beside its metrics: loss, perplexity and learning rate as SVG and PNG.
fn plots(folder: &Path, name: &str) -> Result<(), Failure> {
    let lines = read_lines(&folder.join("metrics.jsonl"))?;
    let series = |name: &str, value: fn(&MetricLine) -> Option<f64>| {
        let points = lines.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect();
        Series { name: name.to_owned(), points }
    };
    let charts = [
        ("loss", vec![series("training", |line| line.loss), series("validation", |line| line.eval_loss)]),
        ("perplexity", vec![series("validation", |line| line.eval_perplexity)]),
        ("learning rate", vec![series("learning rate", |line| line.learning_rate)]),
    ];
    for (what, series) in charts {
        for extension in ["svg", "png"] {
            let path = folder.join(format!("{}.{extension}", what.replace(' ', "_")));
            match line_chart(&path, &format!("{name}: {what}"), "update", what, &series) {
                Ok(()) | Err(ReportError::Empty { .. }) => {}
                Err(error) => return Err(Failure::work(error.to_string())),
            }
        }
    }
    Ok(())
}

fn describe(name: &str, estimate: &Estimate) -> String {
    format!(
        "{name}\n  updates               {} ({} warm-up, {:.2} epochs)\n  tokens                {}\n  \
         trainable parameters  {} of {}\n  memory                {:.0} MiB, measured on one update\n  speed                 {:.0} tokens/s, measured on one update\n  \
         time                  {:.0} s, evaluation not counted\n",
        estimate.steps,
        estimate.warmup_steps,
        estimate.epochs,
        estimate.tokens,
        estimate.trainable_parameters,
        estimate.parameters,
        estimate.memory_bytes as f64 / f64::from(1 << 20),
        estimate.tokens_per_second,
        estimate.seconds
    )
}
