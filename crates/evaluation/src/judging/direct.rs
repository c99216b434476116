//! Judgments of judges that are not asked in words.

use harness_judges::{Judgment, Outcome, Plan, Question, Unparsed};

/// The plan's judgments: the settled ones, then what `verdict` says of each question. `None` is no verdict.
pub(super) fn judgments(plan: &Plan, verdict: impl Fn(&Question) -> Option<Outcome>) -> Vec<Judgment> {
    let mut all = plan.settled.clone();
    all.extend(plan.questions.iter().map(|question| Judgment {
        question: question.id,
        item: question.item.clone(),
        subject: question.subject.clone(),
        turn: question.turn,
        order: question.order,
        purpose: question.purpose,
        repeat: question.repeat,
        outcome: verdict(question).unwrap_or_else(|| {
            Outcome::Unparsed(Unparsed::NotAnswered { message: "there is no verdict for this".into() })
        }),
        rationale: String::new(),
        label_share: None,
        raw: String::new(),
        attempts: 1,
    }));
    all
}
