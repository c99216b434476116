//! What every metric of the list promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    f64::consts::LN_2,
    fs,
};

use harness_metrics::{
    Answer, ChoiceAnswers, Gold, METRICS, Metric, Reads, Scorer, Statistic, comparison::Scale, lm_eval::default_metrics,
};
use harness_test_support::workspace_root;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Statistic, sum of the statistics, and value of some answers.
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
fn scales_and_directions() {
    let names = |of: &dyn Fn(&Metric) -> bool| -> Vec<&str> {
        METRICS.iter().filter(|metric| of(metric)).map(|metric| metric.name).collect()
    };
    let of_texts = ["word_perplexity", "byte_perplexity", "bits_per_byte"];
    assert_eq!(names(&|metric| metric.scale == Scale::Points), ["bleu", "chrf", "ter"]);
    let raw = [&["brier_score"], &of_texts[..], &["perplexity"]].concat();
    assert_eq!(names(&|metric| metric.scale == Scale::Raw), raw);
    let lower = [&["brier_score"], &of_texts[..], &["ter", "perplexity"]].concat();
    assert_eq!(names(&|metric| !metric.higher_is_better), lower);
    assert_eq!(names(&|metric| metric.scale_of_mean == Scale::Raw), ["brier_score", "perplexity"]);
    assert_eq!(names(&|metric| metric.share), ["acc", "acc_norm", "exact_match", "f1"]);
    assert_eq!(names(&|metric| metric.tells_documents), ["acc", "acc_norm", "exact_match"]);
    assert_eq!(names(&|metric| metric.unconditional), ["acc_mutual_info"]);
    assert!(
        Metric::is_higher_better("not in the list") && Metric::scale_of_means("not in the list") == Scale::Fraction
    );
}

/// Log-likelihoods of the choices `abc` and `é`, those without context, and what greedy decoding says of each.
const CHOICES: [[([f64; 2], bool); 2]; 5] = [
    [([-1.0, -1.0], true), ([-3.0, -4.0], false)],
    [([-3.0, -3.0], true), ([-1.5, -1.0], false)],
    [([-3.0, -4.0], false), ([-2.5, -2.0], true)],
    [([-2.0, -1.0], false), ([-1.8, -1.0], true)],
    [([-5.0, -1.0], false), ([-3.0, -1.0], true)],
];

/// The right choices.
const RIGHT: [Gold; 5] = [Gold::One(0), Gold::One(1), Gold::One(0), Gold::One(1), Gold::One(0)];

/// Answers and right texts.
const TEXTS: [(&str, &str); 3] =
    [("the cat sat on my mat", "the cat sat on the mat"), ("c d\na b", "a b\nc d"), ("yes", "yes")];

/// Log-likelihoods of whole texts: of 3 words and 11 bytes, and of 2 words and 4 bytes.
const WHOLE: [(f64, &str); 2] = [(-7.0, "the cat sat"), (-5.0, "é b")];

/// Log-likelihoods and tokens of the right texts.
const REFERENCES: [(f64, usize); 2] = [(-7.0, 5), (-2.0, 1)];

/// Log-likelihoods of continuations, and whether greedy decoding gives them.
const CONTINUATIONS: [(f64, bool); 2] = [(-2.0, true), (-4.0, false)];

/// What a metric is of the answers above.
enum ByHand {
    /// The mean of these scores.
    Scores(Vec<f64>),
    /// A number that is no mean of scores.
    Value(f64),
}

/// chrF of [`TEXTS`] from its definition: precision and recall averaged over the orders, recall counted twice.
fn chrf() -> f64 {
    let grams = |text: &str, order: usize| -> BTreeMap<String, usize> {
        let letters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let mut counts = BTreeMap::new();
        letters.windows(order).for_each(|gram| *counts.entry(gram.iter().collect()).or_default() += 1);
        counts
    };
    let (mut precision, mut recall) = (0.0, 0.0);
    for order in 1..=6 {
        let (mut matches, mut answered, mut right) = (0, 0, 0);
        for (text, reference) in TEXTS {
            let (text, reference) = (grams(text, order), grams(reference, order));
            matches += text.iter().map(|(gram, count)| count.min(reference.get(gram).unwrap_or(&0))).sum::<usize>();
            answered += text.values().sum::<usize>();
            right += reference.values().sum::<usize>();
        }
        precision += matches as f64 / answered as f64 / 6.0;
        recall += matches as f64 / right as f64 / 6.0;
    }
    100.0 * 5.0 * precision * recall / (4.0 * precision + recall)
}

fn by_hand(name: &str, kind: Reads) -> ByHand {
    // By the log-likelihood of the right choice less that of the wrong one.
    let brier = |ahead: f64| 2.0 / (1.0 + ahead.exp()).powi(2);
    match (name, kind) {
        ("acc", Reads::Choices) => ByHand::Scores(vec![1.0, 1.0, 0.0, 1.0, 0.0]),
        ("acc_norm", _) => ByHand::Scores(vec![1.0, 0.0, 1.0, 0.0, 1.0]),
        ("acc_bytes", _) => ByHand::Scores(vec![1.0, 1.0, 1.0, 0.0, 0.0]),
        ("acc_mutual_info", _) => ByHand::Scores(vec![0.0, 0.0, 1.0, 1.0, 0.0]),
        ("exact_match", Reads::Choices) => ByHand::Scores(vec![1.0, 0.0, 0.0, 1.0, 0.0]),
        ("brier_score", _) => ByHand::Scores([2.0, 1.5, -0.5, 0.2, -2.0].map(brier).to_vec()),
        // Of the second choice: 2 hits, 2 false alarms, none missed; 1 right rejection.
        ("f1", _) => ByHand::Value(2.0 / 3.0),
        ("precision", _) => ByHand::Value(0.5),
        ("recall", _) => ByHand::Value(1.0),
        ("mcc", _) => ByHand::Value(2.0 / 24f64.sqrt()),
        ("acc", _) => ByHand::Scores(vec![1.0, 0.0]),
        ("perplexity", Reads::Continuation) => ByHand::Value(3f64.exp()),
        ("perplexity", _) => ByHand::Value((9.0 / 6.0f64).exp()),
        ("word_perplexity", _) => ByHand::Value((12.0 / 5.0f64).exp()),
        ("byte_perplexity", _) => ByHand::Value((12.0 / 15.0f64).exp()),
        ("bits_per_byte", _) => ByHand::Value(12.0 / 15.0 / LN_2),
        ("exact_match", _) => ByHand::Scores(vec![0.0, 0.0, 1.0]),
        // Articles do not count.
        ("token_f1", _) => ByHand::Scores(vec![8.0 / 9.0, 1.0, 1.0]),
        ("rouge1", _) => ByHand::Scores(vec![5.0 / 6.0, 1.0, 1.0]),
        ("rouge2", _) => ByHand::Scores(vec![3.0 / 5.0, 2.0 / 3.0, 0.0]),
        ("rougeL", _) => ByHand::Scores(vec![5.0 / 6.0, 0.5, 1.0]),
        ("rougeLsum", _) => ByHand::Scores(vec![5.0 / 6.0, 1.0, 1.0]),
        // 11 words on both sides.
        ("bleu", _) => ByHand::Value(100.0 * (10.0 / 11.0 * 5.0 / 8.0 * 2.0 / 6.0 * 1.0 / 4.0f64).powf(0.25)),
        ("chrf", _) => ByHand::Value(chrf()),
        // One other word, and one shift.
        ("ter", _) => ByHand::Value(100.0 * 2.0 / 11.0),
        _ => panic!("no value by hand of {name} of {kind:?}"),
    }
}

#[test]
fn values_by_hand() {
    let choices = ["abc", "é"].map(str::to_owned);
    let lls = CHOICES.map(|choices| choices.map(|([ll, _], _)| ll));
    let without = CHOICES.map(|choices| choices.map(|([_, ll], _)| ll));
    let greedy = CHOICES.map(|choices| choices.map(|(_, greedy)| greedy));
    let of_choices: Vec<ChoiceAnswers<'_>> = (0..RIGHT.len())
        .map(|i| ChoiceAnswers {
            choices: &choices,
            loglikelihoods: &lls[i],
            is_greedy: &greedy[i],
            unconditional: Some(&without[i]),
            gold: &RIGHT[i],
            classes: 2,
        })
        .collect();
    let references = TEXTS.map(|(_, reference)| [reference.to_owned()]);
    for kind in [Reads::Choices, Reads::Continuation, Reads::Rolling, Reads::Text, Reads::Reference] {
        let answers: Vec<Answer<'_>> = match kind {
            Reads::Choices => of_choices.iter().map(Answer::Choices).collect(),
            Reads::Continuation => {
                CONTINUATIONS.map(|(logprob, is_greedy)| Answer::Continuation { logprob, is_greedy }).to_vec()
            }
            Reads::Rolling => WHOLE.map(|(logprob, text)| Answer::Rolling { logprob, text }).to_vec(),
            Reads::Text => {
                let pairs = TEXTS.iter().zip(&references);
                pairs.map(|((text, _), references)| Answer::Text { text, references }).collect()
            }
            Reads::Reference => REFERENCES.map(|(logprob, tokens)| Answer::Reference { logprob, tokens }).to_vec(),
        };
        for metric in metrics_of(kind) {
            let scorer = metric.configure(kind, &Value::Null).unwrap();
            let (statistic, sums, found) = value(&*scorer, 2, &answers);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            let expected = match by_hand(metric.name, kind) {
                ByHand::Value(value) => value,
                ByHand::Scores(scores) => {
                    assert_eq!((sums[1] as usize, scores.len()), (answers.len(), answers.len()), "{}", metric.name);
                    for (answer, score) in answers.iter().zip(&scores) {
                        let one = statistic.value(&scorer.stats(answer).unwrap().unwrap());
                        assert!(near(one, *score), "{} of {answer:?}: {one} for {score}", metric.name);
                    }
                    scores.iter().sum::<f64>() / scores.len() as f64
                }
            };
            assert!(near(found, expected), "{} of {kind:?}: {found} for {expected}", metric.name);
        }
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
