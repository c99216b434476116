//! Pinned memory of the host that kernels read and write over the bus.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::sys::{self, CUresult};

use super::{Device, Moment, driver::Inner};
use crate::KernelError;

/// A run of f32 in the host's memory, pinned and mapped for a GPU. It is none of the GPU's bytes.
pub struct HostMemory {
    inner: Arc<Inner>,
    /// Where the host sees it, and where the GPU does.
    host: u64,
    device: u64,
    len: usize,
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        self.inner.bind();
        // SAFETY: the memory came from `cuMemHostAlloc`, and nothing queued uses it once the stream is idle.
        unsafe {
            sys::cuStreamSynchronize(self.inner.stream);
            sys::cuMemFreeHost(self.host as *mut c_void);
        }
    }
}

impl HostMemory {
    /// Zeros.
    pub(super) fn zeros(device: &Device, len: usize) -> Result<Self, KernelError> {
        device.bind();
        let bytes = len * size_of::<f32>();
        let mut host = std::ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the out-pointer is a live local.
        let result = unsafe { sys::cuMemHostAlloc(&mut host, bytes.max(1), flags) };
        if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let gib = bytes as f64 / (1u64 << 30) as f64;
            return Err(device.fail(format!(
                "out of host memory: {gib:.2} GiB of pinned memory cannot be had; allow more (the limits of the container \
                 or the job, ulimit -l), share the optimizer's states over ranks (--sharding fsdp), or keep them on the \
                 GPU (training.paged_optimizer = false)"
            )));
        }
        device.check("allocating host memory", result)?;
        let mut memory = Self { inner: device.0.clone(), host: host as u64, device: 0, len };
        // SAFETY: the memory is mapped; the out-pointer is a live local.
        let result = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut memory.device, host, 0) };
        device.check("mapping host memory", result)?;
        // SAFETY: the memory has as many bytes, and no work uses it yet.
        unsafe { std::ptr::write_bytes(host.cast::<u8>(), 0, bytes) };
        Ok(memory)
    }

    /// Where the GPU sees it.
    pub(super) fn ptr(&self) -> u64 {
        self.device
    }

    fn place(&self, device: &Device, at: usize, len: usize) -> Result<*mut f32, KernelError> {
        assert!(at + len <= self.len, "elements inside of the buffer");
        device.synchronize()?;
        Ok((self.host as *mut f32).wrapping_add(at))
    }

    /// `len` elements from `at` on, once all work before is done.
    ///
    /// # Errors
    /// If that work failed.
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn read(&self, device: &Device, at: usize, len: usize) -> Result<Vec<f32>, KernelError> {
        let place = self.place(device, at, len)?;
        // SAFETY: the elements lie inside, were written as zeros at least, and no work is queued that writes them.
        Ok(unsafe { std::slice::from_raw_parts(place, len) }.to_vec())
    }

    /// The bits of `len` elements from `at` on, once a moment has passed after which no work writes them.
    ///
    /// # Errors
    /// If work before it failed.
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn bits_after(&self, moment: &Moment, at: usize, len: usize) -> Result<Vec<u32>, KernelError> {
        assert!(at + len <= self.len, "elements inside of the buffer");
        moment.reach()?;
        let place = (self.host as *const u32).wrapping_add(at);
        // SAFETY: the elements lie inside, were written as zeros at least, and no work is queued that writes them.
        Ok(unsafe { std::slice::from_raw_parts(place, len) }.to_vec())
    }

    /// Overwrites the elements from `at` on, once all work before is done.
    ///
    /// # Errors
    /// If that work failed.
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn write(&self, device: &Device, data: &[f32], at: usize) -> Result<(), KernelError> {
        let place = self.place(device, at, data.len())?;
        // SAFETY: the elements lie inside, and no work is queued that uses them; `data` is memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), place, data.len()) };
        Ok(())
    }
}
