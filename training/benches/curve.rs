//! The loss curve of a model on given batches, to be put beside another program's (benches/gpu/curve.py):
//! `cargo bench -p harness-training --features cuda --bench curve -- MODEL_DIR BATCHES.jsonl OUT_DIR [nf4]`.
//!
//! A line of the batches is an update: `{"learning_rate": .., "samples": [{"tokens": [..], "loss_from": ..}, ..]}`. Writes the adapter at
//! its beginning to OUT_DIR and prints a JSON line with the loss of every update. Rank 8 on all linears, no dropout, bf16.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{error::Error, path::Path};

use harness_core::Seed;
use harness_decoder::Projection;
use harness_engine::ModelFiles;
use harness_kernels::{Quantization, cuda::Float};
use harness_training::{
    backend::{CudaBackend, Memory},
    data::{Batch, Sample},
    export::Artifact,
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable},
    optimizer::{AdamW, gradient_norm},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Update {
    learning_rate: f64,
    samples: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    tokens: Vec<u32>,
    loss_from: usize,
}

fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [model, batches, out, rest @ ..] = args else {
        return Err("usage: curve MODEL_DIR BATCHES.jsonl OUT_DIR [nf4]".into());
    };
    let (quantised, out) = (rest.first().is_some_and(|stored| stored == "nf4"), Path::new(out));
    let mut files = ModelFiles::load(Path::new(model))?;
    if quantised {
        files.weights.quantise(&Quantization::default())?;
    }
    let updates: Vec<Update> =
        std::fs::read_to_string(batches)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let spec = LoraSpec::new(8, 16.0, Projection::ALL.to_vec());
    let backend = CudaBackend::new(0, Float::Bf16)?;
    let trainable = Trainable::Lora(spec.clone());
    let longest = updates.iter().flat_map(|update| &update.samples).map(|row| row.tokens.len()).max().unwrap_or(1);
    let (model, mut store) = Model::new(backend.clone(), &files.config, &files.weights, &trainable, longest, Seed(42))?;
    std::fs::create_dir_all(out)?;
    Artifact::Adapter { spec, base: model_name(args), config: Box::new(files.config.clone()) }
        .write(&backend, &store, out)?;
    let optimizer = AdamW::default();
    let mut losses = vec![];
    for (number, update) in (1..).zip(&updates) {
        let samples: Vec<Sample> = update
            .samples
            .iter()
            .map(|row| Sample { tokens: row.tokens.clone(), loss_from: row.loss_from, ..Sample::default() })
            .collect();
        let batch = Batch::of(&samples);
        let labels = batch.num_labels();
        store.clear_grads(&backend)?;
        let params = std::mem::replace(&mut store.values, backend.zeros(0)?);
        let loss =
            model.forward_backward(&batch, &params, &MicroStep::mean(labels), &mut LocalSink(&mut store.grads))?;
        store.values = params;
        let norm = gradient_norm(&backend, &store)?;
        optimizer.update(&backend, &mut store, number, update.learning_rate, norm, 1.0)?;
        losses.push(loss / labels as f64);
    }
    println!("{}", serde_json::json!({ "weights": if quantised { "nf4" } else { "bf16" }, "losses": losses }));
    Ok(())
}

fn model_name(args: &[String]) -> String {
    args.first().cloned().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    run(&args)
}
