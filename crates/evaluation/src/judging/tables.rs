//! From judgments to rows of a comparison.

use std::collections::BTreeMap;

use harness_core::{MetricKey, SampleScore};
use harness_judges::{
    Judgment, OutputSet,
    results::{Bounded, Combine, GoldResult, JuryResult, all_pairs_scores, pair_scores, single_scores},
};
use harness_metrics::{
    comparison::{Aggregate, Column, Scale, Table},
    stats::{Range, distribution::normal_critical},
};

use super::{ask::Asked, case::Setting, results::Results};

/// No value.
const GAP: Aggregate = Aggregate { value: f64::NAN, standard_error: None, n: None };

/// The rows: with gold labels, what they correct the judge to; with a jury, its verdict with the choice of judges in the
/// intervals; with verdicts that could not be read, the intervals that allow for them; what was judged. The first of them is the main row, and the others stand beside it.
pub(super) fn tables(setting: &Setting<'_>, asked: &Asked, results: &Results) -> Vec<Table> {
    let mut tables = vec![judged(setting, &asked.judgments)];
    let confidence = setting.settings.confidence;
    let name = setting.judge.name();
    let bounded: Vec<(&str, &Bounded)> = results
        .models
        .iter()
        .filter_map(|one| {
            Some((one.model.as_str(), one.pair.as_ref().map(|p| &p.win_rate).or(one.score.as_ref().map(|s| &s.score))?))
        })
        .collect();
    if bounded.iter().any(|(_, value)| value.unparsed > 0) && !setting.is_all_pairs() {
        let known = bounded.iter().map(|(model, value)| (*model, widened(value, confidence))).collect();
        tables.push(aggregated(setting, format!("{name}, unread verdicts at their worst and best"), &known));
    }
    if !results.jury.is_empty() && !setting.is_all_pairs() {
        let of = |one: &JuryResult| Aggregate {
            value: one.value,
            standard_error: Some(one.normal_standard_error(setting.range(), confidence)),
            n: Some(one.n),
        };
        let known = results.jury.iter().map(|one| (one.model.as_str(), of(one))).collect();
        tables.push(aggregated(setting, format!("{name}, judges like these"), &known));
    }
    if let (Some(gold), false, false) = (setting.gold, results.gold.is_empty(), setting.is_all_pairs()) {
        let of = |one: &GoldResult| Aggregate {
            value: one.corrected.value,
            standard_error: Some(one.normal_standard_error(confidence)),
            n: Some(one.corrected.labelled + one.corrected.unlabelled),
        };
        let known = results.gold.iter().map(|one| (one.model.as_str(), of(one))).collect();
        tables.push(aggregated(setting, format!("{name}, corrected by {}", gold.name), &known));
    }
    tables.reverse();
    tables.iter_mut().enumerate().for_each(|(at, table)| table.primary = at == 0);
    tables
}

/// A value with an error as wide as its interval, which reaches from the worst that unread verdicts could have been to the
/// best.
fn widened(value: &Bounded, confidence: f64) -> Aggregate {
    let reach = value.interval.map(|ends| (value.value - ends.low).max(ends.high - value.value));
    Aggregate {
        value: value.value,
        standard_error: reach.map(|reach| reach / normal_critical(confidence)),
        n: Some(value.n),
    }
}

fn table(setting: &Setting<'_>, filter: String, columns: Vec<Column>) -> Table {
    let (metric, scale) = if setting.is_pairwise() { ("win_rate", Scale::Fraction) } else { ("score", Scale::Raw) };
    let [low, high] = setting.range();
    Table {
        scale,
        range: Some(Range::between(low, high)),
        judged: true,
        ..Table::new(setting.set, MetricKey::new(metric, filter), columns)
    }
}

/// Win rates, in which the baseline against itself is ½ by definition, or mean scores. Where every two models are
/// compared, the win rate over all others.
fn judged(setting: &Setting<'_>, judgments: &[Judgment]) -> Table {
    let Setting { set, items, .. } = *setting;
    let empty = table(setting, setting.judge.name(), vec![]);
    let baseline = setting.sets.first().map_or("", |set| &set.model);
    let scores = |number: usize, model: &str| -> Vec<SampleScore> {
        if setting.is_all_pairs() {
            return all_pairs_scores(set, items, judgments, model, &empty.key);
        }
        if setting.is_pairwise() {
            let candidate = (number > 0).then_some(model);
            return pair_scores(set, items, judgments, baseline, candidate, Combine::default(), &empty.key);
        }
        single_scores(set, items, judgments, model, setting.range(), &empty.key)
    };
    let column = |(number, set): (usize, &OutputSet)| {
        let scores = scores(number, &set.model);
        // A model without any verdict has no value.
        let nothing = !scores.iter().any(|score| score.parsed);
        let aggregate = nothing.then_some(GAP);
        Column { aggregate, ..Column::new(set.model.clone(), if nothing { vec![] } else { scores }) }
    };
    Table { columns: setting.sets.iter().enumerate().map(column).collect(), ..empty }
}

/// A row of values whose intervals do not come from documents alone. A model without one has a gap.
fn aggregated(setting: &Setting<'_>, filter: String, known: &BTreeMap<&str, Aggregate>) -> Table {
    let columns = setting.sets.iter().enumerate().map(|(number, set)| {
        let aggregate = if setting.is_pairwise() && number == 0 {
            Aggregate { value: 0.5, standard_error: Some(0.0), n: Some(setting.items.len()) }
        } else {
            known.get(set.model.as_str()).copied().unwrap_or(GAP)
        };
        Column { aggregate: Some(aggregate), ..Column::new(set.model.clone(), vec![]) }
    });
    table(setting, filter, columns.collect())
}
