//! Sums and copies between GPUs, through NCCL.

use std::{
    ffi::{CStr, c_void},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};

use super::{Device, DeviceBuffer, Float, Moment, SideStream, View, raw::lock};
use crate::KernelError;

/// What the first rank tells the others, so that they meet.
pub type MeetingPoint = [u8; 128];

/// Oldest NCCL that all of this works with.
const OLDEST: i32 = 21_800;

/// One rank's place among GPUs that compute together. Operations run on a stream of their own, beside the device's; all
/// ranks call the same ones in the same order.
#[derive(Debug)]
pub struct Communicator {
    device: Device,
    comm: ncclComm_t,
    side: SideStream,
    end: Moment,
    /// Held while NCCL is called.
    calls: Mutex<()>,
    aborted: AtomicBool,
}

// SAFETY: the handle may be used from any thread, one at a time, which `calls` sees to; only aborting is allowed beside.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

fn data_type(float: Float) -> ncclDataType_t {
    match float {
        Float::F32 => ncclDataType_t::ncclFloat32,
        Float::Bf16 => ncclDataType_t::ncclBfloat16,
        Float::F16 => ncclDataType_t::ncclFloat16,
    }
}

fn check(device: &Device, what: &str, result: ncclResult_t) -> Result<(), KernelError> {
    if result == ncclResult_t::ncclSuccess {
        return Ok(());
    }
    // SAFETY: NCCL gives a static string.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(result)) }.to_string_lossy().into_owned();
    Err(device.fail(format!("NCCL, {what}: {text}")))
}

/// A run of elements that one rank has and all get.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a> {
    /// The rank that has it.
    pub owner: usize,
    /// Where it is, on that rank; `None` where it lies at `to` already.
    pub from: Option<View<'a>>,
    /// Where it goes.
    pub to: View<'a>,
}

/// Queues operations as one; the first failure, if there is one.
fn together(operations: impl Iterator<Item = ncclResult_t>) -> ncclResult_t {
    // SAFETY: NCCL's own bracket, which is closed whatever happens inside.
    let mut first = unsafe { sys::ncclGroupStart() };
    for result in operations {
        first = if first == ncclResult_t::ncclSuccess { result } else { first };
    }
    // SAFETY: closes the bracket.
    let end = unsafe { sys::ncclGroupEnd() };
    if first == ncclResult_t::ncclSuccess { end } else { first }
}

impl Communicator {
    /// Whether NCCL is there and new enough; `label` names in errors the device that needs it.
    ///
    /// # Errors
    /// If it is not.
    pub fn present(label: &str) -> Result<(), KernelError> {
        let fail = |reason: String| Err(KernelError::Device { device: label.to_owned(), reason });
        // SAFETY: loads NVIDIA's library, whose initialiser has no other effect.
        if !unsafe { sys::is_culib_present() } {
            return fail(
                "NCCL (libnccl.so) is missing, through which several GPUs compute together; install it (version 2.18 or \
                 later), or add the folder that holds libnccl.so to LD_LIBRARY_PATH (where there is libnccl.so.2 only: ln -s \
                 libnccl.so.2 libnccl.so)"
                    .to_owned(),
            );
        }
        let mut version = 0;
        // SAFETY: the out-pointer is a live local.
        if unsafe { sys::ncclGetVersion(&mut version) } != ncclResult_t::ncclSuccess {
            return fail("NCCL does not report its version; expected 2.18 or later".to_owned());
        }
        if version < OLDEST {
            // 2.8 and older count in thousands.
            let unit = if version < 10_000 { 1000 } else { 10_000 };
            let (major, minor) = (version / unit, version % unit / 100);
            return fail(format!("NCCL {major}.{minor} is too old; expected 2.18 or later"));
        }
        Ok(())
    }

    /// Makes the meeting point, on the first rank.
    ///
    /// # Errors
    /// If NCCL is missing, too old, or fails.
    pub fn meeting_point(device: &Device) -> Result<MeetingPoint, KernelError> {
        Self::present(&device.label())?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: the out-pointer is a live local.
        check(device, "making a meeting point", unsafe { sys::ncclGetUniqueId(&mut id) })?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// Meets the other ranks.
    ///
    /// # Errors
    /// If NCCL is missing, too old, or fails.
    pub fn meet(device: &Device, point: &MeetingPoint, rank: usize, world: usize) -> Result<Self, KernelError> {
        Self::present(&device.label())?;
        device.bind();
        let side = SideStream::new(device)?;
        let end = side.moment()?;
        let id = ncclUniqueId { internal: point.map(|byte| byte as std::ffi::c_char) };
        let mut comm = std::ptr::null_mut();
        // SAFETY: the out-pointer is a live local; the device's context is current.
        let result = unsafe { sys::ncclCommInitRank(&mut comm, world as i32, id, rank as i32) };
        check(device, "meeting the other ranks", result)?;
        Ok(Self { device: device.clone(), comm, side, end, calls: Mutex::default(), aborted: AtomicBool::new(false) })
    }

    /// Queues something on the side stream.
    fn call(&self, what: &str, f: impl FnOnce() -> ncclResult_t) -> Result<(), KernelError> {
        let _one_at_a_time = lock(&self.calls);
        if self.aborted.load(Ordering::Acquire) {
            self.device.sound()?;
            return Err(self.device.fail("another rank is gone"));
        }
        self.device.bind();
        check(&self.device, what, f())
    }

    /// Begins to make every element the sum over the ranks, once all that is queued on the device so far is done; what is
    /// queued next is not waited for.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn begin_sum(&self, data: View<'_>) -> Result<(), KernelError> {
        let (count, buffer) = (count(&data), data.ptr as *mut c_void);
        self.side.follow()?;
        let (float, stream) = (data_type(data.float), self.side.handle().cast());
        // SAFETY: the view lies inside of a live buffer, which callers keep until the sum has been waited for.
        self.call("summing", || unsafe {
            sys::ncclAllReduce(buffer, buffer, count, float, ncclRedOp_t::ncclSum, self.comm, stream)
        })
    }

    /// Begins to gather the bytes that every rank gives, as many as this one, in order of rank.
    ///
    /// # Errors
    /// If NCCL fails.
    ///
    /// # Panics
    /// If `all` is too small.
    pub fn begin_gather(&self, mine: &DeviceBuffer, all: &DeviceBuffer, world: usize) -> Result<(), KernelError> {
        assert!(all.bytes() >= world * mine.bytes(), "room for the parts of all ranks");
        self.side.follow()?;
        let (from, to, stream) = (mine.ptr() as *const c_void, all.ptr() as *mut c_void, self.side.handle().cast());
        // SAFETY: as in `begin_sum`.
        self.call("gathering", || unsafe {
            sys::ncclAllGather(from, to, mine.bytes(), ncclDataType_t::ncclUint8, self.comm, stream)
        })
    }

    /// Begins to copy runs of elements from the ranks that have them to all ranks.
    ///
    /// # Errors
    /// If NCCL fails.
    ///
    /// # Panics
    /// If a run is to go where it does not fit.
    pub fn begin_copies(&self, copies: &[Copied<'_>]) -> Result<(), KernelError> {
        self.side.follow()?;
        let stream = self.side.handle().cast();
        let copy = |copied: &Copied<'_>| {
            let (count, to, owner) = (count(&copied.to), copied.to.ptr as *mut c_void, copied.owner as i32);
            // Where this rank is not the owner, nothing is read.
            let from = copied.from.map_or(copied.to, |from| {
                assert!(self::count(&from) == count && from.float == copied.to.float, "room for the run");
                from
            });
            let float = data_type(from.float);
            // SAFETY: as in `begin_sum`.
            unsafe { sys::ncclBroadcast(from.ptr as *const c_void, to, count, float, owner, self.comm, stream) }
        };
        self.call("gathering", || together(copies.iter().map(copy)))
    }

    /// Begins to sum runs of elements over the ranks, each into the rank that is named with it; on the others the run stays
    /// as it is.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn begin_reduce(&self, runs: &[(usize, View<'_>)]) -> Result<(), KernelError> {
        self.side.follow()?;
        let stream = self.side.handle().cast();
        let reduce = |(owner, run): &(usize, View<'_>)| {
            let (count, buffer, float) = (count(run), run.ptr as *mut c_void, data_type(run.float));
            // SAFETY: as in `begin_sum`.
            unsafe {
                let sum = ncclRedOp_t::ncclSum;
                sys::ncclReduce(buffer, buffer, count, float, sum, *owner as i32, self.comm, stream)
            }
        };
        self.call("summing", || together(runs.iter().map(reduce)))
    }

    /// Every run of elements becomes what its owner has: `parts` are the runs in order of rank.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn gather(&self, parts: &[View<'_>]) -> Result<(), KernelError> {
        let copy = |(owner, &to)| Copied { owner, from: None, to };
        self.begin_copies(&parts.iter().enumerate().map(copy).collect::<Vec<_>>())?;
        self.wait()
    }

    /// What is queued on the device from now on waits for all operations begun.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn wait(&self) -> Result<(), KernelError> {
        self.side.mark(&self.end)?;
        self.end.wait()
    }

    /// The stream of the operations.
    pub fn side(&self) -> &SideStream {
        &self.side
    }

    /// Breaks off what is under way, from any thread: used when another rank is gone, which would be waited for without
    /// end. Nothing can be begun afterwards.
    pub fn abort(&self) {
        if self.aborted.swap(true, Ordering::AcqRel) {
            return;
        }
        self.device.bind();
        // A call that has begun is let finish, unless it is itself what hangs.
        let mut call = None;
        for _ in 0..200 {
            call = self.calls.try_lock().ok();
            if call.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: once only; NCCL allows it beside a call that hangs, and none begins any more.
        unsafe { sys::ncclCommAbort(self.comm) };
        drop(call);
    }
}

fn count(view: &View<'_>) -> usize {
    assert!(view.rows <= 1 || view.pitch == view.cols, "contiguous elements");
    view.rows * view.cols
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Does not wait for ranks that are gone.
        self.abort();
    }
}
