//! liblinear's own fit (Yuan, Ho and Lin 2012), which ends early: by its fits alpaca_eval chooses C.
//!
//! Held-out losses of neighbouring values of C often differ by less than the error of these fits, so that the optimum
//! itself would choose another C. Repeated are the order of the rows, the stopping rule, the shrinking, and the
//! permutations, which are drawn from std::mt19937.

use harness_python::PythonRandom;

use super::solver::LogisticRow;

/// scikit-learn's tolerance and its limit on Newton steps.
const TOLERANCE: f64 = 1e-4;
const NEWTON_STEPS: usize = 100;
const CYCLES: usize = 1000;
const HALVINGS: usize = 20;
/// Added to the curvature, so that it is never 0.
const NU: f64 = 1e-12;
/// The part of the promised decrease that a step has to keep.
const SIGMA: f64 = 0.01;

/// Data and state of one fit. Each row is there twice, once a class; rows of weight 0 are left out.
struct Fit {
    /// Features by column.
    columns: Vec<Vec<f64>>,
    /// Rows of the negative class; they come first.
    negative: usize,
    /// C times the weight of each row.
    c: Vec<f64>,
    /// e^(w·x) of each row, and from it the slope and the curvature of its loss.
    exponential: Vec<f64>,
    slope: Vec<f64>,
    curve: Vec<f64>,
}

impl Fit {
    fn new(rows: &[LogisticRow], terms: [bool; 3], c: f64) -> Self {
        let class = |positive: bool| {
            rows.iter().filter_map(move |row| {
                let weight = row.weight * if positive { row.y } else { 1.0 - row.y };
                (weight > 0.0).then_some((row.x, weight * c))
            })
        };
        let negative = class(false).count();
        let all: Vec<([f64; 3], f64)> = class(false).chain(class(true)).collect();
        let column = |j: usize| all.iter().map(|(x, _)| x[j]).collect();
        let columns = (0..3).filter(|&j| terms[j]).map(column).collect();
        let c: Vec<f64> = all.iter().map(|(_, c)| *c).collect();
        let n = c.len();
        let mut fit =
            Self { columns, negative, c, exponential: vec![1.0; n], slope: vec![0.0; n], curve: vec![0.0; n] };
        fit.refresh();
        fit
    }

    /// Slopes and curvatures from the exponentials.
    fn refresh(&mut self) {
        for (i, &exponential) in self.exponential.iter().enumerate() {
            let tail = 1.0 / (1.0 + exponential);
            self.slope[i] = self.c[i] * tail;
            self.curve[i] = self.c[i] * exponential * tail * tail;
        }
    }

    /// Gradient of the loss along a column, and its curvature.
    fn along(&self, j: usize) -> (f64, f64) {
        let column = &self.columns[j];
        let below: f64 = column[..self.negative].iter().zip(&self.c).map(|(x, c)| c * x).sum();
        let slope: f64 = column.iter().zip(&self.slope).map(|(x, slope)| x * slope).sum();
        (below - slope, column.iter().zip(&self.curve).map(|(x, curve)| x * x * curve).sum::<f64>() + NU)
    }

    /// Steps back from the proposal until the objective falls enough; whether it did.
    fn line_search(&mut self, w: &mut [f64], proposal: &mut [f64], gradient: &[f64], steps: &mut [f64]) -> bool {
        let norm = |w: &[f64]| w.iter().map(|w| w.abs()).sum::<f64>();
        let moved: f64 = gradient.iter().zip(proposal.iter().zip(w.iter())).map(|(g, (p, w))| g * (p - w)).sum();
        let before = norm(w);
        let mut promise = moved + norm(proposal) - before;
        for _ in 0..HALVINGS {
            let linear: f64 = steps[..self.negative].iter().zip(&self.c).map(|(step, c)| c * step).sum();
            let mut change = norm(proposal) - before + linear - SIGMA * promise;
            let mut next = Vec::with_capacity(steps.len());
            for ((step, old), c) in steps.iter().zip(&self.exponential).zip(&self.c) {
                let factor = step.exp();
                let new = old * factor;
                change += c * ((1.0 + new) / (factor + new)).ln();
                next.push(new);
            }
            if change <= 0.0 {
                w.copy_from_slice(proposal);
                self.exponential = next;
                self.refresh();
                return true;
            }
            proposal.iter_mut().zip(w.iter()).for_each(|(p, w)| *p = (*p + w) * 0.5);
            steps.iter_mut().for_each(|step| *step *= 0.5);
            promise *= 0.5;
        }
        false
    }
}

/// How far a coefficient is from optimal, and whether it is 0 and held there by the penalty with this much to spare.
fn violation(w: f64, gradient: f64, spare: f64) -> (f64, bool) {
    let (up, down) = (gradient + 1.0, gradient - 1.0);
    if w > 0.0 {
        (up.abs(), false)
    } else if w < 0.0 {
        (down.abs(), false)
    } else if up < 0.0 {
        (-up, false)
    } else if down > 0.0 {
        (down, false)
    } else {
        (0.0, up > spare && down < -spare)
    }
}

/// A number below `n` without bias (Lemire 2019), as liblinear draws it in scikit-learn.
fn below(random: &mut PythonRandom, n: u32) -> usize {
    let mut product = u64::from(random.next_u32()) * u64::from(n);
    if (product as u32) < n {
        let threshold = n.wrapping_neg() % n;
        while (product as u32) < threshold {
            product = u64::from(random.next_u32()) * u64::from(n);
        }
    }
    (product >> 32) as usize
}

/// The coefficients where liblinear ends, with a seed for its permutations.
pub(super) fn fit(rows: &[LogisticRow], terms: [bool; 3], c: f64, seed: u32) -> [f64; 3] {
    let mut random = PythonRandom::mt19937(seed);
    let mut fit = Fit::new(rows, terms, c);
    let (features, n) = (fit.columns.len(), fit.c.len() as f64);
    let classes = fit.negative.min(fit.c.len() - fit.negative).max(1);
    let tolerance = TOLERANCE * classes as f64 / n;
    let mut w = vec![0.0; features];
    let mut proposal = w.clone();
    let mut index: Vec<usize> = (0..features).collect();
    let (mut gradient, mut curve) = (vec![0.0; features], vec![0.0; features]);
    let (mut first, mut largest, mut inner_tolerance, mut idle) = (None, f64::INFINITY, 1.0, 0);
    for _ in 0..NEWTON_STEPS {
        let (mut sum, mut most, mut active, mut s) = (0.0, 0.0f64, features, 0);
        while s < active {
            let j = index[s];
            (gradient[j], curve[j]) = fit.along(j);
            let (violated, held) = violation(w[j], gradient[j], largest / n);
            if held {
                active -= 1;
                index.swap(s, active);
                continue;
            }
            most = most.max(violated);
            sum += violated;
            s += 1;
        }
        let first = *first.get_or_insert(sum);
        if sum <= tolerance * first || idle >= 10 {
            break;
        }
        idle += 1;
        let mut steps = vec![0.0; fit.c.len()];
        let (mut inner_active, mut inner_largest, mut cycles) = (active, f64::INFINITY, 0);
        while cycles < CYCLES {
            let (mut inner_sum, mut inner_most) = (0.0, 0.0f64);
            for j in 0..inner_active {
                index.swap(j, j + below(&mut random, (inner_active - j) as u32));
            }
            let mut s = 0;
            while s < inner_active {
                let j = index[s];
                let column = &fit.columns[j];
                let bent: f64 =
                    column.iter().zip(&fit.curve).zip(&steps).map(|((x, curve), step)| x * curve * step).sum();
                let slope = gradient[j] + (proposal[j] - w[j]) * NU + bent;
                let (violated, held) = violation(proposal[j], slope, inner_largest / n);
                if held {
                    inner_active -= 1;
                    index.swap(s, inner_active);
                    continue;
                }
                s += 1;
                let step = if slope + 1.0 < curve[j] * proposal[j] {
                    -(slope + 1.0) / curve[j]
                } else if slope - 1.0 > curve[j] * proposal[j] {
                    -(slope - 1.0) / curve[j]
                } else {
                    -proposal[j]
                };
                if step.abs() < 1e-12 {
                    continue;
                }
                let step = step.clamp(-10.0, 10.0);
                idle = 0;
                inner_most = inner_most.max(violated);
                inner_sum += violated;
                proposal[j] += step;
                steps.iter_mut().zip(&fit.columns[j]).for_each(|(sum, x)| *sum += x * step);
            }
            cycles += 1;
            if inner_sum <= inner_tolerance * first {
                if inner_active == active {
                    break;
                }
                (inner_active, inner_largest) = (active, f64::INFINITY);
                continue;
            }
            inner_largest = inner_most;
        }
        if !fit.line_search(&mut w, &mut proposal, &gradient, &mut steps) {
            // The exponentials have not moved with the coefficients, so they are right as they are.
            proposal.copy_from_slice(&w);
        }
        if cycles == 1 {
            inner_tolerance *= 0.25;
        }
        largest = most;
    }
    let mut all = [0.0; 3];
    (0..3).filter(|&j| terms[j]).zip(w).for_each(|(j, w)| all[j] = w);
    all
}
