//! Checkpoints: everything a run needs to go on exactly where it was.
//!
//! `checkpoint-<step>/` holds what the run makes (an adapter or a model, loadable as it is), `optimizer.safetensors`
//! (values and moments in f32) and `trainer_state.json`. A checkpoint is written beside its place and renamed, so that
//! it is there completely or not at all. Random streams are functions of seed and step and need no state.

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness_core::{Digest, atomic_rename, open_file};
use harness_kernels::map_file;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::{
    TrainingError,
    backend::{Backend, Span, SpanMut},
    data::Cursor,
    export::Artifact,
    files::{WeightDtype, write_json, write_tensors},
    parallel::from_bytes,
    params::ParamStore,
    scaler::LossScaler,
    spikes::SpikeDetector,
};

/// Form of the state; a checkpoint of another form is refused.
const VERSION: u32 = 1;

/// The lowest validation loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which update.
    pub step: u64,
    /// Mean loss over the validation labels.
    pub eval_loss: f64,
}

/// Sums since the last line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Summed loss.
    pub loss: f64,
    /// Labels.
    pub labels: u64,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Form of this file.
    pub version: u32,
    /// What is trained on what: a checkpoint of another run is refused.
    pub run: Digest,
    /// Updates done.
    pub step: u64,
    /// The next micro-batch.
    pub cursor: Cursor,
    /// Tokens seen.
    pub tokens: u64,
    /// Sums since the last line in the log.
    pub pending: Pending,
    /// The lowest validation loss so far.
    pub best: Option<Best>,
    /// The last validation loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// The last update after which there was an evaluation.
    #[serde(default)]
    pub evaluated: u64,
    /// Evaluations since there was a better loss.
    #[serde(default)]
    pub without_gain: u64,
    /// Updates left out because of overflow or a spike.
    #[serde(default)]
    pub skipped: u64,
    /// Losses far above those before.
    #[serde(default)]
    pub spikes: SpikeDetector,
    /// Loss scaling, with half precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaler: Option<LossScaler>,
}

impl TrainerState {
    /// The state before the first update.
    pub fn new(run: Digest) -> Self {
        Self {
            version: VERSION,
            run,
            step: 0,
            cursor: Cursor::default(),
            tokens: 0,
            pending: Pending::default(),
            best: None,
            eval_loss: None,
            evaluated: 0,
            without_gain: 0,
            skipped: 0,
            spikes: SpikeDetector::default(),
            scaler: None,
        }
    }
}

/// The folder of the checkpoint after update `step`.
pub fn folder(output: &Path, step: u64) -> PathBuf {
    output.join(format!("checkpoint-{step}"))
}

/// The steps of the complete checkpoints of a run, in order.
pub fn steps(output: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(output) else { return Vec::new() };
    let mut steps: Vec<u64> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok())
        .filter(|&step| folder(output, step).join("trainer_state.json").is_file())
        .collect();
    steps.sort_unstable();
    steps
}

/// What `optimizer.safetensors` holds: values, and the optimizer's running means of gradients and of their squares.
pub const BUFFERS: [&str; 3] = ["values", "exp_avg", "exp_avg_sq"];

/// Writes the checkpoint of a state; returns its folder. All values are in the store; `moments` gives the two running means
/// of all parameters, one after the other.
///
/// # Errors
/// If it cannot be written, or the device fails; earlier checkpoints stay.
pub fn save<B: Backend>(
    backend: &B,
    store: &ParamStore<B>,
    artifact: &Artifact,
    state: &TrainerState,
    output: &Path,
    moments: &mut dyn FnMut(usize) -> Result<Vec<f32>, TrainingError>,
) -> Result<PathBuf, TrainingError> {
    let to = folder(output, state.step);
    let partial = output.join(format!("partial-checkpoint-{}", state.step));
    let mut write = || -> Result<(), TrainingError> {
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(TrainingError::io("create", &partial))?;
        artifact.write(backend, store, &partial)?;
        let len = store.len();
        let tensors = BUFFERS.map(|name| (name.to_owned(), vec![len]));
        let data = &mut |number: usize| match number {
            0 => Ok(backend.read(Span { buf: &store.values, at: 0, len })?),
            _ => moments(number - 1),
        };
        write_tensors(&partial.join("optimizer.safetensors"), &tensors, WeightDtype::F32, data)?;
        write_json(&partial.join("trainer_state.json"), &serde_json::json!(state))?;
        remove(&to)?;
        atomic_rename(&partial, &to).map_err(TrainingError::io("create", &to))
    };
    write().inspect_err(|_| {
        // What is left of a failed checkpoint is of no use; the error that matters is the first one.
        let _ = fs::remove_dir_all(&partial);
    })?;
    Ok(to)
}

/// Reads the state of a checkpoint.
///
/// # Errors
/// If it cannot be read or belongs to another run.
pub fn read_state(folder: &Path, run: Digest) -> Result<TrainerState, TrainingError> {
    let path = folder.join("trainer_state.json");
    let error = |message: String| TrainingError::Checkpoint { path: path.clone(), message };
    let text = harness_core::read_text(&path).map_err(TrainingError::io("read", &path))?;
    let state: TrainerState = serde_json::from_str(&text)
        .map_err(|e| error(format!("not a state of this program ({e}); delete the folder to begin again")))?;
    if state.version != VERSION {
        return Err(error(format!("version {}, expected {VERSION}; delete the folder to begin again", state.version)));
    }
    if state.run != run {
        return Err(error(
            "belongs to another run: recipe, data or base model have changed since; delete the folder or choose \
             another output to begin again"
                .to_owned(),
        ));
    }
    Ok(state)
}

/// The state of the latest checkpoint of a run and its folder, if there is one; `rank` is that of the adapter.
///
/// # Errors
/// If it cannot be read or belongs to another run.
pub fn latest(
    output: &Path,
    run: Digest,
    rank: Option<usize>,
) -> Result<Option<(TrainerState, PathBuf)>, TrainingError> {
    let Some(step) = steps(output).pop() else { return Ok(None) };
    let folder = folder(output, step);
    let read = read_state(&folder, run).map_err(|error| match (error, adapter_rank(&folder), rank) {
        (TrainingError::Checkpoint { path, message }, Some(found), Some(expected)) if found != expected => {
            let message = format!("{message} (its adapter has rank {found}, the recipe says {expected})");
            TrainingError::Checkpoint { path, message }
        }
        (error, ..) => error,
    });
    let state = read?;
    if state.step != step {
        let message = format!("`step` is {}, expected {step} by the folder's name; delete the folder", state.step);
        return Err(TrainingError::Checkpoint { path: folder.join("trainer_state.json"), message });
    }
    Ok(Some((state, folder)))
}

/// The rank of the adapter in a folder.
fn adapter_rank(folder: &Path) -> Option<usize> {
    let text = harness_core::read_text(&folder.join("adapter_config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    usize::try_from(config["r"].as_u64()?).ok()
}

/// One of the [`BUFFERS`] of a checkpoint with `len` trained parameters.
///
/// # Errors
/// If the file is missing, broken or of another layout.
pub fn buffer(folder: &Path, name: &str, len: usize) -> Result<Vec<f32>, TrainingError> {
    let path = folder.join("optimizer.safetensors");
    let error = |message: String| TrainingError::Checkpoint { path: path.clone(), message };
    let data = open_file(&path).and_then(|file| map_file(file, &path)).map_err(TrainingError::io("read", &path))?;
    let tensors = SafeTensors::deserialize(&data).map_err(|e| error(format!("broken: {e}")))?;
    let tensor = tensors.tensor(name).map_err(|e| error(format!("tensor {name}: {e}")))?;
    if (tensor.shape(), tensor.dtype()) != (&[len][..], Dtype::F32) {
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        return Err(error(format!(
            "tensor {name} is {dtype} of shape {shape:?}, expected F32 of [{len}]: another layout"
        )));
    }
    Ok(from_bytes(tensor.data()))
}

/// Restores values and moments of a store that holds everything; the values only, if `values_only`.
///
/// # Errors
/// As [`buffer`], and if the device fails.
pub fn load<B: Backend>(
    backend: &B,
    store: &mut ParamStore<B>,
    folder: &Path,
    values_only: bool,
) -> Result<(), TrainingError> {
    let len = store.len();
    let buffers = [&mut store.values, &mut store.mean, &mut store.square];
    for (name, buf) in BUFFERS.into_iter().zip(buffers).take(if values_only { 1 } else { 3 }) {
        backend.write(&buffer(folder, name, len)?, SpanMut { buf, at: 0, len })?;
    }
    Ok(())
}

/// Removes all checkpoints but the given ones.
///
/// # Errors
/// If a folder cannot be removed.
pub fn prune(output: &Path, keep: &[u64]) -> Result<(), TrainingError> {
    steps(output).into_iter().filter(|step| !keep.contains(step)).try_for_each(|step| remove(&folder(output, step)))
}

fn remove(folder: &Path) -> Result<(), TrainingError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainingError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}
