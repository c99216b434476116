//! What verdicts on pairs show beside who won: positions and lengths.

use harness_metrics::{
    comparison::{JudgeFinding, UnreadCause},
    stats::{ProportionInterval, distribution::binomial_half_test, proportion_interval},
};

/// Coverage of intervals of shares.
const CONFIDENCE: f64 = 0.95;
/// p below which a position counts as favoured.
const ALPHA: f64 = 0.05;
/// Share of pairs with one winner in both orders below which that is reported whatever its p, as for judges here.
const CONSISTENCY: f64 = 0.75;

/// One verdict on an output of the model and another one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    /// 1 if the model won, 0 if the other did, ½ for a tie.
    pub share: f64,
    /// Characters of the model's output and of the other's, where both are known.
    pub lengths: Option<(usize, usize)>,
    /// Whether the model's output was shown first, where that is known.
    pub first: Option<bool>,
}

/// The findings about a model's pairs, each judged once.
pub(super) fn findings(model: &str, pairs: &[Pair]) -> Vec<JudgeFinding> {
    let mut found = vec![];
    let known: Vec<(bool, f64)> = pairs.iter().filter_map(|pair| Some((pair.first?, pair.share))).collect();
    if let Some(first) = known.first().map(|(first, _)| *first) {
        if known.iter().all(|(other, _)| *other == first) {
            let (model, pairs) = (model.to_owned(), known.len());
            found.push(JudgeFinding::OnePosition { model, first, pairs });
        }
        let decided: Vec<bool> =
            known.iter().filter(|(_, share)| *share != 0.5).map(|(first, share)| *first == (*share > 0.5)).collect();
        let wins = decided.iter().filter(|first| **first).count();
        let p = binomial_half_test(wins as u64, decided.len() as u64);
        // With one position throughout, the share is the win rate.
        if p < ALPHA && known.iter().any(|(other, _)| *other != first) {
            let share = wins as f64 / decided.len() as f64;
            found.push(JudgeFinding::FirstWins { share, decided: decided.len(), p });
        }
    }
    let lengths: Vec<(usize, usize, f64)> =
        pairs.iter().filter_map(|pair| pair.lengths.map(|(own, other)| (own, other, pair.share))).collect();
    let decided: Vec<bool> = lengths
        .iter()
        .filter(|(own, other, share)| own != other && *share != 0.5)
        .map(|(own, other, share)| (own > other) == (*share > 0.5))
        .collect();
    if !decided.is_empty() {
        let wins = decided.iter().filter(|longer| **longer).count();
        let (wins, n) = (wins as u64, decided.len() as u64);
        found.push(JudgeFinding::LongerWins {
            model: model.to_owned(),
            share: wins as f64 / n as f64,
            interval: proportion_interval(wins, n, CONFIDENCE, ProportionInterval::Wilson),
            decided: decided.len(),
            longer: lengths.iter().filter(|(own, other, _)| own > other).count() as f64 / lengths.len() as f64,
            p: binomial_half_test(wins, n),
        });
    }
    found
}

/// The finding about pairs judged in both orders: 1 where the model shown second in the first game won it, and the same
/// model in the second game, where it is shown first.
pub(super) fn both_orders(games: &[[f64; 2]]) -> Option<JudgeFinding> {
    let count = |condition: &dyn Fn(&[f64; 2]) -> bool| games.iter().filter(|pair| condition(pair)).count();
    let consistent = count(&|[a, b]| a == b);
    let (always_first, always_second) = (count(&|pair| *pair == [0.0, 1.0]), count(&|pair| *pair == [1.0, 0.0]));
    let first = count(&|[a, _]| *a == 0.0) + count(&|[_, b]| *b == 1.0);
    let decided = count(&|[a, _]| *a != 0.5) + count(&|[_, b]| *b != 0.5);
    let consistency = consistent as f64 / games.len().max(1) as f64;
    let p = binomial_half_test(always_first as u64, (always_first + always_second) as u64);
    (!games.is_empty() && (p < ALPHA || consistency < CONSISTENCY)).then(|| JudgeFinding::PositionBias {
        consistency,
        first_position_rate: if decided > 0 { first as f64 / decided as f64 } else { 0.5 },
        pairs: games.len(),
        p,
    })
}

/// Verdicts that are missing, with what the value would be if all of them were the lowest or the highest possible.
pub(super) fn unread(scores: &[f64], count: usize, [low, high]: [f64; 2]) -> Option<JudgeFinding> {
    let of = scores.len() + count;
    let with = |end: f64| (scores.iter().sum::<f64>() + end * count as f64) / of as f64;
    (count > 0).then(|| JudgeFinding::UnparsedVerdicts {
        count,
        of,
        worst: with(low),
        best: with(high),
        reasons: vec![],
        cause: UnreadCause::Form,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_lengths() {
        let pair = |share, lengths, first| Pair { share, lengths: Some(lengths), first: Some(first) };
        let always: Vec<Pair> = (0..20).map(|i| pair(f64::from(u8::from(i % 4 > 0)), (9, 5), true)).collect();
        let found = findings("m", &always);
        assert!(matches!(found[0], JudgeFinding::OnePosition { first: true, pairs: 20, .. }), "{found:?}");
        assert!(
            matches!(found[1], JudgeFinding::LongerWins { share, longer, decided: 20, .. } if share == 0.75 && longer == 1.0)
        );
        // The output shown first wins, whosoever it is.
        let first: Vec<Pair> = (0..20).map(|i| pair(f64::from(i % 2), (5, 5), i % 2 == 1)).collect();
        let found = findings("m", &first);
        assert!(matches!(found[..], [JudgeFinding::FirstWins { share, decided: 20, .. }] if share == 1.0), "{found:?}");
    }

    #[test]
    fn both_orders_tell_a_favoured_position() {
        assert!(both_orders(&[[1.0, 1.0]; 8]).is_none() && both_orders(&[]).is_none());
        let found = both_orders(&[[0.0, 1.0]; 8]);
        assert!(
            matches!(found, Some(JudgeFinding::PositionBias { first_position_rate, .. }) if first_position_rate == 1.0)
        );
    }
}
