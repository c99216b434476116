//! A GPU: its context, its stream, its kernels.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    ffi::{CStr, CString, c_void},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cudarc::driver::sys::{self, CUresult};

use super::{
    gemm::Products,
    memory::{Pool, Widened},
};
use crate::EngineError;

/// Kernels for sm_90a and PTX for compute_80.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Oldest driver whose version answers to CUDA 13.0.
const DRIVER: i32 = 13_000;

/// An opened GPU; clones share it.
#[derive(Clone)]
pub struct Device(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) ordinal: usize,
    name: String,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    module: sys::CUmodule,
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
        write!(f, "Device({} {})", self.label(), self.0.name)
    }
}

impl Device {
    /// Number of GPUs that this process sees.
    ///
    /// # Errors
    /// If there is no driver or no GPU, or the driver is too old.
    pub fn count() -> Result<usize, EngineError> {
        Self::start("cuda")
    }

    /// Starts the driver; gives the number of GPUs. `label` names in errors what is asked for.
    fn start(label: &str) -> Result<usize, EngineError> {
        let fail = |reason: &str| EngineError::Device { device: label.to_owned(), reason: reason.to_owned() };
        // SAFETY: loads NVIDIA's library, whose initialiser has no other effect.
        if !unsafe { sys::is_culib_present() } {
            return Err(fail(
                "no NVIDIA driver (libcuda.so.1 cannot be loaded); use --device cpu, or run on a machine with an NVIDIA \
                 GPU and driver 580 or later",
            ));
        }
        // SAFETY: plain driver calls; out-pointers are live locals.
        unsafe {
            let mut version = 0;
            if sys::cuDriverGetVersion(&mut version) == CUresult::CUDA_SUCCESS && version < DRIVER {
                return Err(fail(&format!(
                    "the driver is for CUDA {}.{}; expected 13.0 or later (driver 580 or later): update the driver, or \
                     use --device cpu",
                    version / 1000,
                    version % 1000 / 10
                )));
            }
            match sys::cuInit(0) {
                CUresult::CUDA_SUCCESS => {}
                CUresult::CUDA_ERROR_NO_DEVICE => return Err(fail("no GPU; use --device cpu")),
                error => return Err(fail(&format!("the driver does not start: {}", describe(error)))),
            }
            let mut count = 0;
            match sys::cuDeviceGetCount(&mut count) {
                CUresult::CUDA_SUCCESS => Ok(count as usize),
                error => Err(fail(&format!("counting GPUs: {}", describe(error)))),
            }
        }
    }

    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// If there is no driver, it is too old, there is no such GPU, or cuBLASLt is missing.
    pub fn open(ordinal: usize) -> Result<Self, EngineError> {
        let label = format!("cuda:{ordinal}");
        let fail = |reason: String| EngineError::Device { device: label.clone(), reason };
        let check = |what: &str, result: CUresult| match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(fail(format!("{what}: {}", describe(error)))),
        };
        let count = Self::start(&label)?;
        if ordinal >= count {
            let last = count.saturating_sub(1);
            return Err(fail(format!("no such GPU: there are {count}, cuda:0 to cuda:{last}")));
        }
        // SAFETY: plain driver calls; out-pointers are live locals.
        unsafe {
            // SAFETY: as for the driver.
            if !cudarc::cublaslt::sys::is_culib_present() {
                return Err(fail(
                    "cuBLASLt (libcublasLt.so.13) is missing; install the CUDA 13 libraries or add their \
                                 folder to LD_LIBRARY_PATH"
                        .to_owned(),
                ));
            }
            let mut device = 0;
            check("opening", sys::cuDeviceGet(&mut device, ordinal as i32))?;
            let mut name = [0; 128];
            check("reading the name", sys::cuDeviceGetName(name.as_mut_ptr(), 127, device))?;
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            let attribute = |which| {
                let mut value = 0;
                check("reading an attribute", sys::cuDeviceGetAttribute(&mut value, which, device)).map(|()| value)
            };
            use sys::CUdevice_attribute_enum as Attribute;
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            if major < 8 {
                return Err(fail(format!("{name} has compute capability {major}.x; expected 8.0 (Ampere) or later")));
            }
            let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
            let (mut context, mut stream, mut module) =
                (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            check("making a context", sys::cuDevicePrimaryCtxRetain(&mut context, device))?;
            check("entering the context", sys::cuCtxSetCurrent(context))?;
            CURRENT.set(context);
            let non_blocking = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
            check("making a stream", sys::cuStreamCreate(&mut stream, non_blocking))?;
            check("loading the kernels", sys::cuModuleLoadData(&mut module, KERNELS.as_ptr().cast()))?;
            let inner = Inner {
                ordinal,
                name,
                context,
                stream,
                module,
                functions: Mutex::default(),
                multiprocessors,
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
        &self.0.name
    }

    /// Its name on the command line, e.g. `cuda:0`.
    pub fn label(&self) -> String {
        format!("cuda:{}", self.0.ordinal)
    }

    /// Bytes of the GPU's memory that are free, and all of them.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn memory(&self) -> Result<(usize, usize), EngineError> {
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
    pub fn synchronize(&self) -> Result<(), EngineError> {
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
    pub(super) fn sound(&self) -> Result<(), EngineError> {
        self.0.spoilt.get().map_or(Ok(()), |reason| Err(self.fail(reason)))
    }

    /// A number that no other matrix of the device has.
    pub(super) fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes the device's context current on this thread.
    pub(super) fn bind(&self) {
        self.0.bind();
    }

    pub(super) fn fail(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Device { device: self.label(), reason: reason.into() }
    }

    pub(super) fn check(&self, what: &str, result: CUresult) -> Result<(), EngineError> {
        match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(self.fail(format!("{what}: {}", describe(error)))),
        }
    }

    fn function(&self, name: &'static str, shared: u32) -> Result<sys::CUfunction, EngineError> {
        let mut functions = lock(&self.0.functions);
        if let Some(function) = functions.get(name).filter(|f| f.shared >= shared) {
            return Ok(function.handle);
        }
        let text = CString::new(name).map_err(|_| self.fail("a kernel's name has a zero byte"))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is live and the name ends in a zero byte.
        self.check(name, unsafe { sys::cuModuleGetFunction(&mut handle, self.0.module, text.as_ptr()) })?;
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
    pub(super) fn launch(&self, name: &'static str, shape: Shape, args: &[Arg]) -> Result<(), EngineError> {
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
        // SAFETY: the kernel reads as many arguments as it declares, which `args` holds in order; it does not write them.
        let result = unsafe {
            sys::cuLaunchKernel(
                function,
                grid.0 as u32,
                grid.1 as u32,
                1,
                block.0,
                block.1,
                1,
                shape.shared,
                self.0.stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
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
            sys::cuModuleUnload(self.module);
            sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver's words for an error.
pub(super) fn describe(error: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver gives a static string, or leaves null.
    let text = unsafe {
        if sys::cuGetErrorString(error, &mut text) != CUresult::CUDA_SUCCESS || text.is_null() {
            return format!("{error:?}");
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    };
    format!("{text} ({error:?})")
}
