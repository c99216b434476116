//! What is evaluated and how.

use std::sync::Arc;

use harness_core::ChatKwargs;
use harness_engine::{Limits, Placement};
use harness_evaluation::{
    EvaluationOptions,
    experiment::TokenizerChoice,
    options::{PromptOptions, Remote},
};
use harness_http::Budget;
use harness_tasks::{BuildOptions, Limit};
use serde_json::{Map, Value};

use crate::{
    cli::{EvaluationArgs, LimitArgs, PromptArgs, RemoteArgs},
    failure::Failure,
};

/// What is evaluated and how, on this device.
///
/// # Errors
/// If an argument is wrong by itself.
pub(crate) fn evaluation(args: &EvaluationArgs, device: Placement) -> Result<EvaluationOptions, Failure> {
    Ok(EvaluationOptions {
        tasks: args.tasks.clone(),
        include_path: args.include_path.clone(),
        build: build(args)?,
        texts: prompts(&args.texts)?,
        limits: Some(limits(&args.limits, device)?),
        remote: remote(&args.remote)?,
    })
}

/// Refuses counts of 0.
///
/// # Errors
/// The first that is 0.
pub(crate) fn at_least_one(counts: &[(&str, Option<usize>)]) -> Result<(), Failure> {
    match counts.iter().find(|(_, count)| *count == Some(0)) {
        None => Ok(()),
        Some((name, _)) => Err(Failure::usage(format!("{name} 0: expected at least 1"))),
    }
}

/// The bounds on memory and batches.
///
/// # Errors
/// If one is 0.
pub(crate) fn limits(args: &LimitArgs, device: Placement) -> Result<Limits, Failure> {
    at_least_one(&[
        ("--batch-tokens", args.batch_tokens),
        ("--batch-sequences", args.batch_sequences),
        ("--kv-memory", args.kv_memory),
    ])?;
    let usual = device.limits();
    Ok(Limits {
        batch_tokens: args.batch_tokens.unwrap_or(usual.batch_tokens),
        kv_bytes: args.kv_memory.map_or(usual.kv_bytes, |mib| mib << 20),
        batch_sequences: args.batch_sequences.unwrap_or(usual.batch_sequences),
    })
}

fn build(args: &EvaluationArgs) -> Result<BuildOptions, Failure> {
    let limit = match args.limit {
        None => None,
        Some(number) => {
            let limit = Limit::from_number(number).filter(|_| number < 1.0 || number.fract() == 0.0);
            Some(limit.ok_or_else(|| {
                Failure::usage(format!(
                    "--limit {number}: expected a whole number of documents, or a fraction between 0 and 1"
                ))
            })?)
        }
    };
    let mut generation_kwargs = Map::new();
    for pair in &args.gen_kwargs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("--gen-kwargs {pair}: expected KEY=VALUE")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        generation_kwargs.insert(key.trim().to_owned(), value);
    }
    Ok(BuildOptions {
        limit,
        num_fewshot: args.num_fewshot,
        fewshot_seed: args.fewshot_seed,
        system_instruction: args.system_instruction.clone(),
        apply_chat_template: args.apply_chat_template,
        fewshot_as_multiturn: !args.fewshot_in_one_turn,
        think_end_token: args.think_end_token.clone(),
        generation_kwargs,
    })
}

/// How texts become prompts.
///
/// # Errors
/// If a variable for chat templates cannot be set.
pub(crate) fn prompts(args: &PromptArgs) -> Result<PromptOptions, Failure> {
    let chat_template_kwargs = ChatKwargs::parse(&args.chat_template_kwargs)
        .map_err(|reason| Failure::usage(format!("--chat-template-kwargs: {reason}")))?;
    let tokenizer = args.tokenizer.as_ref().map(|which| match TokenizerChoice::from(which.clone()) {
        // The command line's paths are seen from where it is called.
        TokenizerChoice::Folder(path) => TokenizerChoice::Folder(std::path::absolute(&path).unwrap_or(path)),
        other => other,
    });
    Ok(PromptOptions { date: args.date, chat_template_kwargs, tokenizer })
}

/// How endpoints are asked.
///
/// # Errors
/// If a number is out of range.
pub(crate) fn remote(args: &RemoteArgs) -> Result<Remote, Failure> {
    at_least_one(&[("--concurrency", args.concurrency)])?;
    let budget = match args.max_cost {
        None => None,
        Some(limit) => Some(Arc::new(
            Budget::new(limit)
                .map_err(|_| Failure::usage(format!("--max-cost {limit}: expected a positive number")))?,
        )),
    };
    if let Some(rate) = args.requests_per_minute.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
        return Err(Failure::usage(format!("--requests-per-minute {rate}: expected a positive number")));
    }
    Ok(Remote { concurrency: args.concurrency, requests_per_minute: args.requests_per_minute, budget })
}
