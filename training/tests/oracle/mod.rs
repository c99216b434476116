//! The decoder once more, in f64 with candle's differentiable operations only, one document at a time: what the
//! hand-written backward is checked against.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use harness_core::Seed;
use harness_decoder::{Architecture, BlockSpec, DecoderConfig, Projection, Rope, RopeScaling, Weights};
use harness_training::{
    backend::CpuBackend,
    block::DropoutPlan,
    data::Batch,
    lora::LoraSpec,
    model::{Model, Trainable, full_layout, random_weights},
    params::ParamStore,
};

/// A small decoder; tests change what they are about.
pub(crate) fn config() -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::LLAMA,
        vocab_size: 101,
        hidden_size: 40,
        intermediate_size: 56,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 12,
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

pub(crate) fn spec(targets: &[Projection], dropout: f32) -> LoraSpec {
    LoraSpec { dropout, ..LoraSpec::new(3, 5.0, targets.to_vec()) }
}

/// Documents of random tokens; about two thirds of the positions have a label.
pub(crate) fn batch(config: &DecoderConfig, lengths: &[usize], seed: u64) -> Batch {
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

/// Random weights with norms and biases that matter.
pub(crate) fn weights(config: &DecoderConfig) -> Weights {
    let mut weights = random_weights(config, 0.15, Seed(7));
    let mut index = 0;
    let mut shake = |data: &mut Vec<f32>| {
        let mut rng = Seed(8).stream("shake", index);
        index += 1;
        data.iter_mut().for_each(|x| *x += rng.normal() as f32 * 0.2);
    };
    for layer in &mut weights.layers {
        shake(&mut layer.input_norm);
        shake(&mut layer.post_attention_norm);
        let optional = [&mut layer.q_bias, &mut layer.k_bias, &mut layer.v_bias, &mut layer.o_bias];
        optional.into_iter().flatten().for_each(&mut shake);
        [&mut layer.q_norm, &mut layer.k_norm].into_iter().flatten().for_each(&mut shake);
    }
    shake(&mut weights.norm);
    weights
}

/// The model under test; low-rank matrices are given values, so that `B` is not 0.
pub(crate) fn model(config: &DecoderConfig, trainable: &Trainable) -> (Model<CpuBackend>, ParamStore<CpuBackend>) {
    let backend = CpuBackend::new();
    let (model, mut store) =
        Model::new(backend.clone(), config, &weights(config), trainable, 256, Seed(1)).expect("a valid model");
    if let Trainable::Lora(_) = trainable {
        let mut rng = Seed(9).stream("values", 0);
        store.values.iter_mut().for_each(|x| *x = rng.normal() as f32 * 0.2);
    }
    (model, store)
}

/// Tensors of the oracle by name, as f64; trained ones are variables.
pub(crate) struct Oracle {
    pub(crate) config: DecoderConfig,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) vars: BTreeMap<String, Var>,
    pub(crate) lora_scale: f64,
    pub(crate) dropout: Option<DropoutPlan>,
}

impl Oracle {
    pub(crate) fn new(config: &DecoderConfig, trainable: &Trainable, store: &ParamStore<CpuBackend>) -> Result<Self> {
        let backend = CpuBackend::new();
        let mut tensors = BTreeMap::new();
        let (full, _) = full_layout(config);
        let base =
            Model::new(backend.clone(), config, &weights(config), &Trainable::Full, 8, Seed(1)).expect("valid").1;
        assert_eq!(base.layout(), &full);
        let mut vars = BTreeMap::new();
        let mut add = |name: &str, shape: &[usize], data: Vec<f32>, trained: bool| -> Result<()> {
            let data: Vec<f64> = data.into_iter().map(f64::from).collect();
            let tensor = Tensor::from_vec(data, shape, &Device::Cpu)?;
            if trained {
                let var = Var::from_tensor(&tensor)?;
                tensors.insert(name.to_owned(), var.as_tensor().clone());
                vars.insert(name.to_owned(), var);
            } else {
                tensors.insert(name.to_owned(), tensor);
            }
            Ok(())
        };
        let is_full = *trainable == Trainable::Full;
        for param in base.layout().params() {
            add(&param.name, &param.shape, base.value(&backend, param).unwrap(), is_full)?;
        }
        let mut lora_scale = 0.0;
        if let Trainable::Lora(spec) = trainable {
            lora_scale = spec.scale();
            for param in store.layout().params() {
                add(&param.name, &param.shape, store.value(&backend, param).unwrap(), true)?;
            }
        }
        Ok(Self { config: config.clone(), tensors, vars, lora_scale, dropout: None })
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.norm_eps))?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(&self.tensors[name])
    }

    fn linear(&self, x: &Tensor, layer: usize, projection: Projection, first_row: usize) -> Result<Tensor> {
        let module = format!("model.layers.{layer}.{projection}");
        let mut y = x.matmul(&self.tensors[&format!("{module}.weight")].t()?)?;
        if let Some(bias) = self.tensors.get(&format!("{module}.bias")) {
            y = y.broadcast_add(bias)?;
        }
        let Some(a) = self.tensors.get(&format!("base_model.model.{module}.lora_A.weight")) else { return Ok(y) };
        let b = &self.tensors[&format!("base_model.model.{module}.lora_B.weight")];
        let x = match self.dropout {
            None => x.clone(),
            Some(plan) => {
                let (rows, cols) = x.dims2()?;
                let key = plan.mask(layer, projection);
                let factor = f64::from(key.factor());
                let mask =
                    (0..rows * cols).map(|i| if key.keeps(first_row + i / cols, i % cols) { factor } else { 0.0 });
                x.mul(&Tensor::from_vec(mask.collect::<Vec<f64>>(), (rows, cols), &Device::Cpu)?)?
            }
        };
        y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * self.lora_scale)?
    }

    /// `[tokens, heads * dim]` to `[heads, tokens, dim]`.
    fn heads(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        x.reshape((x.dim(0)?, heads, self.config.head_dim))?.transpose(0, 1)?.contiguous()
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (_, tokens, dim) = x.dims3()?;
        let half = dim / 2;
        let angle = |i: usize| (i / half) as f64 * self.config.rope.theta.powf(-2.0 * (i % half) as f64 / dim as f64);
        let table = |f: fn(f64) -> f64| {
            Tensor::from_vec(
                (0..tokens * half).map(|i| f(angle(i))).collect::<Vec<f64>>(),
                (tokens, half),
                &Device::Cpu,
            )
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, layer: usize) -> Result<Tensor> {
        let (heads, tokens, dim) = q.dims3()?;
        let group = heads / k.dim(0)?;
        let repeat = |x: &Tensor| -> Result<Tensor> {
            let heads = (0..heads).map(|h| x.narrow(0, h / group, 1)).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&heads, 0)
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? / (dim as f64).sqrt())?;
        let window = self.config.window(layer).unwrap_or(usize::MAX);
        let seen = |i: usize, j: usize| j <= i && i - j < window;
        let mask = (0..tokens * tokens).map(|i| if seen(i / tokens, i % tokens) { 0.0 } else { -1e30 });
        let mask = Tensor::from_vec(mask.collect::<Vec<f64>>(), (tokens, tokens), &Device::Cpu)?;
        let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        p.matmul(&v)?.transpose(0, 1)?.reshape((tokens, heads * dim))
    }

    fn block(&self, x: &Tensor, layer: usize, first_row: usize) -> Result<Tensor> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let n1 = self.norm(x, &name("input_layernorm.weight"))?;
        let project = |x: &Tensor, projection| self.linear(x, layer, projection, first_row);
        let mut q = self.heads(&project(&n1, Projection::Q)?, self.config.num_heads)?;
        let mut k = self.heads(&project(&n1, Projection::K)?, self.config.num_kv_heads)?;
        let v = self.heads(&project(&n1, Projection::V)?, self.config.num_kv_heads)?;
        if self.config.block.qk_norm.is_some() {
            q = self.norm(&q, &name("self_attn.q_norm.weight"))?;
            k = self.norm(&k, &name("self_attn.k_norm.weight"))?;
        }
        let o = self.attention(&self.rotate(&q)?, &self.rotate(&k)?, &v, layer)?;
        let h = (x + project(&o, Projection::O)?)?;
        let n2 = self.norm(&h, &name("post_attention_layernorm.weight"))?;
        let act = (project(&n2, Projection::Gate)?.silu()? * project(&n2, Projection::Up)?)?;
        h + project(&act, Projection::Down)?
    }

    /// The summed loss over the labels.
    pub(crate) fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let embed = &self.tensors["model.embed_tokens.weight"];
        let head = self.tensors.get("lm_head.weight").unwrap_or(embed);
        let mut total = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        for bounds in batch.boundaries.windows(2) {
            let (first, end) = (bounds[0], bounds[1]);
            let tokens = Tensor::new(&batch.tokens[first..end], &Device::Cpu)?;
            let mut x = embed.index_select(&tokens, 0)?;
            for layer in 0..self.config.num_layers {
                x = self.block(&x, layer, first)?;
            }
            let logits = self.norm(&x, "model.norm.weight")?.matmul(&head.t()?)?;
            let log_probs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
            for (i, label) in batch.labels[first..end].iter().enumerate() {
                if let Some(label) = label {
                    total = (total - log_probs.narrow(0, i, 1)?.narrow(1, *label as usize, 1)?.sum_all()?)?;
                }
            }
        }
        Ok(total)
    }
}
