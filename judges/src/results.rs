//! What judgments add up to.
//!
//! The unit of all intervals is the item: verdicts on one item (its orders, turns and repetitions) are averaged before
//! anything else, so the spread over items carries both the choice of instructions and the judge's own noise.

mod absolute;
mod agreement;
mod bias;
mod controlled;
mod findings;
mod flips;
mod gold;
mod interval;
mod jury;
mod label_share;
mod mt_bench;
mod pairs;
mod pairwise;
mod prediction_powered;
mod ratings;
mod scores;

pub use self::{
    absolute::{CategoryScore, ScoreResult, score_results},
    agreement::{AgreementResult, AlphaResult, agreement, joint_agreement},
    bias::{NullAnswer, Placebo, PositionBias, null_answers, placebos, position_bias, self_preference},
    controlled::{ControlledRow, ControlledWinRate},
    findings::{FindingInputs, findings},
    flips::{FlipRate, flip_rate},
    gold::{GoldResult, Rated, against_gold, rated, shared_base},
    interval::{Bounded, mean_interval},
    jury::{JuryAgreement, JuryMember, JuryResult, jury_results},
    label_share::LabelShares,
    mt_bench::{FastChatScores, PairRow, WinLossTie, fastchat_pairwise, fastchat_single},
    pairwise::{Combine, PairResult, item_preferences, pair_results},
    prediction_powered::{PredictionPowered, prediction_powered},
    ratings::{Ratings, alpha_level, category, ratings, subjects},
    scores::{all_pairs_scores, pair_scores, single_scores},
};
