//! `harness train --matrix`: a grid of runs, each in a folder of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use harness_core::file_name;
use harness_metrics::comparison::thousands;
use serde::Deserialize;
use serde_json::{Value, json};

use harness_evaluation::{
    experiment::{Candidate, ResolvedModel, syntax_error},
    training::check,
};

use super::{App, Failure, one, outline, output::Outcome};
use crate::commands::report::table::Table;
use crate::{cli::TrainArgs, options};

/// A grid: every recipe over every base with every number of ranks and every sharding.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    /// Recipe files, relative to the matrix.
    recipes: Vec<PathBuf>,
    /// Names or paths of models; what the recipes name unless given.
    #[serde(default)]
    bases: Vec<String>,
    /// Numbers of ranks on this host.
    #[serde(default = "one")]
    ranks: Vec<usize>,
    /// `none`, `fsdp`; what the recipes say unless given. Only with more than one rank.
    #[serde(default)]
    sharding: Vec<String>,
    /// Keys of recipes with the values that are tried, such as `"training.learning_rate" = [1e-4, 2e-4]`.
    #[serde(default)]
    set: BTreeMap<String, Vec<toml::Value>>,
    /// Updates of every run, instead of what the recipes say.
    #[serde(default)]
    max_steps: Option<u64>,
}

fn one() -> Vec<usize> {
    vec![1]
}

/// One run of the grid.
#[derive(Clone, Debug, PartialEq)]
struct Cell {
    name: String,
    recipe: PathBuf,
    base: Option<String>,
    ranks: usize,
    sharding: Option<String>,
    /// `--set` of the run.
    set: Vec<String>,
}

impl Matrix {
    fn cells(&self, folder: &Path) -> Vec<Cell> {
        let options = |all: &[String]| match all {
            [] => vec![None],
            all => all.iter().cloned().map(Some).collect(),
        };
        let mut settings: Vec<Vec<(String, String)>> = vec![vec![]];
        for (key, values) in &self.set {
            let with = |value: &toml::Value| (key.clone(), value.to_string());
            settings = settings
                .iter()
                .flat_map(|set| values.iter().map(|value| [set.as_slice(), &[with(value)]].concat()))
                .collect();
        }
        let mut cells: Vec<Cell> = vec![];
        for recipe in &self.recipes {
            for base in options(&self.bases) {
                for &ranks in &self.ranks {
                    for sharding in options(&self.sharding) {
                        // One rank shares nothing.
                        let sharding = sharding.filter(|_| ranks > 1);
                        let stem = recipe.file_stem().unwrap_or_default().to_string_lossy();
                        let last = |path: &String| {
                            Path::new(path).file_name().map_or(path.clone(), |n| n.to_string_lossy().into_owned())
                        };
                        let mut name = stem.into_owned();
                        name.extend(
                            base.iter().filter(|_| self.bases.len() > 1).map(|base| format!("-{}", last(base))),
                        );
                        name.extend((self.ranks.len() > 1).then(|| format!("-{ranks}")));
                        name.extend(sharding.iter().map(|sharding| format!("-{sharding}")));
                        let recipe = folder.join(recipe);
                        for setting in &settings {
                            let mut name = name.clone();
                            // What all cells share is in no name.
                            for (key, value) in setting.iter().filter(|(key, _)| self.set[key].len() > 1) {
                                let last = key.rsplit('.').next().unwrap_or(key);
                                name += &format!("-{last}_{}", value.trim_matches('"').replace(['/', ' '], "_"));
                            }
                            let set = setting.iter().map(|(key, value)| format!("{key}={value}")).collect();
                            let (recipe, base, sharding) = (recipe.clone(), base.clone(), sharding.clone());
                            let cell = Cell { name, recipe, base, ranks, sharding, set };
                            if !cells.contains(&cell) {
                                cells.push(cell);
                            }
                        }
                    }
                }
            }
        }
        cells
    }
}

/// Runs every cell that is not done yet, one after another, and says where the results are.
///
/// # Errors
/// If the file is wrong, or a run fails; the others are done all the same.
pub(super) fn train(app: &App, args: &TrainArgs, path: &Path) -> Result<(), Failure> {
    let text =
        harness_core::read_text(path).map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    let mut matrix: Matrix = toml::from_str(&text).map_err(|e| syntax_error(path, &text, &e))?;
    if let Some(base) = &args.base {
        matrix.bases = vec![base.clone()];
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let cells = matrix.cells(folder);
    if cells.is_empty() || matrix.ranks.contains(&0) {
        let what = "expected at least one recipe, and numbers of ranks of at least 1";
        return Err(Failure::usage(format!("{}: {what}", path.display())));
    }
    if let Some(kind) = matrix.sharding.iter().find(|kind| !matches!(kind.as_str(), "none" | "fsdp")) {
        return Err(Failure::usage(format!("{}: sharding {kind:?}; expected \"none\" or \"fsdp\"", path.display())));
    }
    // Everything that can be wrong with a recipe is found before the first run.
    for cell in &cells {
        let set: Vec<String> = cell.set.iter().chain(&args.set).cloned().collect();
        let changes = options::changes(&set)?;
        let recipe = changes.load(&cell.recipe)?;
        recipe.check_ranks(cell.ranks)?;
        let base = cell.base.as_deref().or(recipe.base.as_deref());
        if base.is_none() && recipe.model.is_none() {
            let what = "no base; give some as bases = [...] in the grid, or one with --base";
            return Err(Failure::usage(format!("{}: {} has {what}", path.display(), cell.recipe.display())));
        }
        let model = ResolvedModel {
            name: cell.name.clone(),
            candidate: Candidate::Recipe { path: cell.recipe.clone(), base: None },
            section: Default::default(),
        };
        // An outline needs no weights.
        match outline::shape(app, &model, base, &changes)?.filter(|_| args.dry_run) {
            Some(shape) => drop(shape.config()?),
            None => check(app, &model, base, &changes)?,
        }
    }
    let stem = path.file_stem().unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| app.home.join("matrices").join(stem));
    let (mut done, mut failed, mut plans) = (vec![], vec![], vec![]);
    for (number, cell) in cells.iter().enumerate() {
        app.note(format!("matrix {}/{}: {}", number + 1, cells.len(), cell.name));
        let run = cell.run(args, &matrix, &out);
        let result = if cell.ranks > 1 { in_processes(app, &run) } else { one::run(app, &run).map(object_of) };
        match result {
            Ok(plan) => {
                done.push(&cell.name);
                plans.push((cell, plan));
            }
            Err(failure) => {
                if !failure.message().is_empty() {
                    app.note(format!("error: {}", failure.message()));
                }
                failed.push(cell.name.as_str());
            }
        }
        if app.interrupted() {
            return Err(Failure::work("interrupted; run the same command again to continue".to_owned()));
        }
    }
    if args.dry_run {
        let object: BTreeMap<&str, &Value> = plans.iter().map(|(cell, plan)| (cell.name.as_str(), plan)).collect();
        app.output(&json!({ "plans": object, "failed": failed }), || table(&plans).markdown())?;
    } else {
        app.output(&json!({ "folder": out, "runs": done, "failed": failed }), || out.display().to_string())?;
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::work(format!("{} of {} runs failed: {}", failed.len(), cells.len(), failed.join(", ")))
            .after_output()),
    }
}

impl Cell {
    /// The arguments of the run.
    fn run(&self, args: &TrainArgs, matrix: &Matrix, out: &Path) -> TrainArgs {
        TrainArgs {
            name: Some(self.recipe.to_string_lossy().into_owned()),
            matrix: None,
            base: self.base.clone(),
            out: Some(out.join(&*file_name(&self.name))),
            resume: false,
            force: args.force,
            dry_run: args.dry_run,
            nproc: (self.ranks > 1).then_some(self.ranks),
            sharding: self.sharding.clone(),
            set: self.set.iter().chain(&args.set).cloned().collect(),
            max_steps: args.max_steps.or(matrix.max_steps),
        }
    }
}

/// What a run would print with `--json`.
fn object_of(outcome: Option<Outcome>) -> Value {
    outcome.map_or(Value::Null, |outcome| outcome.object)
}

/// A run over several ranks, each a process of this program.
fn in_processes(app: &App, run: &TrainArgs) -> Result<Value, Failure> {
    let failed = |e: std::io::Error| Failure::work(format!("cannot start a run: {e}"));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("train").args(&run.name).arg("--json");
    for folder in &app.global.data_dir {
        command.arg("--data-dir").arg(folder);
    }
    if let Some(experiment) = &app.global.experiment {
        command.arg("--experiment").arg(experiment);
    }
    if let Some(out) = &run.out {
        command.arg("--out").arg(out);
    }
    let (nproc, steps) = (run.nproc.map(|n| n.to_string()), run.max_steps.map(|n| n.to_string()));
    for (option, value) in [
        ("--device", &app.global.device),
        ("--dtype", &app.global.dtype),
        ("--base", &run.base),
        ("--nproc", &nproc),
        ("--sharding", &run.sharding),
        ("--max-steps", &steps),
    ] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    for set in &run.set {
        command.arg("--set").arg(set);
    }
    for (flag, given) in [("--quiet", app.global.quiet), ("--force", run.force), ("--dry-run", run.dry_run)] {
        if given {
            command.arg(flag);
        }
    }
    let told = command.stderr(Stdio::inherit()).output().map_err(failed)?;
    let object: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
    match (told.status.success(), object["error"].as_str()) {
        (true, _) => Ok(object),
        // What went wrong is on standard error already, or stands in the object.
        (false, error) => Err(Failure::work(error.unwrap_or_default())),
    }
}

/// What each run would take, as `--dry-run` of the run says.
fn table(plans: &[(&Cell, Value)]) -> Table {
    let row = |(cell, plan): &(&Cell, Value)| {
        let of = if plan["estimate"].is_null() { &plan["outline"] } else { &plan["estimate"] };
        let count = |key: &str| of[key].as_u64().map_or("–".to_owned(), thousands);
        let memory = of["memory_bytes"].as_u64().map_or("–".to_owned(), |bytes| thousands(bytes >> 20));
        let seconds = of["seconds"].as_f64().map_or("–".to_owned(), |seconds| thousands(seconds.round() as u64));
        let base = cell.base.clone().unwrap_or("–".to_owned());
        [
            cell.name.clone(),
            base,
            cell.ranks.to_string(),
            count("steps"),
            count("tokens"),
            count("trainable_parameters"),
            memory,
            seconds,
        ]
    };
    let head = ["Run", "Base", "Ranks", "Updates", "Tokens", "Trained parameters", "Memory of a rank, MiB", "Time, s"];
    Table::of(head, plans.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_multiplied_out_without_repetition() {
        let text = "recipes = [\"a.toml\", \"b.toml\"]\nbases = [\"x\", \"m/y\"]\nranks = [1, 2]\nsharding = [\"none\", \"fsdp\"]";
        let matrix: Matrix = toml::from_str(text).unwrap();
        let cells = matrix.cells(Path::new("dir"));
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names[..6], ["a-x-1", "a-x-2-none", "a-x-2-fsdp", "a-y-1", "a-y-2-none", "a-y-2-fsdp"]);
        assert_eq!((cells.len(), cells[0].recipe.as_path()), (12, Path::new("dir/a.toml")));
        let plain: Matrix = toml::from_str("recipes = [\"a.toml\"]").unwrap();
        assert_eq!(plain.cells(Path::new(""))[0].name, "a");
        let text = "recipes = [\"a.toml\"]\n[set]\n\"training.learning_rate\" = [1e-4, 2e-4]\n\"lora.rank\" = [8, 32]\n\
                    \"training.max_steps\" = [5]";
        let swept: Matrix = toml::from_str(text).unwrap();
        let cells = swept.cells(Path::new(""));
        assert_eq!(cells[1].name, "a-rank_8-learning_rate_0.0002");
        assert_eq!(
            (cells.len(), cells[2].set.as_slice()),
            (4, &["lora.rank=32".into(), "training.learning_rate=0.0001".into(), "training.max_steps=5".into()][..])
        );
    }
}
