//! Buffers that go back to a pool, so that steps after the first take no memory from the system.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// Free buffers by capacity.
#[derive(Debug, Default)]
struct Free {
    by_capacity: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Elements in free buffers, in buffers in use, and the most that were ever in use.
    free: usize,
    used: usize,
    peak: usize,
}

/// Where buffers come from and go back to.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Free>>);

impl Pool {
    fn with<R>(&self, f: impl FnOnce(&mut Free) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A buffer of `len` elements with unspecified contents: the smallest free one that is not more than twice as
    /// large, else a new one.
    pub(super) fn take(&self, len: usize) -> CpuBuf {
        let data = self.with(|free| {
            let fit = free.by_capacity.range(len..=len.saturating_mul(2)).next().map(|(&capacity, _)| capacity);
            let data = fit.and_then(|capacity| {
                let list = free.by_capacity.get_mut(&capacity)?;
                let data = list.pop();
                if list.is_empty() {
                    free.by_capacity.remove(&capacity);
                }
                data
            });
            if let Some(data) = &data {
                free.free -= data.len();
            }
            free.used += data.as_ref().map_or(len, Vec::len);
            free.peak = free.peak.max(free.used);
            data
        });
        CpuBuf { data: data.unwrap_or_else(|| vec![0.0; len]), len, pool: self.clone() }
    }

    /// The most bytes that were ever in use at once.
    pub(super) fn peak_bytes(&self) -> usize {
        self.with(|free| free.peak * size_of::<f32>())
    }

    /// Takes a buffer back; kept unless more would then be free than was ever in use.
    fn give_back(&self, data: Vec<f32>) {
        self.with(|free| {
            free.used -= data.len();
            if free.free + data.len() <= free.peak {
                free.free += data.len();
                free.by_capacity.entry(data.len()).or_default().push(data);
            }
        });
    }
}

/// A run of floats in host memory; its memory goes back to the backend's pool when it is dropped.
#[derive(Debug)]
pub struct CpuBuf {
    data: Vec<f32>,
    len: usize,
    pool: Pool,
}

impl Deref for CpuBuf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for CpuBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for CpuBuf {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        let pool = Pool::default();
        let (a, b) = (pool.take(100), pool.take(50));
        let address = a.as_ptr();
        drop(a);
        let c = pool.take(80);
        assert_eq!((c.as_ptr(), c.len()), (address, 80));
        drop((b, c));
        assert_eq!(pool.peak_bytes(), 600);
        assert_ne!(pool.take(10).as_ptr(), address, "a much larger buffer is not wasted on a small one");
    }
}
