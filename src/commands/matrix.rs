//! `harness train --matrix`: a grid of runs, each in a folder of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use harness_training::Recipe;
use serde::Deserialize;
use serde_json::json;

use super::{App, Failure};
use crate::{cli::TrainArgs, experiment::syntax_error};

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
                            for (key, value) in setting {
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
        std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    let matrix: Matrix = toml::from_str(&text).map_err(|e| syntax_error(path, &text, &e))?;
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
        Recipe::load(&cell.recipe)?;
    }
    let stem = path.file_stem().unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| app.home.join("matrices").join(stem));
    let program = std::env::current_exe().map_err(|e| Failure::work(format!("cannot find this program: {e}")))?;
    let (mut done, mut failed) = (vec![], vec![]);
    for (number, cell) in cells.iter().enumerate() {
        app.progress().say(format!("matrix {}/{}: {}", number + 1, cells.len(), cell.name));
        let mut command = Command::new(&program);
        command.arg("train").arg(&cell.recipe).arg("--out").arg(out.join(&cell.name));
        for folder in &app.global.data_dir {
            command.arg("--data-dir").arg(folder);
        }
        if let Some(experiment) = &app.global.experiment {
            command.arg("--experiment").arg(experiment);
        }
        if let Some(base) = cell.base.as_ref().or(args.base.as_ref()) {
            command.arg("--base").arg(base);
        }
        if cell.ranks > 1 {
            command.arg("--nproc").arg(cell.ranks.to_string());
        }
        if let Some(sharding) = &cell.sharding {
            command.arg("--sharding").arg(sharding);
        }
        for set in cell.set.iter().chain(&args.set) {
            command.arg("--set").arg(set);
        }
        if let Some(steps) = args.max_steps.or(matrix.max_steps) {
            command.arg("--max-steps").arg(steps.to_string());
        }
        if app.global.quiet {
            command.arg("--quiet");
        }
        if args.force {
            command.arg("--force");
        }
        let status = command
            .stdout(std::process::Stdio::null())
            .status()
            .map_err(|e| Failure::work(format!("cannot start a run: {e}")))?;
        if status.success() {
            done.push(&cell.name);
        } else {
            failed.push(cell.name.as_str());
        }
        if app.interrupted() {
            return Err(Failure::work("interrupted; the same command goes on".to_owned()));
        }
    }
    app.output(&json!({ "folder": out, "runs": done, "failed": failed }), || out.display().to_string())?;
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::work(format!("{} of {} runs failed: {}", failed.len(), cells.len(), failed.join(", ")))
            .after_output()),
    }
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
        let text = "recipes = [\"a.toml\"]\n[set]\n\"training.learning_rate\" = [1e-4, 2e-4]\n\"lora.rank\" = [8, 32]";
        let swept: Matrix = toml::from_str(text).unwrap();
        let cells = swept.cells(Path::new(""));
        assert_eq!(cells[1].name, "a-rank_8-learning_rate_0.0002");
        assert_eq!(
            (cells.len(), cells[2].set.as_slice()),
            (4, &["lora.rank=32".into(), "training.learning_rate=0.0001".into()][..])
        );
    }
}
