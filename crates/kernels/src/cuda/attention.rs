//! Launches of the attention kernels.

use super::{
    Device, DeviceBuffer, Float, View,
    attention_decode::{DecodePlan, DecodeWork},
    driver::{Arg, Shape, args},
    ops::of,
    queries::{KeySegment, Query},
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

/// What the attention kernels are to do, on the device.
#[derive(Debug)]
pub struct AttentionWork {
    tiles: DeviceBuffer,
    count: usize,
    segments: DeviceBuffer,
    /// Tiles for the backward pass.
    backward: Option<DeviceBuffer>,
    /// The same for single rows.
    decode: Option<DecodeWork>,
    /// Whether there are no tiles, because all of it is for single rows.
    single: bool,
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

    /// Attention of runs of queries over cached keys; `heads` are the numbers of heads of queries and of keys.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn cached(device: &Device, queries: &[Query], heads: [usize; 2]) -> Result<Self, KernelError> {
        let (mut all, mut segments) = (vec![], vec![]);
        for query in queries {
            all.extend(tiles(query.row, query.rows, query.position, segments.len(), query.segments.len()));
            segments.extend_from_slice(&query.segments);
        }
        all.sort_by_key(|tile| std::cmp::Reverse(tile.position));
        let decode = DecodeWork::of(device, queries, heads)?;
        Ok(Self { decode, ..Self::new(device, &all, None, &segments)? })
    }

    fn new(
        device: &Device,
        forward: &[AttentionTile],
        backward: Option<&Vec<AttentionTile>>,
        segments: &[KeySegment],
    ) -> Result<Self, KernelError> {
        let backward = backward.map(|tiles| device.bytes(tiles)).transpose()?;
        let (tiles, segments) = (device.bytes(forward)?, device.bytes(segments)?);
        Ok(Self { tiles, count: forward.len(), segments, backward, decode: None, single: false })
    }

    /// Attention of single rows as a plan in memory says, which may change between launches. Only what
    /// [`Device::decodes`] knows can be computed with it.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn planned(device: &Device, work: DecodeWork) -> Result<Self, KernelError> {
        Ok(Self { decode: Some(work), single: true, ..Self::new(device, &[], None, &[])? })
    }
}

/// What else becomes of scores, on the device: as [`Scores`](crate::cpu::attention::Scores). The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceScores<'a> {
    /// The factor, where it is not [`AttentionShape::scale`].
    pub scale: Option<f32>,
    /// Soft limit.
    pub cap: Option<f32>,
    /// What a score loses for every position between query and key, by query head (f32).
    pub slopes: Option<&'a DeviceBuffer>,
    /// Scores gain the product of slope and the key's position instead, rounded to bf16, times this.
    pub rounded: Option<f32>,
    /// A further score of every query head without a value (f32).
    pub sinks: Option<&'a DeviceBuffer>,
    /// Length of the chunks beyond which rows do not see.
    pub chunk: Option<usize>,
}

impl DeviceScores<'_> {
    /// Whether the kernels of plain attention compute these.
    fn is_plain(&self) -> bool {
        self.cap.is_none() && self.slopes.is_none() && self.sinks.is_none() && self.chunk.is_none()
    }

    fn check(&self, shape: &AttentionShape) {
        let by_head = [self.slopes, self.sinks].into_iter().flatten();
        assert!(
            by_head.into_iter().all(|buffer| buffer.float() == Float::F32 && buffer.len() == shape.heads),
            "a number for every query head"
        );
        assert!(self.chunk != Some(0) && self.cap != Some(0.0), "limits above 0");
    }

    /// What all kernels but those of plain attention are told, sinks apart.
    fn args(&self) -> Vec<Arg> {
        let slopes = self.slopes.map_or(0, DeviceBuffer::ptr);
        args![self.cap.unwrap_or(0.0), slopes, self.rounded.unwrap_or(0.0), self.chunk.unwrap_or(0)].to_vec()
    }
}

/// Widths with a tensor-core kernel take it in 16 bits, others one of the general kernels.
#[derive(Clone, Copy, PartialEq)]
enum Kernel {
    /// On tensor cores, without anything special about scores.
    Tensor(usize),
    /// On tensor cores, with all that scores may have.
    More(usize),
    /// As `Tensor`, in f32 arithmetic for heads up to this width.
    General(usize),
    /// As `More`, likewise.
    All(usize),
}

impl Kernel {
    fn shared(self, tensor: impl Fn(usize) -> usize, tiles: usize) -> u32 {
        let bytes = match self {
            Self::Tensor(dim) | Self::More(dim) => tensor(dim + 8),
            Self::General(width) | Self::All(width) => {
                let side = ROWS / self.parts();
                tiles * side * (width + 4) * 4 + side * (side + 4) * 4
            }
        };
        bytes as u32
    }

    /// Blocks that share the rows of a tile.
    fn parts(self) -> usize {
        if self == Self::All(256) { 2 } else { 1 }
    }

    fn threads(self) -> u32 {
        if matches!(self, Self::General(_) | Self::All(_)) { 256 } else { 128 }
    }

    /// The head's width, the factor, the window, and what else becomes of scores, as far as the kernel asks for it.
    fn args(self, shape: &AttentionShape, scores: &DeviceScores<'_>) -> Vec<Arg> {
        let scale = scores.scale.unwrap_or_else(|| shape.scale());
        let mut args = vec![];
        if matches!(self, Self::General(_) | Self::All(_)) {
            args.push(Arg::from(shape.head_dim));
        }
        args.extend(args![scale, shape.window.unwrap_or(0)]);
        if matches!(self, Self::More(_) | Self::All(_)) {
            args.extend(scores.args());
        }
        args
    }
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
            (Kernel::More(64), _) => concat!($name, "_more_bf16_64"),
            (Kernel::More(80), _) => concat!($name, "_more_bf16_80"),
            (Kernel::More(96), _) => concat!($name, "_more_bf16_96"),
            (Kernel::More(128), _) => concat!($name, "_more_bf16_128"),
            (Kernel::More(192), _) => concat!($name, "_more_bf16_192"),
            (Kernel::More(_), _) => concat!($name, "_more_bf16_256"),
            (Kernel::General(64), Float::F32) => concat!($name, "_f32_64"),
            (Kernel::General(_), Float::F32) => concat!($name, "_f32_128"),
            (Kernel::General(64), Float::Bf16) => concat!($name, "_bf16_64"),
            (Kernel::General(_), Float::Bf16) => concat!($name, "_bf16_128"),
            (Kernel::General(64), Float::F16) => concat!($name, "_f16_64"),
            (Kernel::General(_), Float::F16) => concat!($name, "_f16_128"),
            (Kernel::All(64), Float::F32) => concat!($name, "_all_f32_64"),
            (Kernel::All(128), Float::F32) => concat!($name, "_all_f32_128"),
            (Kernel::All(_), Float::F32) => concat!($name, "_all_f32_256"),
            (Kernel::All(64), Float::Bf16) => concat!($name, "_all_bf16_64"),
            (Kernel::All(128), Float::Bf16) => concat!($name, "_all_bf16_128"),
            (Kernel::All(_), Float::Bf16) => concat!($name, "_all_bf16_256"),
            (Kernel::All(64), Float::F16) => concat!($name, "_all_f16_64"),
            (Kernel::All(128), Float::F16) => concat!($name, "_all_f16_128"),
            (Kernel::All(_), Float::F16) => concat!($name, "_all_f16_256"),
        }
    };
}

impl Device {
    /// Whether attention of single rows is computed over plans that are split over the context.
    pub fn decodes(float: Float, shape: &AttentionShape, scores: &DeviceScores<'_>) -> bool {
        let group = shape.heads / shape.kv_heads.max(1);
        float != Float::F32 && matches!(shape.head_dim, 64 | 128) && DecodePlan::serves(group) && scores.is_plain()
    }

    fn attention_kernel(&self, views: &[View<'_>], dim: usize, plain: bool) -> Result<Kernel, KernelError> {
        if dim > 256 {
            return Err(self.fail(format!(
                "heads of width {dim} are not supported on a GPU; expected at most 256: use --device cpu"
            )));
        }
        let aligned = |view: &View<'_>| view.pitch.is_multiple_of(8) && view.ptr.is_multiple_of(16);
        let short = |view: &View<'_>| view.float != Float::F32 && (view.rows == 0 || aligned(view));
        let tensor = views.iter().all(short);
        Ok(match dim {
            64 | 96 | 128 if tensor && plain => Kernel::Tensor(dim),
            64 | 80 | 96 | 128 | 192 | 256 if tensor && views[0].float == Float::Bf16 => Kernel::More(dim),
            0..=128 => {
                let width = if dim <= 64 { 64 } else { 128 };
                if plain { Kernel::General(width) } else { Kernel::All(width) }
            }
            _ => Kernel::All(256),
        })
    }

    /// Causal attention. Saves the log of the sum of exponentials as `[rows, heads]` in `lse`.
    ///
    /// # Errors
    /// If the heads are too wide, or the driver fails.
    pub fn attention(
        &self,
        qkv: [View<'_>; 3],
        shape: AttentionShape,
        work: &AttentionWork,
        o: View<'_>,
        lse: Option<&DeviceBuffer>,
    ) -> Result<(), KernelError> {
        self.attention_with(qkv, shape, DeviceScores::default(), work, o, lse)
    }

    /// As [`Device::attention`], with more said about the scores. Sinks are part of the sums of exponentials.
    ///
    /// # Errors
    /// As [`Device::attention`].
    pub fn attention_with(
        &self,
        [q, k, v]: [View<'_>; 3],
        shape: AttentionShape,
        scores: DeviceScores<'_>,
        work: &AttentionWork,
        o: View<'_>,
        lse: Option<&DeviceBuffer>,
    ) -> Result<(), KernelError> {
        let AttentionShape { heads, kv_heads, head_dim: dim, .. } = shape;
        let (q_dim, kv_dim) = (heads * dim, kv_heads * dim);
        assert!([q.cols, k.cols, v.cols, o.cols] == [q_dim, kv_dim, kv_dim, q_dim], "columns of an attention");
        assert!([k, v, o].iter().all(|view| view.float == q.float), "one type");
        scores.check(&shape);
        let kernel = self.attention_kernel(&[q, k, v, o], dim, scores.is_plain())?;
        if let (Kernel::Tensor(_), Some(work), None) = (kernel, &work.decode, lse)
            && Self::decodes(q.float, &shape, &scores)
        {
            let scale = scores.scale.unwrap_or_else(|| shape.scale());
            return self.attention_decode([q, k, v], shape, scale, work, o);
        }
        if work.single {
            return Err(self.fail("a plan for single rows does not serve this attention"));
        }
        let step = if dim > 128 { 32 } else { 64 };
        let shared = kernel.shared(|pitch| (ROWS + 4 * step) * pitch * 2, 3);
        let (lse, group) = (lse.map_or(0, DeviceBuffer::ptr), heads / kv_heads.max(1));
        let tiles = (work.tiles.ptr(), work.segments.ptr());
        let mut args = args![[q], [k], [v], [o], lse, tiles.0, tiles.1, heads, group].to_vec();
        args.extend(kernel.args(&shape, &scores));
        if matches!(kernel, Kernel::More(_) | Kernel::All(_)) {
            args.push(scores.sinks.map_or(0, DeviceBuffer::ptr).into());
        }
        let launch = Shape { grid: (work.count * kernel.parts(), heads), block: (kernel.threads(), 1), shared };
        self.launch(kernel_name!(kernel, q.float, "attention"), launch, &args)
    }

    /// Backward of [`Device::attention`] over documents, into the columns of q, k and v of `dqkv`, which are overwritten.
    ///
    /// # Errors
    /// If the driver fails, or `work` was made for the forward pass only.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    pub fn attention_backward(
        &self,
        qkv: [View<'_>; 3],
        shape: AttentionShape,
        work: &AttentionWork,
        o: View<'_>,
        lse: &DeviceBuffer,
        d_o: View<'_>,
        dqkv: View<'_>,
    ) -> Result<(), KernelError> {
        self.attention_backward_with(qkv, shape, DeviceScores::default(), work, o, lse, d_o, dqkv)
    }

    /// Backward of [`Device::attention_with`], as [`Device::attention_backward`]. Slopes and sinks get no gradient.
    ///
    /// # Errors
    /// As [`Device::attention_backward`].
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    pub fn attention_backward_with(
        &self,
        [q, k, v]: [View<'_>; 3],
        shape: AttentionShape,
        scores: DeviceScores<'_>,
        work: &AttentionWork,
        o: View<'_>,
        lse: &DeviceBuffer,
        d_o: View<'_>,
        dqkv: View<'_>,
    ) -> Result<(), KernelError> {
        let AttentionShape { heads, kv_heads, head_dim: dim, .. } = shape;
        let (q_dim, kv_dim) = (heads * dim, kv_heads * dim);
        assert!(k.cols == kv_dim && v.cols == kv_dim && dqkv.cols == q_dim + 2 * kv_dim, "columns of an attention");
        scores.check(&shape);
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
        let kernel = self.attention_kernel(&[q, k, v, d_o, dq, dk, dv], dim, scores.is_plain())?;
        let shared = kernel.shared(|pitch| (2 * ROWS + 4 * 32) * pitch * 2 + 4 * 32 * 4, 4);
        let inputs = args![q.ptr, k.ptr, v.ptr, q.pitch, lse.ptr(), [d_o], dots.ptr()];
        let mut rest = args![tiles.ptr(), heads, heads / kv_heads.max(1)].to_vec();
        rest.extend(kernel.args(&shape, &scores));
        let (count, block) = (work.count * kernel.parts(), (kernel.threads(), 1));
        let args = [&inputs[..], &args![[dq]], &rest].concat();
        let launch = Shape { grid: (count, heads), block, shared };
        self.launch(kernel_name!(kernel, q.float, "attention_backward_q"), launch, &args)?;
        let args = [&inputs[..], &args![dk.ptr, dv.ptr, dk.pitch], &rest].concat();
        // Wide heads take a block for dK and another for dV.
        let apart = matches!(kernel, Kernel::More(129..));
        let launch = Shape { grid: (count, if apart { 2 * kv_heads } else { kv_heads }), block, shared };
        self.launch(kernel_name!(kernel, q.float, "attention_backward_kv"), launch, &args)
    }

    /// Copies a matrix row by row; both have one type and shape.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn copy_rows(&self, from: View<'_>, to: View<'_>) -> Result<(), KernelError> {
        use cudarc::driver::sys::{CUDA_MEMCPY2D, CUmemorytype, cuMemcpy2DAsync_v2};
        assert!(from.rows == to.rows && from.cols == to.cols && from.float == to.float, "one type and shape");
        if from.rows * from.cols == 0 {
            return Ok(());
        }
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
        self.check("copying rows", unsafe { cuMemcpy2DAsync_v2(&raw const copy, self.stream()) })
    }
}
