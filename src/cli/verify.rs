//! `harness verify`.

use std::path::PathBuf;

use clap::Args;
use harness_metrics::simulation::Kind;

/// Arguments of `harness verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Simulate comparisons with known differences to measure coverage, false positives, power and false alarms
    #[arg(long)]
    pub simulate: bool,
    /// Number of simulated comparisons per condition
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "simulate")]
    pub runs: usize,
    /// Numbers of documents to simulate
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [30, 100, 300, 1000, 3000], requires = "simulate")]
    pub documents: Vec<usize>,
    /// Kinds of scores to simulate: binary, graded, perplexity, bleu, clustered [default: all]
    #[arg(long, value_delimiter = ',', value_name = "KIND", value_parser = kind_of_scores, requires = "simulate")]
    pub scores: Vec<Kind>,
    /// Random seed for the simulation
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Write results as Markdown, JSON and plots to this folder
    #[arg(long, value_name = "DIR", requires = "simulate")]
    pub out: Option<PathBuf>,
}

fn kind_of_scores(text: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("expected one of {}", names()))
}
