//! How a judging is wanted.

use harness_evaluation::judging::JudgingOptions;
use harness_judges::Orders;

use super::{prompts, remote};
use crate::{
    cli::{JudgeArgs, JudgeOrders},
    failure::Failure,
};

/// How a judging is wanted.
///
/// # Errors
/// If an argument is wrong by itself.
pub(crate) fn judging(args: &JudgeArgs) -> Result<JudgingOptions, Failure> {
    Ok(JudgingOptions {
        judge: args.judge.clone(),
        baseline: args.baseline.clone(),
        texts: prompts(&args.texts)?,
        all_pairs: args.all_pairs,
        gold: args.gold.clone(),
        instruction_difficulty: args.instruction_difficulty.clone(),
        gamed_baselines: args.gamed_baselines.clone(),
        instructions: args.instructions.clone(),
        references: args.references.clone(),
        rubric: args.rubric.clone(),
        prompt_file: args.prompt_file.clone(),
        compat: args.compat,
        least_label_share: args.least_label_share,
        orders: match args.orders {
            JudgeOrders::Both => Orders::Both,
            JudgeOrders::AlpacaEval => Orders::AlpacaEval,
            JudgeOrders::BaselineFirst => Orders::BaselineFirst,
        },
        limit: args.limit,
        max_new_tokens: args.max_new_tokens,
        judge_max_tokens: args.judge_max_tokens,
        unconstrained: args.unconstrained,
        repeats: args.repeats,
        self_pairs: args.self_pairs,
        null_answers: args.null_answers,
        seed: args.seed,
        remote: remote(&args.remote)?,
        ..JudgingOptions::new(&args.protocol, args.models.clone())
    })
}
