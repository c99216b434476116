//! Launches of the kernels that blocks other than Llama's need.
//!
//! Shapes are checked here, so that no kernel leaves its buffers.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Arg, args},
    ops::{Done, of},
};
use crate::cpu::{activation::Activation, norm::NormKind};

/// A norm of every head of every row.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    /// What heads are divided by.
    pub kind: NormKind,
    /// Number of heads.
    pub heads: usize,
    /// What they are multiplied by (f32), an element for every column of a head, or of a row; `None` = nothing.
    pub weight: Option<View<'a>>,
    /// What is added, as `weight`.
    pub bias: Option<View<'a>>,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

impl HeadNorm<'_> {
    /// Width of a head of rows of so many columns, and whether heads have weights of their own.
    fn shape(&self, cols: usize) -> (usize, bool) {
        let width = cols / self.heads.max(1);
        let fits = |view: &View<'_>, len: usize| view.float == Float::F32 && view.cols == len;
        let all = || self.weight.iter().chain(&self.bias);
        let own = self.heads > 1 && all().any(|view| view.cols != width);
        assert!(all().all(|view| fits(view, if own { cols } else { width })), "a norm's shapes");
        (width, own)
    }
}

/// What [`Device::scale_by`] multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A row by its factor.
    Row,
    /// A column by its factor.
    Column,
    /// A row by the sigmoid of its factor.
    RowSigmoid,
}

/// The parts of a head of latent attention, in elements.
#[derive(Clone, Copy, Debug)]
pub struct LatentParts {
    /// Heads.
    pub heads: usize,
    /// Elements that are not rotated.
    pub nope: usize,
    /// Elements that are.
    pub rope: usize,
    /// Elements of a value.
    pub value: usize,
}

fn pointer(view: Option<View<'_>>) -> u64 {
    view.map_or(0, |view| view.ptr)
}

/// The kernels' number of an activation, and its constants.
pub(super) fn constants(activation: Activation) -> (i64, [f32; 4]) {
    match activation {
        Activation::Silu => (0, [0.0; 4]),
        Activation::Gelu => (1, [0.0; 4]),
        Activation::GeluTanh => (2, [0.0; 4]),
        Activation::Relu => (3, [0.0; 4]),
        Activation::Relu2 => (4, [0.0; 4]),
        Activation::Clamped { alpha, limit } => (5, [alpha, limit, 0.0, 0.0]),
        Activation::Xielu { positive, negative, beta, eps } => (6, [positive, negative, beta, eps]),
    }
}

impl Device {
    /// A norm of every head of every row; `y` may be `x`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn norm(&self, x: View<'_>, norm: HeadNorm<'_>, y: View<'_>) -> Done {
        let HeadNorm { kind, heads, weight, bias, eps } = norm;
        let (width, own) = norm.shape(x.cols);
        assert!(x.float == y.float && x.cols == y.cols && x.rows == y.rows, "a norm's shapes");
        if let (NormKind::Rms, Some(weight), None, false) = (kind, weight, bias, own) {
            return self.rmsnorm(x, heads, weight, eps, y, None);
        }
        let vec = width.is_multiple_of(4) && [x, y].iter().chain(&weight).chain(&bias).all(View::by_four);
        let (layer, w, b) = (kind == NormKind::Layer, pointer(weight), pointer(bias));
        let args = args![[x], x.rows, heads, width, layer, w, b, own, eps, [y], vec];
        self.launch(of!(x.float, "norm"), Self::norm_shape(x.rows * heads, width), &args)
    }

    /// Backward of [`Device::norm`] in place: `d` comes as the gradient of `y` and leaves as that of `x`, plus `add` where
    /// given. Weights and biases get no gradient.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn norm_backward(&self, d: View<'_>, x: View<'_>, norm: HeadNorm<'_>, add: Option<View<'_>>) -> Done {
        let HeadNorm { kind, heads, weight, eps, .. } = norm;
        let (width, own) = norm.shape(x.cols);
        let fits = |view: &View<'_>| view.cols == x.cols && view.rows == x.rows && view.float == x.float;
        assert!(fits(&d) && add.iter().all(fits), "a norm's shapes");
        let vec = width.is_multiple_of(4) && [d, x].iter().chain(&weight).chain(&add).all(View::by_four);
        let (layer, w) = (kind == NormKind::Layer, pointer(weight));
        let (add, pitch) = add.map_or((0, 0), |add| (add.ptr, add.pitch));
        let args = args![[d], x.rows, heads, width, layer, [x], w, own, eps, add, pitch, vec];
        self.launch(of!(x.float, "norm_backward"), Self::norm_shape(x.rows * heads, width), &args)
    }

    /// `y = act(gate) · up`, with gate and up side by side in `x`, or `y = act(x)` where `y` is as wide as `x`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn activation(&self, activation: Activation, x: View<'_>, y: View<'_>) -> Done {
        let gated = x.cols != y.cols;
        if gated && activation == Activation::Silu {
            return self.swiglu(x, y);
        }
        let vec = [x, y].iter().all(View::by_four);
        let args = activated(activation, [x, y], x, y, vec);
        self.launch(of!(x.float, "activation"), self.spread_by(y.rows * y.cols, vec), &args)
    }

    /// Backward of [`Device::activation`] in place: `x` leaves as its gradient.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn activation_backward(&self, activation: Activation, dy: View<'_>, x: View<'_>) -> Done {
        let vec = [x, dy].iter().all(View::by_four);
        let args = activated(activation, [dy, x], x, dy, vec);
        self.launch(of!(x.float, "activation_backward"), self.spread_by(dy.rows * dy.cols, vec), &args)
    }

    fn change(&self, y: View<'_>, kind: i64, a: f32) -> Done {
        let vec = y.by_four();
        let args = args![[y], y.rows, y.cols, kind, a, vec];
        self.launch(of!(y.float, "change"), self.spread_by(y.rows * y.cols, vec), &args)
    }

    /// `y *= factor`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn scale(&self, factor: f32, y: View<'_>) -> Done {
        self.change(y, 0, factor)
    }

    /// Limits elements to `±limit`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn clip(&self, limit: f32, y: View<'_>) -> Done {
        self.change(y, 1, limit)
    }

    /// `y = cap · tanh(y / cap)`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn soft_limit(&self, cap: f32, y: View<'_>) -> Done {
        self.change(y, 2, cap)
    }

    /// Backward of [`Device::clip`]: `d` becomes 0 wherever `x`, which came out of it, is at the limit.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn clip_backward(&self, limit: f32, x: View<'_>, d: View<'_>) -> Done {
        let vec = same([x, d]);
        let args = args![[x], [d], d.rows, d.cols, limit, vec];
        self.launch(of!(d.float, "clip_backward"), self.spread_by(d.rows * d.cols, vec), &args)
    }

    /// `y += factor · x`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn add_scaled(&self, factor: f32, x: View<'_>, y: View<'_>) -> Done {
        let vec = same([x, y]);
        let args = args![[x], [y], y.rows, y.cols, factor, vec];
        self.launch(of!(y.float, "add_scaled"), self.spread_by(y.rows * y.cols, vec), &args)
    }

    /// Multiplies every row or column of `y` by its factor (f32).
    ///
    /// # Errors
    /// If the driver fails.
    pub fn scale_by(&self, factors: &DeviceBuffer, by: By, y: View<'_>) -> Done {
        let (count, by) = match by {
            By::Row => (y.rows, 0i64),
            By::Column => (y.cols, 1),
            By::RowSigmoid => (y.rows, 2),
        };
        assert!(factors.float() == Float::F32 && factors.len() >= count, "a factor each");
        let args = args![factors.ptr(), [y], y.rows, y.cols, by];
        self.launch(of!(y.float, "scale_by"), self.spread(y.rows * y.cols), &args)
    }

    /// Lengths of the rows of an f32 matrix: roots of their sums of squares.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn row_norms(&self, x: View<'_>, norms: &DeviceBuffer) -> Done {
        assert!(x.float == Float::F32 && norms.float() == Float::F32 && norms.len() >= x.rows, "a norm a row");
        let shape = super::driver::Shape { grid: (x.rows, 1), block: (256, 1), shared: 0 };
        self.launch("row_norms_f32", shape, &args![[x], x.cols, norms.ptr()])
    }

    /// `y[r] = Σ weights[r, i] · x[places[r, i]]` for the same number of places of every row, added in order.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn combine(&self, x: View<'_>, places: &DeviceBuffer, weights: &DeviceBuffer, y: View<'_>) -> Done {
        let each = weights.len() / y.rows.max(1);
        assert!(each * y.rows == weights.len() && places.len() == 4 * weights.len(), "places with weights");
        assert!(x.cols == y.cols && x.float == y.float && weights.float() == Float::F32, "rows of one type");
        let args = args![[x], places.ptr(), weights.ptr(), each, [y], y.rows, y.cols];
        self.launch(of!(y.float, "combine"), self.spread(y.rows * y.cols), &args)
    }

    /// Queries, keys and values of latent attention, side by side in rows of `y`: in every head the rotated part comes
    /// first, and values are filled up with zeros. `q` has `nope + rope` elements a head, `shared` those that the keys of
    /// all heads rotate, `kv` `nope + value` a head.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn latent_heads(&self, [q, shared, kv]: [View<'_>; 3], parts: LatentParts, y: View<'_>) -> Done {
        let LatentParts { heads, nope, rope, value } = parts;
        let widths = [heads * (nope + rope), rope, heads * (nope + value), 3 * heads * (nope + rope)];
        assert!([q, shared, kv, y].map(|view| view.cols) == widths && value <= nope + rope, "parts of heads");
        assert!([q, shared, kv].iter().all(|view| view.float == y.float && view.rows == y.rows), "rows of one type");
        let args = args![[q], [shared], [kv], [y], y.rows, heads, nope, rope, value];
        self.launch(of!(y.float, "latent_heads"), self.spread(y.rows * widths[0]), &args)
    }

    /// The input of a short convolution to its slots: the first third of the columns of `x` times the last.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn convolution_input(&self, x: View<'_>, slots: &DeviceBuffer, values: View<'_>) -> Done {
        let width = values.cols;
        assert!(x.cols == 3 * width && values.pitch == width && slots.len() >= 4 * x.rows, "slots");
        assert!(x.float == values.float, "one type");
        let args = args![[x], slots.ptr(), values.ptr, x.rows, width];
        self.launch(of!(x.float, "convolution_input"), self.spread(x.rows * width), &args)
    }

    /// A short convolution of channels over values at `places` (`[rows, taps]`; `u32::MAX` = none), with factors `taps`
    /// (`[width, taps]`, f32), times the second third of the columns of `x`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn convolution(
        &self,
        values: View<'_>,
        places: &DeviceBuffer,
        taps: &DeviceBuffer,
        bias: Option<&DeviceBuffer>,
        x: View<'_>,
        y: View<'_>,
    ) -> Done {
        let (width, count) = (y.cols, taps.len() / y.cols.max(1));
        assert!(x.cols == 3 * width && values.pitch == width && places.len() == 4 * count * y.rows, "places");
        assert!(bias.is_none_or(|bias| bias.len() == width) && taps.len() == count * width, "factors of channels");
        assert!(x.float == y.float && values.float == y.float && x.rows == y.rows, "rows of one type");
        let bias = bias.map_or(0, DeviceBuffer::ptr);
        let args = args![values.ptr, places.ptr(), taps.ptr(), count, bias, [x], [y], y.rows, width];
        self.launch(of!(y.float, "convolution"), self.spread(y.rows * width), &args)
    }
}

/// The arguments of an activation: two matrices in the order of the kernel, of which `wide` may have a gate.
fn activated(activation: Activation, [a, b]: [View<'_>; 2], wide: View<'_>, half: View<'_>, vec: bool) -> Vec<Arg> {
    let gated = wide.cols != half.cols;
    assert!(!gated || wide.cols == 2 * half.cols, "gate and up, or up alone");
    assert!(wide.rows == half.rows && wide.float == half.float, "rows of one type");
    let (kind, [c0, c1, c2, c3]) = constants(activation);
    args![[a], [b], half.rows, half.cols, gated, kind, c0, c1, c2, c3, vec].to_vec()
}

/// Whether four elements of both matrices, which are alike, may be taken at once.
fn same(views: [View<'_>; 2]) -> bool {
    let [a, b] = &views;
    assert!(a.rows == b.rows && a.cols == b.cols && a.float == b.float, "matrices of one shape and type");
    views.iter().all(View::by_four)
}
