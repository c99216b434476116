//! A second stream of a GPU, for work that runs beside the first one's.

use cudarc::driver::sys;

use super::Device;
use crate::KernelError;

/// A stream beside the device's own, of higher priority, and the events that order the two.
#[derive(Debug)]
pub struct SideStream {
    device: Device,
    stream: sys::CUstream,
    event: sys::CUevent,
}

/// A moment in the work of a stream.
#[derive(Debug)]
pub struct Moment {
    device: Device,
    event: sys::CUevent,
}

// SAFETY: the handles may be used from any thread once the context is current there, which `bind` sees to.
unsafe impl Send for SideStream {}
// SAFETY: as above; the driver serialises calls on a stream.
unsafe impl Sync for SideStream {}
// SAFETY: as above.
unsafe impl Send for Moment {}
// SAFETY: as above.
unsafe impl Sync for Moment {}

fn event(device: &Device) -> Result<sys::CUevent, KernelError> {
    device.bind();
    let mut event = std::ptr::null_mut();
    let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
    // SAFETY: the out-pointer is a live local.
    device.check("making an event", unsafe { sys::cuEventCreate(&mut event, flags) })?;
    Ok(event)
}

impl SideStream {
    /// Makes a stream.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        let event = event(device)?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: out-pointers are live locals; the context is current.
        let result = unsafe {
            sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest);
            sys::cuStreamCreateWithPriority(&mut stream, flags, greatest)
        };
        device.check("making a stream", result)?;
        Ok(Self { device: device.clone(), stream, event })
    }

    #[cfg(feature = "nccl")]
    pub(super) fn handle(&self) -> sys::CUstream {
        self.stream
    }

    /// What is queued here from now on waits for all that is queued on the device's stream.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn follow(&self) -> Result<(), KernelError> {
        self.device.bind();
        // SAFETY: stream and event are live; an event may be recorded again once a wait for it is queued.
        let result = unsafe { sys::cuEventRecord(self.event, self.device.0.stream) };
        self.device.check("recording an event", result)?;
        // SAFETY: as above.
        let result = unsafe { sys::cuStreamWaitEvent(self.stream, self.event, 0) };
        self.device.check("waiting for an event", result)
    }

    /// A moment to mark in this stream's work.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn moment(&self) -> Result<Moment, KernelError> {
        Ok(Moment { device: self.device.clone(), event: event(&self.device)? })
    }

    /// Sets the moment to the end of all that is queued here.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn mark(&self, moment: &Moment) -> Result<(), KernelError> {
        self.device.bind();
        // SAFETY: stream and event are live.
        self.device.check("recording an event", unsafe { sys::cuEventRecord(moment.event, self.stream) })
    }
}

impl Device {
    /// A moment to mark in the work of the device's stream.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn moment(&self) -> Result<Moment, KernelError> {
        Ok(Moment { device: self.clone(), event: event(self)? })
    }

    /// Sets the moment to the end of all that is queued on the device's stream.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn mark(&self, moment: &Moment) -> Result<(), KernelError> {
        self.bind();
        // SAFETY: stream and event are live.
        self.check("recording an event", unsafe { sys::cuEventRecord(moment.event, self.0.stream) })
    }
}

impl Moment {
    /// Returns once this moment has passed.
    ///
    /// # Errors
    /// If work before it failed.
    pub fn reach(&self) -> Result<(), KernelError> {
        self.device.bind();
        // SAFETY: the event is live.
        self.device.check("waiting for an event", unsafe { sys::cuEventSynchronize(self.event) })?;
        self.device.sound()
    }

    /// What is queued on the device's stream from now on waits for this moment.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn wait(&self) -> Result<(), KernelError> {
        self.device.bind();
        // SAFETY: stream and event are live.
        let result = unsafe { sys::cuStreamWaitEvent(self.device.0.stream, self.event, 0) };
        self.device.check("waiting for an event", result)
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        self.device.bind();
        // SAFETY: nothing is queued here afterwards; the driver frees both once their work is done.
        unsafe {
            sys::cuEventDestroy_v2(self.event);
            sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        self.device.bind();
        // SAFETY: the event is live, and freed by the driver once it has passed.
        unsafe { sys::cuEventDestroy_v2(self.event) };
    }
}
