//! Following another answer: where in it one's own answer is.

/// Tokens by which the place is found again.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;

/// A place in another answer to the same prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Follower {
    /// Where the next token is expected.
    at: usize,
    /// Tokens in front of it that are the same; 0 where the place is lost.
    run: usize,
    /// Own tokens that were looked at.
    seen: usize,
}

impl Follower {
    /// Looks at the own tokens that are new.
    pub(crate) fn advance(&mut self, own: &[u32], other: &[u32]) {
        while self.seen < own.len() {
            let token = own[self.seen];
            self.seen += 1;
            // The first token of both answers stands at the same place; afterwards a lost place is searched for.
            let there = self.run > 0 || self.seen == 1;
            if there && other.get(self.at) == Some(&token) {
                self.at += 1;
                self.run += 1;
            } else {
                self.find(&own[..self.seen], other);
            }
        }
    }

    /// Finds the last tokens in the other answer: most of them, and nearest to where they are expected.
    fn find(&mut self, own: &[u32], other: &[u32]) {
        self.run = 0;
        for length in (SHORTEST..=LONGEST.min(own.len())).rev() {
            let last = &own[own.len() - length..];
            let ends = (length..=other.len()).filter(|&end| &other[end - length..end] == last);
            if let Some(end) = ends.min_by_key(|end| end.abs_diff(self.at)) {
                (self.at, self.run) = (end, length);
                return;
            }
        }
    }

    /// Where the other answer goes on, and how many tokens before are the same; `None` where the place is lost.
    pub(crate) fn place(&self) -> Option<(usize, usize)> {
        (self.run > 0).then_some((self.at, self.run))
    }
}

/// Where the tokens of a context were followed by something before: the place of what followed, and how many tokens before
/// it are the same as the last ones. The longest run counts, of these the last.
pub(crate) fn look_up(context: &[u32]) -> Option<(usize, usize)> {
    /// Longest runs that are told apart.
    const LONGEST: usize = 12;
    /// Tokens that are searched.
    const NEAR: usize = 4096;
    let (&last, before) = context.split_last()?;
    let mut found: Option<(usize, usize)> = None;
    for at in (before.len().saturating_sub(NEAR)..before.len()).rev().filter(|&at| before[at] == last) {
        let pairs = before[..at].iter().rev().zip(before.iter().rev());
        let run = 1 + pairs.take(LONGEST - 1).take_while(|(a, b)| a == b).count();
        if run >= SHORTEST && found.is_none_or(|(_, longest)| run > longest) {
            found = Some((at + 1, run));
            if run == LONGEST {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again_after_a_difference() {
        let other = [1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 9];
        let mut follower = Follower::default();
        let mut place = |own: &[u32]| {
            follower.advance(own, &other);
            follower.place()
        };
        assert_eq!(place(&[]), None);
        assert_eq!(place(&[1, 2]), Some((2, 2)));
        assert_eq!(place(&[1, 2, 30]), None, "one token is another");
        assert_eq!(place(&[1, 2, 30, 4]), None, "one token is not enough to be sure");
        assert_eq!(place(&[1, 2, 30, 4, 5]), Some((5, 2)));
        assert_eq!(place(&[1, 2, 30, 4, 5, 6]), Some((6, 3)));
        // The nearest of two places.
        assert_eq!(place(&[1, 2, 30, 4, 5, 6, 3, 4]), Some((4, 2)));
    }

    #[test]
    fn an_answer_that_begins_otherwise_is_found_later() {
        let other = [5, 6, 7, 8];
        let mut follower = Follower::default();
        follower.advance(&[1, 5, 6], &other);
        assert_eq!(follower.place(), Some((2, 2)));
        let mut growing = Follower::default();
        growing.advance(&[5], &other[..1]);
        assert_eq!(growing.place(), Some((1, 1)), "nothing follows yet");
        growing.advance(&[5, 6], &other[..2]);
        assert_eq!(growing.place(), Some((2, 2)));
    }

    #[test]
    fn the_longest_run_of_a_context_counts_then_the_last() {
        assert_eq!(look_up(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3]), Some((3, 3)));
        assert_eq!(look_up(&[2, 3, 9, 2, 3, 8, 2, 3]), Some((5, 2)));
        assert_eq!(look_up(&[3, 9, 8, 3]), None, "one token is too little");
        assert_eq!(look_up(&[]), None);
        assert_eq!(look_up(&[4; 30]), Some((29, 12)));
    }
}
