//! Intervals, tests and corrections.
//!
//! Everything that resamples works on [`Columns`]: the additive statistics of documents, aligned over models. Numbers
//! depend on data and seed alone, never on the number of threads.

mod bootstrap;
mod columns;
pub mod distribution;
mod fast_rng;
mod interval;
mod kappa;
mod krippendorff;
mod mcnemar;
mod multiple_testing;
mod paired;
mod permutation;
mod power;
mod proportion;
mod range;
mod ranking;
mod sequential;
mod standard_error;

pub use bootstrap::{Bootstrap, BootstrapInterval};
pub use columns::{Columns, ColumnsError};
pub use interval::{Interval, quantile_sorted};
pub use kappa::{Agreement, KappaWeights, fleiss_kappa, randolph_kappa};
pub use krippendorff::{AlphaLevel, krippendorff_alpha};
pub use mcnemar::McNemar;
pub use multiple_testing::Correction;
pub use paired::{PairedDifference, correlation, sign_test, unpaired_standard_error, wilcoxon_signed_rank};
pub use permutation::{
    EXACT_LIMIT, PermutationTest, approximate_randomization, paired_bootstrap_sacrebleu, paired_bootstrap_test,
    permutation_test,
};
pub use power::{PairedDesign, PairedPower, minimum_detectable_difference, swap_standard_error};
pub use proportion::{
    ProportionInterval, paired_proportion_equivalence, paired_proportion_interval, proportion_interval,
};
pub use range::Range;
pub use ranking::compatible_groups;
pub use sequential::{SequentialTest, confidence_sequence, scaled, sequential_equivalence_p};
pub use standard_error::{
    ClusterCorrection, bernoulli_standard_error, clustered_standard_error, mean, mean_standard_error,
    standard_deviation, variance,
};
