//! How much files that others wrote may ask for.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Limits on task files, templates, configurations and data. The defaults are far above what such files need; a file that
/// passes one is refused, with the name of the limit. The table `[limits]` of `harness.toml` sets others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a Jinja template.
    pub template_source: usize,
    /// Operators, calls and brackets within one pair of template marks.
    pub template_operators: usize,
    /// Instructions that one rendering executes.
    pub template_instructions: u64,
    /// Bytes of one value of a template: a text, or a list with all that is in it.
    pub template_value: usize,
    /// Bytes of all values that one rendering makes, and of its text.
    pub template_bytes: u64,
    /// Columns of one field that a template formats.
    pub template_columns: usize,
    /// Seconds of one rendering.
    pub template_seconds: f64,
    /// Values of a YAML file; what aliases and merge keys repeat counts each time.
    pub yaml_values: usize,
    /// Bytes of a YAML file.
    pub yaml_bytes: usize,
    /// How deep files may include files, and groups lie in groups.
    pub depth: usize,
    /// Groups and members of a selection of tasks, those that several groups name counted in each.
    pub members: usize,
    /// `repeats` of a task.
    pub repeats: usize,
    /// Bytes of a file that is read whole: definitions, recipes, configurations, templates.
    pub file_bytes: u64,
    /// Bytes of a line of data.
    pub line_bytes: usize,
    /// Values of a line of JSON: each takes up to forty times as much memory as it is long.
    pub line_values: usize,
    /// Columns of a table of comma- or tab-separated values.
    pub columns: usize,
    /// How many times as long as its compressed bytes a part of 8 MiB of a data file may be.
    pub expansion: u64,
}

impl Limits {
    /// The limits where nobody sets others.
    pub const DEFAULT: Self = Self {
        template_source: 4 << 20,
        template_operators: 500,
        template_instructions: 15_000_000,
        template_value: 64 << 20,
        template_bytes: 256 << 20,
        template_columns: 10_000,
        template_seconds: 3.0,
        yaml_values: 50_000,
        yaml_bytes: 16 << 20,
        depth: 64,
        members: 100_000,
        repeats: 10_000,
        file_bytes: 256 << 20,
        line_bytes: 16 << 20,
        line_values: 1_000_000,
        columns: 100_000,
        expansion: 200,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

static LIMITS: OnceLock<Limits> = OnceLock::new();

/// The limits of this process.
pub fn limits() -> &'static Limits {
    LIMITS.get().unwrap_or(&Limits::DEFAULT)
}

/// Sets the limits of this process; the first call holds. For the beginning of a program: templates that were compiled
/// before keep the limits that they had.
pub fn set_limits(limits: Limits) {
    let _ = LIMITS.set(limits);
}

/// What stands before the name of a limit in every error of a file that passes one.
pub const LIMIT_MARK: &str = "(limits.";

/// The name of a limit as errors tell it.
pub fn limit_name(name: &str) -> String {
    format!("{LIMIT_MARK}{name} in harness.toml)")
}

/// A number of bytes in words.
pub fn bytes_in_words(bytes: u64) -> String {
    if bytes > 0 && bytes.is_multiple_of(1 << 20) { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}
