//! What a judging shows and writes.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use harness_judges::{
    Kind, Plan,
    files::{
        alpaca_eval::{self, AnnotationOrder},
        fastchat,
    },
    results::Bounded,
};
use harness_metrics::comparison::Comparison;
use harness_reports::{Format, Meta, markdown, write_all};
use harness_store::atomic_write;
use serde_json::json;

use super::{
    ask::Asked,
    results::{ModelResult, Results, Setting},
};
use crate::commands::{App, Failure};

/// A finished judging.
pub(super) struct Report<'a> {
    pub(super) setting: Setting<'a>,
    pub(super) plan: &'a Plan,
    pub(super) comparison: Comparison,
    pub(super) results: Results,
    pub(super) asked: Asked,
}

impl Report<'_> {
    /// Prints the table and the figures, or one JSON object.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(super) fn print(&self, app: &App) -> Result<(), Failure> {
        app.output(&self.object(), || format!("{}\n{}", markdown(&self.comparison, &Meta::default()), self.text()))
    }

    fn object(&self) -> serde_json::Value {
        let Setting { protocol, judge, items, .. } = &self.setting;
        json!({
            "protocol": { "name": protocol.name, "version": protocol.version, "digest": protocol.digest() },
            "judge": { "name": judge.name(), "note": judge.note() },
            "items": items.len(),
            "results": self.results,
            "comparison": self.comparison,
            "asked": {
                "questions": self.asked.judgments.len(),
                "now": self.asked.asked,
                "stored": self.asked.stored,
                "prompt_tokens": self.asked.tokens[0],
                "completion_tokens": self.asked.tokens[1],
                "throttled": self.asked.repeated[0],
                "repeated": self.asked.repeated[1],
                "cost": self.asked.cost,
                "cost_per_decided": self.cost_per_decided(),
                "seconds": self.asked.seconds,
            },
        })
    }

    fn cost_per_decided(&self) -> Option<f64> {
        let decided = self.results.decided();
        (decided > 0 && self.asked.cost > 0.0).then(|| self.asked.cost / decided as f64)
    }

    /// The results of each model, and what asking took.
    fn text(&self) -> String {
        let mut text =
            format!("Judged by {} under the protocol {}.\n", self.setting.judge.name(), self.setting.protocol.name);
        if let Some(note) = self.setting.judge.note() {
            let _ = writeln!(text, "{note}");
        }
        for result in &self.results.models {
            let _ = writeln!(text, "- {}", line(result));
        }
        if let Some(bias) = &self.results.position_bias {
            let _ =
                write!(text, "Same winner in both orders: {:.1} % of {} pairs", 100.0 * bias.consistency, bias.pairs);
            if let Some(first) = bias.first_position_rate {
                let _ = write!(text, "; for the output shown first: {:.1} %", 100.0 * first);
            }
            text.push_str(".\n");
        }
        if let Some(flips) = &self.results.flip_rate {
            let _ = writeln!(text, "Changed its mind on {} of {} questions asked twice.", flips.flipped, flips.asked);
        }
        let Asked { asked, stored, tokens, repeated, cost, .. } = &self.asked;
        if asked + stored > 0 {
            let _ = write!(text, "{asked} answers asked for, {stored} from the store");
            match tokens {
                [0, 0] => {}
                [prompt, 0] => text.push_str(&format!("; {prompt} prompt tokens")),
                [prompt, answer] => text.push_str(&format!("; {prompt} prompt and {answer} answer tokens")),
            }
            if repeated[0] + repeated[1] > 0 {
                let _ = write!(text, "; {} attempts repeated, {} throttled", repeated[1], repeated[0]);
            }
            if *cost > 0.0 {
                let _ = write!(text, "; cost {cost:.4}");
            }
            if let Some(each) = self.cost_per_decided() {
                let _ = write!(text, ", {each:.6} a decided comparison");
            }
            text.push_str(".\n");
        }
        text
    }

    /// Writes reports, outputs, judgments and the files of the reference tools into a folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(super) fn write(&self, app: &App, folder: &Path) -> Result<(), Failure> {
        let Setting { judge, items, sets, protocol, .. } = &self.setting;
        let meta = Meta { title: String::new(), manifest: vec![("judge".to_owned(), judge.name())] };
        // With one model there is nothing to plot.
        let plots = |format: &&Format| sets.len() > 1 || !matches!(format, Format::Svg | Format::Png);
        let formats: Vec<Format> = Format::ALL.iter().filter(plots).copied().collect();
        let mut files =
            write_all(folder, &self.comparison, &meta, &formats).map_err(|error| Failure::work(error.to_string()))?;
        let lines = |judgments: &[harness_judges::Judgment]| -> String {
            judgments.iter().map(|judgment| format!("{}\n", json!(judgment))).collect()
        };
        let mut put = |name: String, content: String| -> Result<(), Failure> {
            let path = folder.join(name);
            atomic_write(&path, content.as_bytes())?;
            files.push(path);
            Ok(())
        };
        put("judgments.jsonl".into(), lines(&self.asked.judgments))?;
        for (member, judgments) in &self.asked.members {
            put(format!("judgments.{}.jsonl", file_name(member)), lines(judgments))?;
        }
        put("judging.json".into(), format!("{:#}\n", self.object()))?;
        let path = |kind: &str, model: &str, end: &str| folder.join(format!("{kind}.{}.{end}", file_name(model)));
        let mut named: Vec<PathBuf> = vec![];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        if protocol.is_multi_turn() {
            for set in *sets {
                named.push(path("model_answer", &set.model, "jsonl"));
                fastchat::write_answers(&named[named.len() - 1], items, set, now)?;
            }
            named.push(path("model_judgment", &judge.name(), "jsonl"));
            let file = &named[named.len() - 1];
            let (judgments, name) = (&self.asked.judgments, judge.name());
            match protocol.kind {
                Kind::Absolute => {
                    fastchat::write_judgments(file, &fastchat::single_judgments(self.plan, judgments, &name, now))?;
                }
                Kind::Pairwise => {
                    fastchat::write_judgments(file, &fastchat::pair_judgments(self.plan, judgments, &name, now))?;
                }
            }
        } else {
            for set in *sets {
                named.push(path("model_outputs", &set.model, "json"));
                alpaca_eval::write_outputs(&named[named.len() - 1], items, set)?;
            }
            if let (Kind::Pairwise, [baseline, candidates @ ..]) = (protocol.kind, *sets) {
                for set in candidates {
                    let (judgments, order) = (&self.asked.judgments, AnnotationOrder::AlpacaEval);
                    let rows = alpaca_eval::annotations(items, baseline, set, judgments, &judge.name(), order)?;
                    named.push(path("annotations", &set.model, "json"));
                    alpaca_eval::write_annotations(&named[named.len() - 1], &rows)?;
                }
            }
        }
        files.extend(named);
        let shown: Vec<String> =
            files.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
        app.progress().say(format!("wrote {} to {}", shown.join(", "), folder.display()));
        Ok(())
    }
}

/// A name as part of a file's name.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// A value with its interval and, where verdicts are missing, what it could have been.
fn bounded(value: &Bounded, factor: f64, unit: &str) -> String {
    let mut text = format!("{:.2}{unit}", factor * value.value);
    if let Some(interval) = value.interval {
        let _ = write!(text, " [{:.2}, {:.2}]", factor * interval.low, factor * interval.high);
    }
    let _ = write!(text, " over {} items", value.n);
    if value.unparsed > 0 {
        let _ = write!(
            text,
            "; {} of {} verdicts could not be read: between {:.2} if all of them had been the worst, and {:.2} if the best",
            value.unparsed,
            value.verdicts,
            factor * value.worst,
            factor * value.best
        );
    }
    text
}

/// The result of one model in a line.
fn line(result: &ModelResult) -> String {
    let mut text = format!("{}: ", result.model);
    match (&result.pair, &result.score) {
        (Some(pair), _) => {
            let _ = write!(
                text,
                "win rate {}; {} wins, {} losses, {} ties, {} decided by order",
                bounded(&pair.win_rate, 100.0, " %"),
                pair.wins,
                pair.losses,
                pair.ties,
                pair.inconsistent
            );
        }
        (None, Some(score)) => {
            let _ = write!(text, "score {}", bounded(&score.score, 1.0, ""));
            for (number, turn) in score.turns.iter().enumerate().filter(|_| score.turns.len() > 1) {
                let _ = write!(text, "; turn {} {:.2}", number + 1, turn.value);
            }
        }
        (None, None) => text.push_str("no verdict could be read"),
    }
    if let Some(found) = &result.alpaca_eval {
        let _ = write!(text, "; alpaca_eval's win rate {:.2} ± {:.2}", found.win_rate, found.standard_error);
    }
    if let Some(found) = &result.length_controlled {
        let _ = write!(text, "; length-controlled {:.2}", found.win_rate);
        if let Some(interval) = found.interval {
            let _ = write!(text, " [{:.2}, {:.2}]", interval.low, interval.high);
        }
    }
    let _ = write!(text, "; {:.0} characters on average", result.avg_length);
    text
}
