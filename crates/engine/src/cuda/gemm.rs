//! Matrix products through cuBLASLt, with a plan for every shape that comes up.

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
    driver::sys::cuMemAlloc_v2,
};

use super::{Device, Float, View, driver::lock};
use crate::EngineError;

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

/// The library's state on one device.
pub(super) struct Products {
    handle: cublasLtHandle_t,
    workspace: u64,
    plans: HashMap<Key, Plan>,
    tf32: bool,
}

// SAFETY: the handles may be used from any thread, one at a time, which the mutex around this sees to.
unsafe impl Send for Products {}

impl Products {
    fn new(device: &Device) -> Result<Self, EngineError> {
        let handle = lt::create_handle().map_err(|error| device.fail(format!("cuBLASLt does not start: {error}")))?;
        let mut workspace = 0;
        // SAFETY: the out-pointer is a live local.
        device.check("allocating", unsafe { cuMemAlloc_v2(&mut workspace, WORKSPACE) })?;
        Ok(Self { handle, workspace, plans: HashMap::new(), tf32: false })
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
            cudarc::driver::sys::cuMemFree_v2(self.workspace);
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

impl Device {
    /// Whether factors of f32 products may be rounded to TF32 (10 bits of mantissa); off by default.
    ///
    /// # Errors
    /// If cuBLASLt does not start.
    pub fn set_tf32(&self, on: bool) -> Result<(), EngineError> {
        let mut products = lock(&self.0.products);
        self.products(&mut products)?.tf32 = on;
        Ok(())
    }

    fn products<'a>(&self, products: &'a mut Option<Products>) -> Result<&'a mut Products, EngineError> {
        if products.is_none() {
            self.bind();
            *products = Some(Products::new(self)?);
        }
        products.as_mut().ok_or_else(|| self.fail("cuBLASLt does not start"))
    }

    /// `c = beta * c + alpha * a * b`, summed in f32. Factors are of one type; the result may be of another.
    ///
    /// # Errors
    /// If the library has no kernel for the shapes, or the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn gemm(&self, alpha: f32, a: View<'_>, b: View<'_>, beta: f32, c: View<'_>) -> Result<(), EngineError> {
        assert!(a.rows == c.rows && a.cols == b.rows && b.cols == c.cols && !c.transposed, "shapes of a product");
        assert!(a.float == b.float, "factors of one type");
        if c.rows == 0 || c.cols == 0 || a.cols == 0 {
            return Ok(());
        }
        self.bind();
        let mut guard = lock(&self.0.products);
        let products = self.products(&mut guard)?;
        let key = Key {
            size: [c.rows, c.cols, a.cols],
            pitch: [stored_pitch(&a), stored_pitch(&b), stored_pitch(&c)],
            transposed: [a.transposed, b.transposed],
            float: [a.float, c.float],
            align: [alignment(a.ptr), alignment(b.ptr), alignment(c.ptr)],
            tf32: products.tf32,
        };
        if !products.plans.contains_key(&key) {
            let made = plan(products.handle, &key).map_err(|error| {
                let [m, n, k] = key.size;
                self.fail(format!("cuBLASLt has no product of {m} x {k} by {k} x {n} ({}): {error}", a.float.name()))
            })?;
            products.plans.insert(key, made);
        }
        let Some(plan) = products.plans.get(&key) else { return Ok(()) };
        // SAFETY: the views lie inside of live buffers of the plan's layouts; the workspace is used in stream order.
        let result = unsafe {
            lt::matmul(
                products.handle,
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
                products.workspace as *mut c_void,
                WORKSPACE,
                self.0.stream.cast(),
            )
        };
        result.map_err(|error| self.fail(format!("a product failed: {error}")))
    }
}
