//! Several judges: their disagreement belongs into the interval.

use harness_core::{Digest, Seed};
use harness_judges::{
    Judgment, Order, Outcome, Purpose, QuestionId, Subject, Verdict,
    results::{JuryResult, jury_results},
};

fn judgment(item: usize, preference: f64) -> Judgment {
    Judgment {
        question: QuestionId(Digest::of(format!("{item}"))),
        item: format!("item {item:03}"),
        subject: Subject::Pair { baseline: "base".into(), candidate: "new".into() },
        turn: 1,
        order: Order::BaselineFirst,
        purpose: Purpose::Main,
        repeat: 0,
        outcome: Outcome::Parsed(Verdict::Preference(preference)),
        rationale: String::new(),
        label_share: None,
        raw: String::new(),
        attempts: 1,
    }
}

/// A jury drawn from judges who lean to the candidate by a normal amount of standard deviation `lean` each, on items drawn
/// anew. The true rate is ½.
fn drawn(judges: usize, items: usize, lean: f64, index: u64) -> JuryResult {
    let mut rng = Seed(11).stream("jury test", index);
    let leanings: Vec<f64> = (0..judges).map(|_| lean * rng.normal()).collect();
    let quality: Vec<f64> = (0..items).map(|_| 0.1 * rng.normal()).collect();
    let members: Vec<(String, Vec<Judgment>)> = leanings
        .iter()
        .enumerate()
        .map(|(number, leaning)| {
            let verdict = |item: usize, noise: f64| judgment(item, 0.5 + leaning + quality[item] + 0.1 * noise);
            (format!("judge {number}"), (0..items).map(|item| verdict(item, rng.normal())).collect())
        })
        .collect();
    jury_results(&members, [0.0, 1.0], (0, 0.95, Seed(1))).remove(0)
}

#[test]
fn intervals_of_a_jury_cover_the_rate_of_all_judges() {
    for judges in [3, 6] {
        let runs: Vec<JuryResult> = (0..600).map(|index| drawn(judges, 40, 0.05, index)).collect();
        let share = |covers: &dyn Fn(&JuryResult) -> bool| {
            runs.iter().filter(|run| covers(run)).count() as f64 / runs.len() as f64
        };
        let covered = share(&|run| run.interval.contains(0.5));
        let naive = share(&|run| (run.value - 0.5).abs() <= 2.02 * run.fixed_standard_error);
        assert!(
            naive < 0.85 && covered > 0.925 && covered < 0.99,
            "{judges} judges: {covered} and {naive} for the items alone"
        );
    }
}

#[test]
fn judges_that_do_not_differ_cost_nothing() {
    let runs: Vec<JuryResult> = (0..100).map(|index| drawn(3, 60, 0.0, index)).collect();
    let alike = runs.iter().filter(|run| run.standard_error == run.fixed_standard_error).count();
    assert!(alike > 40, "{alike} of 100 juries have no variance between judges");
    let found = &runs[0];
    assert_eq!((found.members.len(), found.n, found.pairs.len()), (3, 60, 3));
    let mean = found.members.iter().map(|member| member.value).sum::<f64>() / 3.0;
    assert!((mean - found.value).abs() < 1e-12);
}

#[test]
fn a_jury_needs_items_that_all_members_judged() {
    let part = |items: std::ops::Range<usize>| items.map(|item| judgment(item, 0.7)).collect::<Vec<_>>();
    let members = [("a".to_owned(), part(0..10)), ("b".to_owned(), part(8..20))];
    assert_eq!(jury_results(&members, [0.0, 1.0], (50, 0.95, Seed(1)))[0].n, 2);
    let members = [("a".to_owned(), part(0..10)), ("b".to_owned(), part(10..20))];
    assert!(jury_results(&members, [0.0, 1.0], (50, 0.95, Seed(1))).is_empty());
}
