//! What a judging writes: reports, plots, judgments, and the files of the reference tools.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use harness_core::{file_part, visible_json};
use harness_judges::{
    Judgment, Kind,
    files::{
        alpaca_eval::{self, AnnotationOrder},
        fastchat,
    },
};
use harness_reports::{Format, Meta, RadarSeries, radar_chart, write_all};
use harness_store::atomic_write;
use serde_json::json;

use super::{case::Setting, report::Report};
use crate::EvaluationError;

/// Fewest spokes of a radar plot.
const SPOKES: usize = 3;

impl Report {
    /// Writes everything into a folder; returns the files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, EvaluationError> {
        let Setting { judge, sets, .. } = self.setting();
        let meta = Meta { title: String::new(), manifest: vec![("judge".to_owned(), judge.name())] };
        // With one model there is nothing to plot, and the Markdown has more in it here.
        let plots = |format: &&Format| match format {
            Format::Svg | Format::Png => sets.len() > 1,
            Format::Markdown => false,
            _ => true,
        };
        let formats: Vec<Format> = Format::ALL.iter().filter(plots).copied().collect();
        let mut files = write_all(folder, &self.comparison, &meta, &formats)?;
        let radar = self.radar(folder)?;
        let mut put = |name: String, content: String| -> Result<(), EvaluationError> {
            let path = folder.join(name);
            atomic_write(&path, content.as_bytes())?;
            files.push(path);
            Ok(())
        };
        put(Format::Markdown.file_name().into(), self.markdown(&meta, !radar.is_empty()))?;
        put("judgments.jsonl".into(), lines(&self.asked.judgments))?;
        for (member, asked) in &self.asked.members {
            put(format!("judgments.{}.jsonl", file_part(member)), lines(&asked.judgments))?;
        }
        put("judging.json".into(), visible_json(&format!("{:#}\n", self.object())).into_owned())?;
        files.extend(radar);
        files.extend(self.write_for_tools(folder)?);
        Ok(files)
    }

    /// The plot of scores by category, as SVG and PNG, where there are enough categories.
    fn radar(&self, folder: &Path) -> Result<Vec<PathBuf>, EvaluationError> {
        let scored = || self.results.models.iter().filter_map(|result| result.score.as_ref());
        let mut spokes: Vec<String> = vec![];
        for category in scored().flat_map(|score| &score.categories) {
            if !spokes.contains(&category.category) {
                spokes.push(category.category.clone());
            }
        }
        if spokes.len() < SPOKES {
            return Ok(vec![]);
        }
        let series: Vec<RadarSeries> = scored()
            .map(|score| {
                let value = |spoke: &String| score.categories.iter().find(|category| category.category == *spoke);
                let values = spokes.iter().map(|spoke| Some(value(spoke)?.score.value)).collect();
                RadarSeries { name: score.model.clone(), values }
            })
            .collect();
        // A lowest score in the middle would be a point.
        let [low, high] = self.setting().range();
        let title = format!("{}, judged by {}", self.setting().protocol.name, self.setting().judge.name());
        let mut files = vec![];
        for end in ["svg", "png"] {
            let path = folder.join(format!("radar.{end}"));
            radar_chart(&path, &title, &spokes, &series, (low.min(0.0), high))?;
            files.push(path);
        }
        Ok(files)
    }

    /// Files that alpaca_eval or FastChat read.
    fn write_for_tools(&self, folder: &Path) -> Result<Vec<PathBuf>, EvaluationError> {
        let Setting { judge, items, sets, protocol, pairs, .. } = self.setting();
        let path = |kind: &str, model: &str, end: &str| folder.join(format!("{kind}.{}.{end}", file_part(model)));
        let (judgments, judge) = (&self.asked.judgments, judge.name());
        let mut named: Vec<PathBuf> = vec![];
        let mut next = |path: PathBuf| -> PathBuf {
            named.push(path.clone());
            path
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        if protocol.is_multi_turn() {
            for set in sets {
                fastchat::write_answers(&next(path("model_answer", &set.model, "jsonl")), items, set, now)?;
            }
            let file = next(path("model_judgment", &judge, "jsonl"));
            match protocol.kind {
                Kind::Absolute => {
                    fastchat::write_judgments(&file, &fastchat::single_judgments(&self.plan, judgments, &judge, now))?;
                }
                Kind::Pairwise => {
                    fastchat::write_judgments(&file, &fastchat::pair_judgments(&self.plan, judgments, &judge, now))?;
                }
            }
            return Ok(named);
        }
        for set in sets {
            alpaca_eval::write_outputs(&next(path("model_outputs", &set.model, "json")), items, set)?;
        }
        for (baseline, set) in pairs.iter().map(|(a, b)| (&sets[*a], &sets[*b])) {
            let order = AnnotationOrder::AlpacaEval;
            let rows = alpaca_eval::annotations(items, baseline, set, judgments, &judge, order)?;
            let against = format!("{}.against.{}", set.model, baseline.model);
            let name = if self.setting().is_all_pairs() { &against } else { &set.model };
            alpaca_eval::write_annotations(&next(path("annotations", name, "json")), &rows)?;
        }
        Ok(named)
    }
}

fn lines(judgments: &[Judgment]) -> String {
    judgments.iter().map(|judgment| visible_json(&format!("{}\n", json!(judgment))).into_owned()).collect()
}
