//! From a plan over answers to judgments and results, with judges that misbehave.

use std::collections::BTreeSet;

use harness_core::{Finish, Output, Request, Response, Usage};
use harness_judges::{
    Answer, AnswerForm, Ask, Asking, Item, Judgment, NULL_MODEL, Order, Orders, Outcome, OutputSet, Plan, PlanOptions,
    Protocol, Purpose, Rubric, Subject, Unparsed,
    results::{Combine, FindingInputs, findings, flip_rate, pair_results, placebos, position_bias, score_results},
};
use harness_metrics::comparison::{Caveat, JudgeFinding};

fn items(count: usize) -> Vec<Item> {
    (0..count).map(|i| Item::new(format!("Say something about number {i}."))).collect()
}

fn outputs(model: &str, items: &[Item], text: impl Fn(usize) -> String) -> OutputSet {
    OutputSet::single_turn(model, items.iter().enumerate().map(|(i, item)| (item.id.clone(), text(i))))
}

fn plain() -> PlanOptions {
    PlanOptions { repeat_share: 0.0, self_pair_share: 0.0, ..PlanOptions::default() }
}

fn run(plan: Plan, judge: impl Fn(&Ask) -> Answer) -> Vec<Judgment> {
    let mut asking = Asking::new(plan);
    let mut rounds = 0;
    loop {
        let asks = asking.pending();
        if asks.is_empty() {
            return asking.finish();
        }
        rounds += 1;
        assert!(rounds < 10, "asking has an end");
        for ask in asks {
            let answer = judge(&ask);
            asking.record(ask.index, &answer);
        }
    }
}

fn prompt(ask: &Ask) -> &str {
    ask.messages.last().map(|message| message.content.as_str()).unwrap_or_default()
}

#[test]
fn unreadable_answers_are_asked_again_with_another_seed_and_then_kept() {
    let items = items(6);
    let rubric = Rubric::load("helpfulness").unwrap();
    let protocol = Protocol::load("absolute").unwrap();
    let plan =
        Plan::absolute(&protocol, Some(&rubric), &items, &[outputs("m", &items, |i| format!("It is {i}."))], &plain())
            .unwrap();
    let bad = ["", "<!DOCTYPE html><html>502</html>", "I'm sorry, but I can't judge this.", "[RESULT] 9"];
    let repeated = "This answer is fine. ".repeat(40);
    let seeds = std::sync::Mutex::new(BTreeSet::new());
    let judgments = run(plan, |ask| {
        let AnswerForm::Text { sampling, constraint } = &ask.form else { panic!("a text is asked for") };
        assert!(seeds.lock().unwrap().insert(sampling.seed), "every attempt has a seed of its own");
        assert!(constraint.is_some());
        match ask.index {
            // Readable at the second attempt.
            0 if ask.attempt == 2 => Answer::text("Good. [RESULT] 4"),
            0 => Answer::text("Good."),
            i @ 1..=4 => Answer::text(bad[i - 1]),
            _ => {
                Answer::Text { text: repeated.clone(), reasoning: String::new(), opened: false, finish: Finish::Length }
            }
        }
    });
    assert_eq!(judgments[0].score(), Some(4.0));
    assert_eq!((judgments[0].attempts, judgments[0].rationale.as_str()), (2, "Good."));
    let reasons: Vec<&Unparsed> = judgments[1..]
        .iter()
        .map(|judgment| match &judgment.outcome {
            Outcome::Unparsed(reason) => reason,
            Outcome::Parsed(verdict) => panic!("{verdict:?}"),
        })
        .collect();
    let out_of_range = Unparsed::OutOfRange { found: "9".into() };
    assert_eq!(reasons, [&Unparsed::Empty, &Unparsed::Html, &Unparsed::Refusal, &out_of_range, &Unparsed::Repetition]);
    assert!(judgments[1..].iter().all(|judgment| judgment.attempts == 3 && judgment.score().is_none()));
    let result = &score_results(&judgments, &items, [1.0, 5.0], 0.95)[0];
    assert_eq!((result.score.value, result.score.unparsed, result.score.n), (4.0, 5, 6));
    assert!((result.score.worst - 1.5).abs() < 1e-12 && (result.score.best - 29.0 / 6.0).abs() < 1e-12);
    let wide = result.score.interval.unwrap();
    assert!(wide.low <= 1.5 && wide.high >= 4.8, "{wide:?}");
}

#[test]
fn a_greedy_judge_is_asked_again_with_a_temperature() {
    let items = items(1);
    let protocol = Protocol::load("mt-bench").unwrap();
    let plan = Plan::absolute(&protocol, None, &items, &[outputs("m", &items, |_| "x".into())], &plain()).unwrap();
    let judgments = run(plan, |ask| {
        let AnswerForm::Text { sampling, .. } = &ask.form else { panic!("a text is asked for") };
        assert_eq!(sampling.temperature, if ask.attempt == 1 { 0.0 } else { 0.7 });
        Answer::text(if ask.attempt < 3 { "no rating" } else { "Rating: [[7]]" })
    });
    assert_eq!((judgments[0].score(), judgments[0].attempts), (Some(7.0), 3));
}

#[test]
fn a_prompt_too_long_for_the_judge_is_unparsed_at_once() {
    let items = items(2);
    let protocol = Protocol::load("mt-bench").unwrap();
    let plan = Plan::absolute(&protocol, None, &items, &[outputs("m", &items, |_| "x".into())], &plain()).unwrap();
    let judgments = run(plan, |ask| match ask.index {
        0 => Answer::failed("the prompt has 9000 tokens, the context 2048"),
        _ if ask.attempt == 1 => Answer::Failed { message: "cut connection".into(), again: true },
        _ => Answer::text("[[3]]"),
    });
    assert_eq!(judgments[0].attempts, 1);
    let Outcome::Unparsed(reason) = &judgments[0].outcome else { panic!("{:?}", judgments[0]) };
    assert_eq!(reason.to_string(), "the judge could not be asked: the prompt has 9000 tokens, the context 2048");
    assert_eq!((judgments[1].score(), judgments[1].attempts), (Some(3.0), 2));
}

/// A judge that names the longer output, and the first where they are equal.
fn longer_wins(ask: &Ask) -> Answer {
    let text = prompt(ask);
    let between =
        |from: &str, to: &str| text.split(from).nth(1).and_then(|rest| rest.split(to).next()).unwrap_or("").len();
    let a = between("[The Start of Assistant A's Answer]\n", "\n[The End of Assistant A's Answer]");
    let b = between("[The Start of Assistant B's Answer]\n", "\n[The End of Assistant B's Answer]");
    Answer::text(if b > a { "[[B]]" } else { "[[A]]" })
}

#[test]
fn both_orders_repeats_placebos_and_null_answers() {
    let items = items(40);
    let base = outputs("base", &items, |i| "word ".repeat(10 + i % 7));
    let long = outputs("long", &items, |i| "word ".repeat(if i % 4 == 0 { 5 } else { 30 }));
    let protocol = Protocol::load("mt-bench-pair").unwrap();
    let options = PlanOptions { repeat_share: 0.25, self_pair_share: 0.5, null_share: 1.0, ..PlanOptions::default() };
    let plan = Plan::pairwise(&protocol, None, &items, &[(&base, &long)], &options).unwrap();
    let count = |purpose: Purpose| plan.questions.iter().filter(|q| q.purpose == purpose).count();
    assert_eq!([Purpose::Main, Purpose::Repeat, Purpose::SelfPair, Purpose::NullAnswer].map(count), [80, 10, 20, 80]);
    let ids: BTreeSet<_> = plan.questions.iter().map(|question| question.id).collect();
    assert_eq!(ids.len(), plan.questions.len());
    assert_eq!(plan, Plan::pairwise(&protocol, None, &items, &[(&base, &long)], &options).unwrap());

    let judgments = run(plan, longer_wins);
    let results = pair_results(&judgments, Combine::Average, 0.95);
    assert_eq!(results.len(), 1);
    let result = &results[0];
    assert_eq!((result.win_rate.value, result.wins, result.losses, result.inconsistent), (0.75, 30, 10, 0));
    assert_eq!(result.judge_variance, Some(0.0));
    let bias = position_bias(&judgments, 0.95).unwrap();
    assert_eq!((bias.consistency, bias.first_position_rate, bias.p), (1.0, Some(0.5), 1.0));
    assert_eq!(flip_rate(&judgments, 0.95).unwrap().rate, 0.0);
    // Equal outputs: only position decides, and the coin keeps the placebo even.
    let placebo = &placebos(&judgments, 0.95)[0];
    assert!(placebo.passed && placebo.first_position_rate == Some(1.0), "{placebo:?}");
    let inputs = FindingInputs { pairs: &results, ..FindingInputs::default() };
    assert_eq!(findings("mt-bench-pair", "j", &judgments, &inputs, 0.95), [], "the null answer is short and loses");
    assert!(judgments.iter().any(|j| matches!(&j.subject, Subject::Pair { candidate, .. } if candidate == NULL_MODEL)));
}

#[test]
fn a_judge_that_names_the_first_output_is_found_out() {
    let items = items(30);
    let (base, other) = (outputs("base", &items, |i| format!("a{i}")), outputs("other", &items, |i| format!("b{i}")));
    let protocol = Protocol::load("mt-bench-pair").unwrap();
    let plan = Plan::pairwise(&protocol, None, &items, &[(&base, &other)], &plain()).unwrap();
    let judgments = run(plan, |_| Answer::text("[[A]]"));
    let bias = position_bias(&judgments, 0.95).unwrap();
    assert_eq!((bias.consistency, bias.first_position_rate, bias.always_first), (0.0, Some(1.0), 30));
    assert!(bias.p < 1e-8);
    let average = &pair_results(&judgments, Combine::Average, 0.95)[0];
    assert_eq!((average.win_rate.value, average.inconsistent), (0.5, 30));
    assert_eq!(pair_results(&judgments, Combine::InconsistentIsTie, 0.95)[0].win_rate.value, 0.5);
    let found = findings("t", "j", &judgments, &FindingInputs::default(), 0.95);
    assert!(matches!(&found[..], [Caveat::Judge { finding: JudgeFinding::PositionBias { .. }, .. }]), "{found:?}");
    assert!(found[0].to_string().starts_with("t, judge `j`: The judge names the same winner in both orders for 0.0 %"));

    let one_order = PlanOptions { orders: Orders::BaselineFirst, ..plain() };
    let plan = Plan::pairwise(&protocol, None, &items, &[(&base, &other)], &one_order).unwrap();
    let judgments = run(plan, |_| Answer::text("[[A]]"));
    let found = findings("t", "j", &judgments, &FindingInputs::default(), 0.95);
    assert!(
        matches!(&found[..], [Caveat::Judge { finding: JudgeFinding::OneOrderOnly { pairs: 30 }, .. }]),
        "{found:?}"
    );
}

#[test]
fn weighted_verdicts_come_from_the_labels() {
    let items = items(3);
    let base = outputs("base", &items, |i| if i == 2 { "same".into() } else { format!("a{i}") });
    let other = outputs("other", &items, |i| if i == 2 { "same".into() } else { format!("b{i}") });
    let protocol = Protocol::load("alpaca-eval").unwrap();
    let plan = Plan::pairwise(&protocol, None, &items, &[(&base, &other)], &plain()).unwrap();
    assert_eq!((plan.questions.len(), plan.settled.len()), (4, 2), "equal outputs are a tie without asking");
    let judgments = run(plan, |ask| {
        let requests = ask.requests(|messages| Ok::<_, ()>(messages[1].content.clone())).unwrap();
        let [Request::LogLikelihood { continuation: first, .. }, Request::LogLikelihood { continuation: second, .. }] =
            &requests[..]
        else {
            panic!("{requests:?}")
        };
        assert_eq!((first.as_str(), second.as_str()), ("m", "M"));
        let response = |logprob: f64| Response {
            output: Output::LogLikelihood { logprob, is_greedy: false, token_ids: vec![1], token_logprobs: vec![0.0] },
            usage: Usage::default(),
        };
        // The output shown second is three times as probable.
        ask.answer(&[response(0.2f64.ln()), response(0.6f64.ln())])
    });
    for judgment in judgments.iter().filter(|judgment| judgment.attempts > 0) {
        let expected = if judgment.order == Order::BaselineFirst { 0.75 } else { 0.25 };
        assert!((judgment.candidate_preference().unwrap() - expected).abs() < 1e-12, "{judgment:?}");
    }
    let no_label = protocol.read(&Answer::Labels { logprobs: vec![("The".into(), -0.1)] });
    assert_eq!(no_label.outcome, Outcome::Unparsed(Unparsed::NoLabel));
    assert_eq!(protocol.read(&Answer::text(" M\n")).outcome.verdict().unwrap().value(), 1.0);
}

#[test]
fn plans_that_cannot_be_made_say_why() {
    let items = items(2);
    let m = outputs("m", &items, |i| i.to_string());
    let absolute = Protocol::load("absolute").unwrap();
    let error = |result: harness_judges::Result<Plan>| result.unwrap_err().to_string();
    let text = error(Plan::absolute(&absolute, None, &items, std::slice::from_ref(&m), &plain()));
    assert!(text.contains("needs a rubric: one of helpfulness"), "{text}");
    let text = error(Plan::pairwise(&absolute, None, &items, &[(&m, &m)], &plain()));
    assert!(text.contains("grades one output"), "{text}");
    let missing = OutputSet::single_turn("n", [(items[0].id.clone(), "x".to_owned())]);
    let protocol = Protocol::load("mt-bench").unwrap();
    let text = error(Plan::absolute(&protocol, None, &items, &[missing], &plain()));
    assert!(text.contains("1 instruction missing: \"Say something about number 1.\""), "{text}");
    let text = error(Plan::absolute(&protocol, None, &items, &[m], &PlanOptions { repeat_share: 2.0, ..plain() }));
    assert!(text.contains("repeat_share is 2"), "{text}");
}
