//! What a run prints, and what it would take, in words.

use harness_metrics::comparison::thousands;
use harness_training::trainer::Estimate;
use serde_json::Value;

/// What a run, or the plan of one, prints.
pub(super) struct Outcome {
    /// With `--json`.
    pub object: Value,
    /// Without.
    pub text: String,
}

/// What a run would take, over a number of ranks.
pub(super) fn describe(name: &str, estimate: &Estimate, ranks: usize) -> String {
    let each = if ranks > 1 { format!(" on each of {ranks} ranks") } else { String::new() };
    format!(
        "{name}\n  updates               {} ({} warm-up, {:.2} epochs)\n  tokens                {}\n  trainable \
         parameters  {} of {}\n  memory                {} MiB{each}, measured on one update\n  speed                 \
         {:.0} tokens/s, measured on one update\n  time                  {}, without evaluation\n",
        thousands(estimate.steps),
        thousands(estimate.warmup_steps),
        estimate.epochs,
        thousands(estimate.tokens),
        thousands(estimate.trainable_parameters as u64),
        thousands(estimate.parameters as u64),
        thousands(estimate.memory_bytes as u64 >> 20),
        estimate.tokens_per_second,
        duration(estimate.seconds)
    )
}

/// Seconds, with hours and minutes where there are many.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    match whole {
        0..120 => format!("{whole} s"),
        120..3600 => format!("{minutes} min {} s", whole % 60),
        _ => format!("{} h {minutes} min", thousands(hours)),
    }
}
