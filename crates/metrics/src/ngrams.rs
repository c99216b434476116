//! N-grams of token sequences as small integers, exactly and without allocating a string for each.
//!
//! An n-gram is interned as the pair of its (n−1)-gram prefix and its last token, so that any order works, equal
//! n-grams of all texts that share an [`Interner`] have equal ids, and counting is indexing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A multiplicative hash (Knuth 1973, §6.4) of the short keys used here: collisions cost time, never correctness.
#[derive(Default)]
pub(crate) struct ShortHasher(u64);

impl Hasher for ShortHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.write_u64(chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

type FastMap<K> = HashMap<K, u32, BuildHasherDefault<ShortHasher>>;

/// Ids of tokens and of n-grams, shared by the texts that are compared with each other.
pub(crate) struct Interner<T> {
    tokens: FastMap<T>,
    /// `[order − 2]`: (prefix, last token) of n-grams of that order.
    pairs: Vec<FastMap<u64>>,
}

impl<T: Eq + Hash> Interner<T> {
    pub(crate) fn new() -> Self {
        Self { tokens: FastMap::default(), pairs: Vec::new() }
    }

    /// Ids of the tokens of a text.
    pub(crate) fn tokens(&mut self, text: impl Iterator<Item = T>) -> Vec<u32> {
        text.map(|token| {
            let next = self.tokens.len() as u32;
            *self.tokens.entry(token).or_insert(next)
        })
        .collect()
    }

    /// Ids of the n-grams of orders `1..=max_order` of a text; `[n − 1]` has `max(0, len − n + 1)` entries.
    pub(crate) fn ngrams(&mut self, tokens: Vec<u32>, max_order: usize) -> Vec<Vec<u32>> {
        let mut orders = Vec::with_capacity(max_order);
        if max_order == 0 {
            return orders;
        }
        orders.push(tokens);
        for n in 2..=max_order {
            if self.pairs.len() < n - 1 {
                self.pairs.push(FastMap::default());
            }
            let (unigrams, shorter) = (&orders[0], &orders[n - 2]);
            let pairs = &mut self.pairs[n - 2];
            pairs.reserve(shorter.len());
            let longer = shorter
                .iter()
                .zip(unigrams.iter().skip(n - 1))
                .map(|(&prefix, &last)| {
                    let next = pairs.len() as u32;
                    *pairs.entry(u64::from(prefix) << 32 | u64::from(last)).or_insert(next)
                })
                .collect();
            orders.push(longer);
        }
        orders
    }

    /// How often each n-gram of one order occurs, by id.
    pub(crate) fn counts(ids: &[u32]) -> Vec<u32> {
        let mut counts = Vec::new();
        count_into(&mut counts, ids);
        counts
    }
}

/// Adds the occurrences of `ids` to `counts`, which grows as needed.
pub(crate) fn count_into(counts: &mut Vec<u32>, ids: &[u32]) {
    let needed = ids.iter().max().map_or(0, |&id| id as usize + 1);
    if counts.len() < needed {
        counts.resize(needed, 0);
    }
    for &id in ids {
        counts[id as usize] += 1;
    }
}

/// Σ min(a, b) over all n-grams: the clipped number of matches.
pub(crate) fn overlap(a: &[u32], b: &[u32]) -> u32 {
    a.iter().zip(b).map(|(&a, &b)| a.min(b)).sum()
}

/// The larger of two counts, n-gram by n-gram; the clipping counts of several references.
pub(crate) fn max_into(a: &mut Vec<u32>, b: &[u32]) {
    if a.len() < b.len() {
        a.resize(b.len(), 0);
    }
    for (a, &b) in a.iter_mut().zip(b) {
        *a = (*a).max(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ngrams_of_two_texts_share_ids() {
        let mut interner = Interner::new();
        let a = interner.tokens("a b a b c".split(' '));
        let b = interner.tokens("b c a b".split(' '));
        let (a, b) = (interner.ngrams(a, 3), interner.ngrams(b, 3));
        let matches = |n: usize| overlap(&Interner::<&str>::counts(&a[n - 1]), &Interner::<&str>::counts(&b[n - 1]));
        assert_eq!((a[0].len(), a[1].len(), a[2].len()), (5, 4, 3));
        assert_eq!((matches(1), matches(2), matches(3)), (4, 2, 0));
        assert_eq!(interner.ngrams(vec![0], 4)[3], [0u32; 0]);
    }

    #[test]
    fn maxima_are_taken_by_ngram() {
        let mut counts = vec![1, 5];
        max_into(&mut counts, &[2, 3, 1]);
        assert_eq!(counts, [2, 5, 1]);
    }
}
