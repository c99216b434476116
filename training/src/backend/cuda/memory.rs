//! Buffers and integers on a GPU.

use std::{
    ops::Range,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use harness_kernels::KernelError;
use harness_kernels::cuda::{AttentionWork, Device, DeviceBuffer, Float, View};

use crate::backend::Mat;

/// A run of floats on a GPU, with a bf16 image where an f32 run is a factor of bf16 products.
#[derive(Debug)]
pub struct CudaBuf {
    data: DeviceBuffer,
    /// Vectors in f32, where the rest has 16 bits.
    exact: Option<Exact>,
    image: Mutex<Option<DeviceBuffer>>,
    /// Whether the image is older than the data.
    stale: AtomicBool,
}

/// Runs of a buffer in f32, one after another.
#[derive(Debug)]
#[cfg_attr(not(feature = "nccl"), allow(dead_code, reason = "made where parameters are gathered"))]
pub(crate) struct Exact {
    pub(crate) runs: Vec<Range<usize>>,
    pub(crate) data: DeviceBuffer,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CudaBuf {
    pub(crate) fn new(data: DeviceBuffer) -> Self {
        Self { data, exact: None, image: Mutex::default(), stale: AtomicBool::new(true) }
    }

    /// The same with some of its runs in f32.
    #[cfg(feature = "nccl")]
    pub(crate) fn with_exact(self, exact: Option<Exact>) -> Self {
        Self { exact, ..self }
    }

    /// The elements.
    pub fn data(&self) -> &DeviceBuffer {
        &self.data
    }

    pub(super) fn matrix(&self, at: usize, rows: usize, cols: usize, pitch: usize, transposed: bool) -> View<'_> {
        if transposed { self.data.view(at, cols, rows, pitch).t() } else { self.data.view(at, rows, cols, pitch) }
    }

    /// A run of elements; in f32 where there is a copy in f32.
    pub(super) fn run(&self, at: usize, len: usize) -> View<'_> {
        let mut place = 0;
        for (run, exact) in self.exact.iter().flat_map(|exact| exact.runs.iter().map(move |run| (run, exact))) {
            if run.start <= at && at + len <= run.end {
                return exact.data.view(place + at - run.start, 1, len, len.max(1));
            }
            place += run.len();
        }
        self.data.view(at, 1, len, len.max(1))
    }

    /// Says that elements are being written.
    pub(crate) fn changed(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Gives a matrix of this buffer in the type of a product's factors.
    pub(super) fn factor(
        &self,
        device: &Device,
        float: Float,
        m: &Mat<'_, Self>,
        f: impl FnOnce(View<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        if self.data.float() == float {
            return f(self.matrix(m.at, m.rows, m.cols, m.pitch, m.transposed));
        }
        self.in_type(device, float, |image| {
            let (rows, cols) = if m.transposed { (m.cols, m.rows) } else { (m.rows, m.cols) };
            let view = image.view(m.at, rows, cols, m.pitch);
            f(if m.transposed { view.t() } else { view })
        })
    }

    /// Gives all elements in a type.
    pub(crate) fn in_type<T>(
        &self,
        device: &Device,
        float: Float,
        f: impl FnOnce(&DeviceBuffer) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        if self.data.float() == float {
            return f(&self.data);
        }
        let mut image = lock(&self.image);
        let image = match &mut *image {
            Some(image) => image,
            none => {
                self.changed();
                none.insert(device.alloc(self.data.len(), float)?)
            }
        };
        if self.stale.swap(false, Ordering::Relaxed) {
            device.cast(self.data.row(), image.row()).inspect_err(|_| self.changed())?;
        }
        f(image)
    }

    /// For a write that keeps the image up to date: gives the image if it is.
    pub(super) fn with_image<T>(&self, f: impl FnOnce(Option<&DeviceBuffer>) -> T) -> T {
        let image = lock(&self.image);
        let current = !self.stale.load(Ordering::Relaxed);
        f(image.as_ref().filter(|_| current))
    }
}

/// Integers on a GPU, and what the kernels need to know of them beforehand.
#[derive(Debug)]
pub struct CudaInts {
    data: DeviceBuffer,
    host: Vec<u32>,
    attention: OnceLock<AttentionWork>,
    groups: OnceLock<([DeviceBuffer; 3], usize)>,
    firsts: OnceLock<DeviceBuffer>,
}

impl CudaInts {
    pub(super) fn new(device: &Device, data: &[u32]) -> Result<Self, KernelError> {
        let (attention, groups, firsts) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { data: device.bytes(data)?, host: data.to_vec(), attention, groups, firsts })
    }

    pub(super) fn data(&self) -> &DeviceBuffer {
        &self.data
    }

    /// The work of attention, if these are bounds of documents.
    pub(super) fn attention(&self, device: &Device) -> Result<&AttentionWork, KernelError> {
        if let Some(work) = self.attention.get() {
            return Ok(work);
        }
        let work = AttentionWork::documents(device, &self.host, true)?;
        Ok(self.attention.get_or_init(|| work))
    }

    /// The first row of the document of every row, if these are bounds of documents.
    pub(super) fn firsts(&self, device: &Device) -> Result<&DeviceBuffer, KernelError> {
        if let Some(firsts) = self.firsts.get() {
            return Ok(firsts);
        }
        let of = |document: &[u32]| std::iter::repeat_n(document[0], (document[1] - document[0]) as usize);
        let firsts: Vec<u32> = self.host.windows(2).flat_map(of).collect();
        let firsts = device.bytes(&firsts)?;
        Ok(self.firsts.get_or_init(|| firsts))
    }

    /// Rows by token, if these are tokens: the distinct tokens, where the rows of each begin, and the rows, in order.
    pub(super) fn groups(&self, device: &Device) -> Result<([&DeviceBuffer; 3], usize), KernelError> {
        let made = match self.groups.get() {
            Some(made) => made,
            None => {
                let groups = self.grouped(device)?;
                self.groups.get_or_init(|| groups)
            }
        };
        let ([ids, starts, order], count) = made;
        Ok(([ids, starts, order], *count))
    }

    fn grouped(&self, device: &Device) -> Result<([DeviceBuffer; 3], usize), KernelError> {
        let mut order: Vec<u32> = (0..self.host.len() as u32).collect();
        order.sort_by_key(|&row| self.host[row as usize]);
        let (mut ids, mut starts) = (vec![], vec![]);
        for (at, &row) in order.iter().enumerate() {
            let token = self.host[row as usize];
            if ids.last() != Some(&token) {
                ids.push(token);
                starts.push(at as u32);
            }
        }
        starts.push(order.len() as u32);
        Ok(([device.bytes(&ids)?, device.bytes(&starts)?, device.bytes(&order)?], ids.len()))
    }
}
