//! The rules of ARCHITECTURE.md that a program can check.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use harness_metrics::METRICS;
use harness_test_support::{imports::Imports, workspace_root};
use serde_json::Value;

/// Which crates of this workspace a crate may be built on.
const BUILT_ON: [(&str, &[&str]); 16] = [
    ("harness-python", &[]),
    ("harness-core", &["harness-python"]),
    ("harness-metrics", &["harness-core", "harness-python"]),
    ("harness-store", &["harness-core"]),
    ("harness-kernels", &[]),
    ("harness-jinja", &["harness-core"]),
    ("harness-decoder", &["harness-core", "harness-python", "harness-kernels"]),
    ("harness-engine", &["harness-core", "harness-python", "harness-jinja", "harness-kernels", "harness-decoder"]),
    ("harness-http", &["harness-core"]),
    ("harness-tasks", &["harness-core", "harness-python", "harness-jinja", "harness-metrics", "harness-store"]),
    ("harness-judges", &["harness-core", "harness-python", "harness-metrics", "harness-store"]),
    ("harness-training", TENSORS),
    ("harness-reports", &["harness-core", "harness-metrics"]),
    (
        "harness-server",
        &["harness-core", "harness-python", "harness-jinja", "harness-kernels", "harness-decoder", "harness-engine"],
    ),
    ("harness-evaluation", EVERY_OTHER),
    ("harness", &ALL),
];

/// What the training is built on.
const TENSORS: &[&str] = &[
    "harness-core",
    "harness-python",
    "harness-jinja",
    "harness-store",
    "harness-kernels",
    "harness-decoder",
    "harness-engine",
];

/// What the evaluation is built on: all before it in the list.
const EVERY_OTHER: &[&str] = ALL.split_at(ALL.len() - 2).0;

/// All crates but the program.
const ALL: [&str; 15] = [
    "harness-python",
    "harness-core",
    "harness-metrics",
    "harness-store",
    "harness-jinja",
    "harness-kernels",
    "harness-decoder",
    "harness-engine",
    "harness-http",
    "harness-tasks",
    "harness-judges",
    "harness-training",
    "harness-reports",
    "harness-evaluation",
    "harness-server",
];

/// Which crates may use these.
const RESERVED: [(&str, &[&str]); 10] = [
    // An oracle of tests.
    ("candle-", &[]),
    ("tokenizers", &["harness-engine", "harness-training"]),
    ("cudarc", &["harness-kernels"]),
    ("reqwest", &["harness-http", "harness-store"]),
    ("clap", &["harness"]),
    ("ctrlc", &["harness"]),
    ("indicatif", &["harness"]),
    ("plotters", &["harness-reports"]),
    ("tokio", &["harness-http", "harness-server"]),
    ("axum", &["harness-server"]),
];

/// Crates of tests, which are no part of the program and may be built on all of it.
const OF_TESTS: [&str; 2] = ["harness-test-support", "harness-hostile"];

/// Folders with the sources of one crate.
const CRATES: [&str; 16] = [
    "src",
    "tasks/src",
    "judges/src",
    "training/src",
    "reports/src",
    "crates/python/src",
    "crates/core/src",
    "crates/metrics/src",
    "crates/store/src",
    "crates/jinja/src",
    "crates/kernels/src",
    "crates/decoder/src",
    "crates/engine/src",
    "crates/http/src",
    "crates/evaluation/src",
    "crates/server/src",
];

/// Crates that do without `unsafe`.
const SAFE: [&str; 14] = [
    "crates/python",
    "crates/core",
    "crates/metrics",
    "crates/store",
    "crates/jinja",
    "crates/decoder",
    "crates/engine",
    "crates/http",
    "crates/evaluation",
    "crates/server",
    "reports",
    "tasks",
    "judges",
    "src",
];

/// Where `unsafe` may be.
const UNSAFE: [&str; 2] = ["crates/kernels/src", "training/src"];

/// Longest source file.
const LINES: usize = 600;

/// Files that hold the name of a metric besides its own, with the reason. None of them looks up what a metric is.
const NAMED: [(&str, &[&str], &str); 9] = [
    ("crates/evaluation/src/training/curves.rs", &["perplexity"], "the title of a chart of a training's own numbers"),
    (
        "crates/metrics/src/lm_eval.rs",
        &["acc", "acc_norm", "bits_per_byte", "byte_perplexity", "exact_match", "perplexity", "word_perplexity"],
        "lm-eval's defaults of an output type, and its aggregations of numbers",
    ),
    ("crates/metrics/src/simulation/clean.rs", &["acc", "rougeL"], "labels of simulated tables"),
    ("crates/metrics/src/simulation/population.rs", &["bleu", "perplexity"], "names of simulated populations"),
    ("src/commands/report/table.rs", &["bleu"], "a column that shows a task's value beside a training run"),
    ("tasks/src/native.rs", &["f1"], "a function of a task that stands for an option of this metric"),
    (
        "tasks/src/native/results.rs",
        &["bits_per_byte", "byte_perplexity", "word_perplexity"],
        "what a function computes",
    ),
    ("tasks/src/native/squad.rs", &["f1"], "what a function computes"),
    ("tasks/src/native/truthfulqa.rs", &["acc"], "what a function computes"),
];

/// Dependencies by crate, those of tests and build scripts left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace_root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            (text(&package["name"]), normal.map(|dependency| text(&dependency["name"])).collect())
        })
        .collect()
}

/// All Rust files of the repository, as paths from its root.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = workspace_root();
    let mut found = vec![];
    walk(&root, &mut found);
    found.sort();
    assert!(found.len() > 50, "found {} source files below {}", found.len(), root.display());
    found.into_iter().map(|path| path.strip_prefix(&root).expect("below the root").to_owned()).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(workspace_root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A line without its comment; texts that hold `//` are cut too, which loses nothing that is looked for here.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|part| part == word)
}

#[test]
fn crates_are_built_on_what_the_rule_allows() {
    let found = dependencies();
    let allowed: BTreeMap<&str, &[&str]> = BUILT_ON.into_iter().collect();
    for (name, dependencies) in &found {
        if OF_TESTS.contains(&name.as_str()) {
            continue;
        }
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the rule"));
        for dependency in dependencies.iter().filter(|dependency| dependency.starts_with("harness")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    for (name, _) in BUILT_ON {
        assert!(found.contains_key(name), "the rule names {name}, which is no member of the workspace");
    }
}

#[test]
fn heavy_dependencies_stay_where_they_belong() {
    let found = dependencies();
    for (reserved, owners) in RESERVED {
        for (name, dependencies) in &found {
            let uses = dependencies.iter().any(|dependency| dependency.starts_with(reserved));
            assert!(!uses || owners.contains(&name.as_str()), "{name} must not depend on {reserved}");
        }
    }
}

#[test]
fn nothing_of_the_tests_gets_into_the_program() {
    for (name, dependencies) in dependencies() {
        for of_tests in OF_TESTS {
            assert!(!dependencies.contains(of_tests), "{name} depends on {of_tests}");
        }
    }
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources()
        .iter()
        .map(|path| (path, read(path).lines().count()))
        .filter(|&(_, lines)| lines > LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "longer than {LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn unsafe_is_only_where_tensors_are() {
    for path in sources().iter().filter(|path| SAFE.iter().any(|folder| path.starts_with(folder))) {
        for (number, line) in read(path).lines().enumerate() {
            assert!(!has_word(code(line), "unsafe"), "{}:{}: unsafe", path.display(), number + 1);
        }
    }
}

#[test]
fn every_unsafe_block_says_why() {
    for path in sources().iter().filter(|path| UNSAFE.iter().any(|folder| path.starts_with(folder))) {
        let text = read(path);
        let lines: Vec<&str> = text.lines().collect();
        let is_block = |line: &str| code(line).contains("unsafe {") || code(line).contains("unsafe impl");
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| is_block(line)) {
            let before = &lines[number.saturating_sub(8)..=number];
            let why = before.iter().any(|line| line.contains("SAFETY"));
            assert!(why, "{}:{}: unsafe without a SAFETY comment: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn the_definitions_of_the_command_line_do_nothing() {
    for path in sources().iter().filter(|path| path.starts_with("src/cli")) {
        let text = read(path);
        for word in ["harness_kernels", "harness_decoder", "harness_engine", "harness_store", "harness_training", "fs"]
        {
            assert!(!has_word(&text, word), "{}: {word} in a definition", path.display());
        }
    }
}

#[test]
fn files_of_a_crate_form_no_circles() {
    let circles: Vec<String> = CRATES
        .iter()
        .flat_map(|folder| Imports::of(&workspace_root().join(folder)).circles())
        .map(|circle| {
            let names = circle.iter().map(|file| file.strip_prefix(workspace_root()).unwrap_or(file).display());
            names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
        })
        .collect();
    assert!(circles.is_empty(), "files that take names from each other:\n{}", circles.join("\n"));
}

#[test]
fn the_evaluation_prints_nothing_and_ends_nothing() {
    for path in sources().iter().filter(|path| path.starts_with("crates/evaluation/src")) {
        let text = read(path);
        for (number, line) in text.lines().enumerate() {
            for word in ["print!", "println!", "stdout()", "stderr()", "process::exit", "ctrlc", "clap"] {
                assert!(!code(line).contains(word), "{}:{}: {word} in the evaluation", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_training_returns_its_errors() {
    for path in sources().iter().filter(|path| path.starts_with("training/src")) {
        let text = read(path);
        for (number, line) in text.lines().enumerate() {
            for word in ["catch_unwind", "resume_unwind", "AssertUnwindSafe", "panic_any"] {
                assert!(!has_word(code(line), word), "{}:{}: {word} in the training", path.display(), number + 1);
            }
        }
    }
}

/// A metric is known to its file and to the list: nobody else decides by its name what it is.
#[test]
fn no_other_file_names_a_metric() {
    let elsewhere = |path: &&PathBuf| {
        let of_tests = ["tests", "examples", "benches", "tests.rs"].map(|name| path.iter().any(|part| part == name));
        !path.starts_with("crates/metrics/src/metric") && of_tests == [false; 4]
    };
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for path in sources().iter().filter(elsewhere) {
        let text = read(path);
        let program = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let named = |name: &&str| program.lines().any(|line| code(line).contains(&format!("\"{name}\"")));
        for name in METRICS.iter().map(|metric| metric.name).filter(named) {
            found.entry(path.display().to_string()).or_default().insert(name);
        }
    }
    let excused = NAMED.iter().map(|(path, names, _)| ((*path).to_owned(), names.iter().copied().collect()));
    assert_eq!(found, excused.collect(), "ask METRICS, or say in NAMED why a name stands there");
}
