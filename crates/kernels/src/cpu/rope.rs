//! Rotary position embedding (Su et al. 2021) in the half-split order of Hugging Face models.

use rayon::prelude::*;

/// Cosines and sines for every position: `[positions, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
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
        }
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Rotates heads in place: row r of `x` `[n, stride]` holds `heads` heads of `2·half` elements from column 0, at
    /// position `positions[r]`. `inverse` rotates back, which is the backward pass.
    ///
    /// # Panics
    /// If a position lies outside of the table, or the shapes do not agree.
    pub fn rotate(&self, x: &mut [f32], stride: usize, heads: usize, positions: &[u32], inverse: bool) {
        let dim = 2 * self.half;
        assert!(heads * dim <= stride && x.len() >= positions.len() * stride, "rotary embedding of a wrong shape");
        x.par_chunks_mut(stride).zip(positions.par_iter()).with_min_len(32).for_each(|(row, &position)| {
            let at = position as usize * self.half;
            let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
            for head in row[..heads * dim].chunks_exact_mut(dim) {
                let (first, second) = head.split_at_mut(self.half);
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
    fn position_zero_changes_nothing() {
        let table = RopeTable::new(&[1.0, 0.5], 1, 1.0);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        table.rotate(&mut x, 4, 1, &[0], false);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }
}
