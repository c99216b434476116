//! Every kernel of the GPU against the processor's, in f32, bf16 and f16; then whole models: gradients, updates, 4-bit weights.
//! Skipped with a message where there is no GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod device;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use device::{activations, all, compare, error, gpu, numbers};
use harness_core::{Digest, Seed};
use harness_decoder::{Architecture, BlockSpec, DecoderConfig, LayerWeights, Projection, Rope, RopeScaling, Weights};
use harness_kernels::{
    HostTensor,
    cuda::{Device, Float},
};
use harness_training::{
    backend::{
        Activation, AttentionScores, AttentionShape, Backend, CpuBackend, DropoutKey, Kernels, Mat, MatMut, Memory,
        RotaryShape, Span, SpanMut, Updates, Weight,
    },
    block::{DropoutPlan, SavePolicy},
    checkpoint,
    data::{Batch, BatchSource, Sample, lengths, one_a_row},
    export::Artifact,
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable, random_weights},
    optimizer::{AdamW, AdamWStep, gradient_norm},
    recipe::{LoraInit, TrainingOptions},
    telemetry::{Progress, StepReport},
    trainer::{Trainer, TrainerSetup},
};

#[test]
fn products() {
    for (m, k, n) in [(70, 64, 48), (33, 7, 5), (128, 512, 24), (24, 300, 640)] {
        compare!(format!("products {m} {k} {n}"), |b, float| {
            let (x, w) = (numbers(m * k, 1, float), numbers(n * k, 2, float));
            let (a, wide) = (activations(b, &x), HostTensor::from_f32([n, k], w.clone()));
            let frozen = b.frozen(&[&wide], true).unwrap();
            let mut y = b.alloc(m * n).unwrap();
            b.linear(Mat::new(&a, 0, m, k), Weight::Frozen(&frozen), MatMut::new(&mut y, 0, m, n)).unwrap();
            let mut dx = b.alloc(m * k).unwrap();
            let dy = activations(b, &numbers(m * n, 3, float));
            b.linear_backward(Mat::new(&dy, 0, m, n), Weight::Frozen(&frozen), MatMut::new(&mut dx, 0, m, k)).unwrap();
            // The gradient of a weight is added up in f32, from activations.
            let mut dw = b.upload(&numbers(n * k, 4, Float::F32)).unwrap();
            b.gemm(0.5, Mat::new(&dy, 0, m, n).t(), Mat::new(&a, 0, m, k), 1.0, MatMut::new(&mut dw, 0, n, k)).unwrap();
            // A parameter multiplies as its image, also after it has changed.
            let mut live = b.upload(&numbers(n * k, 5, float)).unwrap();
            let mut z = b.alloc(m * n).unwrap();
            b.linear(Mat::new(&a, 0, m, k), Weight::Live(Mat::new(&live, 0, n, k)), MatMut::new(&mut z, 0, m, n))
                .unwrap();
            let before = all(b, &z, m * n);
            b.write(&w, SpanMut { buf: &mut live, at: 0, len: n * k }).unwrap();
            b.linear(Mat::new(&a, 0, m, k), Weight::Live(Mat::new(&live, 0, n, k)), MatMut::new(&mut z, 0, m, n))
                .unwrap();
            vec![all(b, &y, m * n), all(b, &dx, m * k), all(b, &dw, n * k), before, all(b, &z, m * n)]
        });
    }
}

#[test]
fn rows_and_biases() {
    let (rows, cols, vocab) = (37, 52, 19);
    compare!("rows", |b, float| {
        let x = activations(b, &numbers(rows * cols, 1, float));
        let bias = b.upload(&numbers(cols, 2, Float::F32)).unwrap();
        let mut y = activations(b, &numbers(rows * cols, 3, float));
        b.add_bias(Span { buf: &bias, at: 0, len: cols }, MatMut::new(&mut y, 0, rows, cols)).unwrap();
        b.add(&x, &mut y).unwrap();
        let mut db = b.upload(&numbers(cols, 4, Float::F32)).unwrap();
        b.bias_backward(Mat::new(&x, 0, rows, cols), SpanMut { buf: &mut db, at: 0, len: cols }).unwrap();
        let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 11).collect();
        let ids = b.ints(&tokens).unwrap();
        let table = HostTensor::from_f32([vocab, cols], numbers(vocab * cols, 5, float));
        let frozen = b.frozen(&[&table], false).unwrap();
        let mut e = b.alloc(rows * cols).unwrap();
        b.embed(Weight::Frozen(&frozen), &ids, MatMut::new(&mut e, 0, rows, cols)).unwrap();
        let live = b.upload(&numbers(vocab * cols, 6, float)).unwrap();
        let mut e2 = b.alloc(rows * cols).unwrap();
        b.embed(Weight::Live(Mat::new(&live, 0, vocab, cols)), &ids, MatMut::new(&mut e2, 0, rows, cols)).unwrap();
        let mut dtable = b.upload(&numbers(vocab * cols, 7, Float::F32)).unwrap();
        let to = SpanMut { buf: &mut dtable, at: 0, len: vocab * cols };
        b.embed_backward(Mat::new(&x, 0, rows, cols), &ids, to).unwrap();
        let chosen = b.ints(&[3, 0, 36, 17]).unwrap();
        let mut picked = b.alloc(4 * cols).unwrap();
        b.select_rows(Mat::new(&x, 0, rows, cols), &chosen, MatMut::new(&mut picked, 0, 4, cols)).unwrap();
        let mut spread = activations(b, &numbers(rows * cols, 8, float));
        b.spread_rows(Mat::new(&picked, 0, 4, cols), &chosen, MatMut::new(&mut spread, 0, rows, cols)).unwrap();
        let squares = b.sum_squares(Span { buf: &dtable, at: 0, len: vocab * cols }).unwrap() as f32;
        vec![
            all(b, &y, rows * cols),
            all(b, &db, cols),
            all(b, &e, rows * cols),
            all(b, &e2, rows * cols),
            all(b, &dtable, vocab * cols),
            all(b, &spread, rows * cols),
            vec![squares],
        ]
    });
}

#[test]
fn norms() {
    for (rows, heads, width) in [(9, 1, 576), (21, 3, 64), (5, 2, 12), (3, 1, 2048)] {
        compare!(format!("norms {rows} {heads} {width}"), |b, float| {
            let cols = heads * width;
            let x = activations(b, &numbers(rows * cols, 1, float));
            let w = b.upload(&numbers(width, 2, Float::F32)).unwrap();
            let weight = Span { buf: &w, at: 0, len: width };
            let (mut y, mut rstd) = (b.alloc(rows * cols).unwrap(), b.alloc_statistics(rows * heads).unwrap());
            let to = MatMut::new(&mut y, 0, rows, cols);
            b.rmsnorm(Mat::new(&x, 0, rows, cols), heads, weight, 1e-5, to, &mut rstd).unwrap();
            let mut d = activations(b, &numbers(rows * cols, 3, float));
            let add = activations(b, &numbers(rows * cols, 4, float));
            let mut dw = b.upload(&numbers(width, 5, Float::F32)).unwrap();
            let (to, add) = (MatMut::new(&mut d, 0, rows, cols), Some(Mat::new(&add, 0, rows, cols)));
            let to_weight = Some(SpanMut { buf: &mut dw, at: 0, len: width });
            let from = Mat::new(&x, 0, rows, cols);
            b.rmsnorm_backward(to, heads, from, weight, &rstd, add, to_weight).unwrap();
            let mut left = vec![all(b, &y, rows * cols), all(b, &rstd, rows * heads), all(b, &d, rows * cols)];
            left.push(all(b, &dw, width));
            if heads == 1 {
                let mut sum = activations(b, &numbers(rows * cols, 6, float));
                let to = MatMut::new(&mut y, 0, rows, cols);
                b.add_rmsnorm(&x, &mut sum, (rows, cols), weight, 1e-5, to, &mut rstd).unwrap();
                left.extend([all(b, &sum, rows * cols), all(b, &y, rows * cols), all(b, &rstd, rows)]);
            }
            left
        });
    }
}

#[test]
fn rotations_activations_and_dropout() {
    for inner in [64, 30] {
        compare!(format!("elementwise {inner}"), |b, float| {
            let (rows, heads, dim) = (23, 3, 20);
            let mut x = activations(b, &numbers(rows * heads * dim, 1, float));
            let positions = b.ints(&(0..rows as u32).map(|i| i * 5 % 31).collect::<Vec<_>>()).unwrap();
            let table = b.upload(&numbers(31 * dim, 2, Float::F32)).unwrap();
            b.rope(
                MatMut::new(&mut x, 0, rows, heads * dim),
                RotaryShape { heads, dims: dim, pairs: false },
                &positions,
                &table,
                false,
            )
            .unwrap();
            let rotated = all(b, &x, rows * heads * dim);
            b.rope(
                MatMut::new(&mut x, 0, rows, heads * dim).columns(dim, dim),
                RotaryShape { heads: 1, dims: dim, pairs: false },
                &positions,
                &table,
                true,
            )
            .unwrap();
            let mut gu = activations(b, &numbers(rows * 2 * inner, 3, float));
            let mut y = b.alloc(rows * inner).unwrap();
            b.activate(Activation::Silu, Mat::new(&gu, 0, rows, 2 * inner), MatMut::new(&mut y, 0, rows, inner))
                .unwrap();
            let dy = activations(b, &numbers(rows * inner, 4, float));
            b.activate_backward(
                Activation::Silu,
                Mat::new(&dy, 0, rows, inner),
                MatMut::new(&mut gu, 0, rows, 2 * inner),
            )
            .unwrap();
            let key = DropoutKey { key: 0x1234_5678_9abc_def0, probability: 0.3 };
            let mut dropped = b.alloc(rows * inner).unwrap();
            b.dropout(Mat::new(&dy, 0, rows, inner), key, MatMut::new(&mut dropped, 0, rows, inner)).unwrap();
            let kept = all(b, &dropped, rows * inner);
            let mut dx = activations(b, &numbers(rows * inner, 5, float));
            b.dropout_backward(Mat::new(&dy, 0, rows, inner), key, MatMut::new(&mut dx, 0, rows, inner)).unwrap();
            for (i, x) in kept.iter().enumerate() {
                assert_eq!(*x != 0.0, key.keeps(i / inner, i % inner), "the mask is the host's");
            }
            vec![
                rotated,
                all(b, &x, rows * heads * dim),
                all(b, &y, rows * inner),
                all(b, &gu, rows * 2 * inner),
                kept,
                all(b, &dx, rows * inner),
            ]
        });
    }
}

#[test]
fn attention_forward_and_backward() {
    let cases = [
        (64, 9, 3, None),
        (96, 4, 4, None),
        (128, 8, 2, None),
        (128, 4, 4, Some(70)),
        (64, 4, 1, Some(33)),
        (12, 4, 2, None),
        (80, 2, 1, Some(100)),
    ];
    for (dim, heads, kv_heads, window) in cases {
        compare!(format!("attention {dim} {heads}/{kv_heads} {window:?}"), |b, float| {
            let bounds = [0u32, 1, 65, 65, 193, 200, 451];
            let rows = 451;
            let (q, kv) = (heads * dim, kv_heads * dim);
            let all_cols = q + 2 * kv;
            let x = activations(b, &numbers(rows * all_cols, 1, float));
            let qkv = Mat::new(&x, 0, rows, all_cols);
            let views = [qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)];
            let shape = AttentionShape { heads, kv_heads, head_dim: dim, window };
            let ids = b.ints(&bounds).unwrap();
            let (mut o, mut lse) = (b.alloc(rows * q).unwrap(), b.alloc_statistics(rows * heads).unwrap());
            b.attention(views, shape, AttentionScores::default(), &ids, MatMut::new(&mut o, 0, rows, q), &mut lse)
                .unwrap();
            let d_o = activations(b, &numbers(rows * q, 2, float));
            let mut dqkv = b.alloc(rows * all_cols).unwrap();
            let (out, d) = (Mat::new(&o, 0, rows, q), Mat::new(&d_o, 0, rows, q));
            b.attention_backward(
                views,
                out,
                &lse,
                d,
                shape,
                AttentionScores::default(),
                &ids,
                MatMut::new(&mut dqkv, 0, rows, all_cols),
            )
            .unwrap();
            let grads = all(b, &dqkv, rows * all_cols);
            let part = |from: usize, cols: usize| -> Vec<f32> {
                grads.chunks(all_cols).flat_map(|row| row[from..from + cols].to_vec()).collect()
            };
            vec![all(b, &o, rows * q), all(b, &lse, rows * heads), part(0, q), part(q, kv), part(q + kv, kv)]
        });
    }
}

#[test]
fn losses_and_updates() {
    for vocab in [101, 49152] {
        compare!(format!("losses {vocab}"), |b, float| {
            let rows = 19;
            let mut logits = activations(b, &numbers(rows * vocab, 1, float));
            let labels: Vec<u32> = (0..rows as u32).map(|i| i * 13 % vocab as u32).collect();
            let ids = b.ints(&labels).unwrap();
            let span = Span { buf: &ids, at: 2, len: rows - 2 };
            let to = MatMut::new(&mut logits, 2 * vocab, rows - 2, vocab);
            let alone = b.cross_entropy(to, span, None).unwrap() as f32;
            let to = MatMut::new(&mut logits, 2 * vocab, rows - 2, vocab);
            let loss = b.cross_entropy(to, span, Some(0.25)).unwrap() as f32;
            vec![vec![alone], vec![loss], all(b, &logits, rows * vocab)]
        });
    }
    compare!("adamw", |b, float| {
        let n = 1003;
        let mut buffers: Vec<_> = (0..4).map(|i| b.upload(&numbers(n, 10 + i, Float::F32)).unwrap()).collect();
        let squares: Vec<f32> = numbers(n, 13, Float::F32).iter().map(|x| x * x).collect();
        b.write(&squares, SpanMut { buf: &mut buffers[3], at: 0, len: n }).unwrap();
        let step = AdamWStep {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            grad_scale: 0.7,
            number: 3,
        };
        let [values, grads, mean, square] = &mut buffers[..] else { unreachable!("four buffers") };
        // An image made before the update must follow it.
        let x = activations(b, &numbers(n, 20, float));
        let product = |values: &_| {
            let mut y = b.alloc(1).unwrap();
            b.gemm(1.0, Mat::new(&x, 0, 1, n), Mat::new(values, 0, n, 1), 0.0, MatMut::new(&mut y, 0, 1, 1)).unwrap();
            all(b, &y, 1)
        };
        product(values);
        b.adamw(values, grads, [mean, square], 0, 3..n - 5, &step).unwrap();
        vec![all(b, values, n), all(b, mean, n), all(b, square, n), product(values)]
    });
}

/// A small decoder with heads of a width.
fn config(head_dim: usize) -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::LLAMA,
        vocab_size: 211,
        hidden_size: 96,
        intermediate_size: 144,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 256,
        tie_word_embeddings: true,
        qkv_bias: false,
        o_bias: false,
        block: BlockSpec::default(),
        sliding_window: vec![None; 2],
        bos_token_id: None,
        eos_token_ids: vec![],
        experts: None,
    }
}

fn batch(config: &DecoderConfig, lengths: &[usize], seed: u64) -> Batch {
    let mut rng = Seed(seed).stream("batch", 0);
    let mut batch = Batch { boundaries: vec![0], ..Batch::default() };
    for &length in lengths {
        let tokens: Vec<u32> = (0..length).map(|_| rng.below(config.vocab_size as u64) as u32).collect();
        batch.labels.extend((1..length).map(|i| (rng.uniform() < 0.66).then_some(tokens[i])));
        batch.labels.push(None);
        batch.positions.extend(0..length as u32);
        batch.tokens.extend(tokens);
        batch.boundaries.push(batch.tokens.len());
    }
    batch
}

/// Weights whose values bf16 holds exactly.
fn weights(config: &DecoderConfig) -> Weights {
    let mut weights = random_weights(config, 0.1, Seed(7));
    let round = |tensor: &mut HostTensor| {
        let data = tensor.to_f32().iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        *tensor = HostTensor::from_f32(tensor.shape.clone(), data);
    };
    round(&mut weights.embed);
    weights.lm_head.iter_mut().for_each(round);
    for layer in &mut weights.layers {
        let LayerWeights { q, k, v, o, gate, up, down, .. } = layer;
        [q, k, v, o, gate, up, down].into_iter().for_each(round);
    }
    weights
}

/// 4-bit weights give the products and gradients of the values they stand for.
#[test]
fn four_bit_weights() {
    use harness_kernels::{HostData, Nf4Tensor, Quantization, QuantizationKind};
    for (rows, cols, double) in [(64, 128, true), (40, 192, false), (9, 7, true), (512, 64, true)] {
        compare!(format!("nf4 {rows} {cols} double {double}"), |b, float| {
            let options = Quantization { kind: QuantizationKind::Nf4, block_size: 64, double };
            let part = |seed: u64| {
                let values = numbers(rows * cols, seed, Float::F32);
                let tensor = Nf4Tensor::quantise(&values, &options).expect("finite values");
                HostTensor { shape: vec![rows, cols], data: HostData::Nf4(tensor) }
            };
            let (first, second) = (part(1), part(2));
            let frozen = b.frozen(&[&first, &second], true).unwrap();
            let m = 33;
            let x = activations(b, &numbers(m * cols, 3, float));
            let dy = activations(b, &numbers(m * 2 * rows, 4, float));
            let (mut y, mut dx) = (b.alloc(m * 2 * rows).unwrap(), b.alloc(m * cols).unwrap());
            b.linear(Mat::new(&x, 0, m, cols), Weight::Frozen(&frozen), MatMut::new(&mut y, 0, m, 2 * rows)).unwrap();
            let to = MatMut::new(&mut dx, 0, m, cols);
            b.linear_backward(Mat::new(&dy, 0, m, 2 * rows), Weight::Frozen(&frozen), to).unwrap();
            vec![all(b, &y, m * 2 * rows), all(b, &dx, m * cols)]
        });
    }
}

fn lora(rank: usize, dropout: f32) -> Trainable {
    let spec = LoraSpec::new(rank, 16.0, Projection::ALL.to_vec());
    Trainable::Lora(LoraSpec { dropout, init: LoraInit::Gaussian, ..spec })
}

/// Loss and gradient by tensor; low-rank matrices are shaken so that none is zero.
fn gradients<B: Backend + Clone>(
    backend: &B,
    config: &DecoderConfig,
    trainable: &Trainable,
    policy: SavePolicy,
    loss_scale: f32,
) -> (f64, Vec<(String, Vec<f32>)>) {
    let (model, mut store) =
        Model::new(backend.clone(), config, &weights(config), trainable, 256, Seed(4)).expect("a model");
    let model = model.with_policy(policy);
    if matches!(trainable, Trainable::Lora(_)) {
        for (index, param) in store.layout().params().to_vec().iter().enumerate() {
            let data: Vec<f32> =
                numbers(param.len(), 90 + index as u64, Float::Bf16).iter().map(|x| x / 16.0).collect();
            store.set_value(backend, index, &data).unwrap();
        }
    }
    let batch = batch(config, &[70, 1, 130, 33], 3);
    let dropout = match trainable {
        Trainable::Lora(spec) => DropoutPlan::new(42, 3, 1, spec.dropout),
        Trainable::Full => None,
    };
    let params = std::mem::replace(&mut store.values, backend.zeros(0).unwrap());
    let mean = MicroStep::mean(batch.num_labels()).with_dropout(dropout);
    let step = MicroStep { scale: mean.scale * loss_scale, ..mean };
    let loss = model.forward_backward(&batch, &params, &step, &mut LocalSink(&mut store.grads)).expect("a loss");
    let grad = |p| store.grad(backend, p).unwrap().iter().map(|g| g / loss_scale).collect();
    let grads = store.layout().params().iter().map(|p| (p.name.clone(), grad(p))).collect();
    (loss, grads)
}

fn check_gradients(config: &DecoderConfig, trainable: &Trainable) {
    let (loss, expected) = gradients(&CpuBackend::new(), config, trainable, SavePolicy::Lean, 1.0);
    for float in [Float::F32, Float::Bf16, Float::F16] {
        let Some(device) = gpu(float) else { return };
        let mut first = None;
        for policy in [SavePolicy::Lean, SavePolicy::Full, SavePolicy::Layer] {
            // Small gradients are below the least numbers of f16.
            let loss_scale = if float == Float::F16 { 1024.0 } else { 1.0 };
            let (found, grads) = gradients(&device, config, trainable, policy, loss_scale);
            let loss_error = (found - loss).abs() / loss;
            let (mut a, mut b, mut worst) = (vec![], vec![], (0.0, ""));
            for ((name, found), (_, expected)) in grads.iter().zip(&expected) {
                let one = error(found, expected);
                if one > worst.0 {
                    worst = (one, name);
                }
                a.extend_from_slice(found);
                b.extend_from_slice(expected);
            }
            let whole = error(&a, &b);
            eprintln!("gradients {} {policy:?}: loss {loss_error:.1e}, all {whole:.1e}, worst {worst:?}", float.name());
            // In bf16 every activation is rounded to 8 bits; the errors of a deep product of them add up.
            let (of_loss, of_all) = if float == Float::F32 { (1e-6, 1e-5) } else { (5e-3, 3e-2) };
            assert!(loss_error < of_loss && whole < of_all, "{} {policy:?}: {loss_error:e} {whole:e}", float.name());
            let same = first.get_or_insert_with(|| a.clone());
            assert!(*same == a, "{policy:?} changes the gradients");
        }
    }
}

#[test]
fn gradients_of_low_rank_additions() {
    check_gradients(&config(64), &lora(8, 0.0));
    check_gradients(
        &DecoderConfig { qkv_bias: true, o_bias: true, tie_word_embeddings: false, ..config(128) },
        &lora(8, 0.1),
    );
    check_gradients(
        &DecoderConfig { block: BlockSpec::with_head_norms(true), sliding_window: vec![Some(40), None], ..config(24) },
        &lora(3, 0.0),
    );
}

#[test]
fn gradients_of_all_parameters() {
    check_gradients(&DecoderConfig { qkv_bias: true, ..config(64) }, &Trainable::Full);
    check_gradients(
        &DecoderConfig { tie_word_embeddings: false, block: BlockSpec::with_head_norms(true), ..config(96) },
        &Trainable::Full,
    );
}

/// Losses of some updates on the same batches.
fn losses<B: Backend + Clone>(backend: &B, config: &DecoderConfig, loss_scale: f32) -> Vec<f64> {
    let (model, mut store) =
        Model::new(backend.clone(), config, &weights(config), &lora(8, 0.05), 256, Seed(4)).expect("a model");
    let optimizer = AdamW::default();
    (0..25)
        .map(|step| {
            let batch = batch(config, &[90, 40, 60], step % 4);
            store.clear_grads(backend).unwrap();
            let params = std::mem::replace(&mut store.values, backend.zeros(0).unwrap());
            let dropout = DropoutPlan::new(1, step, 0, 0.05);
            let n = batch.num_labels();
            let micro = MicroStep { scale: loss_scale / n as f32, ..MicroStep::mean(n).with_dropout(dropout) };
            let loss =
                model.forward_backward(&batch, &params, &micro, &mut LocalSink(&mut store.grads)).expect("a loss");
            store.values = params;
            let norm = gradient_norm(backend, &store).unwrap() / f64::from(loss_scale);
            optimizer.update(backend, &mut store, step + 1, 5e-3, norm, f64::from(loss_scale)).unwrap();
            loss / n as f64
        })
        .collect()
}

#[test]
fn training_follows_the_processor() {
    let config = config(64);
    let expected = losses(&CpuBackend::new(), &config, 1.0);
    assert!(expected[24] < 0.9 * expected[0], "something is learnt: {expected:?}");
    for (float, tolerance, scale) in [(Float::F32, 1e-4, 1.0), (Float::Bf16, 1e-2, 1.0), (Float::F16, 1e-2, 1024.0)] {
        let Some(device) = gpu(float) else { return };
        let found = losses(&device, &config, scale);
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
        eprintln!("training {}: losses differ by at most {worst:.1e}", float.name());
        assert!(worst < tolerance, "{}: {found:?} {expected:?}", float.name());
    }
}

/// Sets a flag after an update.
struct StopAt(u64, Arc<AtomicBool>);

impl Progress for StopAt {
    fn step(&mut self, report: &StepReport) {
        self.1.store(report.step == self.0, Ordering::Relaxed);
    }
}

/// AdamW's states in host memory: the same bits, over a checkpoint too, and that much less of the GPU's memory.
#[test]
fn paged_states_change_no_bit_and_take_no_device_memory() {
    let (config, folder) = (config(64), tempfile::tempdir().expect("a folder"));
    let options = "max_steps = 8\nbatch_size = 2\ngradient_accumulation_steps = 2\nlearning_rate = 0.01\n\
                   weight_decay = 0.01\nsave_steps = 4";
    let options: TrainingOptions = toml::from_str(options).expect("options");
    let mut rng = Seed(6).stream("samples", 0);
    let mut token = || rng.below(config.vocab_size as u64) as u32;
    let sample = |i| Sample { tokens: (0..40 + i).map(|_| token()).collect(), loss_from: 1, ..Sample::default() };
    let samples: Arc<[Sample]> = (0..10).map(sample).collect::<Vec<_>>().into();
    // The optimizer's file after the run, the peak of the GPU's memory, and the number of parameters.
    let run = |float: Float, paged: bool, name: &str, stop_at: u64| {
        let backend = gpu(float)?.paging(paged);
        let (model, store) =
            Model::new(backend, &config, &weights(&config), &Trainable::Full, 256, Seed(4)).expect("a model");
        let (output, parameters) = (folder.path().join(name), store.len());
        let setup = TrainerSetup {
            options: options.clone(),
            dropout: 0.0,
            train: BatchSource::new(Arc::clone(&samples), one_a_row(&lengths(&samples)), 2, Seed(1)),
            validation: vec![],
            artifact: Artifact::Model {
                config: serde_json::json!({"model_type": "llama"}),
                dtype: Default::default(),
                tokenizer: output.clone(),
            },
            output: output.clone(),
            run: Digest::of("a run"),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut trainer = Trainer::new(model, store, setup).expect("a trainer").with_stop(Arc::clone(&stop));
        trainer.resume().expect("a checkpoint, or none");
        let summary = trainer.run(&mut StopAt(stop_at, stop)).expect("a run");
        let file = checkpoint::folder(&output, summary.steps).join("optimizer.safetensors");
        Some((std::fs::read(file).expect("a checkpoint"), summary.memory_bytes as usize, parameters))
    };
    for float in [Float::F32, Float::Bf16] {
        let name = |name: &str| format!("{name} {}", float.name());
        let Some((expected, all, parameters)) = run(float, false, &name("device"), 99) else { return };
        let whole = run(float, true, &name("host"), 99).expect("a GPU");
        assert!(whole.0 == expected, "{}: paged", float.name());
        eprintln!("paged {}: {} bytes on the GPU instead of {all}, {parameters} parameters", float.name(), whole.1);
        assert!(whole.1 + 8 * parameters <= all, "{} of {all}, {parameters}", whole.1);
        // From host to device and back, over checkpoints.
        for (paged, at) in [(true, 3), (false, 5), (true, 99)] {
            let (found, ..) = run(float, paged, &name("both"), at).expect("a GPU");
            assert!(at < 99 || found == expected, "{}: resumed", float.name());
        }
    }
}

#[test]
fn memory_is_used_again_and_failures_are_errors() {
    let Some(device) = gpu(Float::Bf16) else { return };
    let config = config(64);
    let (model, mut store) =
        Model::new(device.clone(), &config, &weights(&config), &lora(8, 0.0), 256, Seed(4)).expect("a model");
    let batch = batch(&config, &[90, 40, 60], 1);
    let params = std::mem::replace(&mut store.values, device.zeros(0).unwrap());
    let mut held = vec![];
    for _ in 0..4 {
        let step = MicroStep::mean(10);
        model.forward_backward(&batch, &params, &step, &mut LocalSink(&mut store.grads)).expect("a loss");
        held.push(device.device().pool_bytes().1);
    }
    assert_eq!(held[1], held[3], "the second step has allocated all there is to allocate");
    let error = device.alloc(1 << 42).unwrap_err().to_string();
    assert!(error.contains("out of memory") && error.contains("gradient_checkpointing"), "{error}");
    // The device goes on afterwards.
    model.forward_backward(&batch, &params, &MicroStep::mean(10), &mut LocalSink(&mut store.grads)).expect("a loss");
    let missing = Device::open(99).unwrap_err().to_string();
    assert!(missing.contains("cuda:99") && missing.contains("no such GPU"), "{missing}");
}
