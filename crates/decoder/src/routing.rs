//! Which experts a row goes to and what they weigh, and how the weights depend on the router's logits.

use crate::{Experts, Routing};

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f32) -> f32 {
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

/// The experts of a row with their weights. `bias` is added to the scores for the choice alone; it may be empty.
pub fn route(logits: &[f32], bias: &[f32], count: usize, experts: &Experts) -> Vec<(usize, f32)> {
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

/// What is added to a sum of weights: DeepSeek's sigmoids may all be 0.
fn least_sum(experts: &Experts) -> f32 {
    if experts.routing == Routing::Sigmoid { 1e-20 } else { 0.0 }
}

/// Weights divided by their sum and multiplied by the factor, where that is said.
fn scaled(mut chosen: Vec<(usize, f32)>, experts: &Experts) -> Vec<(usize, f32)> {
    if experts.normalised {
        let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
        chosen.iter_mut().for_each(|(_, weight)| *weight /= sum + least_sum(experts));
    }
    if experts.factor != 1.0 {
        chosen.iter_mut().for_each(|(_, weight)| *weight *= experts.factor);
    }
    chosen
}

/// Two experts, one after the other, each weighed by a softmax over those that are near it.
fn sparse_mixer(logits: &[f32], jitter: f32) -> Vec<(usize, f32)> {
    mixed(logits, jitter).into_iter().map(|(first, weights)| (first, weights[first])).collect()
}

/// The two choices of the sparse mixer, each with the softmax that it was made by.
fn mixed(logits: &[f32], jitter: f32) -> Vec<(usize, Vec<f32>)> {
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
            (first, weights)
        })
        .collect()
}

/// The gradient of the logits of a row, from that of the weights of the experts that [`route`] has chosen; the choice
/// itself has none.
pub fn route_backward(logits: &[f32], chosen: &[(usize, f32)], d: &[f32], experts: &Experts) -> Vec<f32> {
    let mut found = vec![0.0; logits.len()];
    // Of a softmax p over some experts: dlogit = p · (d - Σ d · p).
    let mut of_softmax = |numbers: &[usize], p: &[f32], d: &[f32]| {
        let inner: f32 = d.iter().zip(p).map(|(d, p)| d * p).sum();
        numbers.iter().zip(p.iter().zip(d)).for_each(|(&number, (p, d))| found[number] += p * (d - inner));
    };
    let all: Vec<usize> = (0..logits.len()).collect();
    let numbers: Vec<usize> = chosen.iter().map(|(expert, _)| *expert).collect();
    let raw: Vec<f32> = match experts.routing {
        Routing::SparseMixer { jitter } => {
            for ((first, weights), d) in mixed(logits, jitter).iter().zip(d) {
                let mut of_all = vec![0.0; logits.len()];
                of_all[*first] = *d;
                of_softmax(&all, weights, &of_all);
            }
            return found;
        }
        Routing::Softmax => {
            let weights = softmax(logits);
            numbers.iter().map(|&expert| weights[expert]).collect()
        }
        Routing::TopSoftmax => softmax(&numbers.iter().map(|&expert| logits[expert]).collect::<Vec<_>>()),
        Routing::Sigmoid | Routing::SigmoidOnInput => numbers.iter().map(|&expert| sigmoid(logits[expert])).collect(),
    };
    let mut d: Vec<f32> = d.iter().map(|d| d * experts.factor).collect();
    if experts.normalised {
        let sum = raw.iter().sum::<f32>() + least_sum(experts);
        let along = d.iter().zip(&raw).map(|(d, raw)| d * raw).sum::<f32>() / (sum * sum);
        d.iter_mut().for_each(|d| *d = *d / sum - along);
    }
    match experts.routing {
        Routing::TopSoftmax => of_softmax(&numbers, &raw, &d),
        Routing::Softmax => {
            let mut of_all = vec![0.0; logits.len()];
            numbers.iter().zip(&d).for_each(|(&expert, d)| of_all[expert] = *d);
            of_softmax(&all, &softmax(logits), &of_all);
        }
        _ => {
            for ((&expert, weight), d) in numbers.iter().zip(&raw).zip(&d) {
                found[expert] += d * weight * (1.0 - weight);
            }
        }
    }
    found
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

    #[test]
    fn gradients_are_those_of_differences() {
        let logits = [0.3f32, -0.4, 0.9, 0.1, -1.2, 0.6];
        let d = [0.7f32, -0.3];
        let routings = [
            Routing::Softmax,
            Routing::TopSoftmax,
            Routing::Sigmoid,
            Routing::SigmoidOnInput,
            Routing::SparseMixer { jitter: 5.0 },
        ];
        for (routing, normalised) in routings.into_iter().flat_map(|routing| [(routing, false), (routing, true)]) {
            let experts = Experts { routing, normalised, factor: 1.5, ..Experts::new(6, 2) };
            let value = |logits: &[f32]| -> f64 {
                let chosen = route(logits, &[], 2, &experts);
                chosen.iter().zip(d).map(|((_, weight), d)| f64::from(*weight) * f64::from(d)).sum()
            };
            let found = route_backward(&logits, &route(&logits, &[], 2, &experts), &d, &experts);
            for i in 0..logits.len() {
                let moved = |by: f32| {
                    let mut logits = logits;
                    logits[i] += by;
                    value(&logits)
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((slope - f64::from(found[i])).abs() < 1e-3, "{experts:?} {i}: {slope} {}", found[i]);
            }
        }
    }
}
