//! The figures of a judging in words and small tables.

use std::fmt::Write as _;

use harness_judges::results::{AgreementResult, Bounded, GoldResult, JuryResult};
use harness_metrics::{comparison::counted, stats::Interval};
use harness_reports::{Meta, markdown, markdown_escape as name, markdown_prose as prose};

use super::{ask::Asked, case::Setting, report::Report, results::ModelResult};

impl Report {
    /// The table, then the figures; `plot` says whether there is a radar plot to show.
    pub fn markdown(&self, meta: &Meta, plot: bool) -> String {
        format!("{}\n{}", markdown(&self.comparison, meta), text(self, plot))
    }
}

/// The results of each model, what was found about the judge, and what asking took.
fn text(report: &Report, plot: bool) -> String {
    let (setting, results) = (&report.setting(), &report.results);
    let mut text =
        format!("Judged by {} under the protocol {}.\n", name(&setting.judge.name()), name(&setting.protocol.name));
    if let Some(note) = setting.judge.note() {
        let _ = writeln!(text, "{}", prose(&note));
    }
    for result in &results.models {
        let _ = writeln!(text, "- {}", line(result, setting));
    }
    for (reason, count) in &results.unread {
        let items = results.unread_items.get(reason).map(Vec::as_slice).unwrap_or_default();
        let verdicts = if *count == 1 { "verdict" } else { "verdicts" };
        let _ = writeln!(text, "- {count} {verdicts} could not be read: {} ({}).", prose(reason), name(&named(items)));
    }
    if let Some(shares) = &results.label_share {
        let _ = writeln!(
            text,
            "- Share of the probability on the labels: median {:.3} %, lowest {:.3} % of {} verdicts.",
            100.0 * shares.median,
            100.0 * shares.lowest,
            shares.n
        );
    }
    for (model, count) in report.thoughts.iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "- Outputs of {} that were shown without their thinking: {count}.", name(model));
    }
    categories(report, plot, &mut text);
    games(report, &mut text);
    judge(report, &mut text);
    for one in &results.jury {
        jury(one, setting, &mut text);
    }
    if let Some(gold) = setting.gold {
        results.gold.iter().for_each(|one| labels(one, &gold.name, setting, &mut text));
    }
    cost(report, &mut text);
    text
}

/// How many items are named, and how many characters of each.
const NAMED: (usize, usize) = (3, 60);

/// Items by their ids, the first few.
fn named(items: &[String]) -> String {
    let (most, length) = NAMED;
    let short = |id: &String| {
        let line = id.split_whitespace().collect::<Vec<_>>().join(" ");
        let cut = if line.chars().count() > length { "…" } else { "" };
        format!("{:?}", line.chars().take(length).chain(cut.chars()).collect::<String>())
    };
    let mut text = if items.len() == 1 { "item ".to_owned() } else { "items ".to_owned() };
    text.push_str(&items.iter().take(most).map(short).collect::<Vec<_>>().join(", "));
    if items.len() > most {
        let _ = write!(text, " and {} more", items.len() - most);
    }
    text
}

/// The unit of the results: a factor and what stands behind the number.
fn unit(setting: &Setting<'_>) -> (f64, &'static str) {
    if setting.is_pairwise() { (100.0, " %") } else { (1.0, "") }
}

fn range(interval: Option<Interval>, factor: f64) -> String {
    interval.map_or(String::new(), |ends| format!(" [{:.2}, {:.2}]", factor * ends.low, factor * ends.high))
}

/// A value with its interval and, where verdicts are missing, what it could have been.
fn bounded(value: &Bounded, (factor, unit): (f64, &str)) -> String {
    let mut text = format!("{:.2}{unit}{}", factor * value.value, range(value.interval, factor));
    let _ = write!(text, " over {} items", value.n);
    if value.unparsed > 0 {
        let _ = write!(
            text,
            "; {} of {} verdicts could not be read: between {:.2} if all of them had been the worst, and {:.2} if the best",
            value.unparsed,
            value.verdicts,
            factor * value.worst,
            factor * value.best
        );
    }
    text
}

/// The result of one model in a line.
fn line(result: &ModelResult, setting: &Setting<'_>) -> String {
    let mut text = name(&result.model);
    if let (Some(baseline), true) = (&result.baseline, setting.is_all_pairs()) {
        let _ = write!(text, " against {}", name(baseline));
    }
    text.push_str(": ");
    match (&result.pair, &result.score) {
        (Some(pair), _) => {
            let _ = write!(
                text,
                "win rate {}; {} wins, {} losses, {} ties, {} decided by order",
                bounded(&pair.win_rate, unit(setting)),
                pair.wins,
                pair.losses,
                pair.ties,
                pair.inconsistent
            );
        }
        (None, Some(score)) => {
            let _ = write!(text, "score {}", bounded(&score.score, unit(setting)));
            for (number, turn) in score.turns.iter().enumerate().filter(|_| score.turns.len() > 1) {
                let _ = write!(text, "; turn {} {:.2}", number + 1, turn.value);
            }
        }
        (None, None) => text.push_str("no verdict could be read"),
    }
    let _ = write!(text, "; {:.0} characters on average", result.avg_length);
    let Some(found) = result.alpaca_eval.as_ref().filter(|found| found.rates.n_total > 0) else { return text };
    let rates = &found.rates;
    let _ = write!(text, "\n  - in alpaca_eval's order: win rate {:.2} %", rates.win_rate);
    if rates.standard_error.is_finite() {
        let _ = write!(text, " ± {:.2}", rates.standard_error);
    }
    let _ = write!(
        text,
        "{}, discrete {:.2} %, {} wins, {} losses, {} draws",
        range(found.interval, 1.0),
        rates.discrete_win_rate,
        rates.n_wins,
        rates.n_wins_base,
        rates.n_draws
    );
    for controlled in &found.length_controlled {
        let _ = write!(text, "\n  - {}: ", controlled.variant.name());
        let _ = match controlled.doubt {
            None => write!(text, "{:.2} %{}", controlled.win_rate, range(controlled.interval, 1.0)),
            Some(doubt) => write!(text, "not estimable: {doubt}"),
        };
    }
    text
}

/// A table of scores by category.
fn categories(report: &Report, plot: bool, text: &mut String) {
    let scored: Vec<_> = report.results.models.iter().filter_map(|result| result.score.as_ref()).collect();
    let mut names: Vec<&str> = vec![];
    for category in scored.iter().flat_map(|score| &score.categories) {
        if !names.contains(&category.category.as_str()) {
            names.push(&category.category);
        }
    }
    if names.is_empty() {
        return;
    }
    let models: Vec<String> = scored.iter().map(|score| name(&score.model)).collect();
    let _ = write!(text, "\n| Category | {} |\n| --- |{}\n", models.join(" | "), " --- |".repeat(models.len()));
    for category in names {
        let _ = write!(text, "| {} |", name(category));
        for score in &scored {
            let cell = score.categories.iter().find(|found| found.category == category).map(|found| {
                let Bounded { value, interval, n, .. } = found.score;
                format!("{value:.2}{} ({n})", range(interval, 1.0))
            });
            let _ = write!(text, " {} |", cell.unwrap_or_else(|| "–".to_owned()));
        }
        text.push('\n');
    }
    text.push_str("\nThe number of questions is in brackets.");
    text.push_str(if plot { "\n\n![Scores by category](radar.svg)\n\n" } else { "\n\n" });
    for (model, found) in &report.results.fastchat_scores {
        let turns: Vec<String> = found.turns.iter().map(|(turn, mean)| format!("turn {turn} {mean:.2}")).collect();
        let _ = writeln!(text, "FastChat's average of {}: {:.2} ({}).", name(model), found.average, turns.join(", "));
    }
}

/// FastChat's table of games.
fn games(report: &Report, text: &mut String) {
    let games = &report.results.fastchat_games;
    if games.is_empty() {
        return;
    }
    text.push_str("\nFastChat's counts (orders that disagree are a tie):\n\n");
    text.push_str("| Model | win | loss | tie | win_rate | loss_rate | win_rate_adjusted |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    for (model, found) in games {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.3} | {:.3} | {:.3} |",
            name(model),
            found.counts.win,
            found.counts.loss,
            found.counts.tie,
            found.win_rate,
            found.loss_rate,
            found.win_rate_adjusted
        );
    }
    text.push('\n');
}

/// What was seen of the judge itself.
fn judge(report: &Report, text: &mut String) {
    let results = &report.results;
    if let Some(bias) = &results.position_bias {
        let _ = write!(
            text,
            "The same winner in both orders for {:.1} % of {} pairs",
            100.0 * bias.consistency,
            bias.pairs
        );
        if let Some(first) = bias.first_position_rate {
            let _ = write!(text, "; for the output shown first: {:.1} %", 100.0 * first);
        }
        text.push_str(".\n");
    }
    if let Some(flips) = &results.flip_rate {
        let _ = writeln!(text, "Changed its mind on {} of {} questions asked twice.", flips.flipped, flips.asked);
    }
    for placebo in &results.placebos {
        let _ = writeln!(
            text,
            "{} against itself: {}, {}.",
            name(&placebo.model),
            bounded(&placebo.win_rate, (100.0, " %")),
            if placebo.passed { "as it should be" } else { "not even" }
        );
    }
    for null in &results.null_answers {
        let _ = writeln!(
            text,
            "A null answer against {}: win rate {}.",
            name(&null.baseline),
            bounded(&null.win_rate, (100.0, " %"))
        );
    }
}

/// What agreement there is, in a sentence.
fn agreement(found: &AgreementResult) -> String {
    let number = |value: f64, interval: Option<Interval>| {
        if value.is_finite() { format!("{value:.2}{}", range(interval, 1.0)) } else { "undefined".to_owned() }
    };
    format!(
        "the same for {:.1} %{} of {} verdicts, kappa {}, Krippendorff's alpha {}",
        100.0 * found.observed,
        range(found.observed_interval, 100.0),
        found.n,
        number(found.kappa, found.kappa_interval),
        number(found.alpha, found.alpha_interval)
    )
}

/// A jury's members, what their disagreement adds, and how far they agree.
fn jury(found: &JuryResult, setting: &Setting<'_>, text: &mut String) {
    let (factor, unit) = unit(setting);
    let of: Vec<String> = found
        .members
        .iter()
        .map(|member| format!("{} {:.2}{unit}", name(&member.name), factor * member.value))
        .collect();
    let _ = writeln!(
        text,
        "The jury on {}: {} over {} items, together {:.2}{unit}{} for judges like these (standard error {:.2}, of which {:.2} \
         for these very judges; {:.2} between judges).",
        name(&found.model),
        of.join(", "),
        found.n,
        factor * found.value,
        range(Some(found.interval), factor),
        factor * found.standard_error,
        factor * found.fixed_standard_error,
        factor * found.between_judges
    );
    for pair in &found.pairs {
        let _ = writeln!(
            text,
            "- {} and {}: {}.",
            name(&pair.members[0]),
            name(&pair.members[1]),
            agreement(&pair.agreement)
        );
    }
    if let (Some(alpha), true) = (&found.alpha, found.members.len() > 2) {
        let _ = writeln!(
            text,
            "- all members: Krippendorff's alpha {:.2}{} over {} verdicts.",
            alpha.alpha,
            range(alpha.interval, 1.0),
            alpha.n
        );
    }
}

/// What gold labels say.
fn labels(found: &GoldResult, with: &str, setting: &Setting<'_>, text: &mut String) {
    let (factor, unit) = unit(setting);
    let corrected = &found.corrected;
    let _ = writeln!(
        text,
        "{} corrected by {} labels of {}: {:.2}{unit}{} instead of {:.2}{unit} (labels alone {:.2}{unit}; the \
         judge has a weight of {:.2}).",
        name(&found.model),
        corrected.labelled,
        name(with),
        factor * corrected.value,
        range(Some(corrected.interval), factor),
        factor * corrected.judge_only,
        factor * corrected.labels_only,
        corrected.lambda
    );
    if let Some(found) = &found.agreement {
        let _ = writeln!(text, "- judge and labels: {}.", agreement(found));
    }
}

/// What asking and writing took.
fn cost(report: &Report, text: &mut String) {
    for (model, asked) in &report.written {
        if asked.is_any() {
            let _ = writeln!(text, "Outputs of {}: {}.", name(model), usage(asked));
        }
    }
    let asked = &report.asked;
    if !asked.is_any() {
        return;
    }
    for (member, asked) in asked.members.iter().filter(|(_, asked)| asked.is_any()) {
        let _ = writeln!(text, "Judge {}: {}.", name(member), usage(asked));
    }
    let _ = write!(text, "Judging: {}", usage(asked));
    if let Some(each) = report.cost_per_decided() {
        let _ = write!(text, ", {each:.6} a decided comparison");
    }
    text.push_str(".\n");
}

fn usage(asked: &Asked) -> String {
    let Asked { bill, .. } = asked;
    let mut text = format!("{}{}", counted(bill.answers, "answer"), bill.text());
    if bill.cost > 0.0 {
        let _ = write!(text, "; cost {}{:.4}", if bill.is_told() { "" } else { "at most " }, bill.cost);
    }
    text
}
