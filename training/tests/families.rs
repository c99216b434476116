//! Adapters of every family trained as PEFT and PyTorch train them, where checkpoints and their references are beside the
//! checkout: losses, gradients of every matrix, and the matrices after four updates.

use std::path::{Path, PathBuf};

use harness_core::Seed;
use harness_decoder::{AdapterConfig, Checkpoint, TargetModules};
use harness_test_support::{beside, skipped};
use harness_training::{
    backend::{Backend, CpuBackend},
    block::SavePolicy,
    data::{Batch, Sample},
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable},
    optimizer::{AdamW, gradient_norm},
    recipe::{LoraInit, LoraOptions, Targets},
};
use safetensors::SafeTensors;
use serde_json::Value;

/// Adapters with a reference of their training.
fn adapters(folder: &Path) -> Vec<PathBuf> {
    let only = std::env::var("HARNESS_FAMILY").ok();
    let wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        path.join("train.json").exists() && only.as_deref().is_none_or(|only| name.starts_with(only))
    };
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(wanted).collect();
    found.sort();
    found
}

/// The folder of the base of an adapter: named as the adapter without what follows its `-lora`.
fn base_of(adapter: &Path) -> PathBuf {
    let name = adapter.file_name().unwrap().to_string_lossy();
    let base = name.split("-lora").next().unwrap();
    let beside = adapter.with_file_name(base);
    if beside.exists() { beside } else { harness_test_support::beside("HARNESS_BASES", "families").unwrap().join(base) }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The tensors of a file by name.
fn tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    file.tensors().iter().map(|(name, tensor)| (name.clone(), floats(tensor.data()))).collect()
}

fn batch(reference: &Value) -> Batch {
    let rows = reference["input_ids"].as_array().unwrap().iter().zip(reference["labels"].as_array().unwrap());
    Batch::of(rows.map(|(ids, labels)| {
        let tokens: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let first = labels.as_array().unwrap().iter().position(|label| label.as_i64() != Some(-100)).unwrap();
        Sample { tokens, loss_from: first, truncated: 0, ..Sample::default() }
    }))
}

/// How far training is from its reference: the largest relative difference of a loss, of a matrix's first gradient's norm,
/// and the largest difference of a trained element after the updates.
fn check<B: Backend + Clone>(path: &Path, backend: &B) -> Result<[f64; 3], String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let checkpoint = Checkpoint::open(&base_of(path)).map_err(|e| text(&e))?;
    let mut config = checkpoint.config().map_err(|e| text(&e))?;
    let (weights, _) = checkpoint.weights(&mut config).map_err(|e| text(&e))?;
    let written = AdapterConfig::load(path).map_err(|e| text(&e))?;
    let options = LoraOptions {
        rank: written.r,
        alpha: written.lora_alpha,
        dropout: 0.0,
        rslora: written.use_rslora,
        dora: written.use_dora,
        init: LoraInit::Kaiming,
        target_parameters: written.target_parameters.unwrap_or_default(),
        targets: match written.target_modules.unwrap() {
            TargetModules::Names(names) => Targets::Modules(names),
            TargetModules::Pattern(pattern) => Targets::Pattern(pattern),
        },
    };
    let spec = LoraSpec::from_options(&options, &config).map_err(|e| text(&e))?;
    let reference = json(&path.join("train.json"));
    let trainable = Trainable::Lora(spec);
    let built = Model::new(backend.clone(), &config, &weights, &trainable, 64, Seed(1)).map_err(|e| text(&e))?;
    let (model, mut store) = (built.0.with_policy(SavePolicy::Lean), built.1);
    let params = store.layout().params().to_vec();
    let start = tensors(&path.join("adapter_model.safetensors"));
    if start.len() != params.len() {
        return Err(format!("{} matrices are trained, the reference has {}", params.len(), start.len()));
    }
    for (name, data) in &start {
        let at = params.iter().position(|param| param.name == *name).ok_or(format!("{name} is not trained"))?;
        if params[at].len() != data.len() {
            return Err(format!("{name} has {} elements, the reference {}", params[at].len(), data.len()));
        }
        store.set_value(backend, at, data).map_err(|e| text(&e))?;
    }
    let batch = batch(&reference);
    let labels = batch.labels.iter().flatten().count();
    let step = MicroStep::mean(labels);
    let adam = AdamW { weight_decay: 0.01, max_grad_norm: 0.0, ..AdamW::default() };
    let losses = reference["losses_before_update_1_2_3_4_and_after"].as_array().unwrap();
    let [mut of_loss, mut of_gradient] = [0f64; 2];
    for (t, expected) in losses.iter().enumerate() {
        store.clear_grads(backend).map_err(|e| text(&e))?;
        let mut grads = backend.zeros(store.len()).map_err(|e| text(&e))?;
        let sum = model.forward_backward(&batch, &store.values, &step, &mut LocalSink(&mut grads));
        let loss = sum.map_err(|e| text(&e))? / labels as f64;
        store.grads = grads;
        let expected = expected.as_f64().unwrap();
        of_loss = of_loss.max((loss - expected).abs() / expected);
        if t == 0 {
            for (name, norm) in reference["first_gradient_norm_per_tensor"].as_object().unwrap() {
                let stem = name.trim_start_matches("base_model.model.").replace(".default.weight", ".weight");
                let stem = stem.replace("lora_magnitude_vector.weight", "lora_magnitude_vector");
                let is = |param: &&harness_training::params::Param| param.name == format!("base_model.model.{stem}");
                let param = params.iter().find(is).ok_or(format!("{name} is not trained"))?;
                let grad = store.grad(backend, param).map_err(|e| text(&e))?;
                let found = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let norm = norm.as_f64().unwrap();
                of_gradient = of_gradient.max((found - norm).abs() / norm.max(1e-3));
            }
        }
        if t + 1 < losses.len() {
            let norm = gradient_norm(backend, &store).map_err(|e| text(&e))?;
            adam.update(backend, &mut store, t as u64 + 1, 0.005, norm, 1.0).map_err(|e| text(&e))?;
        }
    }
    let mut after = 0f64;
    for (name, expected) in tensors(&path.join("after/adapter_model.safetensors")) {
        let param = params.iter().find(|param| param.name == name).ok_or(format!("{name} is not trained"))?;
        let found = store.value(backend, param).map_err(|e| text(&e))?;
        let far = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()));
        after = after.max(far.fold(0.0, f64::max));
    }
    Ok([of_loss, of_gradient, after])
}

/// Checks all adapters on a device. Losses and gradients may be so far from their references, by their size, and trained
/// elements by so much.
#[expect(clippy::print_stdout, reason = "the largest differences, for whoever asks with --nocapture")]
fn check_all<B: Backend + Clone>(backend: &B, most: [f64; 3]) {
    let Some(folder) = beside("HARNESS_FAMILIES", "families") else {
        return skipped("no checkpoints of families beside the checkout");
    };
    let mut wrong = vec![];
    for path in adapters(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // One adapter has one rank here.
        if !json(&path.join("adapter_config.json"))["rank_pattern"].as_object().is_none_or(serde_json::Map::is_empty) {
            skipped(format!("{name}: ranks that differ by module are not trained"));
            continue;
        }
        match check(&path, backend) {
            Ok(found) => {
                let [loss, gradient, after] = found;
                println!("{name}: losses {loss:.1e}, gradients {gradient:.1e}, after {after:.1e}");
                if !found.iter().zip(most).all(|(found, most)| *found < most) {
                    wrong.push(format!("{name}: losses {loss:e}, gradients {gradient:e}, after {after:e}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn adapters_of_all_families_are_trained_as_by_peft() {
    // An element whose gradient is near 0 may move by the learning rate either way.
    check_all(&CpuBackend::new(), [2e-5, 2e-3, 2.1e-2]);
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use harness_kernels::cuda::{Device, Float};
    use harness_training::backend::CudaBackend;

    use super::*;

    fn run(float: Float, most: [f64; 3]) {
        match Device::open(0) {
            Ok(device) => check_all(&CudaBackend::on(device, float), most),
            Err(error) => skipped(error),
        }
    }

    #[test]
    fn in_f32() {
        run(Float::F32, [2e-4, 1e-2, 4.1e-2]);
    }

    #[test]
    fn in_bf16() {
        // Gradients of 0 and of rounding are of one size.
        run(Float::Bf16, [3e-2, 1.0, 4.1e-2]);
    }
}
