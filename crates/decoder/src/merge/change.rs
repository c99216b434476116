//! What an adapter does to one tensor.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use harness_kernels::HostTensor;
use rayon::prelude::*;

use crate::{Initialisation, LoraPair, TokenRows};

/// Elements that are in memory as f32 at a time, at least a row.
const ELEMENTS: usize = 1 << 22;

/// How a tensor is made that is written otherwise than the base stores it.
pub(super) struct Change<'a> {
    pub(super) source: Source,
    pub(super) sum: Sum<'a>,
    /// Rows that replace those of the sum.
    pub(super) rows: Option<&'a TokenRows>,
}

/// What a tensor is made from.
pub(super) enum Source {
    /// The base's tensor of this name.
    Base(String),
    /// A tensor of the adapter; it gets the type of the base's tensor of this name.
    Given(HostTensor, String),
}

impl Source {
    /// The base's tensor that is changed or replaced.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Base(name) | Self::Given(_, name) => name,
        }
    }
}

/// Low-rank additions to a matrix, or to several that are stacked.
#[derive(Default)]
pub(super) struct Sum<'a> {
    /// In order; they do not overlap.
    pub(super) runs: Vec<Run<'a>>,
    /// Whether outputs are columns. To an addition an embedding is such a matrix, with tokens as inputs.
    pub(super) transposed: bool,
    /// What the factors began as: that part is taken out of the matrix first.
    pub(super) began: Option<Initialisation>,
}

/// Outputs that get those of a pair from `from` on.
pub(super) struct Run<'a> {
    pub(super) at: Range<usize>,
    pub(super) pair: Cow<'a, LoraPair>,
    pub(super) from: usize,
}

/// A matrix in parts of some rows, each with the number of its first.
pub(super) fn parts(matrix: &HostTensor) -> impl Iterator<Item = (usize, HostTensor)> {
    let (rows, step) = (matrix.rows(), (ELEMENTS / matrix.cols().max(1)).max(1));
    let part = move |first| (first, matrix.select_rows(std::iter::once(first..rows.min(first + step))));
    (0..rows).step_by(step).map(part)
}

/// Rows and columns of a tensor: a vector has one column, and stacked matrices stand one below the other.
pub(super) fn matrix(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [rows] => (*rows, 1),
        [above @ .., cols] => (above.iter().product(), *cols),
    }
}

impl Change<'_> {
    /// Whether the tensor is its source.
    pub(super) fn is_none(&self) -> bool {
        self.sum.runs.is_empty() && self.rows.is_none()
    }

    /// The change, ready to be made to the rows of this matrix. A part that is taken out is computed here, for which memory
    /// holds all of the matrix; for magnitudes of columns its rows are read once.
    ///
    /// # Errors
    /// A reason, if the part that is to be taken out is not unique.
    pub(super) fn over(&self, matrix: &HostTensor) -> Result<Ready<'_>, String> {
        let tokens = self.rows.iter().flat_map(|rows| {
            let all = rows.rows.chunks_exact(rows.rows.len() / rows.tokens.len().max(1));
            rows.tokens.iter().map(|&token| token as usize).zip(all)
        });
        let (sum, taken) = (&self.sum, self.sum.taken(matrix)?);
        let mut ready =
            Ready { sum, taken, columns: vec![], factors: None, rows: BTreeMap::new(), cols: matrix.cols() };
        if sum.transposed {
            let taken = ready.taken.take().map(|run| Columns::new(&run, Cow::Owned(run.pair.a.clone())));
            let runs = sum.runs.iter().map(|run| Columns::new(run, Cow::Borrowed(&run.pair.a[..])));
            ready.columns = taken.into_iter().chain(runs).collect();
            ready.factors = ready.column_factors(matrix);
        }
        ready.rows.extend(tokens);
        Ok(ready)
    }
}

impl Sum<'_> {
    /// The addition that takes out what the factors began as.
    fn taken(&self, matrix: &HostTensor) -> Result<Option<Run<'static>>, String> {
        let (Some(began), Some(Run { pair, .. })) = (self.began, self.runs.first()) else { return Ok(None) };
        let turned = if self.transposed { &matrix.transposed() } else { matrix };
        let pair = began.taken_out(&turned.to_f32(), turned.cols(), pair.rank, pair.scale)?;
        Ok(Some(Run { at: 0..turned.rows(), pair: Cow::Owned(pair), from: 0 }))
    }
}

/// A change of a matrix.
pub(super) struct Ready<'a> {
    sum: &'a Sum<'a>,
    taken: Option<Run<'static>>,
    /// All additions, where outputs are columns.
    columns: Vec<Columns<'a>>,
    /// DoRA where outputs are columns: what these are multiplied by.
    factors: Option<Vec<f32>>,
    rows: BTreeMap<usize, &'a [f32]>,
    cols: usize,
}

impl Ready<'_> {
    /// Changes whole rows, the first of which is number `first`.
    pub(super) fn change(&self, first: usize, values: &mut [f32]) {
        values.par_chunks_mut(self.cols.max(1)).enumerate().for_each_init(Vec::new, |room, (index, row)| {
            let number = first + index;
            if let Some(own) = self.rows.get(&number) {
                return row.copy_from_slice(own);
            }
            if self.sum.transposed {
                self.columns.iter().for_each(|columns| columns.add(number, room, row));
            } else {
                for runs in [self.taken.as_slice(), &self.sum.runs] {
                    let run = runs.partition_point(|run| run.at.end <= number);
                    if let Some(run) = runs.get(run).filter(|run| run.at.contains(&number)) {
                        run.add_to_row(number, room, row);
                    }
                }
            }
            row.iter_mut().zip(self.factors.iter().flatten()).for_each(|(w, factor)| *w *= factor);
        });
    }

    fn column_factors(&self, matrix: &HostTensor) -> Option<Vec<f32>> {
        self.sum.runs.iter().find(|run| run.pair.magnitude.is_some())?;
        let mut squares = vec![0f64; self.cols];
        for (first, part) in parts(matrix) {
            let mut values = part.to_f32().into_owned();
            self.change(first, &mut values);
            for row in values.chunks_exact(self.cols) {
                squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w));
            }
        }
        let mut factors = vec![1.0; self.cols];
        for Run { at, pair, from } in &self.sum.runs {
            let magnitude = pair.magnitude.iter().flat_map(|magnitude| &magnitude[*from..]);
            for ((factor, square), magnitude) in factors[at.clone()].iter_mut().zip(&squares[at.clone()]).zip(magnitude)
            {
                *factor = (f64::from(*magnitude) / square.sqrt()) as f32;
            }
        }
        Some(factors)
    }
}

impl Run<'_> {
    /// `w + scale * B A`, row `number` of it, with DoRA scaled to the row's magnitude; `delta` is room.
    fn add_to_row(&self, number: usize, delta: &mut Vec<f32>, w: &mut [f32]) {
        let LoraPair { a, b, rank, scale, magnitude, bias: _ } = &*self.pair;
        let row = self.from + number - self.at.start;
        delta.clear();
        delta.resize(w.len(), 0.0);
        for (b, a) in b[row * rank..(row + 1) * rank].iter().zip(a.chunks_exact(w.len())) {
            delta.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        w.iter_mut().zip(&*delta).for_each(|(w, delta)| *w += scale * delta);
        if let Some(magnitude) = magnitude {
            let square: f64 = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
            let factor = (f64::from(magnitude[row]) / square.sqrt()) as f32;
            w.iter_mut().for_each(|w| *w *= factor);
        }
    }
}

/// An addition whose outputs are columns.
struct Columns<'a> {
    at: Range<usize>,
    /// `A`, `[rank, rows]`.
    a: Cow<'a, [f32]>,
    /// `B` of these columns transposed, `[rank, columns]`.
    b: Vec<f32>,
    rank: usize,
    scale: f32,
}

impl<'a> Columns<'a> {
    fn new(run: &Run<'_>, a: Cow<'a, [f32]>) -> Self {
        let LoraPair { b, rank, scale, .. } = &*run.pair;
        let b = &b[run.from * rank..][..run.at.len() * rank];
        let b = (0..*rank).flat_map(|k| b.iter().skip(k).step_by(*rank).copied()).collect();
        Self { at: run.at.clone(), a, b, rank: *rank, scale: *scale }
    }

    /// `w + scale * (B A)ᵀ`, row `number` of it; `delta` is room.
    fn add(&self, number: usize, delta: &mut Vec<f32>, w: &mut [f32]) {
        delta.clear();
        delta.resize(self.at.len(), 0.0);
        let a = self.a.iter().skip(number).step_by(self.a.len() / self.rank);
        for (a, b) in a.zip(self.b.chunks_exact(self.at.len())) {
            delta.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
        w[self.at.clone()].iter_mut().zip(&*delta).for_each(|(w, delta)| *w += self.scale * delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(sum: Sum<'_>, rows: Option<&TokenRows>, matrix: &HostTensor) -> Vec<f32> {
        let change = Change { source: Source::Base(String::new()), sum, rows };
        let ready = change.over(matrix).unwrap();
        let mut values = matrix.to_f32().into_owned();
        ready.change(0, &mut values);
        let last = matrix.rows() - 1;
        let mut later = matrix.to_f32()[last * matrix.cols()..].to_vec();
        ready.change(last, &mut later);
        assert_eq!(later, values[last * matrix.cols()..], "a part of the rows is changed as all are");
        values
    }

    fn run(at: Range<usize>, pair: &LoraPair, from: usize) -> Run<'_> {
        Run { at, pair: Cow::Borrowed(pair), from }
    }

    #[test]
    fn rows_get_their_rows_of_the_product() {
        let plain = LoraPair::new(vec![1.0, 2.0], vec![3.0, 5.0, 7.0], 1, 0.5);
        let dora = LoraPair { magnitude: Some(vec![1.0, 1.0, 10.0]), ..plain.clone() };
        let runs = || vec![run(1..3, &plain, 1), run(4..5, &dora, 2)];
        let zeros = HostTensor::from_f32([5, 2], vec![0.0; 10]);
        let values = changed(Sum { runs: runs(), ..Sum::default() }, None, &zeros);
        let row = [3.5, 7.0].map(|x: f32| x * 10.0 / (3.5f32 * 3.5 + 49.0).sqrt());
        let expected = [0.0, 0.0, 2.5, 5.0, 3.5, 7.0, 0.0, 0.0, row[0], row[1]];
        assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{values:?} {expected:?}");
        let turned = changed(Sum { runs: runs(), transposed: true, began: None }, None, &zeros.transposed());
        assert_eq!(HostTensor::from_f32([2, 5], turned).transposed().to_f32().into_owned(), values, "by columns");
        let rows = TokenRows { tokens: vec![4, 0], rows: vec![1.0, 2.0, 3.0, 4.0] };
        let values = changed(Sum { runs: runs(), ..Sum::default() }, Some(&rows), &zeros);
        assert_eq!((&values[..2], &values[2..4], &values[8..]), (&[3.0, 4.0][..], &[2.5, 5.0][..], &[1.0, 2.0][..]));
    }

    #[test]
    fn what_factors_began_as_is_taken_out() {
        // Of rank 1, so that all of it is taken out.
        let matrix = HostTensor::from_f32([2, 3], vec![1.0, 2.0, 4.0, 3.0, 6.0, 12.0]);
        let pair = LoraPair::new(vec![1.0, 0.5, 2.0], vec![2.0, 4.0], 1, 3.0);
        for (began, transposed) in [(Initialisation::Pissa, false), (Initialisation::Pissa, true)] {
            let sum = Sum { runs: vec![run(0..2, &pair, 0)], transposed, began: Some(began) };
            let stored = if transposed { matrix.transposed() } else { matrix.clone() };
            let values = changed(sum, None, &stored);
            let of = |output: usize, input: usize| 3.0 * pair.b[output] * pair.a[input];
            let near = |at: usize, value: f32| {
                let expected = if transposed { of(at % 2, at / 2) } else { of(at / 3, at % 3) };
                (value - expected).abs() < 1e-5
            };
            assert!(values.iter().enumerate().all(|(at, &value)| near(at, value)), "{transposed} {values:?}");
        }
        // OLoRA takes out three times the weight: the product, and the scale times it.
        let sum = Sum { runs: vec![run(0..2, &pair, 0)], transposed: false, began: Some(Initialisation::Olora) };
        let values = changed(sum, None, &matrix);
        let expected = [1.0, 2.0, 4.0, 3.0, 6.0, 12.0].map(|w: f32| -2.0 * w);
        let added = [6.0, 3.0, 12.0, 12.0, 6.0, 24.0];
        assert!(values.iter().zip(expected).zip(added).all(|((v, w), a)| (v - w - a).abs() < 1e-5), "{values:?}");
    }
}
