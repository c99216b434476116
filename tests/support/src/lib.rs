//! What the tests of several crates share: reference vectors and where they lie, small models, and folders in which
//! the program is run.
//!
//! Vectors and peer runs are not part of the repository. They are read from `HARNESS_VECTORS` and
//! `HARNESS_REFERENCE`, else from `../shared/vectors` and `../shared/reference` beside the checkout. A test that needs
//! them and finds none says so and passes; every crate has tests of its own that stand without them.
#![allow(clippy::print_stderr, reason = "tests say on standard error what they skip")]

pub mod imports;
pub mod model;
pub mod outcome;
pub mod python;
pub mod tasks;
pub mod world;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use serde_json::Value;

pub use model::{Dims, tiny_adapter, tiny_model};
pub use outcome::{Outcome, wait_until};
pub use python::python_with;
pub use world::World;

/// Says on standard error that a test is skipped, and why.
pub fn skipped(reason: impl Display) {
    eprintln!("skipped: {reason}");
}

/// One case of a vector file.
#[derive(Clone, Debug)]
pub struct Case {
    /// Identifier, unique in the file.
    pub id: String,
    /// The part of the file it belongs to.
    pub group: String,
    /// What the reference implementation was given.
    pub input: Value,
    /// What it answered.
    pub expected: Value,
}

/// The root of the checkout.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/support lies two levels deep").to_owned()
}

/// A folder beside the checkout: the one named by the environment variable, else `../shared/<name>`; `None`, with a
/// message on standard error, where neither exists.
pub fn beside(variable: &str, name: &str) -> Option<PathBuf> {
    let path =
        std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| workspace_root().join("../shared").join(name));
    if path.exists() {
        return Some(path);
    }
    skipped(format_args!("{} does not exist (set {variable})", path.display()));
    None
}

/// The folder of reference vectors.
pub fn vectors_dir() -> Option<PathBuf> {
    beside("HARNESS_VECTORS", "vectors")
}

/// The folder of peer runs.
pub fn reference_dir() -> Option<PathBuf> {
    beside("HARNESS_REFERENCE", "reference")
}

/// All cases of the vector file `<name>.json`, or `None`, with a message, where it does not exist or has none: a folder
/// in this form need not hold every file.
///
/// # Panics
/// If the file is malformed.
pub fn vectors(name: &str) -> Option<Vec<Case>> {
    let path = vectors_dir()?.join(format!("{name}.json"));
    if !path.is_file() {
        skipped(format_args!("{} does not exist", path.display()));
        return None;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases = file["cases"].as_array().unwrap_or_else(|| panic!("{}: no cases", path.display()));
    if cases.is_empty() {
        skipped(format_args!("{} has no cases", path.display()));
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(
        cases
            .iter()
            .map(|case| Case {
                id: text(&case["id"]),
                group: text(&case["group"]),
                input: case["input"].clone(),
                expected: case["expected"].clone(),
            })
            .collect(),
    )
}

/// A number of a vector file; `{"__float__": "nan"}` and infinities included.
pub fn float(value: &Value) -> Option<f64> {
    match value.get("__float__").and_then(Value::as_str) {
        Some("nan") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

/// Whether two numbers agree to a tolerance, absolute or relative, whichever is looser; NaN equals NaN.
pub fn close(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * b.abs().max(1.0)
}
