//! The hand-written backward against candle's autograd in f64, and against finite differences.

mod oracle;

use candle_core::Tensor;
use harness_core::Seed;
use harness_decoder::{BlockSpec, DecoderConfig, Projection};
use harness_training::{
    block::{DropoutPlan, SavePolicy},
    data::Batch,
    model::{LocalSink, MicroStep, Trainable},
};
use oracle::{Oracle, batch, config, model, spec};

/// The gradients of one configuration, by tensor name, and the loss.
struct Computed {
    loss: f64,
    grads: Vec<(String, Vec<f32>)>,
}

fn compute(
    config: &DecoderConfig,
    trainable: &Trainable,
    batch: &Batch,
    dropout: Option<DropoutPlan>,
    policy: SavePolicy,
) -> Computed {
    let (model, mut store) = model(config, trainable);
    let model = model.with_policy(policy);
    let values = model.backend().clone();
    let params = std::mem::replace(&mut store.values, harness_training::backend::Memory::zeros(&values, 0).unwrap());
    let loss = model.forward_backward(
        batch,
        &params,
        &MicroStep::mean(batch.num_labels()).with_dropout(dropout),
        &mut LocalSink(&mut store.grads),
    );
    let loss = loss.expect("resident weights");
    let grads = store.layout().params().iter().map(|p| (p.name.clone(), store.grad(&values, p).unwrap())).collect();
    Computed { loss, grads }
}

/// ‖a - b‖ / ‖b‖.
fn relative_error(a: &[f32], b: &[f64]) -> f64 {
    let difference: f64 = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// Compares every trained tensor with autograd and with central differences along a random direction.
fn check(config: DecoderConfig, trainable: Trainable, dropout: f32) {
    let batch = batch(&config, &[5, 1, 75, 23], 3);
    let dropout = DropoutPlan::new(42, 3, 1, dropout);
    let computed = compute(&config, &trainable, &batch, dropout, SavePolicy::Lean);
    for policy in [SavePolicy::Full, SavePolicy::Layer, SavePolicy::Every(2), SavePolicy::Every(3)] {
        let other = compute(&config, &trainable, &batch, dropout, policy);
        assert!(computed.loss == other.loss && computed.grads == other.grads, "{policy:?} changes the gradients");
    }
    let (_, store) = model(&config, &trainable);
    let mut oracle = Oracle::new(&config, &trainable, &store).expect("an oracle");
    oracle.dropout = dropout;
    let n = batch.num_labels() as f64;
    let loss = oracle.loss(&batch).expect("a loss");
    let value = loss.to_scalar::<f64>().expect("a scalar");
    assert!((computed.loss - value).abs() < 1e-6 * value, "loss {} {value}", computed.loss);
    let grads = loss.backward().expect("gradients");
    assert_eq!(computed.grads.len(), oracle.vars.len());
    let mut worst = 0f64;
    for (index, (name, grad)) in computed.grads.iter().enumerate() {
        let var = &oracle.vars[name];
        let expected = (grads.get(var).unwrap_or_else(|| panic!("{name}: no gradient")) / n).expect("a quotient");
        let expected = expected.flatten_all().and_then(|t| t.to_vec1::<f64>()).expect("a vector");
        let error = relative_error(grad, &expected);
        worst = worst.max(error);
        assert!(error < 1e-5, "{name}: relative error {error:e}");

        let mut rng = Seed(5).stream("direction", index as u64);
        let direction: Vec<f64> = grad.iter().map(|_| rng.normal()).collect();
        let start = var.as_tensor().copy().expect("a copy");
        let step = 1e-5;
        let along = Tensor::from_slice(&direction, start.shape(), start.device()).expect("a tensor");
        let at = |t: f64| {
            var.set(&(&start + (&along * t).expect("a product")).expect("a sum")).expect("a new value");
            let loss = oracle.loss(&batch).expect("a loss");
            loss.to_scalar::<f64>().expect("a scalar") / n
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        var.set(&start).expect("the old value");
        let dot: f64 = grad.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
        let size = expected.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!((dot - slope).abs() < 1e-5 * slope.abs().max(size), "{name}: slope {dot} {slope}");
    }
    assert!(worst > 0.0, "nothing was compared");
}

fn lora(targets: &[Projection]) -> Trainable {
    Trainable::Lora(spec(targets, 0.0))
}

#[test]
fn lora_on_all_projections_with_gqa_and_tied_head() {
    check(config(), lora(&Projection::ALL), 0.0);
}

#[test]
fn lora_with_dropout_and_biases_and_untied_head() {
    let config = DecoderConfig { tie_word_embeddings: false, qkv_bias: true, o_bias: true, ..config() };
    check(config, lora(&Projection::ALL), 0.3);
}

#[test]
fn lora_with_head_norms_and_sliding_window() {
    let config =
        DecoderConfig { block: BlockSpec::with_head_norms(true), sliding_window: vec![Some(9), Some(40)], ..config() };
    check(config, lora(&Projection::ALL), 0.1);
}

#[test]
fn lora_on_some_projections() {
    check(config(), lora(&[Projection::Q, Projection::V]), 0.0);
    check(config(), lora(&[Projection::K, Projection::Up]), 0.2);
    check(config(), lora(&[Projection::Down]), 0.0);
    check(config(), lora(&[Projection::O, Projection::Gate]), 0.0);
}

#[test]
fn all_parameters_with_tied_head_and_biases() {
    check(DecoderConfig { qkv_bias: true, o_bias: true, ..config() }, Trainable::Full, 0.0);
}

#[test]
fn all_parameters_with_head_norms_and_untied_head() {
    let config = DecoderConfig {
        tie_word_embeddings: false,
        block: BlockSpec::with_head_norms(true),
        num_kv_heads: 4,
        sliding_window: vec![None, Some(20)],
        ..config()
    };
    check(config, Trainable::Full, 0.0);
}
