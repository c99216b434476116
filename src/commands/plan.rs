//! `harness compare --plan`.

use harness_evaluation::plan::{DISAGREEMENTS, Plan, Rates};

use super::{App, Failure};

/// Prints what a comparison would take and could show.
///
/// # Errors
/// If nobody reads it.
pub(super) fn print(app: &App, plan: &Plan, rates: Rates) -> Result<(), Failure> {
    app.output(plan, || describe(plan, rates))
}

fn describe(plan: &Plan, rates: Rates) -> String {
    let percent = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{:.1}", value * 100.0));
    let mut text = format!(
        "{} models, {} tests, each decided at {:.4} at least; power {:.0} %\n\n",
        plan.models,
        plan.tests,
        plan.level,
        plan.power * 100.0
    );
    let width = plan.tasks.iter().map(|task| task.task.len()).max().unwrap_or(4).max(4);
    text.push_str(&format!(
        "{:width$}  documents  requests      tokens   generated  detectable points at {} disagreement\n",
        "task",
        DISAGREEMENTS.map(|d| format!("{:.0} %", d * 100.0)).join(", ")
    ));
    for task in &plan.tasks {
        let detectable: Vec<String> = DISAGREEMENTS.iter().map(|d| percent(task.detectable[&format!("{d}")])).collect();
        text.push_str(&format!(
            "{:width$}  {:9}  {:8}  {:10}  {:>10}  {}\n",
            task.task,
            task.documents,
            task.requests,
            task.tokens,
            if task.generated > 0 { format!("<= {}", task.generated) } else { "0".to_owned() },
            detectable.join(", ")
        ));
    }
    text.push_str(&format!(
        "\nall models: {} requests, {} tokens read (shared prefixes counted each time), at most {} generated\n",
        plan.requests, plan.tokens, plan.generated
    ));
    match (plan.seconds, plan.cost) {
        (Some(seconds), _) => text.push_str(&format!(
            "time: at most {seconds:.0} s at {} tokens/s\n",
            rates.tokens_per_second.unwrap_or_default()
        )),
        (None, _) => text.push_str("time: give --tokens-per-second, e.g. what `harness run` reported\n"),
    }
    if let Some(cost) = plan.cost {
        text.push_str(&format!("cost: at most {cost:.2} at {} per million tokens\n", rates.price.unwrap_or_default()));
    }
    if !plan.limits.is_empty() {
        text.push_str("\nwith --limit N, points detectable in a task at 15 % disagreement: ");
        let limits: Vec<String> = plan.limits.iter().map(|(n, value)| format!("{n}: {}", percent(*value))).collect();
        text.push_str(&limits.join(", "));
        text.push('\n');
    }
    text
}
