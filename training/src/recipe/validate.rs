//! What a recipe may not say although it can be written.

use super::{
    DataOptions, LoraOptions, Method, ModelOptions, Padding, Recipe, SplitFractions, Targets, TrainingOptions,
};
use harness_decoder::linear_names;

/// A value that cannot be, and why.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Dotted key.
    pub(crate) key: &'static str,
    /// What was found, what was expected.
    pub(crate) message: String,
}

/// Fails with the problem unless the condition holds.
fn ensure(condition: bool, key: &'static str, message: impl FnOnce() -> String) -> Result<(), Problem> {
    if condition { Ok(()) } else { Err(Problem { key, message: message() }) }
}

/// Fails unless the count is at least 1.
fn positive(count: usize, key: &'static str) -> Result<(), Problem> {
    ensure(count > 0, key, || "is 0; expected at least 1".into())
}

/// Fails unless the number is finite and in the half-open range.
fn within(value: f64, low: f64, high: f64, key: &'static str) -> Result<(), Problem> {
    ensure(value.is_finite() && value >= low && value < high, key, || {
        if high == f64::INFINITY {
            format!("is {}; expected a number of at least {low}", shown(value))
        } else {
            format!("is {}; expected a number from {low} up to, but not including, {}", shown(value), shown(high))
        }
    })
}

/// Fails unless the number is finite and above zero.
fn above_zero(value: f64, key: &'static str) -> Result<(), Problem> {
    ensure(value.is_finite() && value > 0.0, key, || format!("is {}; expected a number above 0", shown(value)))
}

/// A number as it would be written in a recipe.
pub(crate) fn shown(value: f64) -> String {
    if value == 0.0 || (1e-5..1e7).contains(&value.abs()) { value.to_string() } else { format!("{value:e}") }
}

/// Checks everything that the types leave open.
pub(crate) fn validate(recipe: &Recipe) -> Result<(), Problem> {
    name(&recipe.name)?;
    match (recipe.method, &recipe.lora) {
        (Method::Lora, None) => {
            ensure(false, "method", || {
                "is \"lora\", but there is no [lora] table; add one with rank and alpha".into()
            })?;
        }
        (Method::Full, Some(_)) => {
            ensure(false, "lora", || {
                "has no meaning with method = \"full\"; remove it or set method = \"lora\"".into()
            })?;
        }
        (Method::Lora, Some(options)) => lora(options)?,
        (Method::Full, None) => {}
    }
    if let Some(quantization) = &recipe.quantization {
        ensure(recipe.method == Method::Lora, "quantization", || {
            "needs method = \"lora\": quantised weights are frozen; remove it or change the method".into()
        })?;
        quantization.check().map_err(|message| Problem { key: "quantization.block_size", message })?;
    }
    if let Some(dpo) = &recipe.dpo {
        ensure(recipe.method == Method::Lora, "dpo", || {
            "needs method = \"lora\": the reference is the base without its adapter".into()
        })?;
        above_zero(dpo.beta, "dpo.beta")?;
        ensure(!recipe.data.packing, "data.packing", || "has no meaning with [dpo]: pairs stay together".into())?;
    }
    if let Some(options) = &recipe.model {
        ensure(recipe.method == Method::Full, "model", || {
            "makes a model from scratch, which needs method = \"full\"; remove it or change the method".into()
        })?;
        ensure(recipe.base.is_none(), "base", || {
            "and [model] exclude each other: start from a base or from scratch".into()
        })?;
        model(options)?;
    }
    data(&recipe.data)?;
    training(&recipe.training)?;
    let context = recipe.model.as_ref().map_or(usize::MAX, |model| model.max_position_embeddings);
    ensure(recipe.data.max_length <= context, "data.max_length", || {
        format!("is {}, longer than model.max_position_embeddings = {context}", recipe.data.max_length)
    })
}

fn name(name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure(!name.is_empty() && name.chars().all(plain) && !name.starts_with('.'), "name", || {
        format!("is {name:?}; it names a folder: expected letters, digits, '-', '_' and '.', not beginning with '.'")
    })
}

fn data(data: &DataOptions) -> Result<(), Problem> {
    match (&data.source, &data.dataset) {
        (None, None) => ensure(false, "data", || "has neither source (a file) nor dataset (a name); give one".into())?,
        (Some(_), Some(_)) => ensure(false, "data.dataset", || "and data.source exclude each other".into())?,
        _ => {}
    }
    let SplitFractions { train, validation, test } = data.split;
    for fraction in [train, validation, test] {
        ensure(fraction.is_finite() && (0.0..=1.0).contains(&fraction), "data.split", || {
            format!("has the part {fraction}; expected three fractions between 0 and 1")
        })?;
    }
    let sum = train + validation + test;
    ensure((sum - 1.0).abs() < 1e-9, "data.split", || {
        format!("[{train}, {validation}, {test}] sums to {sum}; expected train, validation and test to sum to 1")
    })?;
    ensure(train > 0.0, "data.split", || "leaves nothing to train on".into())?;
    if let Some(samples) = data.max_samples {
        positive(samples, "data.max_samples")?;
    }
    ensure(!data.packing || data.padding == Padding::None, "data.padding", || {
        "and data.packing exclude each other: packed rows are not filled up; leave one out".into()
    })?;
    ensure(data.max_length >= 2, "data.max_length", || {
        format!("is {}; expected at least 2 tokens: one to read and one to predict", data.max_length)
    })
}

fn lora(lora: &LoraOptions) -> Result<(), Problem> {
    positive(lora.rank, "lora.rank")?;
    above_zero(lora.alpha, "lora.alpha")?;
    within(lora.dropout, 0.0, 1.0, "lora.dropout")?;
    match &lora.targets {
        Targets::AllLinear => Ok(()),
        Targets::Modules(names) => {
            ensure(!names.is_empty(), "lora.targets", || {
                "names no module; expected \"all-linear\" or names such as \"q_proj\"".into()
            })?;
            names.iter().try_for_each(|name| {
                let known = name.rsplit('.').next().is_some_and(|last| linear_names().contains(last));
                ensure(known, "lora.targets", || crate::lora::unknown_target(name))
            })
        }
        // Which modules it matches is known with the base; paths have dots, which a plain word does not match.
        Targets::Pattern(pattern) => match crate::lora::pattern(pattern) {
            Err(message) => ensure(false, "lora.targets", || message),
            Ok(_) if pattern.chars().all(|c| c.is_alphanumeric() || "_-".contains(c)) => {
                ensure(false, "lora.targets", || crate::lora::unknown_target(pattern))
            }
            Ok(_) => Ok(()),
        },
    }
}

fn training(training: &TrainingOptions) -> Result<(), Problem> {
    ensure(training.epochs.is_some() || training.max_steps.is_some(), "training", || {
        "has neither epochs nor max_steps; give at least one".into()
    })?;
    if let Some(epochs) = training.epochs {
        above_zero(epochs, "training.epochs")?;
    }
    ensure(training.max_steps != Some(0), "training.max_steps", || "is 0; expected at least 1".into())?;
    positive(training.batch_size, "training.batch_size")?;
    positive(training.gradient_accumulation_steps, "training.gradient_accumulation_steps")?;
    above_zero(training.learning_rate, "training.learning_rate")?;
    within(training.warmup_ratio, 0.0, 1.0, "training.warmup_ratio")?;
    within(training.weight_decay, 0.0, f64::INFINITY, "training.weight_decay")?;
    within(training.max_grad_norm, 0.0, f64::INFINITY, "training.max_grad_norm")?;
    within(training.adam_beta1, 0.0, 1.0, "training.adam_beta1")?;
    within(training.adam_beta2, 0.0, 1.0, "training.adam_beta2")?;
    above_zero(training.adam_epsilon, "training.adam_epsilon")?;
    ensure(training.eval_steps != Some(0), "training.eval_steps", || {
        "is 0; expected at least 1, or leave it out to evaluate at the end only".into()
    })?;
    ensure(training.eval_samples != Some(0), "training.eval_samples", || "is 0; expected at least 1".into())?;
    ensure(training.log_steps > 0, "training.log_steps", || "is 0; expected at least 1".into())?;
    ensure(training.save_steps != Some(0), "training.save_steps", || "is 0; expected at least 1".into())?;
    ensure(training.save_total_limit != Some(0), "training.save_total_limit", || "is 0; expected at least 1".into())?;
    ensure(training.early_stopping_patience != Some(0), "training.early_stopping_patience", || {
        "is 0; expected at least 1 evaluation".into()
    })?;
    ensure(
        training.early_stopping_patience.is_none() || training.eval_steps.is_some(),
        "training.early_stopping_patience",
        || "needs training.eval_steps: without it there is one evaluation, at the end".into(),
    )?;
    within(training.early_stopping_threshold, 0.0, f64::INFINITY, "training.early_stopping_threshold")?;
    within(training.neftune_noise_alpha, 0.0, f64::INFINITY, "training.neftune_noise_alpha")?;
    within(training.loss_scale, 1.0, 1e30, "training.loss_scale")?;
    if let Some(limit) = training.eval_tasks_limit {
        above_zero(limit, "training.eval_tasks_limit")?;
    }
    Ok(())
}

fn model(model: &ModelOptions) -> Result<(), Problem> {
    positive(model.hidden_size, "model.hidden_size")?;
    positive(model.intermediate_size, "model.intermediate_size")?;
    positive(model.num_hidden_layers, "model.num_hidden_layers")?;
    positive(model.num_attention_heads, "model.num_attention_heads")?;
    positive(model.max_position_embeddings, "model.max_position_embeddings")?;
    let (heads, kv_heads) = (model.num_attention_heads, model.kv_heads());
    ensure(kv_heads > 0 && heads.is_multiple_of(kv_heads), "model.num_key_value_heads", || {
        format!("is {kv_heads}; expected a divisor of num_attention_heads = {heads}")
    })?;
    match model.head_dim {
        Some(width) => ensure(width > 0 && width.is_multiple_of(2), "model.head_dim", || {
            format!("is {width}; expected an even number: rotary embeddings rotate pairs")
        })?,
        None => ensure(
            model.hidden_size.is_multiple_of(heads) && (model.hidden_size / heads).is_multiple_of(2),
            "model.num_attention_heads",
            || format!("is {heads}; expected hidden_size = {} to divide into even heads", model.hidden_size),
        )?,
    }
    above_zero(model.rope_theta, "model.rope_theta")?;
    above_zero(model.rms_norm_eps, "model.rms_norm_eps")?;
    within(model.initializer_range, 0.0, f64::INFINITY, "model.initializer_range")
}
