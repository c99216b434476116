//! Which questions are asked: items, models, orders, repetitions, placebos.

use harness_core::{ChatMessage, ChatRole, Digest, Hasher, Seed};
use harness_python::PythonRandom;
use serde::{Deserialize, Serialize};

use crate::{
    AnswerForm, Item, JudgesError, Judgment, Kind, Layout, Order, Outcome, OutputSet, Protocol, Purpose, Question,
    QuestionId, Result, Rubric, Subject, Verdict, placeholders,
};

/// Name of the candidate that always answers the same.
pub const NULL_MODEL: &str = "null answer";

/// In which orders a pair is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orders {
    /// In both.
    #[default]
    Both,
    /// In the one that alpaca_eval draws for the instruction (its seed 0): half the questions, and its own numbers.
    AlpacaEval,
    /// The baseline first, always: cheap, and open to every position bias.
    BaselineFirst,
}

/// How a plan is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanOptions {
    /// Orders in which pairs are shown.
    pub orders: Orders,
    /// Share of items, in [0, 1], whose first question is asked again with another seed.
    pub repeat_share: f64,
    /// Share of items, in [0, 1], on which every candidate is also compared with itself.
    pub self_pair_share: f64,
    /// Share of items, in [0, 1], on which a candidate that always answers [`PlanOptions::null_text`] takes part.
    pub null_share: f64,
    /// What the null candidate answers.
    pub null_text: String,
    /// Seed of all draws, and of the judge's sampling.
    pub seed: u64,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            orders: Orders::Both,
            repeat_share: 0.1,
            self_pair_share: 0.1,
            null_share: 0.0,
            null_text: "I am not able to answer this.".into(),
            seed: 42,
        }
    }
}

/// The questions of one judging run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The protocol.
    pub protocol: Protocol,
    /// The questions, in a fixed order.
    pub questions: Vec<Question>,
    /// Verdicts that are clear without asking: equal outputs, where the protocol calls them a tie.
    pub settled: Vec<Judgment>,
    /// Seed of the judge's sampling.
    pub seed: u64,
}

/// alpaca_eval's coin: whether the outputs of an instruction are swapped in the prompt. It is
/// `random.Random("is_switched_outputs" + instruction + seed).choices([False, True])`; the leaderboard's seed is 0.
pub fn is_switched(instruction: &str, seed: i64) -> bool {
    PythonRandom::from_text(&format!("is_switched_outputs{instruction}{seed}")).random() >= 0.5
}

impl Plan {
    /// Questions that grade every output of every model.
    ///
    /// # Errors
    /// If the protocol is pairwise, needs a rubric that is not given, has no prompt for an item, an output is missing, or
    /// a share is not in [0, 1].
    pub fn absolute(
        protocol: &Protocol,
        rubric: Option<&Rubric>,
        items: &[Item],
        models: &[OutputSet],
        options: &PlanOptions,
    ) -> Result<Self> {
        let mut maker = Maker::new(protocol, rubric, items, options, Kind::Absolute)?;
        for outputs in models {
            outputs.check(items)?;
            for (i, item) in items.iter().enumerate() {
                maker.single(item, outputs, Purpose::Main, 0)?;
                if maker.repeated[i] {
                    maker.single(item, outputs, Purpose::Repeat, 1)?;
                }
            }
        }
        let null = OutputSet::constant(NULL_MODEL, &options.null_text, items);
        for (item, _) in items.iter().zip(&maker.null.clone()).filter(|(_, chosen)| **chosen) {
            maker.single(item, &null, Purpose::NullAnswer, 0)?;
        }
        Ok(maker.plan)
    }

    /// Questions that compare pairs of a baseline and a candidate.
    ///
    /// # Errors
    /// As for [`Plan::absolute`], with a protocol that is not pairwise.
    pub fn pairwise(
        protocol: &Protocol,
        rubric: Option<&Rubric>,
        items: &[Item],
        pairs: &[(&OutputSet, &OutputSet)],
        options: &PlanOptions,
    ) -> Result<Self> {
        let mut maker = Maker::new(protocol, rubric, items, options, Kind::Pairwise)?;
        let mut with_self: Vec<&str> = vec![];
        let mut with_null: Vec<&str> = vec![];
        for (baseline, candidate) in pairs {
            baseline.check(items)?;
            candidate.check(items)?;
            for (i, item) in items.iter().enumerate() {
                let orders = maker.orders(item);
                for &order in &orders {
                    maker.pair(item, (baseline, candidate), order, Purpose::Main, 0)?;
                }
                if maker.repeated[i] {
                    maker.pair(item, (baseline, candidate), orders[0], Purpose::Repeat, 1)?;
                }
            }
            if !with_self.contains(&candidate.model.as_str()) {
                with_self.push(&candidate.model);
                let chosen = maker.self_paired.clone();
                for (item, _) in items.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
                    // Both orders look the same to the judge; a coin decides which side is called the candidate's.
                    let order = if coin(options.seed, &item.id) { Order::CandidateFirst } else { Order::BaselineFirst };
                    maker.pair(item, (candidate, candidate), order, Purpose::SelfPair, 0)?;
                }
            }
            if !with_null.contains(&baseline.model.as_str()) {
                with_null.push(&baseline.model);
                let null = OutputSet::constant(NULL_MODEL, &options.null_text, items);
                let chosen = maker.null.clone();
                for (item, _) in items.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
                    for order in maker.orders(item) {
                        maker.pair(item, (baseline, &null), order, Purpose::NullAnswer, 0)?;
                    }
                }
            }
        }
        Ok(maker.plan)
    }

    /// All pairs i < j of the models, the earlier one as the baseline.
    pub fn all_pairs(models: &[OutputSet]) -> Vec<(&OutputSet, &OutputSet)> {
        let later = |i: usize| models.get(i + 1..).unwrap_or_default();
        models.iter().enumerate().flat_map(|(i, a)| later(i).iter().map(move |b| (a, b))).collect()
    }
}

/// A fair coin for an item.
fn coin(seed: u64, item: &str) -> bool {
    let digest = Hasher::new("self-pair order").part(seed.to_le_bytes()).part(item).finish();
    digest.as_bytes()[0] & 1 == 1
}

/// Makes the questions of a plan one after another.
struct Maker<'a> {
    plan: Plan,
    rubric: Option<&'a Rubric>,
    orders: Orders,
    context: Digest,
    repeated: Vec<bool>,
    self_paired: Vec<bool>,
    null: Vec<bool>,
}

impl<'a> Maker<'a> {
    fn new(
        protocol: &Protocol,
        rubric: Option<&'a Rubric>,
        items: &[Item],
        options: &PlanOptions,
        kind: Kind,
    ) -> Result<Self> {
        let bad = |what: String| Err(JudgesError::Plan { what });
        if protocol.kind != kind {
            return bad(match kind {
                Kind::Absolute => format!("protocol `{}` compares two outputs; give it a baseline", protocol.name),
                Kind::Pairwise => format!("protocol `{}` grades one output; it takes no baseline", protocol.name),
            });
        }
        if protocol.uses_rubric() && rubric.is_none() {
            let names = Rubric::names().collect::<Vec<_>>().join(", ");
            return bad(format!("protocol `{}` needs a rubric: one of {names}, or a TOML file", protocol.name));
        }
        let shares = [
            ("repeat_share", options.repeat_share),
            ("self_pair_share", options.self_pair_share),
            ("null_share", options.null_share),
        ];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return bad(format!("{name} is {share}: expected a share between 0 and 1"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = items.iter().find(|item| !seen.insert(item.id.as_str())) {
            return bad(format!("item `{}` occurs twice; ids have to be unique", crate::error::shorten(&twice.id)));
        }
        let chosen = |purpose: &str, share: f64| {
            let mut order: Vec<usize> = (0..items.len()).collect();
            Seed(options.seed).stream(purpose, 0).shuffle(&mut order);
            let mut chosen = vec![false; items.len()];
            let count = (share * items.len() as f64).ceil() as usize;
            order.into_iter().take(count).for_each(|i| chosen[i] = true);
            chosen
        };
        let mut hasher = Hasher::new("judging");
        hasher.part(protocol.digest().as_bytes());
        hasher.part(rubric.map(|rubric| rubric.digest().to_string()).unwrap_or_default());
        Ok(Self {
            plan: Plan { protocol: protocol.clone(), questions: vec![], settled: vec![], seed: options.seed },
            rubric,
            orders: options.orders,
            context: hasher.finish(),
            repeated: chosen("judge repeats", options.repeat_share),
            self_paired: chosen("judge self-pairs", options.self_pair_share),
            null: chosen("judge null answers", options.null_share),
        })
    }

    fn orders(&self, item: &Item) -> Vec<Order> {
        match self.orders {
            Orders::Both => vec![Order::BaselineFirst, Order::CandidateFirst],
            Orders::BaselineFirst => vec![Order::BaselineFirst],
            Orders::AlpacaEval if is_switched(item.instruction(), 0) => vec![Order::CandidateFirst],
            Orders::AlpacaEval => vec![Order::BaselineFirst],
        }
    }

    fn single(&mut self, item: &Item, outputs: &OutputSet, purpose: Purpose, repeat: u32) -> Result<()> {
        let subject = Subject::Single { model: outputs.model.clone() };
        let shown = outputs.get(&item.id).unwrap_or_default();
        for turn in 1..=self.plan.protocol.turns.min(item.turns.len()) {
            self.question(item, turn, &[shown], subject.clone(), Order::BaselineFirst, purpose, repeat)?;
        }
        Ok(())
    }

    fn pair(
        &mut self,
        item: &Item,
        (baseline, candidate): (&OutputSet, &OutputSet),
        order: Order,
        purpose: Purpose,
        repeat: u32,
    ) -> Result<()> {
        let subject = Subject::Pair { baseline: baseline.model.clone(), candidate: candidate.model.clone() };
        let first = baseline.get(&item.id).unwrap_or_default();
        let second = candidate.get(&item.id).unwrap_or_default();
        let shown = if order == Order::BaselineFirst { [first, second] } else { [second, first] };
        for turn in 1..=self.plan.protocol.turns.min(item.turns.len()) {
            let equal = first.get(..turn) == second.get(..turn);
            if equal && purpose != Purpose::SelfPair && self.plan.protocol.equal_outputs_tie {
                self.settle(item, turn, subject.clone(), order, purpose, repeat);
            } else {
                self.question(item, turn, &shown, subject.clone(), order, purpose, repeat)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, item: &Item, turn: usize, subject: Subject, order: Order, purpose: Purpose, repeat: u32) {
        let mut hasher = Hasher::new("settled judgment");
        hasher.part(self.context.as_bytes()).part(&item.id).part(Digest::of_json(&subject).as_bytes());
        hasher.part(Digest::of_json(&(turn, order, purpose, repeat)).as_bytes());
        self.plan.settled.push(Judgment {
            question: QuestionId(hasher.finish()),
            item: item.id.clone(),
            subject,
            turn,
            order,
            purpose,
            repeat,
            outcome: Outcome::Parsed(Verdict::Preference(0.5)),
            rationale: String::new(),
            label_share: None,
            raw: String::new(),
            attempts: 0,
        });
    }

    #[allow(clippy::too_many_arguments, reason = "the coordinates of a question")]
    fn question(
        &mut self,
        item: &Item,
        turn: usize,
        shown: &[&[String]],
        subject: Subject,
        order: Order,
        purpose: Purpose,
        repeat: u32,
    ) -> Result<()> {
        let protocol = &self.plan.protocol;
        let reference = item.reference.len() >= turn && protocol.uses_reference(item.category.as_deref());
        let Some(template) = protocol.template(turn, reference) else {
            let with = if reference { "with" } else { "without" };
            let what = format!("protocol `{}` has no prompt for turn {turn} {with} a reference", protocol.name);
            return Err(JudgesError::Plan { what });
        };
        let values = placeholders::values(item, turn, shown, self.rubric);
        let (system, user) = (template.system.render(&values), template.user.render(&values));
        let messages = match protocol.layout {
            _ if system.is_empty() => vec![ChatMessage::new(ChatRole::User, user)],
            Layout::SystemUser => {
                vec![ChatMessage::new(ChatRole::System, system), ChatMessage::new(ChatRole::User, user)]
            }
            Layout::Joined => vec![ChatMessage::new(ChatRole::User, format!("{system}\n{user}"))],
        };
        let sampling = protocol.sampling.clone();
        let form = match &protocol.labels {
            Some(labels) => {
                AnswerForm::Labels { labels: labels.clone(), top_logprobs: protocol.top_logprobs, sampling }
            }
            None => AnswerForm::Text { sampling, constraint: protocol.constraint.clone() },
        };
        let mut question = Question {
            id: QuestionId(self.context),
            item: item.id.clone(),
            subject,
            turn,
            order,
            purpose,
            repeat,
            template: template.name.clone(),
            messages,
            form,
        };
        question.id = question.make_id(&self.context);
        self.plan.questions.push(question);
        Ok(())
    }
}
