//! Captured graphs: launches that are recorded once and repeated with one call of the driver.
//!
//! A thread that records queues its launches on a stream of the recording instead of the device's; other threads go on
//! beside it. Memory for what the launches leave to each other comes from the recording's own blocks, which no buffer
//! outside of it uses as long as the graph may run.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex},
};

use cudarc::driver::sys;

use super::{Device, driver::Inner, pool::Blocks, raw::lock};
use crate::KernelError;

/// Blocks of memory for graphs. Graphs that never run at the same time, as all do that run on the device's stream, may
/// share them.
pub struct GraphMemory {
    device: Device,
    stream: sys::CUstream,
    free: Mutex<Blocks>,
}

// SAFETY: the handle may be used from any thread once the context is current there; the driver serialises calls on a stream.
unsafe impl Send for GraphMemory {}
// SAFETY: as above.
unsafe impl Sync for GraphMemory {}

impl fmt::Debug for GraphMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GraphMemory({})", self.device.label())
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        self.device.bind();
        let mut pool = lock(&self.device.0.pool);
        lock(&self.free).drain().for_each(|(block, size)| pool.give_back(block, size));
        // SAFETY: nothing is recorded any more.
        unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

/// A recorded run of launches.
pub struct Graph {
    exec: sys::CUgraphExec,
    memory: Arc<GraphMemory>,
}

// SAFETY: as for its memory.
unsafe impl Send for Graph {}
// SAFETY: as for its memory; the driver serialises launches.
unsafe impl Sync for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({})", self.memory.device.label())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.memory.device.bind();
        // SAFETY: the driver frees the graph once its launches are done.
        unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}

thread_local! {
    /// The memory of what this thread records.
    static RECORDING: RefCell<Option<Arc<GraphMemory>>> = const { RefCell::new(None) };
}

/// Runs `f` with the recording of this thread on this device, if there is one.
fn with_recording<T>(inner: &Arc<Inner>, f: impl FnOnce(&GraphMemory) -> T) -> Option<T> {
    // A thread that ends records nothing.
    let found = RECORDING.try_with(|recording| {
        let recording = recording.borrow();
        let memory = recording.as_ref()?;
        Arc::ptr_eq(&memory.device.0, inner).then(|| f(memory))
    });
    found.ok().flatten()
}

/// A block of the recording's for so many bytes; `None` if nothing is recorded, or none fits.
pub(super) fn take(inner: &Arc<Inner>, bytes: usize) -> Option<(u64, usize)> {
    with_recording(inner, |memory| lock(&memory.free).take(bytes)).flatten()
}

/// Whether a recording kept a block that is in no buffer any more.
pub(super) fn keep(inner: &Arc<Inner>, block: u64, size: usize) -> bool {
    with_recording(inner, |memory| lock(&memory.free).give(block, size)).is_some()
}

/// Ends a recording, also where a panic does.
struct Guard<'a>(&'a Device);

impl Guard<'_> {
    fn end(&self) -> (sys::CUgraph, sys::CUresult) {
        let mut graph = std::ptr::null_mut();
        let Some(memory) = RECORDING.take() else { return (graph, sys::CUresult::CUDA_ERROR_INVALID_HANDLE) };
        self.0.bind();
        // SAFETY: the stream is live; the out-pointer is a live local.
        let result = unsafe { sys::cuStreamEndCapture(memory.stream, &mut graph) };
        (graph, result)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let (graph, _) = self.end();
        if !graph.is_null() {
            // SAFETY: the graph is of this recording, and nothing else knows it.
            unsafe { sys::cuGraphDestroy(graph) };
        }
    }
}

impl Device {
    /// Memory for graphs of this device.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn graph_memory(&self) -> Result<Arc<GraphMemory>, KernelError> {
        self.bind();
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the out-pointer is a live local.
        self.check("making a stream", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(Arc::new(GraphMemory { device: self.clone(), stream, free: Mutex::default() }))
    }

    /// Records what `f` queues on this device, which is not run. Buffers from outside that it names must live as long as
    /// the graph; copies from and to the host cannot be recorded.
    ///
    /// # Errors
    /// Those of `f`; if it queues what cannot be recorded, or the driver fails.
    pub fn record(
        &self,
        memory: &Arc<GraphMemory>,
        f: impl FnOnce() -> Result<(), KernelError>,
    ) -> Result<Graph, KernelError> {
        assert!(RECORDING.with_borrow(Option::is_none), "one recording of a thread at a time");
        self.bind();
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live, and this thread's until the guard ends the recording.
        self.check("recording", unsafe { sys::cuStreamBeginCapture_v2(memory.stream, mode) })?;
        RECORDING.set(Some(Arc::clone(memory)));
        let guard = Guard(self);
        f()?;
        let (graph, result) = guard.end();
        self.check("recording", result)?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: the graph is live; the out-pointer is a live local. What can be run no longer needs the graph.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0);
            sys::cuGraphDestroy(graph);
            result
        };
        self.check("making a graph", result)?;
        Ok(Graph { exec, memory: Arc::clone(memory) })
    }

    /// Queues all launches of a graph on the device's stream.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn replay(&self, graph: &Graph) -> Result<(), KernelError> {
        self.bind();
        // SAFETY: the graph is live, and the driver keeps it until this launch is done.
        self.check("running a graph", unsafe { sys::cuGraphLaunch(graph.exec, self.0.stream) })
    }

    /// Where this thread queues its work.
    pub(super) fn stream(&self) -> sys::CUstream {
        with_recording(&self.0, |memory| memory.stream).unwrap_or(self.0.stream)
    }

    /// Refuses what cannot be recorded.
    pub(super) fn not_recording(&self) -> Result<(), KernelError> {
        match with_recording(&self.0, |_| ()) {
            Some(()) => Err(self.fail("a copy from or to the host cannot be recorded")),
            None => Ok(()),
        }
    }
}
