//! Which experts a router chooses, and how it weighs them.

use crate::{Experts, Routing};

/// The logistic function.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    weights
}

/// The `count` highest of some values with their numbers, highest first; of equal ones the first.
fn highest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

/// The experts of a row with their weights, by the router's logits. `bias` is added for the choice alone, or empty; `count` is
/// how many a token passes.
pub(crate) fn route(logits: &[f32], bias: &[f32], count: usize, experts: &Experts) -> Vec<(usize, f32)> {
    let weights = match experts.routing {
        Routing::Softmax => softmax(logits),
        Routing::Sigmoid | Routing::SigmoidOnInput => logits.iter().map(|&x| sigmoid(x)).collect(),
        Routing::TopSoftmax => {
            let chosen = highest(logits, count);
            let of: Vec<f32> = chosen.iter().map(|&expert| logits[expert]).collect();
            return scaled(chosen.into_iter().zip(softmax(&of)).collect(), experts);
        }
        Routing::SparseMixer { jitter } => return sparse_mixer(logits, jitter),
    };
    let mut scores = weights.clone();
    scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
    if let Some(groups) = experts.groups {
        let size = scores.len() / groups.count;
        let of_group = |group: &[f32]| highest(group, groups.best).iter().map(|&i| group[i]).sum::<f32>();
        let by_group: Vec<f32> = scores.chunks_exact(size).map(of_group).collect();
        let kept = highest(&by_group, groups.kept);
        // What is left out counts nothing, or less than all others where scores may be negative.
        let out = if experts.routing == Routing::Sigmoid { f32::NEG_INFINITY } else { 0.0 };
        for (number, group) in scores.chunks_exact_mut(size).enumerate() {
            if !kept.contains(&number) {
                group.fill(out);
            }
        }
    }
    scaled(highest(&scores, count).into_iter().map(|expert| (expert, weights[expert])).collect(), experts)
}

/// Weights divided by their sum and multiplied by the factor, where that is said.
fn scaled(mut chosen: Vec<(usize, f32)>, experts: &Experts) -> Vec<(usize, f32)> {
    if experts.normalised {
        // DeepSeek's sigmoids may all be 0.
        let least = if experts.routing == Routing::Sigmoid { 1e-20 } else { 0.0 };
        let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
        chosen.iter_mut().for_each(|(_, weight)| *weight /= sum + least);
    }
    if experts.factor != 1.0 {
        chosen.iter_mut().for_each(|(_, weight)| *weight *= experts.factor);
    }
    chosen
}

/// Two experts, one after the other, each weighed by a softmax over those that are near it.
fn sparse_mixer(logits: &[f32], jitter: f32) -> Vec<(usize, f32)> {
    let mut rest = logits.to_vec();
    (0..2)
        .map(|_| {
            let first = highest(&rest, 1)[0];
            let max = rest[first];
            let near = |(&rest, &logit): (&f32, &f32)| {
                if (max - logit) / logit.abs().max(max) > 2.0 * jitter { f32::NEG_INFINITY } else { rest }
            };
            let weights = softmax(&rest.iter().zip(logits).map(near).collect::<Vec<_>>());
            rest[first] = f32::NEG_INFINITY;
            (first, weights[first])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Groups;

    #[test]
    fn shares_by_hand() {
        let chosen = route(&[0.0, 2f32.ln(), 6f32.ln(), 2f32.ln()], &[], 2, &Experts::new(4, 2));
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1], "of equal experts the first");
        assert!((chosen[0].1 - 0.75).abs() < 1e-6 && (chosen[1].1 - 0.25).abs() < 1e-6, "{chosen:?}");
    }

    #[test]
    fn groups_and_biases_choose() {
        let groups = Some(Groups { count: 2, kept: 1, best: 2 });
        let experts = Experts { routing: Routing::Sigmoid, groups, factor: 2.0, ..Experts::new(4, 1) };
        // The second group has the higher sum, though the first has the highest expert.
        let chosen = route(&[3.0, -3.0, 1.0, 0.5], &[], 1, &experts);
        assert_eq!(chosen.len(), 1);
        assert!(chosen[0].0 == 2 && (chosen[0].1 - 2.0).abs() < 1e-6, "{chosen:?}");
        let chosen = route(&[3.0, -3.0, 1.0, 0.5], &[0.0, 0.0, 0.0, 0.5], 1, &Experts { normalised: false, ..experts });
        assert!(chosen[0].0 == 3 && (chosen[0].1 - 2.0 * sigmoid(0.5)).abs() < 1e-6, "the bias is no weight");
    }

    #[test]
    fn the_sparse_mixer_takes_two() {
        let chosen = sparse_mixer(&[1.0, 2.0, 1.99, 0.0], 0.01);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 2]);
        assert!((chosen[0].1 - 1.0 / (1.0 + (-0.01f32).exp())).abs() < 1e-6 && chosen[1].1 == 1.0, "{chosen:?}");
    }
}
