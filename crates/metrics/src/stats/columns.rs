//! Columns of per-document statistics, aligned by document.

use crate::Statistic;

/// Why columns do not form a table.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// The columns are of different lengths.
    #[error("column {column} has {found} documents and column 0 has {expected}; align the columns by document first")]
    Length {
        /// Position of the column.
        column: usize,
        /// Its number of documents.
        found: usize,
        /// The number of documents of the first column.
        expected: usize,
    },
    /// A document's vector has the wrong length for the statistic.
    #[error("document {document} of column {column} has {found} statistics, expected {expected} for {statistic:?}")]
    Width {
        /// Position of the column.
        column: usize,
        /// Position of the document.
        document: usize,
        /// Length of its vector.
        found: usize,
        /// [`Statistic::dim`].
        expected: usize,
        /// The statistic.
        statistic: Statistic,
    },
    /// A statistic is NaN or infinite.
    #[error("document {document} of column {column} has the statistic {value}, expected a finite number")]
    NotFinite {
        /// Position of the column.
        column: usize,
        /// Position of the document.
        document: usize,
        /// The offending number.
        value: f64,
    },
    /// The list of clusters does not match the documents.
    #[error("{found} cluster labels for {expected} documents; give one per document")]
    Clusters {
        /// Number of labels.
        found: usize,
        /// Number of documents.
        expected: usize,
    },
}

/// The additive statistics of n units (documents, or clusters of them) in k columns (models), row by row.
///
/// The value of column j is [`Statistic::value`] of the sum of its vectors; resampling units is a weighted sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    statistic: Statistic,
    /// [`Statistic::dim`].
    dim: usize,
    units: usize,
    count: usize,
    /// Unit-major: `units × count × dim`.
    rows: Vec<f64>,
}

impl Columns {
    /// A table from `columns[j][i]`, the vector of document i in column j.
    ///
    /// # Errors
    /// If lengths differ, or a number is not finite.
    pub fn new<V: AsRef<[f64]>>(statistic: Statistic, columns: &[Vec<V>]) -> Result<Self, ColumnsError> {
        let dim = statistic.dim();
        let units = columns.first().map_or(0, Vec::len);
        for (column, vectors) in columns.iter().enumerate() {
            if vectors.len() != units {
                return Err(ColumnsError::Length { column, found: vectors.len(), expected: units });
            }
            for (document, vector) in vectors.iter().enumerate() {
                let vector = vector.as_ref();
                if vector.len() != dim {
                    return Err(ColumnsError::Width {
                        column,
                        document,
                        found: vector.len(),
                        expected: dim,
                        statistic,
                    });
                }
                if let Some(&value) = vector.iter().find(|x| !x.is_finite()) {
                    return Err(ColumnsError::NotFinite { column, document, value });
                }
            }
        }
        let mut rows = Vec::with_capacity(units * columns.len() * dim);
        for i in 0..units {
            for vectors in columns {
                rows.extend_from_slice(vectors[i].as_ref());
            }
        }
        Ok(Self { statistic, dim, units, count: columns.len(), rows })
    }

    /// A table of plain means: `columns[j][i]` is the score of document i in column j.
    ///
    /// # Errors
    /// As [`Columns::new`].
    pub fn of_means(columns: &[&[f64]]) -> Result<Self, ColumnsError> {
        let columns: Vec<Vec<[f64; 2]>> =
            columns.iter().map(|column| column.iter().map(|&x| [x, 1.0]).collect()).collect();
        Self::new(Statistic::Mean, &columns)
    }

    /// The same table with documents of one cluster added up, so that whole clusters are resampled or swapped.
    /// Clusters keep the order of their first document.
    ///
    /// # Errors
    /// If there is not exactly one label a document.
    pub fn clustered<L: Ord>(&self, labels: &[L]) -> Result<Self, ColumnsError> {
        if labels.len() != self.units {
            return Err(ColumnsError::Clusters { found: labels.len(), expected: self.units });
        }
        let width = self.width();
        let mut position = std::collections::BTreeMap::new();
        let mut rows: Vec<f64> = Vec::new();
        for (unit, label) in labels.iter().enumerate() {
            let next = position.len();
            let at = *position.entry(label).or_insert(next);
            if at == next {
                rows.extend_from_slice(self.row(unit));
            } else {
                for (sum, x) in rows[at * width..(at + 1) * width].iter_mut().zip(self.row(unit)) {
                    *sum += x;
                }
            }
        }
        Ok(Self { statistic: self.statistic.clone(), units: position.len(), rows, ..*self })
    }

    /// Half the distance between the means that swaps of columns `a` and `b` can reach, times the units, for scores on a
    /// grid (right or wrong summed over clusters, grades of a judge): the greatest common divisor of the units'
    /// differences over a unit's mean weight. 0 for continuous scores, other statistics and unequal weights.
    pub fn swap_step(&self, a: usize, b: usize) -> f64 {
        if !self.statistic.is_mean() || self.units == 0 {
            return 0.0;
        }
        let (mut step, mut largest, mut weight) = (0.0_f64, 0.0_f64, 0.0);
        for unit in 0..self.units {
            let (&[one, own], &[other, theirs]) = (self.vector(unit, a), self.vector(unit, b)) else { return 0.0 };
            if own != theirs {
                return 0.0;
            }
            weight += own;
            largest = largest.max((other - one).abs());
            step = common_divisor(step, (other - one).abs(), 1e-9 * largest);
            if step < 1e-3 * largest {
                return 0.0;
            }
        }
        if weight > 0.0 { step * self.units as f64 / weight } else { 0.0 }
    }

    /// Number of units: documents, or clusters.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Number of columns.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The statistic all columns share.
    pub fn statistic(&self) -> &Statistic {
        &self.statistic
    }

    /// Numbers in a row: columns × dim.
    pub(crate) fn width(&self) -> usize {
        self.count * self.dim
    }

    /// All vectors of one unit, column after column.
    pub(crate) fn row(&self, unit: usize) -> &[f64] {
        let width = self.width();
        &self.rows[unit * width..(unit + 1) * width]
    }

    /// The vector of one unit in one column.
    pub fn vector(&self, unit: usize, column: usize) -> &[f64] {
        let dim = self.dim;
        &self.row(unit)[column * dim..(column + 1) * dim]
    }

    /// The sums over all units, column after column.
    pub(crate) fn sums(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.width()];
        for unit in 0..self.units {
            for (sum, x) in sums.iter_mut().zip(self.row(unit)) {
                *sum += x;
            }
        }
        sums
    }

    /// The value of each column from a row of sums.
    pub(crate) fn values_of(&self, sums: &[f64], values: &mut [f64]) {
        for (value, sums) in values.iter_mut().zip(sums.chunks_exact(self.dim.max(1))) {
            *value = self.statistic.value(sums);
        }
    }

    /// The value of each column; NaN without units.
    pub fn values(&self) -> Vec<f64> {
        let mut values = vec![f64::NAN; self.count];
        if self.units > 0 {
            self.values_of(&self.sums(), &mut values);
        }
        values
    }

    /// The values of all columns with one unit left out at a time, unit-major `units × count`, in O(units).
    pub fn jackknife(&self) -> Vec<f64> {
        let sums = self.sums();
        let mut left = sums.clone();
        let mut values = vec![f64::NAN; self.units * self.count];
        if self.units > 1 {
            for (unit, values) in values.chunks_exact_mut(self.count.max(1)).enumerate() {
                for ((left, sum), x) in left.iter_mut().zip(&sums).zip(self.row(unit)) {
                    *left = sum - x;
                }
                self.values_of(&left, values);
            }
        }
        values
    }
}

/// Euclid's algorithm on numbers with rounding errors; remainders up to `tolerance` are none.
fn common_divisor(mut a: f64, mut b: f64, tolerance: f64) -> f64 {
    while b > tolerance {
        let rest = a % b;
        // A remainder just below the divisor is a rounding error too.
        (a, b) = (b, if b - rest <= tolerance { 0.0 } else { rest });
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        let error = Columns::of_means(&[&[1.0], &[1.0, 2.0]]).unwrap_err();
        assert_eq!(error, ColumnsError::Length { column: 1, found: 2, expected: 1 });
        assert!(matches!(Columns::of_means(&[&[f64::NAN]]), Err(ColumnsError::NotFinite { .. })));
        assert!(matches!(Columns::new(Statistic::Mean, &[vec![[1.0]]]), Err(ColumnsError::Width { .. })));
    }

    #[test]
    fn clusters_add_up() {
        let columns = Columns::of_means(&[&[1.0, 0.0, 1.0], &[0.0, 1.0, 1.0]]).unwrap();
        let clustered = columns.clustered(&["b", "a", "b"]).unwrap();
        assert_eq!(clustered.units(), 2);
        assert_eq!(clustered.vector(0, 0), [2.0, 2.0]);
        assert_eq!(clustered.values(), columns.values());
        assert!(columns.clustered(&[1]).is_err());
    }

    #[test]
    fn scores_on_a_grid_have_a_step() {
        let step = |a: &[f64], b: &[f64]| Columns::of_means(&[a, b]).unwrap().swap_step(0, 1);
        assert_eq!(step(&[1.0, 0.0, 1.0, 1.0], &[0.0, 1.0, 1.0, 1.0]), 1.0);
        assert!((step(&[0.1, 0.2, 0.7], &[0.3, 0.8, 0.7]) - 0.2).abs() < 1e-12);
        assert_eq!(step(&[0.0, 0.0, 0.0], &[0.12345, 0.71828, 0.31416]), 0.0);
        assert_eq!(step(&[0.5, 0.5], &[0.5, 0.5]), 0.0);
        let columns = Columns::of_means(&[&[1.0, 0.0, 1.0, 0.0], &[0.0, 1.0, 1.0, 1.0]]).unwrap();
        // Two documents a cluster: differences of 0 and 1 over a weight of 2.
        assert_eq!(columns.clustered(&[0, 0, 1, 1]).unwrap().swap_step(0, 1), 0.5);
        let words = Columns::new(Statistic::Mean, &[vec![[1.0, 2.0]], vec![[1.0, 3.0]]]).unwrap();
        assert_eq!(words.swap_step(0, 1), 0.0);
    }

    #[test]
    fn jackknife_leaves_one_out() {
        let columns = Columns::of_means(&[&[1.0, 2.0, 6.0]]).unwrap();
        assert_eq!(columns.jackknife(), [4.0, 3.5, 1.5]);
        assert!(Columns::of_means(&[&[]]).unwrap().values()[0].is_nan());
    }
}
