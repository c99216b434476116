//! Buffers that go back to a pool, so that steps after the first take no memory from the system.

use std::{
    alloc::{Layout, alloc_zeroed},
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use crate::backend::{OutOfMemory, Result};

/// Free buffers by capacity.
#[derive(Debug, Default)]
struct Free {
    by_capacity: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Elements in free buffers, in buffers in use, and the most that were ever in use.
    free: usize,
    used: usize,
    peak: usize,
    /// Elements that may be in use.
    limit: Option<usize>,
    /// Buffers that may still be taken.
    left: Option<usize>,
}

/// Zeros, which the system may give without touching them; `None` if there is no memory.
fn zeroed(len: usize) -> Option<Vec<f32>> {
    let layout = Layout::array::<f32>(len).ok()?;
    if layout.size() == 0 {
        return Some(vec![]);
    }
    // SAFETY: the layout is not empty. A pointer that is not null is one of the global allocator's to `len` floats, all
    // of them 0.0, and the vector frees it with the same layout.
    unsafe {
        let data = alloc_zeroed(layout).cast::<f32>();
        (!data.is_null()).then(|| Vec::from_raw_parts(data, len, len))
    }
}

/// Where buffers come from and go back to.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Free>>);

impl Pool {
    fn with<R>(&self, f: impl FnOnce(&mut Free) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A pool that has at most this many bytes in use.
    pub(super) fn limited(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Free { limit: Some(bytes / size_of::<f32>()), ..Free::default() })))
    }

    /// Lets so many more buffers be taken; `None`: without end.
    pub(super) fn fail_after(&self, buffers: Option<usize>) {
        self.with(|free| free.left = buffers);
    }

    /// Gives all free buffers back to the system.
    pub(super) fn clear(&self) {
        self.with(|free| {
            free.by_capacity.clear();
            free.free = 0;
        });
    }

    /// A buffer of `len` elements with unspecified contents: the smallest free one that is not more than twice as
    /// large, else a new one.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn take(&self, len: usize) -> Result<CpuBuf> {
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
            let wanted = data.as_ref().map_or(len, Vec::len);
            let fits = free.limit.is_none_or(|limit| free.used + wanted <= limit) && free.left != Some(0);
            let data = if fits { data.or_else(|| zeroed(len)) } else { None };
            if data.is_some() {
                free.used += wanted;
                free.peak = free.peak.max(free.used);
                free.left = free.left.map(|left| left - 1);
            }
            data.ok_or(OutOfMemory { asked: size_of::<f32>() * len, used: size_of::<f32>() * free.used })
        });
        Ok(CpuBuf { data: data?, len, pool: self.clone() })
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
        let take = |len| pool.take(len).expect("memory");
        let (a, b) = (take(100), take(50));
        let address = a.as_ptr();
        drop(a);
        let c = take(80);
        assert_eq!((c.as_ptr(), c.len()), (address, 80));
        drop((b, c));
        assert_eq!(pool.peak_bytes(), 600);
        assert_ne!(take(10).as_ptr(), address, "a much larger buffer is not wasted on a small one");
    }
}
