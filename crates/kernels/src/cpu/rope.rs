//! Rotary position embedding (Su et al. 2021) in the half-split order of Hugging Face models.

use rayon::prelude::*;

/// Cosines and sines for every position: `[positions, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    head_dim: usize,
    pairs: bool,
}

impl RopeTable {
    /// The table of `positions` positions from the inverse frequencies `[head_dim / 2]`; angles are computed in f32 as
    /// transformers does, `position · inverse frequency`, with both factors of cosine and sine multiplied by
    /// `attention_scaling`.
    pub fn new(inverse_frequencies: &[f32], positions: usize, attention_scaling: f32) -> Self {
        let angles = || (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |&f| p as f32 * f));
        Self {
            cos: angles().map(|a| a.cos() * attention_scaling).collect(),
            sin: angles().map(|a| a.sin() * attention_scaling).collect(),
            half: inverse_frequencies.len(),
            head_dim: 2 * inverse_frequencies.len(),
            pairs: false,
        }
    }

    /// A table whose positions are followed by those of another one of as many planes.
    ///
    /// # Panics
    /// If they have another number of planes.
    #[must_use]
    pub fn followed_by(mut self, other: Self) -> Self {
        assert_eq!(self.half, other.half, "as many planes");
        self.cos.extend(other.cos);
        self.sin.extend(other.sin);
        self
    }

    /// The same table for heads of `head_dim` elements, of which the first ones are rotated and the rest stays: in halves
    /// against each other, or with `pairs` each element against its neighbour.
    ///
    /// # Panics
    /// If a head is too short.
    #[must_use]
    pub fn with_heads(mut self, head_dim: usize, pairs: bool) -> Self {
        assert!(head_dim >= 2 * self.half, "{} rotated elements of heads of {head_dim}", 2 * self.half);
        (self.head_dim, self.pairs) = (head_dim, pairs);
        self
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Cosines and sines of a position, `[head_dim / 2]` each.
    ///
    /// # Panics
    /// If the position lies outside of the table.
    pub fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Rotates heads in place: row r of `x` `[n, stride]` holds `heads` heads from column 0, at
    /// position `positions[r]`. `inverse` rotates back, which is the backward pass.
    ///
    /// # Panics
    /// If a position lies outside of the table, or the shapes do not agree.
    pub fn rotate(&self, x: &mut [f32], stride: usize, heads: usize, positions: &[u32], inverse: bool) {
        let dim = self.head_dim;
        assert!(heads * dim <= stride && x.len() >= positions.len() * stride, "rotary embedding of a wrong shape");
        x.par_chunks_mut(stride).zip(positions.par_iter()).with_min_len(32).for_each(|(row, &position)| {
            let at = position as usize * self.half;
            let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
            for head in row[..heads * dim].chunks_exact_mut(dim) {
                if self.pairs {
                    for (i, pair) in head[..2 * self.half].chunks_exact_mut(2).enumerate() {
                        let (a, b) = (pair[0], pair[1]);
                        let s = if inverse { -sin[i] } else { sin[i] };
                        pair[0] = a * cos[i] - b * s;
                        pair[1] = b * cos[i] + a * s;
                    }
                    continue;
                }
                let (first, second) = head[..2 * self.half].split_at_mut(self.half);
                for i in 0..self.half {
                    let (a, b) = (first[i], second[i]);
                    let s = if inverse { -sin[i] } else { sin[i] };
                    first[i] = a * cos[i] - b * s;
                    second[i] = b * cos[i] + a * s;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_and_back() {
        let table = RopeTable::new(&[1.0, 0.1], 10, 1.0);
        let start: Vec<f32> = (0..24).map(|i| i as f32 * 0.3 - 2.0).collect();
        let mut x = start.clone();
        table.rotate(&mut x, 12, 2, &[3, 7], false);
        // Element 0 of the first head pairs with element 2 at angle 3 · 1.
        let (sin, cos) = 3f32.sin_cos();
        assert!((x[0] - (start[0] * cos - start[2] * sin)).abs() < 1e-6);
        assert!((x[2] - (start[2] * cos + start[0] * sin)).abs() < 1e-6);
        assert_eq!(x[8..12], start[8..12], "columns beyond the heads stay");
        table.rotate(&mut x, 12, 2, &[3, 7], true);
        assert!(x.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_part_of_a_head_in_pairs() {
        let start: Vec<f32> = (0..6).map(|i| i as f32 + 1.0).collect();
        let mut x = start.clone();
        let table = RopeTable::new(&[1.0, 0.1], 10, 1.0).with_heads(6, true);
        table.rotate(&mut x, 6, 1, &[3], false);
        let (sin, cos) = 3f32.sin_cos();
        assert!((x[0] - (cos - 2.0 * sin)).abs() < 1e-6 && (x[1] - (2.0 * cos + sin)).abs() < 1e-6);
        assert_eq!(x[4..], start[4..]);
        table.rotate(&mut x, 6, 1, &[3], true);
        assert!(x.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn position_zero_changes_nothing() {
        let table = RopeTable::new(&[1.0, 0.5], 1, 1.0);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        table.rotate(&mut x, 4, 1, &[0], false);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }
}
