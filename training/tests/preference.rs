//! Preference training: the loss by hand, its gradient by finite differences, and that it learns.

mod oracle;

use harness_decoder::Projection;
use harness_training::{
    backend::{CpuBackend, Memory},
    model::{LocalSink, MicroStep, Trainable},
};
use oracle::{batch, config, model, spec};

#[test]
fn loss_and_gradient_are_those_of_the_formula() {
    let config = config();
    let trainable = Trainable::Lora(spec(&[Projection::Q, Projection::V, Projection::Down], 0.0));
    let (model, mut store) = model(&config, &trainable);
    let backend: CpuBackend = model.backend().clone();
    let pairs = batch(&config, &[9, 12, 20, 7], 3);
    let reference = backend.zeros(store.len()).unwrap();
    let beta = 0.3;
    let start = backend.upload(&store.values).unwrap();
    let step = MicroStep { scale: 0.5, dropout: None, noise: None };
    let loss = |values: &[f32]| {
        let values = backend.upload(values).unwrap();
        model.preference(&pairs, &values, &reference, beta, &step, None).expect("weights")
    };
    assert!((loss(&reference) - 2.0 * std::f64::consts::LN_2).abs() < 1e-9, "no adapter, no preference");
    let mut sink = LocalSink(&mut store.grads);
    let value = model.preference(&pairs, &start, &reference, beta, &step, Some(&mut sink)).expect("weights");
    assert!((value - loss(&start)).abs() < 1e-9 * value);

    // By hand, from the losses of single documents.
    let alone = |values: &[f32], document: usize| {
        let (from, to) = (pairs.boundaries[document], pairs.boundaries[document + 1]);
        let one = harness_training::data::Batch {
            tokens: pairs.tokens[from..to].to_vec(),
            labels: pairs.labels[from..to].to_vec(),
            boundaries: vec![0, to - from],
            positions: pairs.positions[from..to].to_vec(),
            padding: 0,
        };
        model.loss(&one, &backend.upload(values).unwrap()).expect("weights")
    };
    let by_hand: f64 = [0, 2]
        .into_iter()
        .map(|first| {
            let margin = |document| alone(&reference, document) - alone(&start, document);
            let z = beta * (margin(first) - margin(first + 1));
            -(1.0 / (1.0 + (-z).exp())).ln()
        })
        .sum();
    assert!((value - by_hand).abs() < 1e-5 * by_hand, "{value} {by_hand}");

    // Along the gradient the loss rises by its squared norm.
    let grads = store.grads.to_vec();
    let square: f64 = grads.iter().map(|&g| f64::from(g).powi(2)).sum();
    let along = |t: f64| {
        let moved: Vec<f32> = start.iter().zip(&grads).map(|(x, g)| x + (t * f64::from(*g)) as f32).collect();
        f64::from(step.scale) * loss(&moved)
    };
    let t = 1e-2 / square.sqrt();
    let slope = (along(t) - along(-t)) / (2.0 * t);
    assert!((slope - square).abs() < 2e-3 * square, "{slope} {square}");
}
