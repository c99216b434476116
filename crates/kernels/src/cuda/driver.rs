//! A GPU: its context, its stream, its kernels.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    ffi::{CString, c_void},
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cudarc::driver::sys::{self, CUresult};

use super::{
    Gpu, gpu,
    pool::{Pool, Widened},
    products::Products,
    raw::{describe, lock},
};
use crate::KernelError;

macro_rules! kernels {
    ($($unit:literal),*) => { [$(include_bytes!(concat!(env!("OUT_DIR"), "/", $unit, ".fatbin"))),*] };
}

/// Kernels for sm_90a and PTX for compute_80, those that every pass needs first.
static KERNELS: [&[u8]; 5] = kernels!("blocks", "decoding", "codes", "attention", "attention_general");

/// An opened GPU; clones share it.
#[derive(Clone)]
pub struct Device(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) ordinal: usize,
    gpu: Gpu,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    modules: [sys::CUmodule; 5],
    functions: Mutex<HashMap<&'static str, Function>>,
    pub(super) multiprocessors: u32,
    pub(super) pool: Mutex<Pool>,
    pub(super) products: Mutex<Option<Products>>,
    /// Matrices widened last.
    pub(super) widened: Mutex<VecDeque<Widened>>,
    ids: AtomicU64,
    /// Why nothing computed here counts any more.
    spoilt: OnceLock<String>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Shared memory the kernel was allowed, in bytes.
    shared: u32,
}

// SAFETY: the handles may be used from any thread once the context is current there, which `bind` sees to; the driver
// serialises calls on a stream.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// One argument of a kernel: at most eight bytes.
#[derive(Clone, Copy)]
pub(super) struct Arg([u8; 8]);

macro_rules! arg {
    ($($type:ty),*) => {
        $(impl From<$type> for Arg {
            fn from(x: $type) -> Self {
                let mut bytes = [0; 8];
                bytes[..size_of::<$type>()].copy_from_slice(&x.to_ne_bytes());
                Self(bytes)
            }
        })*
    };
}
arg!(u64, i64, f32, u32);

impl From<usize> for Arg {
    fn from(x: usize) -> Self {
        (x as u64).into()
    }
}

impl From<bool> for Arg {
    fn from(x: bool) -> Self {
        u64::from(x).into()
    }
}

/// The arguments of a kernel in order; `[x]` stands for two, where the matrix `x` begins and its pitch.
macro_rules! args {
    (@ ($($done:expr,)*)) => { [$($crate::cuda::driver::Arg::from($done)),*] };
    (@ ($($done:expr,)*) [$matrix:ident] $(, $($rest:tt)*)?) => {
        args!(@ ($($done,)* $matrix.ptr, $matrix.pitch,) $($($rest)*)?)
    };
    (@ ($($done:expr,)*) $arg:expr $(, $($rest:tt)*)?) => { args!(@ ($($done,)* $arg,) $($($rest)*)?) };
    ($($args:tt)+) => { args!(@ () $($args)+) };
}
pub(super) use args;

/// A launch: blocks in x, y; threads of a block in x, y; bytes of shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) grid: (usize, usize),
    pub(super) block: (u32, u32),
    pub(super) shared: u32,
}

thread_local! {
    /// The context that is current on this thread.
    static CURRENT: Cell<sys::CUcontext> = const { Cell::new(std::ptr::null_mut()) };
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} {})", self.label(), self.name())
    }
}

impl Device {
    /// Number of GPUs that this process sees.
    ///
    /// # Errors
    /// If there is no driver or no GPU, or the driver is too old.
    pub fn count() -> Result<usize, KernelError> {
        gpu::start("cuda")
    }

    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// As [`Gpu::find`]; if the driver fails.
    pub fn open(ordinal: usize) -> Result<Self, KernelError> {
        let gpu = Gpu::find(ordinal)?;
        let check = |what: &str, result: CUresult| match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => {
                let (device, reason) = (format!("cuda:{ordinal}"), format!("{what}: {}", describe(error)));
                Err(KernelError::Device { device, reason })
            }
        };
        // SAFETY: plain driver calls; out-pointers are live locals.
        unsafe {
            let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
            check("making a context", sys::cuDevicePrimaryCtxRetain(&mut context, gpu.handle))?;
            check("entering the context", sys::cuCtxSetCurrent(context))?;
            CURRENT.set(context);
            let non_blocking = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
            check("making a stream", sys::cuStreamCreate(&mut stream, non_blocking))?;
            let mut modules = [std::ptr::null_mut(); 5];
            for (module, kernels) in modules.iter_mut().zip(KERNELS) {
                check("loading the kernels", sys::cuModuleLoadData(module, kernels.as_ptr().cast()))?;
            }
            let inner = Inner {
                ordinal,
                context,
                stream,
                modules,
                functions: Mutex::default(),
                multiprocessors: gpu.multiprocessors,
                gpu,
                pool: Mutex::default(),
                products: Mutex::default(),
                widened: Mutex::default(),
                ids: AtomicU64::new(0),
                spoilt: OnceLock::new(),
            };
            Ok(Self(Arc::new(inner)))
        }
    }

    /// The GPU's name, e.g. `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        self.0.gpu.name()
    }

    /// Its name on the command line, e.g. `cuda:0`.
    pub fn label(&self) -> String {
        format!("cuda:{}", self.0.ordinal)
    }

    /// Bytes of the GPU's memory that are free, and all of them.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn memory(&self) -> Result<(usize, usize), KernelError> {
        self.bind();
        let (mut free, mut total) = (0, 0);
        // SAFETY: out-pointers are live locals.
        self.check("reading the memory", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free, total))
    }

    /// Waits for all work begun.
    ///
    /// # Errors
    /// If some of it failed.
    pub fn synchronize(&self) -> Result<(), KernelError> {
        self.not_recording()?;
        self.bind();
        // SAFETY: the stream is live.
        self.check("waiting", unsafe { sys::cuStreamSynchronize(self.0.stream) })?;
        self.sound()
    }

    /// Says that what is computed here no longer counts, because work it waited for was broken off: from now on nothing
    /// can be read. The first reason is kept.
    pub fn spoil(&self, reason: String) {
        let _ = self.0.spoilt.set(reason);
    }

    /// Whether what is computed here counts.
    pub(super) fn sound(&self) -> Result<(), KernelError> {
        self.0.spoilt.get().map_or(Ok(()), |reason| Err(self.fail(reason)))
    }

    /// A number that nothing else of the device has.
    pub fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes the device's context current on this thread.
    pub(super) fn bind(&self) {
        self.0.bind();
    }

    /// An error of this device.
    pub fn fail(&self, reason: impl Into<String>) -> KernelError {
        KernelError::Device { device: self.label(), reason: reason.into() }
    }

    pub(super) fn check(&self, what: &str, result: CUresult) -> Result<(), KernelError> {
        match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(self.fail(format!("{what}: {}", describe(error)))),
        }
    }

    fn function(&self, name: &'static str, shared: u32) -> Result<sys::CUfunction, KernelError> {
        let mut functions = lock(&self.0.functions);
        if let Some(function) = functions.get(name).filter(|f| f.shared >= shared) {
            return Ok(function.handle);
        }
        let text = CString::new(name).map_err(|_| self.fail("a kernel's name has a zero byte"))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the modules are live and the name ends in a zero byte.
        let mut found = self
            .0
            .modules
            .iter()
            .map(|module| unsafe { sys::cuModuleGetFunction(&mut handle, *module, text.as_ptr()) });
        let other = |result: &CUresult| *result != CUresult::CUDA_ERROR_NOT_FOUND;
        self.check(name, found.find(other).unwrap_or(CUresult::CUDA_ERROR_NOT_FOUND))?;
        if shared > 48 << 10 {
            let which = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is live.
            self.check(name, unsafe { sys::cuFuncSetAttribute(handle, which, shared as i32) })?;
        }
        functions.insert(name, Function { handle, shared: shared.max(48 << 10) });
        Ok(handle)
    }

    /// Queues a kernel. Callers pass the arguments that the kernel declares: pointers that stay allocated until the
    /// stream has passed the launch, integers in 64 bits.
    pub(super) fn launch(&self, name: &'static str, shape: Shape, args: &[Arg]) -> Result<(), KernelError> {
        self.launch_with(name, shape, args, &mut [])
    }

    /// The same for a kernel that waits for those before it by itself (`wait_for_last`): it is begun while they run, where
    /// the GPU can (Hopper).
    pub(super) fn launch_early(&self, name: &'static str, shape: Shape, args: &[Arg]) -> Result<(), KernelError> {
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
        let mut early = [sys::CUlaunchAttribute { id, pad: Default::default(), value }];
        let can = self.0.gpu.capability() >= (9, 0);
        self.launch_with(name, shape, args, if can { &mut early } else { &mut [] })
    }

    fn launch_with(
        &self,
        name: &'static str,
        shape: Shape,
        args: &[Arg],
        attributes: &mut [sys::CUlaunchAttribute],
    ) -> Result<(), KernelError> {
        let (grid, block) = (shape.grid, shape.block);
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        self.bind();
        let function = self.function(name, shape.shared)?;
        let mut pointers: [*mut c_void; 24] = [std::ptr::null_mut(); 24];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.0.as_ptr().cast_mut().cast();
        }
        let config = sys::CUlaunchConfig {
            gridDimX: grid.0 as u32,
            gridDimY: grid.1 as u32,
            gridDimZ: 1,
            blockDimX: block.0,
            blockDimY: block.1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared,
            hStream: self.stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the kernel reads as many arguments as it declares, which `args` holds in order; it does not write them.
        let result = unsafe { sys::cuLaunchKernelEx(&config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) };
        self.check(name, result)
    }
}

impl Inner {
    pub(super) fn bind(&self) {
        if CURRENT.get() != self.context {
            // SAFETY: the context lives as long as the process. A failure shows in the next call.
            unsafe { sys::cuCtxSetCurrent(self.context) };
            CURRENT.set(self.context);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.bind();
        // SAFETY: no buffer outlives its device, so nothing queued uses what is freed here once the stream is idle.
        unsafe {
            sys::cuStreamSynchronize(self.stream);
            if let Some(products) = lock(&self.products).take() {
                products.destroy();
            }
            let mut pool = lock(&self.pool);
            lock(&self.widened).drain(..).for_each(|widened| widened.give_back(&mut pool));
            pool.release();
            drop(pool);
            for module in self.modules {
                sys::cuModuleUnload(module);
            }
            sys::cuStreamDestroy_v2(self.stream);
        }
    }
}
