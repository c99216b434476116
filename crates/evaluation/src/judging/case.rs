//! What is judged, by whom and how.

use harness_core::Seed;
use harness_judges::{Item, Judgment, Kind, OutputSet, Protocol, length_control::Calibration};
use harness_metrics::comparison::Settings;

use super::{backend::Judge, origin::Origin};

/// Maximum number of resamples of an interval that is refitted in each.
const REFITS: usize = 1000;

/// What is judged, by whom and how.
pub struct Case {
    /// The protocol.
    pub protocol: Protocol,
    /// The judge.
    pub judge: Judge,
    /// Name of the set of instructions.
    pub set: String,
    /// The instructions.
    pub items: Vec<Item>,
    /// The outputs, one set a model.
    pub sets: Vec<OutputSet>,
    /// Where the models are from, in the order of the sets.
    pub origins: Vec<Origin>,
    /// Which sets are compared, by their positions.
    pub pairs: Vec<(usize, usize)>,
    /// Labels by people.
    pub gold: Option<Gold>,
    /// alpaca_eval's calibration data.
    pub calibration: Option<Calibration>,
    /// How results are compared.
    pub settings: Settings,
}

impl Case {
    /// The case as the statistics look at it.
    pub(super) fn setting(&self) -> Setting<'_> {
        Setting {
            protocol: &self.protocol,
            judge: &self.judge,
            set: &self.set,
            items: &self.items,
            sets: &self.sets,
            origins: &self.origins,
            pairs: &self.pairs,
            gold: self.gold.as_ref(),
            calibration: self.calibration.as_ref(),
            settings: &self.settings,
        }
    }
}

/// What is judged, and how it is computed.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub protocol: &'a Protocol,
    pub judge: &'a Judge,
    /// Name of the set of instructions.
    pub set: &'a str,
    pub items: &'a [Item],
    /// The outputs of each model.
    pub sets: &'a [OutputSet],
    /// Where each model is from, in the order of the outputs.
    pub origins: &'a [Origin],
    /// Which outputs are compared: positions of baseline and candidate. None where outputs are graded alone.
    pub pairs: &'a [(usize, usize)],
    /// Gold labels.
    pub gold: Option<&'a Gold>,
    /// alpaca_eval's calibration data.
    pub calibration: Option<&'a Calibration>,
    pub settings: &'a Settings,
}

impl Setting<'_> {
    /// Whether pairs are compared.
    pub(super) fn is_pairwise(&self) -> bool {
        self.protocol.kind == Kind::Pairwise
    }

    /// Whether every two models are compared, and no one is the baseline.
    pub(super) fn is_all_pairs(&self) -> bool {
        self.pairs.iter().any(|(baseline, _)| *baseline != 0)
    }

    /// What verdicts can be: the scale, or 0 to 1.
    pub(super) fn range(&self) -> [f64; 2] {
        if self.is_pairwise() { [0.0, 1.0] } else { self.protocol.scale.unwrap_or([1.0, 5.0]) }
    }

    /// Resamples, confidence and seed of intervals that are refitted.
    pub(super) fn bootstrap(&self) -> (usize, f64, Seed) {
        let settings = self.settings;
        (settings.resamples.min(REFITS), settings.confidence, Seed(settings.seed))
    }
}

/// Verdicts of people on a part of what is judged.
pub struct Gold {
    /// What they are called in reports: the file.
    pub name: String,
    /// The verdicts.
    pub judgments: Vec<Judgment>,
}
