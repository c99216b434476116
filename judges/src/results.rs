//! What judgments add up to.
//!
//! The unit of all intervals is the item: verdicts on one item (its orders, turns and repetitions) are averaged before
//! anything else, so the spread over items carries both the choice of instructions and the judge's own noise.

mod absolute;
mod agreement;
mod bias;
mod controlled;
mod findings;
mod gold;
mod interval;
mod mt_bench;
mod pairwise;
mod prediction_powered;
mod scores;

pub use self::{
    absolute::{CategoryScore, ScoreResult, score_results},
    agreement::{AgreementResult, agreement, preference_category},
    bias::{
        FlipRate, NullAnswer, Placebo, PositionBias, flip_rate, null_answers, placebos, position_bias, self_preference,
    },
    controlled::{ControlledRow, ControlledWinRate},
    findings::{FindingInputs, findings},
    gold::{GoldResult, against_gold, shared_base},
    interval::{Bounded, mean_interval},
    mt_bench::{FastChatScores, PairRow, WinLossTie, fastchat_pairwise, fastchat_single},
    pairwise::{Combine, PairResult, item_preferences, pair_results},
    prediction_powered::{PredictionPowered, prediction_powered},
    scores::{pair_scores, single_scores},
};
