//! Sums and copies between the GPUs of several processes, through NCCL.

use std::ffi::{CStr, c_void};

use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};

use super::{Device, Float, View};
use crate::EngineError;

/// What the first rank tells the others, so that they meet.
pub type MeetingPoint = [u8; 128];

/// One rank's place among GPUs that compute together. Operations run on the device's stream, in order with its kernels; all
/// ranks call the same ones in the same order.
#[derive(Debug)]
pub struct Communicator {
    device: Device,
    comm: ncclComm_t,
}

// SAFETY: the handle may be used from any thread, one at a time; the ranks of this program use it from one.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

fn data_type(float: Float) -> ncclDataType_t {
    match float {
        Float::F32 => ncclDataType_t::ncclFloat32,
        Float::Bf16 => ncclDataType_t::ncclBfloat16,
    }
}

fn check(device: &Device, what: &str, result: ncclResult_t) -> Result<(), EngineError> {
    if result == ncclResult_t::ncclSuccess {
        return Ok(());
    }
    // SAFETY: NCCL gives a static string.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(result)) }.to_string_lossy().into_owned();
    Err(device.fail(format!("NCCL, {what}: {text}")))
}

impl Communicator {
    fn present(device: &Device) -> Result<(), EngineError> {
        // SAFETY: loads NVIDIA's library, whose initialiser has no other effect.
        if unsafe { sys::is_culib_present() } {
            return Ok(());
        }
        Err(device.fail(
            "NCCL (libnccl.so) is missing; install it (version 2.30 or later), or add the folder that holds libnccl.so to \
             LD_LIBRARY_PATH",
        ))
    }

    /// Makes the meeting point, on the first rank.
    ///
    /// # Errors
    /// If NCCL is missing or fails.
    pub fn meeting_point(device: &Device) -> Result<MeetingPoint, EngineError> {
        Self::present(device)?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: the out-pointer is a live local.
        check(device, "making a meeting point", unsafe { sys::ncclGetUniqueId(&mut id) })?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// Meets the other ranks.
    ///
    /// # Errors
    /// If NCCL is missing or fails.
    pub fn meet(device: &Device, point: &MeetingPoint, rank: usize, world: usize) -> Result<Self, EngineError> {
        Self::present(device)?;
        device.bind();
        let id = ncclUniqueId { internal: point.map(|byte| byte as std::ffi::c_char) };
        let mut comm = std::ptr::null_mut();
        // SAFETY: the out-pointer is a live local; the device's context is current.
        let result = unsafe { sys::ncclCommInitRank(&mut comm, world as i32, id, rank as i32) };
        check(device, "meeting the other ranks", result)?;
        Ok(Self { device: device.clone(), comm })
    }

    /// Every element becomes the sum over the ranks.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn all_reduce_sum(&self, data: View<'_>) -> Result<(), EngineError> {
        let count = self.count(&data);
        let buffer = data.ptr as *mut c_void;
        // SAFETY: the view lies inside of a live buffer, and the operation is ordered by the device's stream.
        let result = unsafe {
            sys::ncclAllReduce(
                buffer,
                buffer,
                count,
                data_type(data.float),
                ncclRedOp_t::ncclSum,
                self.comm,
                self.device.0.stream.cast(),
            )
        };
        check(&self.device, "summing", result)
    }

    /// Every run of elements becomes what its owner has: `parts` are the runs in order of rank.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn gather(&self, parts: &[View<'_>]) -> Result<(), EngineError> {
        // SAFETY: NCCL's own bracket; no operation inside may fail half-way without ending it.
        check(&self.device, "gathering", unsafe { sys::ncclGroupStart() })?;
        let mut first = Ok(());
        for (owner, part) in parts.iter().enumerate() {
            let (count, buffer) = (self.count(part), part.ptr as *mut c_void);
            // SAFETY: as in `all_reduce_sum`.
            let result = unsafe {
                let float = data_type(part.float);
                sys::ncclBroadcast(buffer, buffer, count, float, owner as i32, self.comm, self.device.0.stream.cast())
            };
            first = first.and(check(&self.device, "gathering", result));
        }
        // SAFETY: ends the bracket above.
        first.and(check(&self.device, "gathering", unsafe { sys::ncclGroupEnd() }))
    }

    fn count(&self, view: &View<'_>) -> usize {
        assert!(view.rows <= 1 || view.pitch == view.cols, "contiguous elements");
        self.device.bind();
        view.rows * view.cols
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.device.bind();
        // SAFETY: nothing uses the communicator afterwards. Aborting does not wait for ranks that are gone.
        unsafe { sys::ncclCommAbort(self.comm) };
    }
}
