//! A run on the device that the caller names.

use std::{path::Path, sync::Arc};

use harness_core::Stop;
use harness_engine::{ComputeType, Placement};
use harness_store::FileHashes;
use serde_json::Value;

use super::{Base, Run};
use crate::{
    TrainingError,
    backend::{Backend, CpuBackend},
    data::PreparedSet,
    parallel::{Distribute, Ranks},
    recipe::ResolvedRecipe,
    record::TrainingRecord,
    telemetry::Progress,
    trainer::{Estimate, TrainingSummary},
};

/// A run that is ready to begin, whatever it runs on.
pub trait PlacedRun {
    /// Everything the result depends on.
    fn record(&self) -> &TrainingRecord;
    /// The same as JSON.
    fn manifest(&self) -> Value {
        self.record().to_json()
    }
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
    pub stop: Stop,
    /// Seconds since 1970, for event files.
    pub now: fn() -> f64,
}

/// What is run.
#[derive(Clone, Copy)]
struct Work<'a> {
    resolved: &'a ResolvedRecipe,
    base: Option<Base<'a>>,
    hashes: &'a FileHashes,
    output: &'a Path,
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
    let work = Work { resolved, base, hashes, output };
    match setting.placement {
        Placement::Cpu if setting.compute == Some(ComputeType::Bf16) => {
            Err(TrainingError::setting("--dtype", "bf16", "f32 on the processor, which stores in 16 bits only"))
        }
        Placement::Cpu => place(setting, work, ranks, |_, _| Ok(CpuBackend::new())),
        #[cfg(not(feature = "cuda"))]
        Placement::Cuda(first) => Err(harness_kernels::KernelError::without_cuda(first).into()),
        #[cfg(feature = "cuda")]
        Placement::Cuda(first) => {
            let options = &resolved.recipe.training;
            place(setting, work, ranks, |setting, ranks| cuda::open(first, setting.compute, options, ranks))
        }
    }
}

/// The run on the backend that is opened.
fn place<B: Distribute>(
    setting: Setting,
    work: Work<'_>,
    ranks: Ranks,
    open: impl FnOnce(&Setting, &Ranks) -> Result<B, TrainingError>,
) -> Result<Box<dyn PlacedRun>, TrainingError> {
    let control = ranks.collective::<B>();
    B::guard(&*control, || {
        let backend = open(&setting, &ranks)?;
        let run = Run::prepare_on(backend, work.resolved, work.base, work.hashes, work.output, ranks)?;
        Ok(Box::new(Placed(run.with_stop(setting.stop).with_events(setting.now))) as Box<dyn PlacedRun>)
    })
}

struct Placed<B: Backend>(Run<B>);

impl<B: Distribute> PlacedRun for Placed<B> {
    fn record(&self) -> &TrainingRecord {
        self.0.record()
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
        self.0.trainer().model().backend().describe()
    }

    fn estimate(&mut self) -> Result<Estimate, TrainingError> {
        let ranks = Arc::clone(self.0.trainer().ranks());
        B::guard(&*ranks, || self.0.estimate())
    }

    fn train(&mut self, resume: bool, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
        let ranks = Arc::clone(self.0.trainer().ranks());
        B::guard(&*ranks, || self.0.train(resume, progress))
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use harness_engine::ComputeType;
    use harness_kernels::cuda::{Device, Float, Gpu};

    use super::super::seats::{Seat, assign};
    use crate::{
        TrainingError,
        backend::CudaBackend,
        parallel::Ranks,
        recipe::{Precision, TrainingOptions},
    };

    /// The GPU of this rank, once all ranks have told which ones they see.
    fn gpu(first: usize, ranks: &Ranks) -> Result<usize, TrainingError> {
        if ranks.world() == 1 {
            return Ok(first);
        }
        let named = |gpu: &Gpu| (gpu.name().to_owned(), gpu.uuid().to_owned());
        let gpus = Gpu::all()?.iter().map(named).collect();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let mine = serde_json::to_vec(&Seat { host, local: ranks.local(), gpus }).unwrap_or_default();
        let all = ranks.collective::<CudaBackend>().all_gather_bytes(mine.into())?;
        let read = |(rank, bytes): (usize, &std::sync::Arc<[u8]>)| {
            serde_json::from_slice::<Seat>(bytes).map_err(|error| TrainingError::Peer {
                rank,
                message: format!(
                    "sent its GPUs in a form that cannot be read ({error}); do all ranks run the same build?"
                ),
            })
        };
        let seats = all.iter().enumerate().map(read).collect::<Result<Vec<Seat>, _>>()?;
        Ok(assign(&seats, first)?[ranks.rank()])
    }

    /// The backend of this rank.
    pub(super) fn open(
        first: usize,
        compute: Option<ComputeType>,
        options: &TrainingOptions,
        ranks: &Ranks,
    ) -> Result<CudaBackend, TrainingError> {
        let float = match (compute, options.precision) {
            (Some(ComputeType::F32), _) | (None, Some(Precision::Fp32)) => Float::F32,
            (Some(ComputeType::Bf16), _) | (None, Some(Precision::Bf16) | None) => Float::Bf16,
            (None, Some(Precision::Fp16)) => Float::F16,
        };
        let device = Device::open(gpu(first, ranks)?)?;
        device.set_tf32(options.tf32)?;
        Ok(CudaBackend::on(device, float).paging(options.paged_optimizer))
    }
}
