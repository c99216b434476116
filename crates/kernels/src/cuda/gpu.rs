//! The GPUs that there are, and whether this program can use them.

use std::ffi::CStr;

use cudarc::driver::sys::{self, CUresult};

use super::raw::describe;
use crate::KernelError;

/// Oldest driver whose version answers to CUDA 13.0.
const DRIVER: i32 = 13_000;
/// Oldest compute capability that the kernels are compiled for.
const CAPABILITY: (i32, i32) = (8, 0);

/// A GPU as the driver describes it. Nothing is allocated on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub(super) handle: sys::CUdevice,
    name: String,
    uuid: String,
    capability: (i32, i32),
    pub(super) multiprocessors: u32,
    memory: usize,
}

fn fail(label: &str, reason: impl Into<String>) -> KernelError {
    KernelError::Device { device: label.to_owned(), reason: reason.into() }
}

/// Starts the driver; gives the number of GPUs. `label` names in errors what is asked for.
pub(super) fn start(label: &str) -> Result<usize, KernelError> {
    // SAFETY: loads NVIDIA's library, whose initialiser has no other effect.
    if !unsafe { sys::is_culib_present() } {
        return Err(fail(
            label,
            "no NVIDIA driver (libcuda.so.1 cannot be loaded); use --device cpu, or run on a machine with an NVIDIA GPU and \
             driver 580 or later",
        ));
    }
    let (mut version, mut count) = (0, 0);
    // SAFETY: plain driver calls; out-pointers are live locals.
    let results = unsafe {
        if sys::cuDriverGetVersion(&mut version) == CUresult::CUDA_SUCCESS && version < DRIVER {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            let reason = format!(
                "the driver is for CUDA {major}.{minor}; expected 13.0 or later (driver 580 or later): update the driver, or \
                 use --device cpu"
            );
            return Err(fail(label, reason));
        }
        [("the driver does not start", sys::cuInit(0)), ("counting GPUs", sys::cuDeviceGetCount(&mut count))]
    };
    for (what, result) in results {
        match result {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NO_DEVICE => return Err(no_gpu(label)),
            error => return Err(fail(label, format!("{what}: {}", describe(error)))),
        }
    }
    if count == 0 { Err(no_gpu(label)) } else { Ok(count as usize) }
}

fn no_gpu(label: &str) -> KernelError {
    let hidden = match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => format!(" that this process may use (CUDA_VISIBLE_DEVICES = {visible:?})"),
        Err(_) => String::new(),
    };
    fail(label, format!("there is no GPU{hidden}; use --device cpu, or run on a machine with an NVIDIA GPU"))
}

impl Gpu {
    /// Compute capability: major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// The GPU with this number, if this program can use it.
    ///
    /// # Errors
    /// If there is no driver, it is too old, there is no such GPU, it is too old, or cuBLASLt is missing.
    pub fn find(ordinal: usize) -> Result<Self, KernelError> {
        let label = format!("cuda:{ordinal}");
        let count = start(&label)?;
        if ordinal >= count {
            let there = match count {
                1 => "is one, cuda:0".to_owned(),
                _ => format!("are {count}, cuda:0 to cuda:{}", count - 1),
            };
            return Err(fail(&label, format!("no such GPU: there {there}")));
        }
        let gpu = Self::of(ordinal)?;
        if gpu.capability < CAPABILITY {
            let ((major, minor), name) = (gpu.capability, &gpu.name);
            let reason = format!(
                "{name} has compute capability {major}.{minor}; expected 8.0 (Ampere) or later: use another GPU, or \
                 --device cpu"
            );
            return Err(fail(&label, reason));
        }
        // SAFETY: loads NVIDIA's library, whose initialiser has no other effect.
        if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
            return Err(fail(
                &label,
                "cuBLASLt (libcublasLt.so.13) is missing; install the CUDA 13 libraries or add their folder to \
                 LD_LIBRARY_PATH",
            ));
        }
        Ok(gpu)
    }

    /// All GPUs that this process sees, in order of their numbers.
    ///
    /// # Errors
    /// If there is no driver or no GPU, or the driver is too old.
    pub fn all() -> Result<Vec<Self>, KernelError> {
        (0..start("cuda")?).map(Self::of).collect()
    }

    fn of(ordinal: usize) -> Result<Self, KernelError> {
        let check = |what: &str, result: CUresult| match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(fail(&format!("cuda:{ordinal}"), format!("{what}: {}", describe(error)))),
        };
        use sys::CUdevice_attribute_enum as Attribute;
        let (mut handle, mut name) = (0, [0; 128]);
        let (mut uuid, mut memory) = (sys::CUuuid { bytes: [0; 16] }, 0);
        // SAFETY: plain driver calls; out-pointers are live locals, and the name ends in a zero byte.
        unsafe {
            check("opening", sys::cuDeviceGet(&mut handle, ordinal as i32))?;
            check("reading the name", sys::cuDeviceGetName(name.as_mut_ptr(), 127, handle))?;
            check("reading the identity", sys::cuDeviceGetUuid_v2(&mut uuid, handle))?;
            check("reading the memory", sys::cuDeviceTotalMem_v2(&mut memory, handle))?;
            let attribute = |which| {
                let mut value = 0;
                check("reading an attribute", sys::cuDeviceGetAttribute(&mut value, which, handle)).map(|()| value)
            };
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            let uuid = uuid_text(uuid.bytes.map(|byte| byte as u8));
            Ok(Self { handle, name, uuid, capability: (major, minor), multiprocessors, memory })
        }
    }

    /// Its name, e.g. `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// What no other GPU is called, e.g. `GPU-0b1fdd4a-...`, as `nvidia-smi -L` prints it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::uuid_text;

    #[test]
    fn identities_are_written_as_the_driver_writes_them() {
        let bytes = std::array::from_fn(|i| 17 * i as u8);
        assert_eq!(uuid_text(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
