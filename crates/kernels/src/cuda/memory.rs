//! The GPU's memory: buffers that go back to a pool, and copies to and from the host.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use half::{bf16, f16};

use super::{
    Device, Float, HostMemory, View,
    driver::Inner,
    graph,
    pool::{Widened, block_size},
    raw::lock,
};
use crate::KernelError;

/// Widened matrices kept: those of one block, which a replay and the backward after it use in turn.
const WIDENED: usize = 4;

/// Whose memory a buffer's elements are in.
enum Home {
    /// The device's pool, which gets it back.
    Pool,
    /// Another buffer, of which this one is a part.
    Part { _whole: Arc<DeviceBuffer> },
    /// The host.
    Host(HostMemory),
}

/// A run of elements on a GPU, or within its reach; its memory goes back to where it came from when it is dropped.
///
/// Like a cell: kernels write through shared references, in the order of the device's stream.
pub struct DeviceBuffer {
    inner: Arc<Inner>,
    ptr: u64,
    size: usize,
    len: usize,
    float: Option<Float>,
    home: Home,
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.float.map_or("bytes", Float::name);
        write!(f, "DeviceBuffer({} {kind} on cuda:{})", self.len, self.inner.ordinal)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Home::Pool = self.home
            && !graph::keep(&self.inner, self.ptr, self.size)
        {
            lock(&self.inner.pool).give_back(self.ptr, self.size);
        }
    }
}

impl DeviceBuffer {
    /// Number of elements (of bytes, if they are no floats).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the elements; f32 for a buffer of bytes, which is never asked.
    pub fn float(&self) -> Float {
        self.float.unwrap_or(Float::F32)
    }

    pub(super) fn ptr(&self) -> u64 {
        self.ptr
    }

    /// The host's memory, if the elements are there.
    pub fn host(&self) -> Option<&HostMemory> {
        if let Home::Host(memory) = &self.home { Some(memory) } else { None }
    }

    /// The matrix `[rows, cols]` from element `at`, rows `pitch` elements apart.
    ///
    /// # Panics
    /// If it does not lie inside.
    pub fn view(&self, at: usize, rows: usize, cols: usize, pitch: usize) -> View<'_> {
        let end = if rows == 0 || cols == 0 { at } else { at + (rows - 1) * pitch + cols };
        assert!(end <= self.len && (rows <= 1 || pitch >= cols), "a matrix outside of its buffer");
        View::new(self.ptr + (at * self.float().bytes()) as u64, self.float(), rows, cols, pitch)
    }

    /// Number of bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.len * self.float.map_or(1, Float::bytes)
    }

    /// The bytes from `at` on of a buffer of bytes, as a buffer like `like`; the memory stays allocated as long as either
    /// lives.
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn part(whole: &Arc<Self>, at: usize, like: &Self) -> Self {
        assert!(whole.float.is_none() && at + like.bytes() <= whole.len, "a part inside of its buffer");
        let (inner, ptr, home) = (whole.inner.clone(), whole.ptr + at as u64, Home::Part { _whole: Arc::clone(whole) });
        Self { inner, ptr, size: 0, len: like.len, float: like.float, home }
    }

    /// All elements as one row.
    pub fn row(&self) -> View<'_> {
        self.view(0, 1, self.len, self.len.max(1))
    }
}

impl Device {
    fn raw(&self, bytes: usize) -> Result<(u64, usize), KernelError> {
        if let Some(block) = graph::take(&self.0, bytes) {
            return Ok(block);
        }
        let mut pool = lock(&self.0.pool);
        if let Some(block) = pool.take(bytes) {
            return Ok(block);
        }
        let size = block_size(bytes);
        self.bind();
        let mut ptr = 0;
        // SAFETY: the out-pointer is a live local.
        let mut result = unsafe { sys::cuMemAlloc_v2(&mut ptr, size) };
        if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            // Widened matrices can be made again; one that is in use is not in the list.
            if let Ok(mut kept) = self.0.widened.try_lock() {
                kept.drain(..).for_each(|widened| widened.give_back(&mut pool));
            }
            pool.release();
            // SAFETY: as above.
            result = unsafe { sys::cuMemAlloc_v2(&mut ptr, size) };
        }
        if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(KernelError::DeviceMemory { device: self.label(), asked: size, used: pool.used });
        }
        self.check("allocating", result)?;
        pool.add(size);
        Ok((ptr, size))
    }

    /// A buffer of `len` floats with unspecified contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn alloc(&self, len: usize, float: Float) -> Result<DeviceBuffer, KernelError> {
        let (ptr, size) = self.raw(len * float.bytes())?;
        Ok(DeviceBuffer { inner: self.0.clone(), ptr, size, len, float: Some(float), home: Home::Pool })
    }

    /// A buffer of `len` bytes with unspecified contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn alloc_bytes(&self, len: usize) -> Result<DeviceBuffer, KernelError> {
        let (ptr, size) = self.raw(len)?;
        Ok(DeviceBuffer { inner: self.0.clone(), ptr, size, len, float: None, home: Home::Pool })
    }

    /// Zeros (f32) in the host's memory, pinned, which kernels read and write over the bus. They are none of the device's
    /// bytes.
    ///
    /// # Errors
    /// If there is not enough memory that can be pinned.
    pub fn zeros_on_host(&self, len: usize) -> Result<DeviceBuffer, KernelError> {
        let memory = HostMemory::zeros(self, len)?;
        let (inner, ptr, float) = (self.0.clone(), memory.ptr(), Some(Float::F32));
        Ok(DeviceBuffer { inner, ptr, size: 0, len, float, home: Home::Host(memory) })
    }

    /// Gives the matrix of this number to `f`; `fill` writes it, unless it is among those written last.
    pub(super) fn widened(
        &self,
        id: u64,
        float: Float,
        (rows, cols): (usize, usize),
        fill: impl FnOnce(View<'_>) -> Result<(), KernelError>,
        f: impl FnOnce(View<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        if self.not_recording().is_err() {
            // A graph finds nothing in the list when it runs: it widens for itself.
            let scratch = self.alloc(rows * cols, float)?;
            let view = scratch.view(0, rows, cols, cols);
            return fill(view).and_then(|()| f(view));
        }
        // Held until `f` has queued its work: then another thread may reuse the memory, behind it on the stream.
        let mut kept = lock(&self.0.widened);
        let view = |widened: &Widened| View::new(widened.ptr, float, rows, cols, cols);
        if let Some(at) = kept.iter().position(|widened| widened.id == id)
            && let Some(widened) = kept.remove(at)
        {
            let result = f(view(&widened));
            kept.push_back(widened);
            return result;
        }
        while kept.len() >= WIDENED {
            if let Some(oldest) = kept.pop_front() {
                oldest.give_back(&mut lock(&self.0.pool));
            }
        }
        let (ptr, size) = self.raw(rows * cols * float.bytes())?;
        let widened = Widened { id, ptr, size };
        match fill(view(&widened)) {
            Ok(()) => {
                let result = f(view(&widened));
                kept.push_back(widened);
                result
            }
            Err(error) => {
                widened.give_back(&mut lock(&self.0.pool));
                Err(error)
            }
        }
    }

    /// Gives blocks that are in no buffer back to the system.
    pub fn release(&self) {
        self.bind();
        lock(&self.0.pool).release();
    }

    /// Bytes that new buffers can have: what is free of the GPU's memory, and freed blocks that are kept for reuse.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn room(&self) -> Result<usize, KernelError> {
        let (free, _) = self.memory()?;
        let pool = lock(&self.0.pool);
        Ok(free + pool.held - pool.used)
    }

    /// Bytes in buffers at most so far; and bytes held now, buffers and blocks kept for the next ones.
    pub fn pool_bytes(&self) -> (usize, usize) {
        let pool = lock(&self.0.pool);
        (pool.peak, pool.held)
    }

    /// Overwrites a view of one row with zeros.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn zero(&self, to: View<'_>) -> Result<(), KernelError> {
        assert!(to.rows <= 1 || to.pitch == to.cols, "zeros are written to contiguous elements");
        self.bind();
        // SAFETY: the view lies inside of a live buffer.
        let result = unsafe { sys::cuMemsetD8Async(to.ptr, 0, to.rows * to.cols * to.float.bytes(), self.stream()) };
        self.check("clearing", result)
    }

    /// Copies bytes from one place on the GPU to another.
    pub(super) fn copy_bytes(&self, from: u64, to: u64, bytes: usize) -> Result<(), KernelError> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind();
        // SAFETY: callers name places inside of live buffers.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream()) };
        self.check("copying", result)
    }

    /// Copies `bytes` bytes of one buffer, from `at` on, into another, from `to_at` on.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn copy_part(
        &self,
        (from, at): (&DeviceBuffer, usize),
        (to, to_at): (&DeviceBuffer, usize),
        bytes: usize,
    ) -> Result<(), KernelError> {
        assert!(at + bytes <= from.bytes() && to_at + bytes <= to.bytes(), "parts inside of their buffers");
        self.copy_bytes(from.ptr + at as u64, to.ptr + to_at as u64, bytes)
    }

    fn upload<T>(&self, to: u64, data: &[T]) -> Result<(), KernelError> {
        if data.is_empty() {
            return Ok(());
        }
        self.not_recording()?;
        self.bind();
        // SAFETY: the caller made room for the data; memory that is not pinned may be reused when the call returns.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to, data.as_ptr().cast(), size_of_val(data), self.0.stream) };
        self.check("copying to the GPU", result)
    }

    fn download<T: Clone + Default>(&self, from: u64, len: usize) -> Result<Vec<T>, KernelError> {
        let mut data = vec![T::default(); len];
        if len == 0 {
            return Ok(data);
        }
        self.not_recording()?;
        self.bind();
        // SAFETY: the view lies inside of a live buffer and `data` has as many bytes; the wait keeps it alive.
        let result =
            unsafe { sys::cuMemcpyDtoHAsync_v2(data.as_mut_ptr().cast(), from, size_of_val(&data[..]), self.0.stream) };
        self.check("copying from the GPU", result)?;
        self.synchronize()?;
        Ok(data)
    }

    /// Bytes on the device.
    ///
    /// # Errors
    /// If there is not enough memory, or the driver fails.
    pub fn bytes<T: Copy>(&self, data: &[T]) -> Result<DeviceBuffer, KernelError> {
        let buffer = self.alloc_bytes(size_of_val(data))?;
        self.upload(buffer.ptr, data)?;
        Ok(buffer)
    }

    /// Overwrites the beginning of a buffer of bytes.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If the data is longer than the buffer.
    pub fn overwrite<T: Copy>(&self, data: &[T], to: &DeviceBuffer) -> Result<(), KernelError> {
        assert!(size_of_val(data) <= to.bytes(), "data that fits");
        self.upload(to.ptr, data)
    }

    /// Floats on the device.
    ///
    /// # Errors
    /// If there is not enough memory, or the driver fails.
    pub fn floats(&self, data: &[f32]) -> Result<DeviceBuffer, KernelError> {
        let buffer = self.alloc(data.len(), Float::F32)?;
        self.upload(buffer.ptr, data)?;
        Ok(buffer)
    }

    /// Writes floats over a view of one row, rounded to its type.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write(&self, data: &[f32], to: View<'_>) -> Result<(), KernelError> {
        assert_eq!(data.len(), to.rows * to.cols, "as many elements as the view has");
        match to.float {
            Float::F32 => self.upload(to.ptr, data),
            Float::Bf16 | Float::F16 => {
                let wide = self.floats(data)?;
                self.cast(wide.row(), to)
            }
        }
    }

    /// Writes elements of 16 bits over a view of one row of their type, as they are.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If the lengths or widths differ.
    pub(super) fn write_halves<T: Copy>(&self, data: &[T], to: View<'_>) -> Result<(), KernelError> {
        assert!(
            data.len() == to.rows * to.cols && size_of::<T>() == 2 && to.float.bytes() == 2,
            "elements as the view has"
        );
        self.upload(to.ptr, data)
    }

    /// The elements of a view of one row, once all work before is done.
    ///
    /// # Errors
    /// If that work or the copy failed.
    pub fn read(&self, from: View<'_>) -> Result<Vec<f32>, KernelError> {
        let len = from.rows * from.cols;
        match from.float {
            Float::F32 => self.download(from.ptr, len),
            Float::Bf16 => {
                let narrow: Vec<u16> = self.download(from.ptr, len)?;
                Ok(narrow.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect())
            }
            Float::F16 => {
                let narrow: Vec<u16> = self.download(from.ptr, len)?;
                Ok(narrow.into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect())
            }
        }
    }

    /// `len` integers from a buffer of bytes.
    ///
    /// # Errors
    /// If work before or the copy failed.
    pub fn read_ints(&self, from: &DeviceBuffer, len: usize) -> Result<Vec<u32>, KernelError> {
        assert!(len * 4 <= from.len * from.float.map_or(1, Float::bytes), "integers inside of the buffer");
        self.download(from.ptr, len)
    }

    /// `len` floats of 64 bits from a buffer of bytes.
    ///
    /// # Errors
    /// If work before or the copy failed.
    pub(super) fn read_doubles(&self, from: &DeviceBuffer, len: usize) -> Result<Vec<f64>, KernelError> {
        assert!(len * 8 <= from.len, "numbers inside of the buffer");
        self.download(from.ptr, len)
    }
}
