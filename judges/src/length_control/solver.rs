//! Logistic regression with an L1 penalty and soft targets.

/// One row: features, target in [0, 1], weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticRow {
    /// Features.
    pub x: [f64; 3],
    /// Target: the probability of class 1.
    pub y: f64,
    /// Weight, 0 or more.
    pub weight: f64,
}

/// Minimises `‖w‖₁ + C·Σ weight·(log(1 + e^z) − y·z)`, z = w·x, no intercept: liblinear's objective with each row there
/// twice, once a class, weighted by its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L1Logistic {
    /// Inverse strength of the penalty.
    pub c: f64,
    /// Which coefficients are fitted; the others stay 0.
    pub terms: [bool; 3],
}

/// The objective at one point, with gradient and Hessian of its smooth part.
struct Evaluation {
    objective: f64,
    gradient: [f64; 3],
    hessian: [[f64; 3]; 3],
}

/// Most Newton steps; a handful is usual.
const STEPS: usize = 200;

/// 1/(1 + e^−z) without overflow.
pub(crate) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

/// log(1 + e^z) without overflow.
pub(crate) fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn dot(w: &[f64; 3], x: &[f64; 3]) -> f64 {
    w[0] * x[0] + w[1] * x[1] + w[2] * x[2]
}

impl L1Logistic {
    /// The coefficients of the optimum, by proximal Newton steps: the penalised quadratic model is minimised by
    /// coordinate descent, then a line search makes the objective fall (Lee, Sun and Saunders 2014; Yuan, Ho and Lin
    /// 2012). Ends when the conditions of optimality hold to about 1e-12 of the data's weight.
    pub fn fit(&self, rows: &[LogisticRow], start: [f64; 3]) -> [f64; 3] {
        let mut w = start;
        for (w, term) in w.iter_mut().zip(self.terms) {
            if !term {
                *w = 0.0;
            }
        }
        let total: f64 = rows.iter().map(|row| row.weight).sum();
        let tolerance = 1e-12 * (self.c * total).max(1.0);
        let mut at = self.evaluate(rows, &w);
        for _ in 0..STEPS {
            if self.violation(&w, &at.gradient) <= tolerance {
                break;
            }
            let step = self.quadratic_step(&w, &at);
            // Decrease that the model promises; the objective has to keep a part of the promise.
            let promise: f64 = (0..3).map(|j| at.gradient[j] * step[j] + (w[j] + step[j]).abs() - w[j].abs()).sum();
            let mut length = 1.0;
            let next = loop {
                let mut next = w;
                next.iter_mut().zip(&step).for_each(|(w, d)| *w += length * d);
                let there = self.evaluate(rows, &next);
                if there.objective <= at.objective + 1e-4 * length * promise {
                    break Some((next, there));
                }
                length *= 0.5;
                if length < 1e-10 {
                    break None;
                }
            };
            // Without a step that lowers it, the objective is at the limit of the arithmetic.
            let Some((next, there)) = next else { break };
            if next == w {
                break;
            }
            (w, at) = (next, there);
        }
        w
    }

    /// The penalised objective.
    pub fn objective(&self, rows: &[LogisticRow], w: &[f64; 3]) -> f64 {
        let loss: f64 = rows
            .iter()
            .map(|row| {
                let z = dot(w, &row.x);
                row.weight * (softplus(z) - row.y * z)
            })
            .sum();
        w.iter().map(|w| w.abs()).sum::<f64>() + self.c * loss
    }

    /// Objective, gradient and curvature of the loss in one pass: one exponential and one logarithm a row.
    fn evaluate(&self, rows: &[LogisticRow], w: &[f64; 3]) -> Evaluation {
        let mut loss = 0.0;
        let mut gradient = [0.0; 3];
        let mut hessian = [[0.0; 3]; 3];
        for row in rows.iter().filter(|row| row.weight > 0.0) {
            let z = dot(w, &row.x);
            let tail = (-z.abs()).exp();
            let p = if z >= 0.0 { 1.0 } else { tail } / (1.0 + tail);
            loss += row.weight * (z.max(0.0) + tail.ln_1p() - row.y * z);
            let (slope, curve) = (row.weight * (p - row.y), row.weight * p * (1.0 - p));
            for ((x, gradient), hessian) in row.x.iter().zip(&mut gradient).zip(&mut hessian) {
                *gradient += slope * x;
                hessian.iter_mut().zip(&row.x).for_each(|(entry, other)| *entry += curve * x * other);
            }
        }
        gradient.iter_mut().chain(hessian.iter_mut().flatten()).for_each(|value| *value *= self.c);
        Evaluation { objective: w.iter().map(|w| w.abs()).sum::<f64>() + self.c * loss, gradient, hessian }
    }

    /// Largest distance from 0 to the subgradient, over the fitted coefficients.
    fn violation(&self, w: &[f64; 3], gradient: &[f64; 3]) -> f64 {
        let one = |j: usize| match w[j] {
            w if w > 0.0 => (gradient[j] + 1.0).abs(),
            w if w < 0.0 => (gradient[j] - 1.0).abs(),
            _ => (gradient[j].abs() - 1.0).max(0.0),
        };
        (0..3).filter(|&j| self.terms[j]).map(one).fold(0.0, f64::max)
    }

    /// Minimum of `g·d + ½ dᵀHd + ‖w + d‖₁`.
    fn quadratic_step(&self, w: &[f64; 3], at: &Evaluation) -> [f64; 3] {
        let Evaluation { gradient, hessian, .. } = at;
        let mut d = [0.0; 3];
        for _ in 0..10_000 {
            let mut moved: f64 = 0.0;
            for j in (0..3).filter(|&j| self.terms[j]) {
                let curve = hessian[j][j].max(1e-12);
                let slope = gradient[j] + (0..3).map(|k| hessian[j][k] * d[k]).sum::<f64>();
                // Soft threshold of the unpenalised minimum.
                let target = w[j] + d[j] - slope / curve;
                let new = target.signum() * (target.abs() - 1.0 / curve).max(0.0) - w[j];
                moved = moved.max((new - d[j]).abs());
                d[j] = new;
            }
            if moved <= 1e-15 {
                break;
            }
        }
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<LogisticRow> {
        let value = |i: usize, k: usize| ((i * 37 + k * 101) % 97) as f64 / 48.5 - 1.0;
        (0..200)
            .map(|i| {
                let x = [value(i, 1), value(i, 2), 1.0];
                LogisticRow { x, y: sigmoid(0.8 * x[0] - 0.4 + 0.7 * value(i, 3)), weight: 1.0 + (i % 3) as f64 }
            })
            .collect()
    }

    #[test]
    fn no_neighbour_is_better() {
        let rows = rows();
        for c in [1e-3, 0.05, 1.0, 100.0] {
            let model = L1Logistic { c, terms: [true; 3] };
            let w = model.fit(&rows, [0.0; 3]);
            let best = model.objective(&rows, &w);
            for j in 0..3 {
                for step in [1e-4, -1e-4, 1e-2, -1e-2] {
                    let mut other = w;
                    other[j] += step;
                    assert!(model.objective(&rows, &other) >= best, "C = {c}, coefficient {j}, step {step}: {w:?}");
                }
            }
        }
    }

    #[test]
    fn the_start_does_not_matter_and_terms_can_be_left_out() {
        let rows = rows();
        let model = L1Logistic { c: 3.0, terms: [true, false, true] };
        let (a, b) = (model.fit(&rows, [0.0; 3]), model.fit(&rows, [5.0, 1.0, -4.0]));
        assert!((0..3).all(|j| (a[j] - b[j]).abs() < 1e-9), "{a:?} {b:?}");
        assert_eq!(a[1], 0.0);
        let strong = L1Logistic { c: 1e-6, terms: [true; 3] };
        assert_eq!(strong.fit(&rows, [1.0; 3]), [0.0; 3]);
    }
}
