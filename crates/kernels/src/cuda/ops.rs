//! Launches of the element-wise kernels and norms.
//!
//! Shapes are checked here, so that no kernel leaves its buffers.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Shape, args},
};
use crate::KernelError;

pub(super) type Done = Result<(), KernelError>;

/// The kernel of a name for a type.
macro_rules! of {
    ($float:expr, $name:literal) => {
        match $float {
            Float::F32 => concat!($name, "_f32"),
            Float::Bf16 => concat!($name, "_bf16"),
            Float::F16 => concat!($name, "_f16"),
        }
    };
}
pub(super) use of;

/// The kernel between two types, by the first.
macro_rules! from {
    ($float:expr, $name:literal, $to:literal) => {
        match $float {
            Float::F32 => concat!($name, "f32", $to),
            Float::Bf16 => concat!($name, "bf16", $to),
            Float::F16 => concat!($name, "f16", $to),
        }
    };
}

pub(super) fn contiguous(view: &View<'_>) -> bool {
    view.rows <= 1 || view.pitch == view.cols
}

impl Device {
    /// Blocks of 256 threads for so many items, bounded by what the GPU runs at once.
    pub(super) fn spread(&self, items: usize) -> Shape {
        let most = self.0.multiprocessors as usize * 16;
        Shape { grid: (items.div_ceil(256).clamp(1, most), 1), block: (256, 1), shared: 0 }
    }

    /// As [`Device::spread`]; a thread takes four elements at a time if `vec`.
    pub(super) fn spread_by(&self, elements: usize, vec: bool) -> Shape {
        self.spread(if vec { elements / 4 } else { elements })
    }

    /// `y = x`, rounded to the type of `y`; both contiguous.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn cast(&self, x: View<'_>, y: View<'_>) -> Done {
        let n = x.rows * x.cols;
        assert!(n == y.rows * y.cols && contiguous(&x) && contiguous(&y), "contiguous elements, as many");
        if x.float == y.float {
            return self.copy_bytes(x.ptr, y.ptr, n * x.float.bytes());
        }
        let name = match (x.float, y.float) {
            (Float::F32, Float::F16) => "cast_f32_f16",
            (Float::F32, _) => "cast_f32_bf16",
            (Float::Bf16, Float::F16) => "cast_bf16_f16",
            (Float::Bf16, _) => "cast_bf16_f32",
            (Float::F16, Float::Bf16) => "cast_f16_bf16",
            (Float::F16, _) => "cast_f16_f32",
        };
        self.launch(name, self.spread(n), &args![x.ptr, y.ptr, n])
    }

    /// `y += x`; both contiguous and of one type.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn add(&self, x: View<'_>, y: View<'_>) -> Done {
        let n = x.rows * x.cols;
        assert!(n == y.rows * y.cols && contiguous(&x) && contiguous(&y) && x.float == y.float, "elements of one type");
        self.launch(of!(x.float, "add"), self.spread(n / 4 + 1), &args![x.ptr, y.ptr, n])
    }

    /// Adds a bias (f32) to every row.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn add_bias(&self, bias: View<'_>, y: View<'_>) -> Done {
        assert!(bias.float == Float::F32 && bias.cols == y.cols, "a bias of f32, one element a column");
        let args = args![bias.ptr, y.ptr, y.rows, y.cols, y.pitch];
        self.launch(of!(y.float, "add_bias"), self.spread(y.rows * y.cols), &args)
    }

    fn columns_shape(cols: usize) -> Shape {
        Shape { grid: (cols.div_ceil(32), 1), block: (32, 8), shared: 0 }
    }

    /// Adds the sum of the rows of `dy` to `db` (f32).
    ///
    /// # Errors
    /// If the driver fails.
    pub fn bias_backward(&self, dy: View<'_>, db: View<'_>) -> Done {
        assert!(db.float == Float::F32 && db.cols == dy.cols, "a gradient of f32, one element a column");
        let args = args![dy.ptr, db.ptr, dy.rows, dy.cols, dy.pitch];
        self.launch(of!(dy.float, "bias_backward"), Self::columns_shape(dy.cols), &args)
    }

    /// `y[i] = x[rows[i]]`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn gather(&self, x: View<'_>, rows: &DeviceBuffer, y: View<'_>) -> Done {
        assert!(rows.len() >= 4 * y.rows && x.cols == y.cols, "an index a row");
        let same = x.float == y.float;
        let vec = same && x.by_four() && y.by_four();
        let name = match y.float {
            Float::F32 => from!(x.float, "gather_", "_f32"),
            Float::Bf16 => from!(x.float, "gather_", "_bf16"),
            Float::F16 => from!(x.float, "gather_", "_f16"),
        };
        let args = args![[x], rows.ptr(), [y], y.rows, y.cols, vec];
        self.launch(name, self.spread_by(y.rows * y.cols, vec), &args)
    }

    /// `y[rows[i]] = x[i]`, all other rows 0; `rows` are distinct, `y` is contiguous.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn spread_rows(&self, x: View<'_>, rows: &DeviceBuffer, y: View<'_>) -> Done {
        assert!(rows.len() >= 4 * x.rows && x.cols == y.cols && x.float == y.float, "an index a row");
        self.zero(y)?;
        let vec = x.by_four() && y.by_four();
        let args = args![[x], rows.ptr(), [y], x.rows, x.cols, vec];
        self.launch(of!(x.float, "spread"), self.spread_by(x.rows * x.cols, vec), &args)
    }

    /// Adds to row `ids[g]` of the table's gradient (f32) the rows `order[starts[g]..starts[g + 1]]` of `dy`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn embed_backward(
        &self,
        dy: View<'_>,
        [ids, starts, order]: [&DeviceBuffer; 3],
        groups: usize,
        table: View<'_>,
    ) -> Done {
        assert!(table.float == Float::F32 && ids.len() >= 4 * groups && starts.len() >= 4 * (groups + 1), "groups");
        let args = args![[dy], ids.ptr(), starts.ptr(), order.ptr(), table.ptr, dy.cols];
        let shape = Shape { grid: (groups, 1), block: (256, 1), shared: 0 };
        self.launch(of!(dy.float, "embed_backward"), shape, &args)
    }

    /// Rotates all heads of all rows by the angles of their positions, or back.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn rope(
        &self,
        x: View<'_>,
        heads: usize,
        positions: &DeviceBuffer,
        table: &DeviceBuffer,
        inverse: bool,
    ) -> Done {
        self.rotate(x, heads, x.cols / heads.max(1), false, positions, table, inverse)
    }

    /// Rotates the first `dims` elements of all heads by the angles of their rows' positions, or back: in halves against
    /// each other, or with `pairs` each element against its neighbour. The table has `dims / 2` cosines and as many sines a
    /// position.
    ///
    /// # Errors
    /// If the driver fails.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    pub fn rotate(
        &self,
        x: View<'_>,
        heads: usize,
        dims: usize,
        pairs: bool,
        positions: &DeviceBuffer,
        table: &DeviceBuffer,
        inverse: bool,
    ) -> Done {
        let width = x.cols / heads.max(1);
        assert!(positions.len() >= 4 * x.rows && width * heads == x.cols, "a position a row");
        assert!(dims <= width && dims.is_multiple_of(2), "an even part of a head");
        let (half, sign) = (dims / 2, if inverse { -1f32 } else { 1.0 });
        let args = args![[x], x.rows, heads, width, half, pairs, positions.ptr(), table.ptr(), sign];
        self.launch(of!(x.float, "rope"), self.spread(x.rows * heads * half), &args)
    }

    /// `y = silu(gate) * up`; `gate_up` has the columns of gate and up side by side.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn swiglu(&self, gate_up: View<'_>, y: View<'_>) -> Done {
        self.gated(of!(y.float, "swiglu"), [gate_up, y], gate_up, y)
    }

    /// Backward of [`Device::swiglu`] in place: `gate_up` leaves as its gradient.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn swiglu_backward(&self, dy: View<'_>, gate_up: View<'_>) -> Done {
        self.gated(of!(dy.float, "swiglu_backward"), [dy, gate_up], gate_up, dy)
    }

    /// Launches a kernel over gate and up, and a matrix of half as many columns, which it takes in the order of `both`.
    fn gated(&self, name: &'static str, both: [View<'_>; 2], gate_up: View<'_>, half: View<'_>) -> Done {
        let (View { rows, cols, .. }, vec) = (half, both.iter().all(View::by_four));
        assert!(gate_up.cols == 2 * cols && gate_up.float == half.float && gate_up.rows == rows, "gate and up");
        let [a, b] = both;
        self.launch(name, self.spread_by(rows * cols, vec), &args![[a], [b], rows, cols, vec])
    }

    /// `y = x * mask * factor`, or `y += x * mask * factor`; element `(row, column)` of the mask is kept if its draw under
    /// `key` is at least `threshold`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn dropout(
        &self,
        x: View<'_>,
        y: View<'_>,
        (key, threshold, factor): (u64, u32, f32),
        accumulate: bool,
    ) -> Done {
        assert!(x.rows == y.rows && x.cols == y.cols && x.float == y.float, "elements of one type");
        let vec = x.by_four() && y.by_four() && x.cols.is_multiple_of(8);
        let args = args![[x], [y], x.rows, x.cols, key, i64::from(threshold), factor, accumulate, vec];
        self.launch(of!(x.float, "dropout"), self.spread(x.rows * x.cols / if vec { 8 } else { 1 }), &args)
    }

    /// Rows of keys and values from merged projections to their slots.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn store_kv(
        &self,
        qkv: View<'_>,
        q_dim: usize,
        slots: &DeviceBuffer,
        keys: View<'_>,
        values: View<'_>,
    ) -> Done {
        let kv_dim = keys.cols;
        assert!(qkv.cols == q_dim + 2 * kv_dim && slots.len() >= 4 * qkv.rows && keys.pitch == kv_dim, "slots");
        assert!(qkv.float == keys.float && keys.float == values.float && values.pitch == kv_dim, "one type");
        let args = args![[qkv], q_dim, kv_dim, slots.ptr(), keys.ptr, values.ptr, qkv.rows];
        self.launch(of!(qkv.float, "store_kv"), self.spread(qkv.rows * kv_dim), &args)
    }

    pub(super) fn norm_shape(items: usize, width: usize) -> Shape {
        if width <= 256 {
            Shape { grid: (items.div_ceil(8), 1), block: (32, 8), shared: 0 }
        } else {
            Shape { grid: (items, 1), block: (256, 1), shared: 0 }
        }
    }

    /// RMS norm of every head of every row; `rstd` gets `[rows, heads]`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn rmsnorm(
        &self,
        x: View<'_>,
        heads: usize,
        w: View<'_>,
        eps: f32,
        y: View<'_>,
        rstd: Option<&DeviceBuffer>,
    ) -> Done {
        let width = x.cols / heads.max(1);
        assert!(w.cols == width && w.float == Float::F32 && x.float == y.float && x.cols == y.cols, "a norm's shapes");
        let vec = width.is_multiple_of(4) && [x, y, w].iter().all(View::by_four);
        let args = args![[x], x.rows, heads, width, w.ptr, eps, [y], rstd.map_or(0, DeviceBuffer::ptr), vec];
        self.launch(of!(x.float, "rmsnorm"), Self::norm_shape(x.rows * heads, width), &args)
    }

    /// `sum += x`, then the norm of the rows of `sum`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn add_rmsnorm(
        &self,
        x: View<'_>,
        sum: View<'_>,
        w: View<'_>,
        eps: f32,
        y: View<'_>,
        rstd: Option<&DeviceBuffer>,
    ) -> Done {
        assert!(w.cols == x.cols && w.float == Float::F32 && x.cols == y.cols && x.cols == sum.cols, "a norm's shapes");
        assert!(x.float == y.float && x.float == sum.float, "one type");
        let vec = [x, y, w, sum].iter().all(View::by_four);
        let args = args![[x], [sum], x.rows, x.cols, w.ptr, eps, [y], rstd.map_or(0, DeviceBuffer::ptr), vec];
        self.launch(of!(x.float, "add_rmsnorm"), Self::norm_shape(x.rows, x.cols), &args)
    }

    /// RMS norm of every head of every row in place.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn head_norm_in_place(&self, x: View<'_>, heads: usize, w: View<'_>, eps: f32) -> Done {
        // The kernel writes an element after it has read it for the last time.
        self.rmsnorm(x, heads, w, eps, x, None)
    }

    /// Backward of a norm in place; `dw` (f32) collects the gradient of the weight.
    ///
    /// # Errors
    /// If the driver fails.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    pub fn rmsnorm_backward(
        &self,
        d: View<'_>,
        heads: usize,
        x: View<'_>,
        w: View<'_>,
        rstd: &DeviceBuffer,
        add: Option<View<'_>>,
        dw: Option<View<'_>>,
    ) -> Done {
        let width = x.cols / heads.max(1);
        assert!(w.cols == width && d.cols == x.cols && d.float == x.float && w.float == Float::F32, "a norm's shapes");
        assert!(add.is_none_or(|add| add.float == d.float && add.cols == d.cols), "a norm's shapes");
        if let Some(dw) = dw {
            assert!(dw.cols == width && dw.float == Float::F32, "a norm's shapes");
            let args = args![[d], d.rows, heads, width, [x], rstd.ptr(), dw.ptr];
            self.launch(of!(d.float, "rmsnorm_weight"), Self::columns_shape(width), &args)?;
        }
        let vec = width.is_multiple_of(4) && [d, x, w, add.unwrap_or(d)].iter().all(View::by_four);
        let (add, pitch) = add.map_or((0, 0), |add| (add.ptr, add.pitch));
        let args = args![[d], d.rows, heads, width, [x], w.ptr, rstd.ptr(), add, pitch, vec];
        self.launch(of!(d.float, "rmsnorm_backward"), Self::norm_shape(x.rows * heads, width), &args)
    }
}
