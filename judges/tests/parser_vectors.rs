//! The parsers against the reference tools' own.

use harness_judges::{
    Answer, Kind, Order, Protocol, Verdict,
    parser::{
        FastChatWinner, fastchat_pair, fastchat_pair_rating, fastchat_rating, prometheus_eval_script,
        prometheus_inline, prometheus_package,
    },
};
use harness_test_support::vectors;
use serde_json::{Value, json};

fn prometheus_score(kind: Kind, verdict: Option<Verdict>) -> Value {
    match (kind, verdict) {
        (_, None) => Value::Null,
        (Kind::Absolute, Some(verdict)) => json!(verdict.value() as i64),
        (Kind::Pairwise, Some(verdict)) => json!(if verdict.value() == 0.0 { "A" } else { "B" }),
    }
}

#[test]
fn prometheus() {
    for case in vectors("prometheus_parse").unwrap_or_default() {
        let text = case.input["output"].as_str().unwrap_or_default();
        let kind = if case.input["mode"] == "absolute" { Kind::Absolute } else { Kind::Pairwise };
        if let Some(expected) = case.expected.get("package_parser") {
            let found = prometheus_score(kind, prometheus_package(kind, text));
            assert_eq!(found, expected["score"], "{}: package parser on {text:?}", case.id);
        }
        if let Some(expected) = case.expected.get("eval_parser") {
            let found = prometheus_eval_script(kind, text);
            let score = prometheus_score(kind, found.as_ref().map(|(_, verdict)| *verdict));
            // The script keeps the case of the letter; a verdict has none.
            let wanted = expected["score"].as_str().map_or(expected["score"].clone(), |s| json!(s.to_uppercase()));
            assert_eq!(score, wanted, "{}: eval parser on {text:?}", case.id);
            let feedback = found.map_or(Value::Null, |(feedback, _)| json!(feedback));
            assert_eq!(feedback, expected["feedback"], "{}: eval parser on {text:?}", case.id);
        }
        if let Some(expected) = case.expected.get("paper_run_evaluate_inline") {
            let found = prometheus_inline(kind, text);
            let score = prometheus_score(kind, found.as_ref().map(|(_, verdict)| *verdict));
            assert_eq!(score, expected["score"], "{}: inline on {text:?}", case.id);
            let feedback = found.map_or(Value::Null, |(feedback, _)| json!(feedback));
            assert_eq!(feedback, expected["feedback"], "{}: inline on {text:?}", case.id);
            // The strict parser is the rule of the paper.
            let protocol =
                Protocol::load(if kind == Kind::Absolute { "absolute" } else { "pairwise" }).expect("built in");
            let strict = protocol.read(&Answer::text(text)).outcome.verdict();
            assert_eq!(prometheus_score(kind, strict), expected["score"], "{}: strict on {text:?}", case.id);
        }
    }
}

fn name(winner: FastChatWinner) -> Value {
    serde_json::to_value(winner).expect("a name")
}

#[test]
fn mt_bench() {
    for case in vectors("mtbench_parse").unwrap_or_default() {
        let text = case.input["judgment"].as_str().unwrap_or_default();
        match case.group.as_str() {
            "single" => {
                let found = fastchat_rating(text);
                let expected = case.expected["rating"].as_f64().filter(|rating| *rating >= 0.0);
                assert_eq!(found, expected, "{}: {text:?}", case.id);
            }
            "pair" => assert_eq!(name(fastchat_pair(text)), case.expected["winner"], "{}: {text:?}", case.id),
            "pair_rating" => {
                assert_eq!(name(fastchat_pair_rating(text)), case.expected["winner"], "{}: {text:?}", case.id);
            }
            "two_orders" => {
                let game = |key: &str, order: Order| {
                    let winner = fastchat_pair(case.input[key].as_str().expect("a judgment"));
                    harness_judges::files::fastchat::winner_name(
                        winner.verdict().map(|verdict| order.for_candidate(verdict.value())),
                    )
                };
                let games =
                    [game("game1_judgment", Order::BaselineFirst), game("game2_judgment", Order::CandidateFirst)];
                assert_eq!(json!(games[0]), case.expected["g1_winner"], "{}", case.id);
                assert_eq!(json!(games[1]), case.expected["g2_winner"], "{}", case.id);
                let both = if games[0] == games[1] { games[0] } else { "inconsistent" };
                assert_eq!(json!(both), case.expected["load_pairwise_winner"], "{}", case.id);
            }
            other => panic!("unknown group {other}"),
        }
    }
}
