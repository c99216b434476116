//! Learning-rate schedules with a linear warm-up, in Hugging Face's formulas.

use crate::recipe::{ScheduleKind, TrainingOptions};

/// The factor on the peak learning rate for every update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The form after the warm-up.
    pub kind: ScheduleKind,
    /// Updates of the warm-up.
    pub warmup_steps: u64,
    /// Updates in all.
    pub total_steps: u64,
}

impl Schedule {
    /// The schedule of a run of `total_steps` updates.
    pub fn new(options: &TrainingOptions, total_steps: u64) -> Self {
        Self { kind: options.schedule, warmup_steps: options.warmup_steps(total_steps), total_steps }
    }

    /// The factor at update `step`, counted from 0: with a warm-up the very first one is 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / rest;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => (1.0 - done).max(0.0),
            ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(kind: ScheduleKind, warmup_steps: u64, total_steps: u64) -> Vec<f64> {
        let schedule = Schedule { kind, warmup_steps, total_steps };
        (0..=total_steps).map(|step| schedule.factor(step)).collect()
    }

    #[test]
    fn forms() {
        assert_eq!(factors(ScheduleKind::Linear, 2, 6), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(factors(ScheduleKind::Constant, 1, 3), [0.0, 1.0, 1.0, 1.0]);
        let cosine = factors(ScheduleKind::Cosine, 0, 4);
        let expected = [1.0, 0.853_553_390_593_273_7, 0.5, 0.146_446_609_406_726_27, 0.0];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{cosine:?}");
    }

    #[test]
    fn a_schedule_of_warm_up_only_is_finite() {
        assert!(factors(ScheduleKind::Cosine, 3, 3).iter().all(|x| x.is_finite()));
    }
}
