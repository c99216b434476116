//! A regular expression as a table over bytes.

use std::collections::HashMap;

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    util::{primitives::StateID, start},
};

/// The state from which no match can be reached.
pub(super) const DEAD: u32 = u32::MAX;

/// Largest table of the reader of expressions, in bytes.
const SIZE: usize = 32 << 20;

/// Most states.
const STATES: usize = 20_000;

/// A deterministic automaton over bytes that accepts the texts which an expression matches as a whole. Every state but
/// [`DEAD`] can reach an accepting one. State 0 is the first.
#[derive(Debug)]
pub(super) struct Automaton {
    next: Vec<[u32; 256]>,
    accepting: Vec<bool>,
}

impl Automaton {
    /// Compiles an expression in the syntax of the crate `regex`, without word boundaries of Unicode.
    ///
    /// # Errors
    /// What is wrong with the expression, in words.
    pub(super) fn new(expression: &str) -> Result<Self, String> {
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(SIZE))
            .determinize_size_limit(Some(2 * SIZE));
        let dfa = dense::Builder::new().configure(config).build(expression).map_err(|error| {
            let mut deepest: &dyn std::error::Error = &error;
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            // Errors of syntax are drawings of several lines; the last one says it.
            let text = deepest.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })?;
        let first =
            dfa.start_state(&start::Config::new().anchored(Anchored::Yes)).map_err(|error| error.to_string())?;
        let mut found = vec![first];
        let mut ids: HashMap<StateID, u32> = HashMap::from([(first, 0)]);
        let mut next: Vec<[u32; 256]> = vec![];
        let mut accepting = vec![];
        while let Some(&state) = found.get(next.len()) {
            if found.len() > STATES {
                return Err(format!("it needs more than {STATES} states; use * or + instead of counted repetitions"));
            }
            let mut row = [DEAD; 256];
            for byte in 0..=255u8 {
                let to = dfa.next_state(state, byte);
                if dfa.is_dead_state(to) || dfa.is_quit_state(to) {
                    continue;
                }
                row[usize::from(byte)] = *ids.entry(to).or_insert_with(|| {
                    found.push(to);
                    found.len() as u32 - 1
                });
            }
            next.push(row);
            accepting.push(dfa.is_match_state(dfa.next_eoi_state(state)));
        }
        let mut automaton = Self { next, accepting };
        automaton.prune();
        Ok(automaton)
    }

    /// Leads every way that reaches no accepting state into [`DEAD`].
    fn prune(&mut self) {
        let mut sources: Vec<Vec<u32>> = vec![vec![]; self.next.len()];
        for (from, row) in self.next.iter().enumerate() {
            for &to in row.iter().filter(|&&to| to != DEAD) {
                if sources[to as usize].last() != Some(&(from as u32)) {
                    sources[to as usize].push(from as u32);
                }
            }
        }
        let mut alive = self.accepting.clone();
        let mut open: Vec<usize> = (0..alive.len()).filter(|&state| alive[state]).collect();
        while let Some(state) = open.pop() {
            for &source in &sources[state] {
                if !std::mem::replace(&mut alive[source as usize], true) {
                    open.push(source as usize);
                }
            }
        }
        for to in self.next.iter_mut().flatten() {
            if *to != DEAD && !alive[*to as usize] {
                *to = DEAD;
            }
        }
    }

    /// Where a byte leads.
    pub(super) fn step(&self, state: u32, byte: u8) -> u32 {
        self.next[state as usize][usize::from(byte)]
    }

    /// Number of states.
    pub(super) fn len(&self) -> usize {
        self.next.len()
    }

    /// Whether a text that ends here matches.
    pub(super) fn is_accepting(&self, state: u32) -> bool {
        self.accepting[state as usize]
    }

    /// Whether a whole text matches.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let mut state = 0;
        for &byte in text {
            state = self.step(state, byte);
            if state == DEAD {
                return false;
            }
        }
        self.is_accepting(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_whole_texts_only() {
        let automaton = Automaton::new(r"(?s)Feedback: .+ \[RESULT\] [1-5]|none").unwrap();
        for (text, expected) in [
            ("Feedback: fine\nreally. [RESULT] 4", true),
            ("Feedback: fine. [RESULT] 4.", false),
            ("Feedback: [RESULT] 4 [RESULT] 5", true),
            ("none", true),
            ("non", false),
            ("nonee", false),
            ("", false),
        ] {
            assert_eq!(automaton.matches(text.as_bytes()), expected, "{text}");
        }
        assert!(Automaton::new("a|ab").unwrap().matches(b"ab"), "no alternative hides a longer one");
    }

    #[test]
    fn every_way_leads_to_a_match() {
        let automaton = Automaton::new("ab[^\\x00-\\x{10FFFF}]|cd").unwrap();
        assert_eq!(automaton.step(0, b'a'), DEAD);
        assert_ne!(automaton.step(0, b'c'), DEAD);
    }

    #[test]
    fn bad_expressions_are_explained() {
        assert!(Automaton::new("(a").unwrap_err().contains("unclosed group"));
        let Err(large) = Automaton::new(r"(?:\w{1,90} ){1,90}x") else { panic!("the limit on states does not hold") };
        assert!(large.contains("states") || large.contains("limit"), "{large}");
    }
}
