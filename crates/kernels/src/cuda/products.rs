//! cuBLASLt with a plan for every shape that comes up.

use std::{collections::HashMap, ffi::c_void};

use cudarc::{
    cublaslt::{
        result as lt,
        sys::{
            cublasComputeType_t as Compute, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
            cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulPreferenceAttributes_t as Preference,
            cublasLtMatrixLayout_t, cudaDataType,
        },
    },
    driver::sys::{self, CUresult, cuMemAlloc_v2},
};

use super::{Float, View};

/// Scratch memory for split products, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// What a plan depends on: sizes, pitches, transpositions, types, alignments.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    size: [usize; 3],
    pitch: [usize; 3],
    transposed: [bool; 2],
    float: [Float; 2],
    align: [u32; 3],
    tf32: bool,
}

struct Plan {
    desc: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 3],
    algo: cublasLtMatmulAlgo_t,
}

/// What can go wrong with a product.
pub(super) enum Failed {
    Start(lt::CublasError),
    Memory(CUresult),
    Plan { size: [usize; 3], error: lt::CublasError },
    Run { size: [usize; 3], error: lt::CublasError },
}

/// The library's state on one device.
pub(super) struct Products {
    handle: cublasLtHandle_t,
    workspace: u64,
    plans: HashMap<Key, Plan>,
    /// Whether factors of f32 products may be rounded to TF32.
    pub(super) tf32: bool,
}

// SAFETY: the handles may be used from any thread, one at a time, which the mutex around this sees to.
unsafe impl Send for Products {}

impl Products {
    /// Starts the library in the current context.
    pub(super) fn new() -> Result<Self, Failed> {
        let handle = lt::create_handle().map_err(Failed::Start)?;
        let mut workspace = 0;
        // SAFETY: the out-pointer is a live local.
        match unsafe { cuMemAlloc_v2(&mut workspace, WORKSPACE) } {
            CUresult::CUDA_SUCCESS => Ok(Self { handle, workspace, plans: HashMap::new(), tf32: false }),
            error => Err(Failed::Memory(error)),
        }
    }

    /// Queues `c = beta * c + alpha * a * b` on a stream of the current context.
    ///
    /// # Safety
    /// The views lie inside of live buffers, and nothing else uses the workspace but in the order of the stream.
    pub(super) unsafe fn multiply(
        &mut self,
        (alpha, beta): (f32, f32),
        [a, b, c]: [&View<'_>; 3],
        stream: sys::CUstream,
    ) -> Result<(), Failed> {
        let key = Key {
            size: [c.rows, c.cols, a.cols],
            pitch: [stored_pitch(a), stored_pitch(b), stored_pitch(c)],
            transposed: [a.transposed, b.transposed],
            float: [a.float, c.float],
            align: [alignment(a.ptr), alignment(b.ptr), alignment(c.ptr)],
            tf32: self.tf32,
        };
        if !self.plans.contains_key(&key) {
            let made = plan(self.handle, &key).map_err(|error| Failed::Plan { size: key.size, error })?;
            self.plans.insert(key, made);
        }
        let Some(plan) = self.plans.get(&key) else { return Ok(()) };
        // SAFETY: as the caller promises; the plan has the layouts of the views.
        let result = unsafe {
            lt::matmul(
                self.handle,
                plan.desc,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b.ptr as *const c_void,
                plan.layouts[0],
                a.ptr as *const c_void,
                plan.layouts[1],
                c.ptr as *const c_void,
                plan.layouts[2],
                c.ptr as *mut c_void,
                plan.layouts[2],
                &raw const plan.algo,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        };
        result.map_err(|error| Failed::Run { size: key.size, error })
    }

    /// Frees everything.
    ///
    /// # Safety
    /// No product may be under way.
    pub(super) unsafe fn destroy(self) {
        // SAFETY: as the caller promises. Failures leave memory to the end of the process.
        unsafe {
            for plan in self.plans.values() {
                let _ = lt::destroy_matmul_desc(plan.desc);
                for layout in plan.layouts {
                    let _ = lt::destroy_matrix_layout(layout);
                }
            }
            let _ = lt::destroy_handle(self.handle);
            sys::cuMemFree_v2(self.workspace);
        }
    }
}

fn data_type(float: Float) -> cudaDataType {
    match float {
        Float::F32 => cudaDataType::CUDA_R_32F,
        Float::Bf16 => cudaDataType::CUDA_R_16BF,
        Float::F16 => cudaDataType::CUDA_R_16F,
    }
}

/// Distance of stored rows, also where there is one only.
fn stored_pitch(view: &View<'_>) -> usize {
    view.pitch.max(if view.transposed { view.rows } else { view.cols })
}

/// The largest power of two up to 256 that divides the address.
fn alignment(ptr: u64) -> u32 {
    1 << ptr.trailing_zeros().min(8)
}

fn plan(handle: cublasLtHandle_t, key: &Key) -> Result<Plan, lt::CublasError> {
    let compute = match (key.float[0], key.tf32) {
        (Float::F32, true) => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
        _ => Compute::CUBLAS_COMPUTE_32F,
    };
    let [m, n, k] = key.size.map(|x| x as u64);
    let (input, output) = (data_type(key.float[0]), data_type(key.float[1]));
    let desc = lt::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?;
    let transposed = |t: bool| i32::from(t);
    for (which, t) in [
        (DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, transposed(key.transposed[1])),
        (DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, transposed(key.transposed[0])),
    ] {
        // SAFETY: the attribute is an i32 that lives through the call.
        unsafe { lt::set_matmul_desc_attribute(desc, which, (&raw const t).cast::<c_void>(), size_of::<i32>())? };
    }
    // The library stores columns: the stored rows of ours are its columns, and the product is computed transposed.
    let stored = |rows: u64, cols: u64, t: bool| if t { (rows, cols) } else { (cols, rows) };
    let (b, a) = (stored(k, n, key.transposed[1]), stored(m, k, key.transposed[0]));
    let layouts = [
        lt::create_matrix_layout(input, b.0, b.1, key.pitch[1] as i64)?,
        lt::create_matrix_layout(input, a.0, a.1, key.pitch[0] as i64)?,
        lt::create_matrix_layout(output, n, m, key.pitch[2] as i64)?,
    ];
    let preference = lt::create_matmul_pref()?;
    let set = |which, value: *const c_void, size| {
        // SAFETY: the value lives through the call and has this size.
        unsafe { lt::set_matmul_pref_attribute(preference, which, value, size) }
    };
    set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const WORKSPACE_U64).cast(), 8)?;
    for (which, align) in [
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align[1]),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align[0]),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align[2]),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align[2]),
    ] {
        set(which, (&raw const align).cast(), size_of::<u32>())?;
    }
    // SAFETY: all handles are live.
    let found = unsafe {
        let [b, a, c] = layouts;
        let found = lt::get_matmul_algo_heuristic(handle, desc, b, a, c, c, preference);
        lt::destroy_matmul_pref(preference)?;
        found?
    };
    Ok(Plan { desc, layouts, algo: found.algo })
}

static WORKSPACE_U64: u64 = WORKSPACE as u64;
