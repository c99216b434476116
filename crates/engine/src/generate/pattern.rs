//! Patterns: generation that can only end in a text which matches a regular expression.
//!
//! The expression becomes an automaton over bytes, and every state of it a row of the tokens that may follow. For each
//! state the least number of tokens to a match is known, so that with `n` tokens left only those are allowed after
//! which `n - 1` suffice: a generation always ends in a match, however the model is inclined.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use rayon::prelude::*;

use super::automaton::{Automaton, DEAD};
use crate::tokenizer::TokenBytes;

/// Most tokens in all rows of a pattern: bounds memory at 8 bytes each.
const TRANSITIONS: usize = 60_000_000;

/// A vocabulary sorted by bytes, so that neighbours share what they begin with.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    first: Sorted,
    later: Sorted,
}

#[derive(Debug)]
struct Sorted {
    /// Token, its bytes, and how many of them the token before begins with too.
    tokens: Vec<(u32, Box<[u8]>, usize)>,
}

impl Vocabulary {
    /// Sorts the tokens; `excluded` ones (those that end a generation) are left out.
    pub(crate) fn new(bytes: TokenBytes, excluded: &[u32]) -> Self {
        let sorted = |bytes: Vec<Option<Box<[u8]>>>| {
            let given = bytes.into_iter().enumerate().filter_map(|(id, bytes)| Some((id as u32, bytes?)));
            let mut tokens: Vec<(u32, Box<[u8]>, usize)> =
                given.filter(|(id, _)| !excluded.contains(id)).map(|(id, bytes)| (id, bytes, 0)).collect();
            tokens.sort_by(|a, b| a.1.cmp(&b.1).then(a.0.cmp(&b.0)));
            for at in 1..tokens.len() {
                let (before, after) = (&tokens[at - 1].1, &tokens[at].1);
                tokens[at].2 = before.iter().zip(after.iter()).take_while(|(a, b)| a == b).count();
            }
            Sorted { tokens }
        };
        Self { first: sorted(bytes.first), later: sorted(bytes.later) }
    }
}

impl Sorted {
    /// The tokens that a state allows, and where each leads.
    fn row(&self, automaton: &Automaton, state: u32) -> Row {
        let mut row = vec![];
        let mut path = vec![state];
        for (token, bytes, shared) in &self.tokens {
            path.truncate(shared + 1);
            if path.len() <= *shared {
                continue;
            }
            for &byte in &bytes[*shared..] {
                let next = automaton.step(path[path.len() - 1], byte);
                if next == DEAD {
                    break;
                }
                path.push(next);
            }
            if path.len() == bytes.len() + 1 {
                row.push((*token, path[path.len() - 1]));
            }
        }
        row.sort_unstable();
        let (tokens, next) = row.into_iter().unzip();
        Row { tokens, next }
    }
}

/// The tokens that are allowed in a state, ascending, and the states that they lead to.
#[derive(Debug, Default)]
struct Row {
    tokens: Vec<u32>,
    next: Vec<u32>,
}

impl Row {
    /// The states that the row leads to.
    fn targets(&self) -> BTreeSet<u32> {
        self.next.iter().copied().collect()
    }
}

/// A regular expression compiled for one vocabulary.
#[derive(Debug)]
pub(crate) struct Pattern {
    automaton: Automaton,
    first: Row,
    rows: Vec<Row>,
    /// Least number of tokens from a state to a match.
    distance: Vec<usize>,
    /// The same from the beginning.
    least: usize,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, in words: its syntax, its size, or that the vocabulary cannot write a match.
    pub(crate) fn new(expression: &str, vocabulary: &Vocabulary) -> Result<Self, String> {
        let automaton = Automaton::new(expression)?;
        let first = vocabulary.first.row(&automaton, 0);
        let mut rows: Vec<Row> = (0..automaton.len()).map(|_| Row::default()).collect();
        let mut known = vec![false; automaton.len()];
        let mut open: Vec<u32> = first.targets().into_iter().collect();
        let mut sources: Vec<Vec<u32>> = vec![vec![]; automaton.len()];
        let mut size = first.tokens.len();
        while !open.is_empty() {
            open.iter().for_each(|&state| known[state as usize] = true);
            let made: Vec<(u32, Row, BTreeSet<u32>)> = open
                .par_iter()
                .map(|&state| {
                    let row = vocabulary.later.row(&automaton, state);
                    let targets = row.targets();
                    (state, row, targets)
                })
                .collect();
            let mut next = BTreeSet::new();
            for (state, row, targets) in made {
                size += row.tokens.len();
                targets.iter().for_each(|&target| sources[target as usize].push(state));
                next.extend(targets.into_iter().filter(|&target| !known[target as usize]));
                rows[state as usize] = row;
            }
            if size > TRANSITIONS {
                return Err(
                    "it allows too many tokens in too many states; use * or + instead of counted repetitions".into()
                );
            }
            open = next.into_iter().collect();
        }
        let mut distance = vec![usize::MAX; automaton.len()];
        let mut queue: VecDeque<u32> = (0..automaton.len() as u32)
            .filter(|&state| known[state as usize] && automaton.is_accepting(state))
            .inspect(|&state| distance[state as usize] = 0)
            .collect();
        while let Some(state) = queue.pop_front() {
            for &source in &sources[state as usize] {
                if distance[source as usize] == usize::MAX {
                    distance[source as usize] = distance[state as usize] + 1;
                    queue.push_back(source);
                }
            }
        }
        let least = first.next.iter().map(|&state| distance[state as usize]).min().unwrap_or(usize::MAX);
        if least == usize::MAX {
            return Err("the model's vocabulary cannot write a text that it matches".to_owned());
        }
        Ok(Self { automaton, first, rows, distance, least: least + 1 })
    }

    /// Least number of tokens of a match.
    pub(crate) fn least(&self) -> usize {
        self.least
    }

    /// Whether a text matches as a whole.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.automaton.matches(text.as_bytes())
    }
}

/// The way of one generation through its pattern.
#[derive(Debug)]
pub(super) struct Progress {
    pattern: Arc<Pattern>,
    /// `None` at the beginning.
    state: Option<u32>,
}

impl Progress {
    pub(super) fn new(pattern: Arc<Pattern>) -> Self {
        Self { pattern, state: None }
    }

    fn row(&self) -> &Row {
        self.state.map_or(&self.pattern.first, |state| &self.pattern.rows[state as usize])
    }

    /// Whether the text so far matches.
    fn is_match(&self) -> bool {
        self.pattern.automaton.is_accepting(self.state.unwrap_or(0))
    }

    /// The tokens allowed with `left` tokens to go, this one included, ascending; `end_tokens` only after a match.
    pub(super) fn allowed(&self, left: usize, end_tokens: &[u32]) -> Vec<u32> {
        let row = self.row();
        let near = |state: u32| self.pattern.distance[state as usize] < left;
        let fitting = row.tokens.iter().zip(&row.next).filter(|&(_, &next)| near(next));
        let mut allowed: Vec<u32> = fitting.map(|(&token, _)| token).collect();
        if self.is_match() {
            allowed.extend(end_tokens);
            allowed.sort_unstable();
        }
        allowed
    }

    /// Goes on with a token; true if the text matches now and no token can follow.
    pub(super) fn advance(&mut self, token: u32) -> bool {
        let row = self.row();
        if let Ok(at) = row.tokens.binary_search(&token) {
            self.state = Some(row.next[at]);
        }
        let row = self.row();
        self.is_match() && !row.next.iter().any(|&state| self.pattern.distance[state as usize] != usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: &[&str]) -> Vocabulary {
        let bytes = |texts: &[&str]| texts.iter().map(|text| Some(text.as_bytes().into())).collect();
        Vocabulary::new(TokenBytes { first: bytes(tokens), later: bytes(tokens) }, &[])
    }

    #[test]
    fn the_way_to_a_match_is_never_left() {
        let vocabulary = vocabulary(&["a", "ab", "b", "c", "[RESULT] ", "[", "1", "12", "x"]);
        let pattern = Arc::new(Pattern::new(r"[abc]+\[RESULT\] [1-5]", &vocabulary).unwrap());
        assert_eq!(pattern.least(), 3);
        let mut progress = Progress::new(pattern);
        assert_eq!(
            progress.allowed(9, &[]),
            [0, 1, 2, 3],
            "`[` alone leads nowhere in this vocabulary, `x` fits nowhere"
        );
        assert_eq!(progress.allowed(3, &[]), [0, 1, 2, 3]);
        assert!(progress.allowed(2, &[]).is_empty());
        assert!(!progress.advance(1));
        assert_eq!(progress.allowed(3, &[]), [0, 1, 2, 3, 4]);
        assert_eq!(progress.allowed(2, &[7]), [4], "time to end, and not to stop");
        assert!(!progress.advance(4));
        assert_eq!(progress.allowed(1, &[]), [6], "`12` is none of 1 to 5");
        assert!(progress.advance(6), "nothing can follow");
    }

    #[test]
    fn ends_are_allowed_after_a_match() {
        let vocabulary = vocabulary(&["a", "b"]);
        let pattern = Arc::new(Pattern::new("ab*", &vocabulary).unwrap());
        let mut progress = Progress::new(pattern);
        assert_eq!(progress.allowed(5, &[9]), [0]);
        assert!(!progress.advance(0));
        assert_eq!(progress.allowed(5, &[9]), [1, 9]);
    }

    #[test]
    fn what_the_vocabulary_cannot_write_is_refused() {
        let error = Pattern::new("xyz", &vocabulary(&["a", "xy"])).unwrap_err();
        assert!(error.contains("vocabulary"), "{error}");
    }
}
