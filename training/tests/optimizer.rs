//! AdamW against numbers computed by hand and against its closed form.

use harness_training::{
    backend::CpuBackend,
    optimizer::{AdamW, clip_factor, gradient_norm},
    params::{Layout, ParamStore},
};

fn store(backend: &CpuBackend, values: &[f32], decay: bool) -> ParamStore<CpuBackend> {
    let mut layout = Layout::default();
    layout.push("p".into(), vec![values.len()], false, decay);
    let mut store = ParamStore::new(backend, layout).unwrap();
    store.set_value(backend, 0, values).unwrap();
    store
}

/// AdamW in f64 as PyTorch documents it.
fn reference(adam: &AdamW, lr: f64, start: f64, gradients: &[f64]) -> f64 {
    let (mut p, mut m, mut v) = (start, 0.0, 0.0);
    for (t, g) in gradients.iter().enumerate() {
        let t = (t + 1) as i32;
        p *= 1.0 - lr * adam.weight_decay;
        m = adam.beta1 * m + (1.0 - adam.beta1) * g;
        v = adam.beta2 * v + (1.0 - adam.beta2) * g * g;
        let (m_hat, v_hat) = (m / (1.0 - adam.beta1.powi(t)), v / (1.0 - adam.beta2.powi(t)));
        p -= lr * m_hat / (v_hat.sqrt() + adam.epsilon);
    }
    p
}

#[test]
fn updates_agree_with_the_formula() {
    let backend = CpuBackend::new();
    let gradients = [[0.5f32, -0.02, 1e-6], [0.1, 0.03, -2e-6], [-0.4, 0.0, 5e-7], [0.25, 0.01, 1e-6]];
    let start = [1.0f32, -2.0, 0.5];
    for decay in [true, false] {
        let adam = AdamW { weight_decay: 0.1, max_grad_norm: 0.0, ..AdamW::default() };
        let mut store = store(&backend, &start, decay);
        for (t, gradient) in gradients.iter().enumerate() {
            store.grads.copy_from_slice(gradient);
            let norm = gradient_norm(&backend, &store).unwrap();
            adam.update(&backend, &mut store, t as u64 + 1, 0.01, norm, 1.0).unwrap();
        }
        let formula = AdamW { weight_decay: if decay { 0.1 } else { 0.0 }, ..adam };
        for i in 0..3 {
            let column: Vec<f64> = gradients.iter().map(|g| f64::from(g[i])).collect();
            let expected = reference(&formula, 0.01, f64::from(start[i]), &column);
            let found = f64::from(store.values[i]);
            assert!((found - expected).abs() < 5e-7, "{found} {expected}");
        }
    }
}

#[test]
fn the_first_step_is_the_learning_rate_against_the_gradient() {
    let backend = CpuBackend::new();
    let mut store = store(&backend, &[3.0, 3.0], true);
    store.grads.copy_from_slice(&[1e-3, -100.0]);
    let norm = gradient_norm(&backend, &store).unwrap();
    AdamW::default().update(&backend, &mut store, 1, 0.5, norm, 1.0).unwrap();
    assert!((store.values[0] - 2.5).abs() < 1e-2 && (store.values[1] - 3.5).abs() < 1e-5, "{:?}", &store.values[..]);
}

#[test]
fn the_global_norm_is_clipped_as_pytorch_does() {
    let backend = CpuBackend::new();
    let mut store = store(&backend, &[0.0, 0.0], true);
    store.grads.copy_from_slice(&[3.0, 4.0]);
    let norm = gradient_norm(&backend, &store).unwrap();
    assert!((norm - 5.0).abs() < 1e-9);
    assert_eq!(clip_factor(norm, 1.0), 1.0 / (norm + 1e-6));
    assert_eq!((clip_factor(0.5, 1.0), clip_factor(100.0, 0.0)), (1.0, 1.0));
    // With beta1 = 0 the mean is the clipped gradient itself.
    let adam = AdamW { beta1: 0.0, max_grad_norm: 1.0, ..AdamW::default() };
    adam.update(&backend, &mut store, 1, 0.1, norm, 1.0).unwrap();
    let factor = clip_factor(norm, 1.0);
    for (mean, g) in store.mean.iter().zip([3.0, 4.0]) {
        assert!((f64::from(*mean) - g * factor).abs() < 1e-7);
    }
}
