//! A run on the device that the caller names.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use harness_engine::{ComputeType, Placement};
use harness_store::FileHashes;
use serde_json::Value;

use super::{Base, Run};
use crate::{
    TrainingError,
    backend::{Backend, CpuBackend},
    data::PreparedSet,
    parallel::Ranks,
    recipe::ResolvedRecipe,
    telemetry::Progress,
    trainer::{Estimate, TrainingSummary},
};

/// A run that is ready to begin, whatever it runs on.
pub trait PlacedRun {
    /// Everything the result depends on.
    fn manifest(&self) -> &Value;
    /// The data.
    fn prepared(&self) -> &PreparedSet;
    /// Number of trained parameters.
    fn trainable_parameters(&self) -> usize;
    /// Updates in the whole run.
    fn total_steps(&self) -> u64;
    /// What the run computes with, in words.
    fn device(&self) -> String;
    /// As [`Run::estimate`].
    ///
    /// # Errors
    /// As [`Run::estimate`].
    fn estimate(&mut self) -> Result<Estimate, TrainingError>;
    /// As [`Run::train`].
    ///
    /// # Errors
    /// As [`Run::train`].
    fn train(&mut self, resume: bool, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError>;
}

/// Where a run is computed.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The device. Ranks that share a host take the following GPUs.
    pub placement: Placement,
    /// The type that is computed in; `None` = what the recipe's precision says, and bf16 on a GPU if it says nothing.
    pub compute: Option<ComputeType>,
    /// Watched by the run: once set, it writes a checkpoint and ends.
    pub stop: Arc<AtomicBool>,
    /// Seconds since 1970, for event files.
    pub now: fn() -> f64,
}

/// As [`Run::prepare_rank`], on the device of the setting.
///
/// # Errors
/// As [`Run::prepare_rank`]; if the device is missing, or does not compute in the type.
pub fn prepare(
    setting: Setting,
    resolved: &ResolvedRecipe,
    base: Option<Base<'_>>,
    hashes: &FileHashes,
    output: &Path,
    ranks: Ranks,
) -> Result<Box<dyn PlacedRun>, TrainingError> {
    match setting.placement {
        Placement::Cpu if setting.compute == Some(ComputeType::Bf16) => {
            Err(TrainingError::setting("--dtype", "bf16", "f32 on the processor, which stores in 16 bits only"))
        }
        Placement::Cpu => {
            let run = Run::prepare_on(CpuBackend::new(), resolved, base, hashes, output, ranks)?;
            Ok(Box::new(Placed(run.with_stop(setting.stop).with_events(setting.now))))
        }
        Placement::Cuda(first) => cuda::prepare(first, setting, resolved, base, hashes, output, ranks),
    }
}

struct Placed<B: Backend>(Run<B>);

impl PlacedRun for Placed<CpuBackend> {
    fn manifest(&self) -> &Value {
        self.0.manifest()
    }

    fn prepared(&self) -> &PreparedSet {
        self.0.prepared()
    }

    fn trainable_parameters(&self) -> usize {
        self.0.trainer().store().len()
    }

    fn total_steps(&self) -> u64 {
        self.0.trainer().total_steps()
    }

    fn device(&self) -> String {
        "f32".to_owned()
    }

    fn estimate(&mut self) -> Result<Estimate, TrainingError> {
        self.0.estimate()
    }

    fn train(&mut self, resume: bool, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
        self.0.train(resume, progress)
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::*;

    pub(super) fn prepare(
        first: usize,
        _: Setting,
        _: &ResolvedRecipe,
        _: Option<Base<'_>>,
        _: &FileHashes,
        _: &Path,
        _: Ranks,
    ) -> Result<Box<dyn PlacedRun>, TrainingError> {
        Err(TrainingError::Engine(Box::new(harness_engine::EngineError::without_cuda(first))))
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use harness_engine::cuda::{Device, Float};

    use std::{thread, time::Duration};

    use super::*;
    use crate::{backend::CudaBackend, parallel::Collective, recipe::Precision};

    /// Runs what fails by unwinding too. The other ranks hear of a failure; one that comes of another rank's is its.
    fn guard<T>(
        control: &dyn Collective<CudaBackend>,
        f: impl FnOnce() -> Result<T, TrainingError>,
    ) -> Result<T, TrainingError> {
        let error = match CudaBackend::catch(f) {
            Ok(value) => return Ok(value),
            Err(error @ (TrainingError::Peer { .. } | TrainingError::Mismatch { .. })) => return Err(error),
            Err(error) => error,
        };
        // A GPU can notice that another is gone before the control connection does.
        for _ in 0..if control.world() > 1 { 25 } else { 0 } {
            if let Some((rank, message)) = control.failure() {
                return Err(TrainingError::Peer { rank, message });
            }
            thread::sleep(Duration::from_millis(20));
        }
        control.abort(&error.to_string());
        Err(error)
    }

    pub(super) fn prepare(
        first: usize,
        setting: Setting,
        resolved: &ResolvedRecipe,
        base: Option<Base<'_>>,
        hashes: &FileHashes,
        output: &Path,
        ranks: Ranks,
    ) -> Result<Box<dyn PlacedRun>, TrainingError> {
        let options = &resolved.recipe.training;
        let float = match (setting.compute, options.precision) {
            (Some(ComputeType::F32), _) | (None, Some(Precision::Fp32)) => Float::F32,
            (Some(ComputeType::Bf16), _) | (None, Some(Precision::Bf16) | None) => Float::Bf16,
            (None, Some(Precision::Fp16)) => Float::F16,
        };
        let rank = ranks.rank();
        let open = || -> Result<CudaBackend, harness_engine::EngineError> {
            // Ranks of one host follow each other, and every host has as many GPUs; a task may also see only its own.
            let device = Device::open((first + rank) % Device::count()?.max(first + 1))?;
            device.set_tf32(options.tf32)?;
            Ok(CudaBackend::on(device, float))
        };
        let control = ranks.collective::<CudaBackend>();
        guard(&*control, || {
            let backend = open().map_err(|error| TrainingError::Engine(Box::new(error)))?;
            let run = Run::prepare_on(backend, resolved, base, hashes, output, ranks)?;
            Ok(Box::new(Placed(run.with_stop(setting.stop).with_events(setting.now))) as Box<dyn PlacedRun>)
        })
    }

    impl PlacedRun for Placed<CudaBackend> {
        fn manifest(&self) -> &Value {
            self.0.manifest()
        }

        fn prepared(&self) -> &PreparedSet {
            self.0.prepared()
        }

        fn trainable_parameters(&self) -> usize {
            self.0.trainer().store().len()
        }

        fn total_steps(&self) -> u64 {
            self.0.trainer().total_steps()
        }

        fn device(&self) -> String {
            let backend = self.0.trainer().model().backend();
            format!("{} on {} ({})", backend.float().name(), backend.device().label(), backend.device().name())
        }

        fn estimate(&mut self) -> Result<Estimate, TrainingError> {
            CudaBackend::catch(|| self.0.estimate())
        }

        fn train(&mut self, resume: bool, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
            let ranks = Arc::clone(self.0.trainer().ranks());
            guard(&*ranks, || self.0.train(resume, progress))
        }
    }
}
