//! Adapters whose factors began as a part of the base: PEFT takes that part out of the base whenever it loads them.
//!
//! PiSSA (Meng et al. 2024) takes the largest singular vectors of a weight, OLoRA (Büyükakyüz 2024) the first columns of its
//! QR decomposition. What is taken out has the adapter's rank, so it is a low-rank addition as well.

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::pair::LoraPair;

/// What the factors of an adapter began as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initialisation {
    /// The largest singular values and vectors of the weight.
    Pissa,
    /// The first columns of its QR decomposition.
    Olora,
}

impl Initialisation {
    /// Reads `init_lora_weights`; `None` for what leaves the base as it is.
    pub(super) fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        Ok(Self::named(&Value::deserialize(deserializer)?))
    }

    pub(super) fn named(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "pissa" => Some(Self::Pissa),
            name if name.eq_ignore_ascii_case("olora") => Some(Self::Olora),
            _ => None,
        }
    }

    /// The addition to a weight `[rows, cols]` that takes out what an adapter of this rank and scale began as.
    ///
    /// # Errors
    /// A reason, if the decomposition is not unique or does not converge.
    pub fn taken_out(self, weight: &[f32], cols: usize, rank: usize, scale: f32) -> Result<LoraPair, String> {
        let (b, a) = self.part(weight, cols, rank)?;
        // PiSSA's factors give the part with the scale, those of OLoRA without it.
        Ok(LoraPair::new(a, b, rank, if self == Self::Pissa { -1.0 } else { -scale }))
    }

    /// The part of a weight that factors begin as, `[rows, rank]` and `[rank, cols]`.
    fn part(self, weight: &[f32], cols: usize, rank: usize) -> Result<(Vec<f32>, Vec<f32>), String> {
        let rows = weight.len() / cols;
        if rank > rows.min(cols) {
            return Err(format!("rank {rank} is above the rank of a weight of shape [{rows}, {cols}]"));
        }
        match self {
            Self::Pissa if cols <= rows => {
                let (basis, products) = principal(weight, cols, rank)?;
                Ok((transposed(&products, rows), narrow(&basis)))
            }
            Self::Pissa => {
                let (basis, products) = principal(&transposed(weight, cols), rows, rank)?;
                Ok((narrow(&transposed(&basis, rows)), products))
            }
            Self::Olora => {
                let columns: Vec<f64> = (0..rank)
                    .flat_map(|column| weight.iter().skip(column).step_by(cols).map(|&x| f64::from(x)))
                    .collect();
                let basis = orthonormal(columns, rows)?;
                let products = times(&transposed(weight, cols), rows, &basis);
                Ok((narrow(&transposed(&basis, rows)), products))
            }
        }
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// Of a matrix in rows of `cols` its columns one after another.
fn transposed<T: Copy>(matrix: &[T], cols: usize) -> Vec<T> {
    (0..cols).flat_map(|column| matrix.iter().skip(column).step_by(cols).copied()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The product of a matrix and a vector.
fn product(matrix: &[f32], cols: usize, x: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| row.iter().zip(x).map(|(&a, b)| f64::from(a) * b).sum();
    matrix.par_chunks_exact(cols).map(row).collect()
}

/// The products of a matrix and several vectors, vector by vector.
fn times(matrix: &[f32], cols: usize, vectors: &[f64]) -> Vec<f32> {
    vectors.chunks_exact(cols).flat_map(|x| narrow(&product(matrix, cols, x))).collect()
}

/// Vectors of this length made orthonormal one after another (Gram and Schmidt, twice).
fn orthonormal(mut vectors: Vec<f64>, len: usize) -> Result<Vec<f64>, String> {
    for at in 0..vectors.len() / len {
        let (before, rest) = vectors.split_at_mut(at * len);
        let own = &mut rest[..len];
        let size = dot(own, own).sqrt();
        for _ in 0..2 {
            remove(before, own);
        }
        let left = dot(own, own).sqrt();
        if left <= 1e-7 * size || size == 0.0 {
            return Err(format!("column {at} depends on those before it, so that its QR decomposition is not unique"));
        }
        own.iter_mut().for_each(|x| *x /= left);
    }
    Ok(vectors)
}

/// Takes out of a vector what lies in the span of orthonormal ones.
fn remove(basis: &[f64], vector: &mut [f64]) {
    for other in basis.chunks_exact(vector.len()) {
        let along = dot(other, vector);
        vector.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
    }
}

/// The right singular vectors of the `rank` largest singular values of a matrix, vector by vector, and the matrix's products
/// with them: Lanczos' iteration on `WᵀW` with complete reorthogonalisation, from a fixed start.
fn principal(matrix: &[f32], cols: usize, rank: usize) -> Result<(Vec<f64>, Vec<f32>), String> {
    let turned = transposed(matrix, cols);
    let rows = matrix.len() / cols;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |basis: &[f64]| {
        let mut vector: Vec<f64> = (0..cols)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 11) as f64 / (1u64 << 53) as f64 - 0.5
            })
            .collect();
        (0..2).for_each(|_| remove(basis, &mut vector));
        let size = dot(&vector, &vector).sqrt();
        vector.iter_mut().for_each(|x| *x /= size);
        vector
    };
    let (mut basis, mut diagonal, mut beside) = (random(&[]), vec![], vec![]);
    let mut next = rank + 8;
    loop {
        let last = &basis[basis.len() - cols..];
        let mut vector = product(&turned, rows, &product(matrix, cols, last));
        diagonal.push(dot(&vector, last));
        (0..2).for_each(|_| remove(&basis, &mut vector));
        let size = dot(&vector, &vector).sqrt();
        let steps = diagonal.len();
        if steps == cols || steps >= next {
            let (values, vectors) = eigen(diagonal.clone(), beside.clone())?;
            let largest = values.first().map_or(0.0, |value| value.abs());
            let rest = |vector: &[f64]| size * vector[steps - 1].abs();
            if steps == cols || vectors.iter().take(rank).all(|vector| rest(vector) <= 1e-12 * largest) {
                let mut found = vec![0.0; rank * cols];
                for (to, weights) in found.chunks_exact_mut(cols).zip(&vectors) {
                    for (weight, of) in weights.iter().zip(basis.chunks_exact(cols)) {
                        to.iter_mut().zip(of).for_each(|(x, b)| *x += weight * b);
                    }
                }
                let products = times(matrix, cols, &found);
                return Ok((found, products));
            }
            next = steps + steps / 4 + 1;
        }
        // Nothing new lies in this direction: another one, which the matrix does not couple to those before.
        let scale = diagonal.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
        if size <= 1e-14 * scale || size == 0.0 {
            beside.push(0.0);
            let fresh = random(&basis);
            basis.extend(fresh);
        } else {
            beside.push(size);
            basis.extend(vector.iter().map(|x| x / size));
        }
    }
}

/// Eigenvalues of a symmetric tridiagonal matrix, largest first, with their vectors (the implicit QL algorithm).
fn eigen(mut d: Vec<f64>, beside: Vec<f64>) -> Result<(Vec<f64>, Vec<Vec<f64>>), String> {
    let n = d.len();
    let mut e = beside;
    e.push(0.0);
    // Column i of the rotations is vector i.
    let mut z: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
    for l in 0..n {
        for turn in 0.. {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if turn == 60 {
                return Err("its singular values do not converge".to_owned());
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (low, high) = z.split_at_mut(i + 1);
                for (x, y) in low[i].iter_mut().zip(&mut high[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| d[b].total_cmp(&d[a]));
    Ok((order.iter().map(|&i| d[i]).collect(), order.iter().map(|&i| z[i].clone()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with singular values 8, 4, 2, 1, ... between rotations.
    fn matrix(rows: usize, cols: usize) -> Vec<f32> {
        let turn = |n: usize, seed: f64| {
            let values = (0..n * n).map(|i| ((i as f64 + seed) * 12.9898).sin() * 43_758.547).map(f64::fract).collect();
            orthonormal(values, n).unwrap()
        };
        let (left, right) = (turn(rows, 1.0), turn(cols, 2.0));
        let value = |k: usize| 8.0 * 0.5f64.powi(k as i32);
        let element = |k: usize, i: usize, j: usize| left[k * rows + i] * value(k) * right[k * cols + j];
        let at = |i: usize, j: usize| (0..rows.min(cols)).map(|k| element(k, i, j)).sum::<f64>();
        (0..rows * cols).map(|i| at(i / cols, i % cols) as f32).collect()
    }

    fn multiplied(b: &[f32], a: &[f32], rank: usize, cols: usize) -> Vec<f32> {
        let of = |row: &[f32], j: usize| (0..rank).map(|k| row[k] * a[k * cols + j]).sum::<f32>();
        b.chunks_exact(rank).flat_map(|row| (0..cols).map(move |j| of(row, j))).collect()
    }

    fn size(values: impl Iterator<Item = f32>) -> f32 {
        values.map(|x| x * x).sum::<f32>().sqrt()
    }

    #[test]
    fn the_largest_singular_values_are_taken() {
        for (rows, cols) in [(30, 12), (12, 30), (9, 9), (40, 1)] {
            let weight = matrix(rows, cols);
            for rank in [1, 3.min(cols)] {
                let (b, a) = Initialisation::Pissa.part(&weight, cols, rank).unwrap();
                let part = multiplied(&b, &a, rank, cols);
                // What is left has the rest of the singular values: 8² (1/4)^rank / (1 - 1/4), in squares.
                let left = size(weight.iter().zip(&part).map(|(w, p)| w - p));
                let count = rows.min(cols);
                let expected = (rank..count).map(|k| 64.0 * 0.25f32.powi(k as i32)).sum::<f32>().sqrt();
                assert!((left - expected).abs() < 1e-4, "{rows} {cols} {rank}: {left} {expected}");
            }
        }
    }

    #[test]
    fn equal_singular_values_and_zeros_are_no_trouble() {
        let identity: Vec<f32> = (0..64).map(|i| if i % 9 == 0 { 2.0 } else { 0.0 }).collect();
        let (b, a) = Initialisation::Pissa.part(&identity, 8, 8).unwrap();
        assert!(multiplied(&b, &a, 8, 8).iter().zip(&identity).all(|(x, y)| (x - y).abs() < 1e-6));
        let (b, a) = Initialisation::Pissa.part(&[0.0; 24], 4, 2).unwrap();
        assert!(multiplied(&b, &a, 2, 4).iter().all(|&x| x == 0.0));
        assert!(Initialisation::Pissa.part(&[0.0; 24], 4, 5).unwrap_err().contains("rank 5"));
    }

    #[test]
    fn the_first_columns_are_taken_whole() {
        let weight = matrix(6, 9);
        let (b, a) = Initialisation::Olora.part(&weight, 9, 4).unwrap();
        let part = multiplied(&b, &a, 4, 9);
        for (row, of) in weight.chunks_exact(9).zip(part.chunks_exact(9)) {
            assert!(row[..4].iter().zip(&of[..4]).all(|(x, y)| (x - y).abs() < 1e-5));
        }
        // The rest of the other columns stands upright on the first ones.
        for j in 4..9 {
            let along: f32 = weight.chunks_exact(9).zip(part.chunks_exact(9)).map(|(w, p)| (w[j] - p[j]) * w[1]).sum();
            assert!(along.abs() < 1e-4, "{along}");
        }
        let same: Vec<f32> = (0..12).map(|i| (i / 3) as f32).collect();
        assert!(Initialisation::Olora.part(&same, 3, 2).unwrap_err().contains("column 1"));
    }
}
