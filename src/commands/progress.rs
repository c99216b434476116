//! Progress on standard error: a bar on a terminal, a line a stage elsewhere.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use super::eval_tasks::TaskEvaluator;
use harness_training::telemetry::{self, LeftOut, StepReport};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How progress is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    quiet: bool,
    terminal: bool,
}

impl Progress {
    /// A display; `terminal` says whether standard error is one.
    pub(super) fn new(quiet: bool, terminal: bool) -> Self {
        Self { quiet, terminal }
    }

    /// Says something in a line of its own.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
        }
    }

    /// A bar of `total` steps.
    pub(super) fn bar(&self, title: &str, total: u64) -> Bar {
        let bar = if self.terminal && !self.quiet {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{prefix:24!} {bar:30} {pos}/{len} {eta} left  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar { bar, progress: *self, title: title.to_owned(), start: Instant::now() }
    }
}

/// One stage's progress.
pub(super) struct Bar {
    bar: ProgressBar,
    progress: Progress,
    title: String,
    start: Instant,
}

impl Bar {
    /// One step more.
    pub(super) fn step(&self) {
        self.bar.inc(1);
    }

    /// Seconds since the beginning.
    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Ends the bar and leaves a line that says what was done.
    pub(super) fn finish(self, summary: &str) {
        self.bar.finish_and_clear();
        self.progress.say(format!("{}: {summary} ({:.1} s)", self.title, self.start.elapsed().as_secs_f64()));
    }
}

/// The progress of training.
pub(super) struct TrainingProgress<'a> {
    tasks: Option<TaskEvaluator<'a>>,
    progress: Progress,
    name: String,
    bar: Option<Bar>,
    said: Instant,
    events: usize,
}

/// Spikes and updates left out that get a line each; later ones are counted.
const EVENTS: usize = 5;

impl<'a> TrainingProgress<'a> {
    /// For the run of this name, which may want tasks evaluated.
    pub(super) fn new(progress: Progress, name: &str, tasks: Option<TaskEvaluator<'a>>) -> Self {
        Self { tasks, progress, name: name.to_owned(), bar: None, said: Instant::now(), events: 0 }
    }

    /// A line that does not tear the bar.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) if self.progress.terminal => bar.bar.suspend(|| self.progress.say(line)),
            _ => self.progress.say(line),
        }
    }

    /// Tells of an update that was left out, or whose loss is a spike.
    fn tell(&mut self, report: &StepReport) {
        let what = match report.left_out {
            Some(LeftOut::Overflow { scale }) => {
                format!("left out, the gradients overflow half precision; the loss scale is {scale:e} now")
            }
            Some(LeftOut::Spike) => format!("left out, its loss of {:.4} lies far above those before", report.loss),
            None if report.spike => format!("its loss of {:.4} lies far above those before", report.loss),
            None => return,
        };
        self.events += 1;
        if self.events <= EVENTS {
            let more = if self.events == EVENTS { " (further ones are counted only)" } else { "" };
            self.say(&format!("train {}: step {}: {what}{more}", self.name, report.step));
        }
    }

    /// Ends the display.
    pub(super) fn finish(mut self, summary: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish(summary);
        }
    }
}

impl telemetry::Progress for TrainingProgress<'_> {
    fn started(&mut self, done: u64, total_steps: u64) {
        let bar = self.progress.bar(&format!("train {}", self.name), total_steps);
        bar.bar.set_position(done);
        self.bar = Some(bar);
        if done > 0 {
            self.say(&format!("train {}: goes on after step {done}", self.name));
        }
    }

    fn step(&mut self, report: &StepReport) {
        self.tell(report);
        let mut text = format!(
            "loss {:.4}  {:.0} tokens/s  lr {:.2e}",
            report.loss, report.tokens_per_second, report.learning_rate
        );
        for (count, what) in [(report.skipped, "left out"), (report.spikes, "spikes")] {
            if count > 0 {
                text += &format!("  {count} {what}");
            }
        }
        if !self.progress.terminal && self.said.elapsed() > Duration::from_secs(10) {
            self.said = Instant::now();
            let (name, step, total, left) = (&self.name, report.step, report.total_steps, report.seconds_left);
            self.progress.say(format!("train {name}: step {step}/{total}  {text}  {left:.0} s left"));
        }
        if let Some(bar) = &self.bar {
            bar.bar.set_position(report.step);
            bar.bar.set_message(text);
        }
    }

    fn evaluated(&mut self, step: u64, eval_loss: f64, perplexity: Option<f64>) {
        let perplexity = perplexity.map_or(String::new(), |perplexity| format!(", perplexity {perplexity:.3}"));
        self.say(&format!("train {}: step {step}: validation loss {eval_loss:.4}{perplexity}", self.name));
    }

    fn tasks(
        &mut self,
        step: u64,
        folder: &Path,
        _: &[String],
        _: Option<f64>,
    ) -> Result<BTreeMap<String, f64>, String> {
        let Some(tasks) = &mut self.tasks else { return Ok(BTreeMap::new()) };
        let metrics = tasks.evaluate(step, folder).map_err(|failure| failure.message().to_owned())?;
        let shown: Vec<String> = metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.say(&format!("train {}: step {step}: {}", self.name, shown.join(", ")));
        Ok(metrics)
    }

    fn saved(&mut self, _: &Path) {}
}
