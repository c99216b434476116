//! The division of a data set into training, validation and test rows.

use crate::Seed;

/// Row numbers of the three parts of a data set; together every row once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to choose a checkpoint with.
    pub validation: Vec<usize>,
    /// Rows held out.
    pub test: Vec<usize>,
}

/// Shuffles the rows `0..n` with the stream `("split", 0)` of the seed and cuts them 80/10/10: the first ⌊8n/10⌋ are
/// for training, the next ⌊n/10⌋ for validation, the rest for the test. Each part keeps the shuffled order.
pub fn split_80_10_10(n: usize, seed: Seed) -> Split {
    let mut rows: Vec<usize> = (0..n).collect();
    seed.stream("split", 0).shuffle(&mut rows);
    let test = rows.split_off(n * 8 / 10 + n / 10);
    let validation = rows.split_off(n * 8 / 10);
    Split { train: rows, validation, test }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_fixed() {
        let split = split_80_10_10(20, Seed(42));
        assert_eq!((split.train.len(), split.validation.len(), split.test.len()), (16, 2, 2));
        assert_eq!(split, split_80_10_10(20, Seed(42)));
        assert_ne!(split, split_80_10_10(20, Seed(43)));
    }

    proptest! {
        #[test]
        fn covers_every_row_once(n in 0usize..500, seed: u64) {
            let Split { train, validation, test } = split_80_10_10(n, Seed(seed));
            prop_assert_eq!((train.len(), validation.len()), (n * 8 / 10, n / 10));
            let mut rows = [train, validation, test].concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..n).collect::<Vec<_>>());
        }
    }
}
