//! What the cases of the benchmarks call projections and save policies.

use harness_decoder::Projection;
use harness_training::block::SavePolicy;

/// The projections of a name: `all`, `qvo`, `qv`.
pub(crate) fn targets(name: &str) -> Vec<Projection> {
    match name {
        "all" => Projection::ALL.to_vec(),
        "qvo" => vec![Projection::Q, Projection::V, Projection::O],
        _ => vec![Projection::Q, Projection::V],
    }
}

/// What the forward pass keeps, by name.
pub(crate) fn policy(name: &str) -> SavePolicy {
    match name {
        "layer" => SavePolicy::Layer,
        "full" => SavePolicy::Full,
        _ => SavePolicy::Lean,
    }
}
