//! Launches of the attention kernels.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Arg, Shape, args},
    ops::of,
};
use crate::{KernelError, cpu::attention::AttentionShape};

/// Rows of a tile.
const ROWS: usize = 64;

/// Up to 64 query rows of one sequence, as the kernels read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AttentionTile {
    /// First row of the queries.
    pub row: i32,
    /// Number of rows.
    pub rows: i32,
    /// Position of the first row in its context.
    pub position: i32,
    /// First segment of the context.
    pub segment: i32,
    /// Number of segments; for the backward pass, the length of the document.
    pub segments: i32,
}

/// A run of rows of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KeySegment {
    /// First row.
    pub start: i32,
    /// Number of rows.
    pub len: i32,
}

/// What the attention kernels are to do, on the device.
#[derive(Debug)]
pub struct AttentionWork {
    tiles: DeviceBuffer,
    count: usize,
    segments: DeviceBuffer,
    /// Tiles for the backward pass.
    backward: Option<DeviceBuffer>,
}

/// The tiles of `rows` rows from `row` on, at context positions from `position` on.
fn tiles(row: usize, rows: usize, position: usize, segment: usize, segments: usize) -> Vec<AttentionTile> {
    (0..rows)
        .step_by(ROWS)
        .map(|from| AttentionTile {
            row: (row + from) as i32,
            rows: ROWS.min(rows - from) as i32,
            position: (position + from) as i32,
            segment: segment as i32,
            segments: segments as i32,
        })
        .collect()
}

/// A run of query rows and the keys it sees.
#[derive(Clone, Debug)]
pub struct Query {
    /// First row among the queries.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in the context.
    pub position: usize,
    /// The context in order.
    pub segments: Vec<KeySegment>,
}

impl AttentionWork {
    /// Attention within documents that lie one after another; `bounds` are their first rows and the number of rows.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn documents(device: &Device, bounds: &[u32], backward: bool) -> Result<Self, KernelError> {
        let (mut forward, mut back, mut segments) = (vec![], vec![], vec![]);
        for w in bounds.windows(2) {
            let (first, len) = (w[0] as usize, (w[1] - w[0]) as usize);
            forward.extend(tiles(first, len, 0, segments.len(), 1));
            back.extend(tiles(first, len, 0, segments.len(), len));
            segments.push(KeySegment { start: first as i32, len: len as i32 });
        }
        // The longest contexts first, so that no block is left alone at the end.
        forward.sort_by_key(|tile| std::cmp::Reverse(tile.position));
        back.sort_by_key(|tile| tile.position - tile.segments);
        Self::new(device, &forward, backward.then_some(&back), &segments)
    }

    /// Attention of runs of queries over cached keys.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn cached(device: &Device, queries: &[Query]) -> Result<Self, KernelError> {
        let (mut all, mut segments) = (vec![], vec![]);
        for query in queries {
            all.extend(tiles(query.row, query.rows, query.position, segments.len(), query.segments.len()));
            segments.extend_from_slice(&query.segments);
        }
        all.sort_by_key(|tile| std::cmp::Reverse(tile.position));
        Self::new(device, &all, None, &segments)
    }

    fn new(
        device: &Device,
        forward: &[AttentionTile],
        backward: Option<&Vec<AttentionTile>>,
        segments: &[KeySegment],
    ) -> Result<Self, KernelError> {
        let backward = backward.map(|tiles| device.bytes(tiles)).transpose()?;
        Ok(Self { tiles: device.bytes(forward)?, count: forward.len(), segments: device.bytes(segments)?, backward })
    }
}

/// Widths with a tensor-core kernel take it in 16 bits, others one of two general kernels.
#[derive(Clone, Copy)]
enum Kernel {
    Tensor(usize),
    General(usize),
}

fn shared_of(kernel: &Kernel, tensor: impl Fn(usize) -> usize, tiles: usize, scores: usize) -> u32 {
    let bytes = match *kernel {
        Kernel::Tensor(dim) => tensor(dim + 8),
        Kernel::General(width) => tiles * ROWS * (width + 4) * 4 + scores * ROWS * (ROWS + 4) * 4,
    };
    bytes as u32
}

macro_rules! kernel_name {
    ($kernel:expr, $float:expr, $name:literal) => {
        match ($kernel, $float) {
            (Kernel::Tensor(64), Float::F16) => concat!($name, "_mma_f16_64"),
            (Kernel::Tensor(96), Float::F16) => concat!($name, "_mma_f16_96"),
            (Kernel::Tensor(_), Float::F16) => concat!($name, "_mma_f16_128"),
            (Kernel::Tensor(64), _) => concat!($name, "_mma_bf16_64"),
            (Kernel::Tensor(96), _) => concat!($name, "_mma_bf16_96"),
            (Kernel::Tensor(_), _) => concat!($name, "_mma_bf16_128"),
            (Kernel::General(64), Float::F32) => concat!($name, "_f32_64"),
            (Kernel::General(_), Float::F32) => concat!($name, "_f32_128"),
            (Kernel::General(64), Float::Bf16) => concat!($name, "_bf16_64"),
            (Kernel::General(_), Float::Bf16) => concat!($name, "_bf16_128"),
            (Kernel::General(64), Float::F16) => concat!($name, "_f16_64"),
            (Kernel::General(_), Float::F16) => concat!($name, "_f16_128"),
        }
    };
}

impl Device {
    fn attention_kernel(&self, views: &[View<'_>], dim: usize) -> Result<Kernel, KernelError> {
        if dim > 128 {
            return Err(self.fail(format!(
                "heads of width {dim} are not supported on a GPU; expected at most 128: use --device cpu"
            )));
        }
        let aligned = |view: &View<'_>| view.pitch.is_multiple_of(8) && view.ptr.is_multiple_of(16);
        let tensor = matches!(dim, 64 | 96 | 128)
            && views.iter().all(|view| view.float != Float::F32 && (view.rows == 0 || aligned(view)));
        Ok(if tensor { Kernel::Tensor(dim) } else { Kernel::General(if dim <= 64 { 64 } else { 128 }) })
    }

    /// Causal attention. Saves the log of the sum of exponentials as `[rows, heads]` in `lse`.
    ///
    /// # Errors
    /// If the heads are too wide, or the driver fails.
    pub fn attention(
        &self,
        [q, k, v]: [View<'_>; 3],
        shape: AttentionShape,
        work: &AttentionWork,
        o: View<'_>,
        lse: Option<&DeviceBuffer>,
    ) -> Result<(), KernelError> {
        let AttentionShape { heads, kv_heads, head_dim: dim, window } = shape;
        let (q_dim, kv_dim) = (heads * dim, kv_heads * dim);
        assert!([q.cols, k.cols, v.cols, o.cols] == [q_dim, kv_dim, kv_dim, q_dim], "columns of an attention");
        assert!([k, v, o].iter().all(|view| view.float == q.float), "one type");
        let kernel = self.attention_kernel(&[q, k, v, o], dim)?;
        let scale = shape.scale();
        let shared = shared_of(&kernel, |pitch| (ROWS + 4 * 64) * pitch * 2, 3, 1);
        let (lse, group) = (lse.map_or(0, DeviceBuffer::ptr), heads / kv_heads.max(1));
        let tiles = (work.tiles.ptr(), work.segments.ptr());
        let mut args = args![[q], [k], [v], [o], lse, tiles.0, tiles.1, heads, group].to_vec();
        let threads = match kernel {
            Kernel::Tensor(_) => 128,
            Kernel::General(_) => {
                args.push(dim.into());
                256
            }
        };
        args.extend(args![scale, window.unwrap_or(0)]);
        let launch = Shape { grid: (work.count, heads), block: (threads, 1), shared };
        self.launch(kernel_name!(kernel, q.float, "attention"), launch, &args)
    }

    /// Backward of [`Device::attention`] over documents, into the columns of q, k and v of `dqkv`, which are overwritten.
    ///
    /// # Errors
    /// If the driver fails, or `work` was made for the forward pass only.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    pub fn attention_backward(
        &self,
        [q, k, v]: [View<'_>; 3],
        shape: AttentionShape,
        work: &AttentionWork,
        o: View<'_>,
        lse: &DeviceBuffer,
        d_o: View<'_>,
        dqkv: View<'_>,
    ) -> Result<(), KernelError> {
        let AttentionShape { heads, kv_heads, head_dim: dim, window } = shape;
        let (q_dim, kv_dim) = (heads * dim, kv_heads * dim);
        assert!(k.cols == kv_dim && v.cols == kv_dim && dqkv.cols == q_dim + 2 * kv_dim, "columns of an attention");
        let Some(tiles) = &work.backward else { return Err(self.fail("attention without its backward tiles")) };
        // The kernels read q, k and v with one pitch.
        let merged;
        let (q, k, v) = if q.pitch == k.pitch && q.pitch == v.pitch {
            (q, k, v)
        } else {
            merged = self.alloc(v.rows * q.pitch, v.float)?;
            let copy = merged.view(0, v.rows, v.cols, q.pitch);
            self.copy_rows(v, copy)?;
            (q, k, copy)
        };
        let dots = self.alloc(q.rows * heads, Float::F32)?;
        let launch = Shape { grid: ((q.rows * heads).div_ceil(8), 1), block: (32, 8), shared: 0 };
        let args = args![[o], [d_o], q.rows, heads, dim, dots.ptr()];
        self.launch(of!(o.float, "attention_dots"), launch, &args)?;

        let (dq, dk, dv) = (dqkv.columns(0, q_dim), dqkv.columns(q_dim, kv_dim), dqkv.columns(q_dim + kv_dim, kv_dim));
        let kernel = self.attention_kernel(&[q, k, v, d_o, dq, dk, dv], dim)?;
        let scale = shape.scale();
        let shared = shared_of(&kernel, |pitch| (2 * ROWS + 4 * 32) * pitch * 2 + 4 * 32 * 4, 4, 1);
        let (threads, dim_arg) = match kernel {
            Kernel::Tensor(_) => (128, None),
            Kernel::General(_) => (256, Some(dim)),
        };
        let inputs = args![q.ptr, k.ptr, v.ptr, q.pitch, lse.ptr(), [d_o], dots.ptr()];
        let mut rest = args![tiles.ptr(), heads, heads / kv_heads.max(1)].to_vec();
        rest.extend(dim_arg.map(Arg::from));
        rest.extend(args![scale, window.unwrap_or(0)]);
        let args = [&inputs[..], &args![[dq]], &rest].concat();
        let launch = Shape { grid: (work.count, heads), block: (threads, 1), shared };
        self.launch(kernel_name!(kernel, q.float, "attention_backward_q"), launch, &args)?;
        let args = [&inputs[..], &args![dk.ptr, dv.ptr, dk.pitch], &rest].concat();
        let launch = Shape { grid: (work.count, kv_heads), block: (threads, 1), shared };
        self.launch(kernel_name!(kernel, q.float, "attention_backward_kv"), launch, &args)
    }

    /// Copies a matrix row by row.
    fn copy_rows(&self, from: View<'_>, to: View<'_>) -> Result<(), KernelError> {
        use cudarc::driver::sys::{CUDA_MEMCPY2D, CUmemorytype, cuMemcpy2DAsync_v2};
        let bytes = from.float.bytes();
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: from.ptr,
            srcArray: std::ptr::null_mut(),
            srcPitch: from.pitch * bytes,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: to.ptr,
            dstArray: std::ptr::null_mut(),
            dstPitch: to.pitch * bytes,
            WidthInBytes: from.cols * bytes,
            Height: from.rows,
        };
        self.bind();
        // SAFETY: both matrices lie inside of live buffers.
        self.check("copying rows", unsafe { cuMemcpy2DAsync_v2(&raw const copy, self.0.stream) })
    }
}
