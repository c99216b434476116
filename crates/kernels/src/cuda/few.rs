//! Products of few rows with what stands before and after them in a block, in bf16: one kernel where there would be two or
//! three, for models whose kernels are shorter than what it takes to begin them.

use super::{
    Device, DeviceBuffer, DeviceMatrix, Float, Rotation, View,
    blocks::constants,
    driver::{Arg, Shape, args},
    ops::Done,
};
use crate::cpu::activation::Activation;

/// Rows that are multiplied; with weights (bf16) and an epsilon, the RMS norm of each (Zhang & Sennrich 2019).
#[derive(Clone, Copy, Debug)]
pub struct FewRows<'a> {
    /// The rows.
    pub rows: View<'a>,
    /// The norm.
    pub norm: Option<(&'a DeviceBuffer, f32)>,
}

/// A matrix in bf16, and what is added to its products (f32).
#[derive(Clone, Copy, Debug)]
pub struct FewLinear<'a> {
    /// The matrix.
    pub weight: &'a DeviceMatrix,
    /// What is added.
    pub bias: Option<&'a DeviceBuffer>,
}

/// Where keys and values of rows go, and how queries and keys are rotated.
#[derive(Clone, Copy, Debug)]
pub struct FewKeys<'a> {
    /// The rotation, of whole heads in halves against each other.
    pub rotation: Rotation<'a>,
    /// The rows' places in its table.
    pub positions: &'a DeviceBuffer,
    /// The rows' slots.
    pub slots: &'a DeviceBuffer,
    /// Keys and values `[slots, heads of keys × width]`.
    pub cache: [View<'a>; 2],
}

impl FewRows<'_> {
    fn args(&self) -> [Arg; 6] {
        let Self { rows: x, norm } = *self;
        assert!(x.float == Float::Bf16 && x.cols.is_multiple_of(8) && x.pitch.is_multiple_of(8), "rows of eights");
        assert!(norm.is_none_or(|(weights, _)| weights.bytes() >= 2 * x.cols), "a weight a column");
        let (weights, eps) = norm.map_or((0, 0.0), |(weights, eps)| (weights.ptr(), eps));
        args![[x], x.rows, x.cols, weights, eps]
    }

    /// The kernel of several that fits, and its launch for so many blocks of columns.
    fn of<T: Copy>(&self, names: [T; 4], blocks: usize) -> (T, Shape) {
        let (high, wide) = (self.rows.rows > 16, self.rows.cols > WIDE);
        let grid = (blocks, self.rows.rows.div_ceil(if high { 32 } else { 16 }));
        let block = (if wide { 512 } else { 256 }, 1);
        (names[usize::from(wide) * 2 + usize::from(high)], Shape { grid, block, shared: 0 })
    }
}

/// Columns that eight warps read at once.
const WIDE: usize = 768;

/// The names of a kernel: for 16 and 32 rows, of eight warps and of 16.
macro_rules! sizes {
    ($name:literal) => {
        [concat!($name, "_1_8"), concat!($name, "_2_8"), concat!($name, "_1_16"), concat!($name, "_2_16")]
    };
}

impl Device {
    /// Whether these products are faster than others for so many rows of a model with this hidden size and this width between
    /// up and down projection.
    pub fn takes_few(float: Float, rows: usize, hidden: usize, inner: usize) -> bool {
        let most = match hidden {
            ..=768 => 64,
            769..=1024 => 32,
            _ => 0,
        };
        float == Float::Bf16 && rows <= most && inner <= 3072 && [hidden, inner].iter().all(|n| n.is_multiple_of(8))
    }

    /// `y = x · Wᵀ + bias`; with `add` the same is added to `y`.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn few_linear(&self, x: FewRows<'_>, linear: FewLinear<'_>, add: bool, y: View<'_>) -> Done {
        let out = linear.weight.rows();
        assert!(y.rows == x.rows.rows && y.cols == out && y.float == Float::Bf16, "an output a row of the matrix");
        let names = if add { sizes!("few_add") } else { sizes!("few_linear") };
        let (name, shape) = x.of(names, out.div_ceil(8));
        let args = [&x.args()[..], &linear.args(x.rows.cols, out), &args![[y]]].concat();
        self.launch_early(name, shape, &args)
    }

    /// `y = act(gate) · up`, of products of `x` with the two halves of a matrix.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn few_gated(&self, x: FewRows<'_>, wide: &DeviceMatrix, activation: Activation, y: View<'_>) -> Done {
        let inner = y.cols;
        assert!(wide.rows() == 2 * inner && y.rows == x.rows.rows && y.float == Float::Bf16, "gate and up");
        let each = if x.rows.cols > WIDE { 8 } else { 16 };
        let (name, shape) = x.of(sizes!("few_gated"), inner.div_ceil(each));
        let [weight, ..] = FewLinear { weight: wide, bias: None }.args(x.rows.cols, 2 * inner);
        let (kind, [a, b, c, d]) = constants(activation);
        let args = [&x.args()[..], &[weight], &args![inner, kind, a, b, c, d, [y]]].concat();
        self.launch_early(name, shape, &args)
    }

    /// Queries, keys and values `x · Wᵀ + bias` of `heads` heads of queries and of keys: queries go to `q`, rotated, keys,
    /// rotated, and values to the rows' slots.
    ///
    /// # Errors
    /// If the driver fails.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    pub fn few_project(
        &self,
        x: FewRows<'_>,
        linear: FewLinear<'_>,
        [heads, kv_heads]: [usize; 2],
        to: FewKeys<'_>,
        q: View<'_>,
    ) -> Done {
        let FewKeys { rotation, positions, slots, cache: [keys, values] } = to;
        let (rows, width, all) = (x.rows.rows, q.cols / heads.max(1), linear.weight.rows());
        let kv_dim = kv_heads * width;
        assert!(rotation.dims == width && !rotation.pairs && width.is_multiple_of(16), "heads rotated whole");
        assert!(q.rows == rows && q.cols == heads * width && all == q.cols + 2 * kv_dim, "heads");
        assert!(keys.pitch == kv_dim && values.pitch == kv_dim, "heads of keys");
        assert!([q, keys, values].iter().all(|view| view.float == Float::Bf16), "one type");
        assert!(slots.bytes() >= 4 * rows && positions.bytes() >= 4 * rows, "a slot and a position a row");
        let (name, shape) = x.of(sizes!("few_project"), all / 16);
        let [weight, _, bias] = linear.args(x.rows.cols, all);
        let at = [positions.ptr(), rotation.table.ptr(), slots.ptr()];
        let own = args![heads, kv_heads, width, at[0], at[1], at[2], [q], keys.ptr, values.ptr];
        let args = [&x.args()[..], &[weight, bias], &own].concat();
        self.launch_early(name, shape, &args)
    }
}

impl FewLinear<'_> {
    fn args(&self, cols: usize, out: usize) -> [Arg; 3] {
        assert!(self.weight.cols() == cols && self.weight.rows() == out, "a matrix of these rows");
        assert!(self.bias.is_none_or(|bias| bias.len() == out), "a bias an output");
        let place = self.weight.place().expect("a matrix of 16 bits");
        args![place, out, self.bias.map_or(0, DeviceBuffer::ptr)]
    }
}
