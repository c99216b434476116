//! Drafts: tokens that probably come next are computed in one pass, and kept as far as the model says the same.
//!
//! What another model, or another sample, answered to the same prompt is followed as long as the own answer is the same, and
//! found again after a difference; texts that repeat themselves are drafted from themselves (prompt lookup: Saxena 2023). What
//! is drawn is what would have been drawn without: a draft only decides how many positions a pass computes (Leviathan et al.
//! 2023, for greedy decoding). How often drafts are right and what further rows cost is measured, and no more is drafted than
//! pays.

mod answers;
mod cost;
mod follow;
mod odds;

use std::sync::Arc;

pub use answers::Draft;
use answers::{Answers, PromptKey};
use cost::Cost;
use follow::{Follower, look_up};
use odds::{Class, Kind, Odds};

/// Longest draft.
const LONGEST: usize = 15;
/// Drafts that are less likely to be right than this are not looked at.
const UNLIKELY: f64 = 0.05;

/// Whether tokens are drafted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Drafting {
    /// Never.
    #[default]
    Off,
    /// Where it pays.
    Measured,
    /// As many as there are, whatever they cost, in passes whose number is no multiple of this.
    #[cfg(test)]
    Always(usize),
}

/// What a batch knows of its drafts.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    drafting: Drafting,
    answers: Answers,
    odds: Odds,
    cost: Cost,
    #[cfg(test)]
    passes: usize,
}

/// What a sequence is drafted from.
#[derive(Debug)]
pub(super) struct Drafter {
    key: PromptKey,
    /// Its own answer among those of the batch.
    number: usize,
    /// Places in the other answers of the batch, by their numbers.
    others: Vec<(usize, Follower)>,
    /// Answers that were known before.
    known: Vec<(Arc<Draft>, Follower)>,
    /// The prompt and the answer so far.
    context: Vec<u32>,
    prompt: usize,
    /// What probably comes next.
    proposed: Vec<Proposed>,
    /// How much of it is computed.
    drafted: usize,
}

/// A token that probably comes.
#[derive(Clone, Copy, Debug)]
struct Proposed {
    token: u32,
    class: Class,
    /// How likely it and all before it are right.
    gain: f64,
}

/// A sequence of a pass, as drafts look at it.
pub(super) struct Current<'a> {
    pub(super) drafter: &'a mut Drafter,
    pub(super) tokens: &'a [u32],
    pub(super) logprobs: &'a [f32],
    /// Most tokens that may be drafted.
    pub(super) most: usize,
    /// Tokens that the model has.
    pub(super) vocab: usize,
}

impl Drafts {
    pub(super) fn new(drafting: Drafting) -> Self {
        Self { drafting, ..Self::default() }
    }

    /// What a sequence is drafted from, `None` where it is not: its prompt, and answers that are known.
    pub(super) fn drafter(&mut self, prompt: &[u32], known: &[Arc<Draft>]) -> Option<Drafter> {
        if self.drafting == Drafting::Off {
            return None;
        }
        let key = PromptKey::of(prompt);
        let known = known.iter().map(|draft| (Arc::clone(draft), Follower::default())).collect();
        let (context, prompt, number) = (prompt.to_vec(), prompt.len(), self.answers.begin(key));
        Some(Drafter { key, number, others: vec![], known, context, prompt, proposed: vec![], drafted: 0 })
    }

    /// Nobody goes on with a sequence, of which these are the tokens.
    pub(super) fn end(&mut self, drafter: &Drafter, tokens: &[u32], logprobs: &[f32]) {
        self.answers.extend(drafter.number, tokens, logprobs);
        self.answers.finish(drafter.key, drafter.number);
    }

    /// Drafts for the sequences of a pass of `rows` sequences, as far as that pays.
    pub(super) fn propose<'a>(&mut self, rows: usize, sequences: impl Iterator<Item = Current<'a>>) {
        #[cfg(test)]
        {
            self.passes += 1;
        }
        let mut drafters: Vec<&mut Drafter> = vec![];
        for sequence in sequences {
            let Current { drafter, tokens, logprobs, .. } = &sequence;
            self.answers.extend(drafter.number, tokens, logprobs);
            let Current { drafter, tokens, most, vocab, .. } = sequence;
            drafter.propose(tokens, most, vocab, &self.answers, &self.odds);
            drafters.push(drafter);
        }
        let mut gains: Vec<(f64, usize)> = vec![];
        for (at, drafter) in drafters.iter().enumerate() {
            gains.extend(drafter.proposed.iter().map(|proposed| (proposed.gain, at)));
        }
        // Gains fall within a sequence: the first ones of all are first ones of each.
        gains.sort_by(|a, b| b.0.total_cmp(&a.0));
        let count = match self.drafting {
            Drafting::Off => 0,
            Drafting::Measured => self.cost.best(rows, &gains.iter().map(|(gain, _)| *gain).collect::<Vec<_>>()),
            #[cfg(test)]
            Drafting::Always(but) => {
                if self.passes.is_multiple_of(but) {
                    0
                } else {
                    gains.len()
                }
            }
        };
        gains[..count].iter().for_each(|(_, at)| drafters[*at].drafted += 1);
    }

    /// A pass is done: it took so long for so many rows.
    pub(super) fn took(&mut self, rows: usize, seconds: f64) {
        self.cost.note(rows, seconds);
    }

    /// Learns from what was drawn in a pass.
    pub(super) fn learn(&mut self, drafter: &Drafter, drawn: &[u32]) {
        for (proposed, &drawn) in drafter.proposed.iter().zip(drawn) {
            let hit = proposed.token == drawn;
            self.odds.note(proposed.class, hit);
            if !hit {
                break;
            }
        }
    }
}

impl Drafter {
    /// The tokens to be computed after the last one.
    pub(super) fn drafted(&self) -> impl Iterator<Item = u32> + '_ {
        self.proposed[..self.drafted].iter().map(|proposed| proposed.token)
    }

    /// Looks at the new tokens of the answer, and for what may come after them.
    fn propose(&mut self, tokens: &[u32], most: usize, vocab: usize, answers: &Answers, odds: &Odds) {
        self.proposed.clear();
        self.drafted = 0;
        self.context.extend_from_slice(&tokens[self.context.len() - self.prompt..]);
        for (known, follower) in &mut self.known {
            follower.advance(tokens, &known.tokens);
        }
        for (number, other) in answers.others(self.key, self.number) {
            let at = self.others.iter().position(|(of, _)| *of == number).unwrap_or_else(|| {
                self.others.push((number, Follower::default()));
                self.others.len() - 1
            });
            self.others[at].1.advance(tokens, &other.tokens);
        }
        let known = self.known.iter().map(|(known, follower)| (&**known, follower));
        let others = answers.others(self.key, self.number).filter_map(|(number, other)| {
            self.others.iter().find(|(of, _)| *of == number).map(|(_, follower)| (other, follower))
        });
        let mut places: Vec<(&Draft, usize, usize)> = known
            .chain(others)
            .filter_map(|(draft, follower)| follower.place().map(|(at, run)| (draft, at, run)))
            .filter(|(draft, at, _)| *at < draft.tokens.len())
            .collect();
        // The one that was right for longest, then the surest one.
        places.sort_by(|a, b| b.2.cmp(&a.2).then(b.0.logprobs[b.1].total_cmp(&a.0.logprobs[a.1])));
        let mut best = drafts_of_answers(&places, odds);
        if let Some((at, run)) = look_up(&self.context) {
            let text = drafts_of_text(&self.context, at, run, odds);
            let first = |proposed: &[Proposed]| proposed.first().map_or(0.0, |proposed| proposed.gain);
            if first(&text) > first(&best) {
                best = text;
            }
        }
        let usable = |proposed: &&Proposed| proposed.gain >= UNLIKELY && (proposed.token as usize) < vocab;
        self.proposed.extend(best.iter().take(most.min(LONGEST)).take_while(usable));
    }
}

/// What the first of these answers goes on with; the second one agrees with it or not.
fn drafts_of_answers(places: &[(&Draft, usize, usize)], odds: &Odds) -> Vec<Proposed> {
    let Some(&(draft, at, run)) = places.first() else { return vec![] };
    let second = places.get(1);
    let (mut gain, mut agrees) = (1.0, true);
    let each = draft.tokens[at..].iter().zip(&draft.logprobs[at..]).take(LONGEST).enumerate();
    each.map(|(further, (&token, &logprob))| {
        let agreed = second.filter(|_| agrees).and_then(|(other, at, _)| other.tokens.get(at + further));
        let agreed = agreed.map(|other| *other == token);
        // After a difference the second one goes on from something else.
        agrees &= agreed != Some(false);
        let class = Class::of(Kind::Answer { logprob, agreed }, run + further);
        gain *= odds.of(class);
        Proposed { token, class, gain }
    })
    .collect()
}

/// What followed the same tokens in a context.
fn drafts_of_text(context: &[u32], at: usize, run: usize, odds: &Odds) -> Vec<Proposed> {
    let mut gain = 1.0;
    let each = context[at..].iter().take(LONGEST).enumerate();
    each.map(|(further, &token)| {
        let class = Class::of(Kind::Text, run + further);
        gain *= odds.of(class);
        Proposed { token, class, gain }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is proposed for a sequence after these tokens.
    fn proposed(drafts: &mut Drafts, drafter: &mut Drafter, tokens: &[u32], most: usize) -> Vec<u32> {
        let logprobs = vec![-0.01; tokens.len()];
        let current = Current { drafter, tokens, logprobs: &logprobs, most, vocab: 100 };
        drafts.propose(1, std::iter::once(current));
        drafter.proposed.iter().map(|proposed| proposed.token).collect()
    }

    #[test]
    fn another_answer_is_followed_and_counts_before_the_text() {
        let mut drafts = Drafts::new(Drafting::Measured);
        let sure = |tokens: &[u32]| Draft { tokens: tokens.to_vec(), logprobs: vec![-0.01; tokens.len()] };
        let known = [Arc::new(sure(&[5, 6, 7, 8, 9, 100, 3]))];
        let mut drafter = drafts.drafter(&[1, 5, 6, 2], &known).unwrap();
        assert_eq!(proposed(&mut drafts, &mut drafter, &[5, 6], 15), [7, 8, 9], "the model has no token 100");
        assert_eq!(proposed(&mut drafts, &mut drafter, &[5, 6, 7], 1), [8]);
        assert_eq!(drafter.drafted().count(), 0, "nothing was measured before");
        drafts.took(1, 1.0);
        assert_eq!(proposed(&mut drafts, &mut drafter, &[5, 6, 7, 8], 15), [9]);
        assert_eq!(drafter.drafted().collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn answers_of_the_batch_grow_beside_each_other() {
        let mut drafts = Drafts::new(Drafting::Measured);
        let [mut first, mut second] = [(); 2].map(|()| drafts.drafter(&[1, 2], &[]).unwrap());
        assert_eq!(proposed(&mut drafts, &mut first, &[5, 6, 7], 15), [0; 0]);
        assert_eq!(proposed(&mut drafts, &mut second, &[5], 15), [6, 7]);
        assert_eq!(proposed(&mut drafts, &mut first, &[5, 6, 7, 8], 15), [0; 0]);
        assert_eq!(proposed(&mut drafts, &mut second, &[5, 6, 7], 15), [8]);
        let mut other = drafts.drafter(&[1, 3], &[]).unwrap();
        assert_eq!(proposed(&mut drafts, &mut other, &[5], 15), [0; 0], "another prompt");
    }

    #[test]
    fn text_that_repeats_itself_is_drafted_from_itself() {
        let mut drafts = Drafts::new(Drafting::Measured);
        let mut drafter = drafts.drafter(&[4, 5, 6, 7, 9], &[]).unwrap();
        assert_eq!(proposed(&mut drafts, &mut drafter, &[4, 5, 6], 2), [7, 9]);
        for _ in 0..300 {
            let class = drafter.proposed[0].class;
            drafts.odds.note(class, false);
        }
        assert_eq!(proposed(&mut drafts, &mut drafter, &[4, 5, 6], 2), [0; 0], "it was wrong too often");
        assert!(Drafts::new(Drafting::Off).drafter(&[1], &[]).is_none());
    }
}
