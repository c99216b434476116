//! Progress on standard error: a bar on a terminal, a line a stage elsewhere.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::mpsc,
    time::{Duration, Instant},
};

use harness_core::visible;
use harness_evaluation::events::{Events, StageEvents, TrainingEvents};
use harness_training::telemetry::{LeftOut, StepReport};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How progress is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Display {
    quiet: bool,
    terminal: bool,
}

impl Display {
    /// A display; `terminal` says whether standard error is one.
    pub(super) fn new(quiet: bool, terminal: bool) -> Self {
        Self { quiet, terminal }
    }

    /// Says something in a line of its own.
    fn say(self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", visible(text.as_ref()));
        }
    }

    fn bar(self, title: &str, total: u64) -> ProgressBar {
        let bar = if self.terminal && !self.quiet {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        let template = match total {
            0 => "{prefix:24!} {spinner} {elapsed}",
            _ => "{prefix:24!} {bar:30} {pos}/{len} {eta} left  {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(visible(title).into_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

impl Events for Display {
    fn note(&self, text: &str) {
        self.say(text);
    }

    fn stage(&self, title: &str, steps: u64) -> Box<dyn StageEvents> {
        let (bar, title) = (self.bar(title, steps), title.to_owned());
        let lines = (!self.terminal && !self.quiet).then(|| Lines::begin(*self, &bar, &title));
        Box::new(Stage { bar, display: *self, title, _lines: lines })
    }

    fn training(&self, name: &str) -> Box<dyn TrainingEvents> {
        let (now, name) = (Instant::now(), name.to_owned());
        Box::new(Training { display: *self, name, bar: None, start: now, said: now, events: 0 })
    }
}

/// One stage's progress.
struct Stage {
    bar: ProgressBar,
    display: Display,
    title: String,
    _lines: Option<Lines>,
}

/// When a stage that goes on says so in a line, and then after the same time again and again.
const FIRST_LINE: Duration = Duration::from_secs(1);
const NEXT_LINES: Duration = Duration::from_secs(10);

/// Lines about a stage that goes on, where there is no terminal for a bar. They end with this.
struct Lines(#[expect(dead_code, reason = "its end is the message")] mpsc::Sender<()>);

impl Lines {
    fn begin(display: Display, bar: &ProgressBar, title: &str) -> Self {
        let (end, ended) = mpsc::channel();
        let (bar, title) = (bar.clone(), title.to_owned());
        std::thread::spawn(move || {
            let mut wait = FIRST_LINE;
            while ended.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
                let seconds = bar.elapsed().as_secs_f64();
                display.say(match bar.length() {
                    Some(total) if total > 1 => format!("{title}: {} of {total} ({seconds:.0} s)", bar.position()),
                    _ => format!("{title} ... ({seconds:.0} s)"),
                });
                wait = NEXT_LINES;
            }
        });
        Self(end)
    }
}

impl StageEvents for Stage {
    fn step(&self) {
        self.bar.inc(1);
    }

    fn finished(&self, summary: &str, seconds: f64) {
        self.bar.finish_and_clear();
        // A phase without a summary is worth a line only if it took its time.
        if !summary.is_empty() {
            self.display.say(format!("{}: {summary} ({seconds:.1} s)", self.title));
        } else if seconds > FIRST_LINE.as_secs_f64() {
            self.display.say(format!("{}: done ({seconds:.1} s)", self.title));
        }
    }
}

/// The progress of training.
struct Training {
    display: Display,
    name: String,
    bar: Option<ProgressBar>,
    start: Instant,
    said: Instant,
    events: usize,
}

/// Spikes and updates left out that get a line each; later ones are counted.
const EVENTS: usize = 5;

impl Training {
    /// A line that does not tear the bar.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) if self.display.terminal => bar.suspend(|| self.display.say(line)),
            _ => self.display.say(line),
        }
    }

    /// Tells of an update that was left out, or whose loss is a spike.
    fn tell(&mut self, report: &StepReport) {
        let what = match report.left_out {
            Some(LeftOut::Overflow { scale }) => {
                format!("update skipped: the gradients overflow half precision; the loss scale is now {scale:e}")
            }
            Some(LeftOut::Spike) => {
                format!("update skipped: its loss of {:.4} is far above the previous ones", report.loss)
            }
            None if report.spike => format!("its loss of {:.4} is far above the previous ones", report.loss),
            None => return,
        };
        self.events += 1;
        if self.events <= EVENTS {
            let more = if self.events == EVENTS { " (further ones are only counted)" } else { "" };
            self.say(&format!("train {}: step {}: {what}{more}", self.name, report.step));
        }
    }
}

impl TrainingEvents for Training {
    fn started(&mut self, done: u64, total: u64) {
        let bar = self.display.bar(&format!("train {}", self.name), total);
        bar.set_position(done);
        (self.bar, self.start) = (Some(bar), Instant::now());
        if done > 0 {
            self.say(&format!("train {}: continues after step {done}", self.name));
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
        if !self.display.terminal && self.said.elapsed() > Duration::from_secs(10) {
            self.said = Instant::now();
            let (name, step, total, left) = (&self.name, report.step, report.total_steps, report.seconds_left);
            self.display.say(format!("train {name}: step {step}/{total}  {text}  {left:.0} s left"));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(report.step);
            bar.set_message(text);
        }
    }

    fn validated(&mut self, step: u64, loss: f64, perplexity: Option<f64>) {
        let perplexity = perplexity.map_or(String::new(), |perplexity| format!(", perplexity {perplexity:.3}"));
        self.say(&format!("train {}: step {step}: validation loss {loss:.4}{perplexity}", self.name));
    }

    fn evaluated(&mut self, step: u64, metrics: &BTreeMap<String, f64>) {
        let shown: Vec<String> = metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.say(&format!("train {}: step {step}: {}", self.name, shown.join(", ")));
    }

    fn finished(&mut self, summary: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.display.say(format!("train {}: {summary} ({:.1} s)", self.name, self.start.elapsed().as_secs_f64()));
        }
    }
}
