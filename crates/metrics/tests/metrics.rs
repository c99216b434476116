//! What every metric of the list promises.

use std::{collections::BTreeSet, fs, path::Path};

use harness_metrics::{
    Answer, ChoiceAnswers, Gold, METRICS, Metric, Reads, Scorer, Statistic, comparison::Scale, lm_eval::default_metrics,
};
use harness_test_support::workspace_root;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The sum of the statistics of some answers.
fn value(scorer: &dyn Scorer, classes: usize, answers: &[Answer<'_>]) -> (Statistic, Vec<f64>, f64) {
    let statistic = scorer.statistic(classes);
    let stats: Vec<Vec<f64>> = answers.iter().map(|answer| scorer.stats(answer).unwrap().unwrap()).collect();
    assert!(stats.iter().all(|stats| stats.len() == statistic.dim()), "{statistic:?}");
    let sums = statistic.sum(&stats);
    let value = statistic.value(&sums);
    (statistic, sums, value)
}

fn metrics_of(kind: Reads) -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().copied().filter(move |metric| metric.reads.contains(&kind))
}

/// The value lies in the range of the metric, and the scale is the one that its function says.
fn holds(metric: &Metric, kind: Reads, classes: usize, answers: &[Answer<'_>]) {
    let scorer = metric.configure(kind, &Value::Null).unwrap();
    let (statistic, _, value) = value(&*scorer, classes, answers);
    assert_eq!(statistic.scale().unwrap_or(metric.scale), metric.scale, "{}", metric.name);
    assert!(value.is_nan() || statistic.range(metric.scale).contains(value), "{}: {value}", metric.name);
}

#[test]
fn names_are_unique_and_the_defaults_are_known() {
    let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for output_type in ["loglikelihood", "multiple_choice", "loglikelihood_rolling", "generate_until"] {
        let defaults = default_metrics(output_type);
        assert!(!defaults.is_empty());
        assert!(defaults.iter().all(|name| Metric::of(name).is_some_and(|metric| !metric.reads.is_empty())));
    }
}

#[test]
fn answers_of_another_kind_and_wrong_options_are_refused() {
    let answer = Answer::Rolling { logprob: -1.0, text: "a" };
    for metric in METRICS {
        for &kind in metric.reads.iter().filter(|kind| **kind != Reads::Rolling) {
            assert!(metric.configure(kind, &Value::Null).unwrap().stats(&answer).unwrap().is_none(), "{}", metric.name);
        }
        let Some(&kind) = metric.reads.last() else { continue };
        for option in metric.options {
            let wrong = json!({ *option: if *option == "regexes_to_ignore" { "(" } else { "no such value" } });
            assert!(metric.configure(kind, &wrong).is_err(), "{}: {option}", metric.name);
        }
    }
}

#[test]
fn options_and_metrics_are_documented() {
    let page = fs::read_to_string(workspace_root().join("docs/howto/new-metric.md")).unwrap();
    for metric in METRICS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.name)));
        let row = row.unwrap_or_else(|| panic!("docs/howto/new-metric.md has no row for {}", metric.name));
        assert!(metric.options.iter().all(|option| row.contains(&format!("`{option}`"))), "{row}");
    }
}

#[test]
fn what_lm_eval_logs_is_read_back() {
    let references = ["the cat sat on the mat".to_owned()];
    let gold = Gold::One(1);
    let choices = ["a".to_owned(), "b".to_owned()];
    let lls = [-1.0, -3.0];
    let choices = ChoiceAnswers {
        choices: &choices,
        loglikelihoods: &lls,
        is_greedy: &[true, false],
        unconditional: Some(&[-1.0, -4.0]),
        gold: &gold,
        classes: 2,
    };
    let text = "the cat sat on a mat";
    let answer = json!(text);
    for metric in METRICS {
        for kind in metric.reads {
            let scorer = metric.configure(*kind, &Value::Null).unwrap();
            let answered = match kind {
                Reads::Choices => Answer::Choices(&choices),
                Reads::Continuation => Answer::Continuation { logprob: -2.0, is_greedy: true },
                Reads::Rolling => Answer::Rolling { logprob: -7.0, text },
                Reads::Text => Answer::Text { text, references: &references },
                Reads::Reference => Answer::Reference { logprob: -7.0, tokens: 5 },
            };
            let stats = scorer.stats(&answered).unwrap().unwrap();
            let logged = scorer.logged(&harness_metrics::Logged {
                stats: &stats,
                gold: &gold,
                loglikelihoods: &lls,
                target: &references[0],
                references: None,
                answer: &answer,
            });
            let read = scorer.statistic(2).read(&logged);
            assert_eq!(read.as_ref(), Some(&stats), "{} {kind:?}: {logged}", metric.name);
            assert!(logged.is_array() || !metric.logs_pairs, "{} {kind:?}: {logged}", metric.name);
        }
    }
}

/// A metric is known to its file and to the list. Others may look for one that they show, but not decide by its name.
#[test]
fn no_other_file_matches_a_metric_by_its_name() {
    fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut files = vec![];
    for folder in ["src", "tasks/src", "judges/src", "reports/src", "crates/evaluation/src", "crates/metrics/src"] {
        walk(&workspace_root().join(folder), &mut files);
    }
    let home = workspace_root().join("crates/metrics/src/metric");
    for file in files.iter().filter(|file| !file.starts_with(&home)) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for metric in METRICS {
            let name = format!("\"{}\"", metric.name);
            for line in code.lines().map(str::trim).filter(|line| line.contains(&name)) {
                let arm = [" =>", " |"].iter().any(|after| line.contains(&format!("{name}{after}")));
                let compared = ["== ", "!= ", "| "].iter().any(|before| line.contains(&format!("{before}{name}")));
                assert!(!arm && !compared && !line.contains("matches!("), "{}: {line}", file.display());
            }
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![8 => "[abc]{1,2}", 1 => "\\PC{1,3}"], 0..12).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn values_of_choices_lie_in_the_range(
        documents in proptest::collection::vec(
            (proptest::collection::vec((-20.0..0.0f64, -20.0..0.0f64, any::<bool>()), 3), 0usize..4),
            1..6,
        ),
    ) {
        let choices = ["a", "bc", "é"].map(str::to_owned);
        let golds: Vec<Gold> = documents.iter().map(|(_, gold)| Gold::from_index(*gold as i64, 3)).collect();
        let columns: Vec<(Vec<f64>, Vec<f64>, Vec<bool>)> = documents
            .iter()
            .map(|(rows, _)| {
                let (a, b): (Vec<f64>, Vec<f64>) = rows.iter().map(|(a, b, _)| (*a, *b)).unzip();
                (a, b, rows.iter().map(|(.., greedy)| *greedy).collect())
            })
            .collect();
        let answers: Vec<ChoiceAnswers<'_>> = columns
            .iter()
            .zip(&golds)
            .map(|((lls, without, greedy), gold)| ChoiceAnswers {
                choices: &choices,
                loglikelihoods: lls,
                is_greedy: greedy,
                unconditional: Some(without),
                gold,
                classes: 3,
            })
            .collect();
        let answers: Vec<Answer<'_>> = answers.iter().map(Answer::Choices).collect();
        for metric in metrics_of(Reads::Choices) {
            holds(metric, Reads::Choices, 3, &answers);
        }
    }

    #[test]
    fn values_of_texts_lie_in_the_range(documents in proptest::collection::vec((text(), text(), -50.0..0.0f64), 1..6)) {
        let references: Vec<[String; 1]> = documents.iter().map(|(_, reference, _)| [reference.clone()]).collect();
        let all = documents.iter().zip(&references);
        let of_texts: Vec<Answer<'_>> =
            all.map(|((text, ..), references)| Answer::Text { text, references }).collect();
        for (kind, answers) in [
            (Reads::Text, of_texts),
            (Reads::Rolling, documents.iter().map(|(text, _, ll)| Answer::Rolling { logprob: *ll, text }).collect()),
            (Reads::Reference, documents.iter().map(|(.., ll)| Answer::Reference { logprob: *ll, tokens: 3 }).collect()),
            (
                Reads::Continuation,
                documents.iter().map(|(.., ll)| Answer::Continuation { logprob: *ll, is_greedy: *ll > -9.0 }).collect(),
            ),
        ] {
            for metric in metrics_of(kind) {
                holds(metric, kind, 2, &answers);
            }
        }
    }
}

#[test]
fn means_of_others_are_shares_unless_the_metric_says_otherwise() {
    for metric in METRICS.iter().filter(|metric| metric.scale_of_mean != Scale::Fraction) {
        assert_eq!(metric.scale, metric.scale_of_mean, "{}", metric.name);
    }
}
