//! Launches of the kernels that training needs beside those of evaluation.
//!
//! Shapes are checked here, so that no kernel leaves its buffers.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Shape, args},
    ops::{Done, of},
};

/// Runs of columns of a matrix, one a head.
#[derive(Clone, Copy, Debug)]
pub struct ColumnRuns {
    /// First column of the first run.
    pub first: usize,
    /// Columns from one run to the next; 0 = all heads share one.
    pub step: usize,
}

impl ColumnRuns {
    fn end(&self, heads: usize, width: usize) -> usize {
        self.first + heads.saturating_sub(1) * self.step + width
    }
}

impl Device {
    /// `y[r] = Σ a[r] · b[r]`, in f32.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn row_dots(&self, a: View<'_>, b: View<'_>, y: &DeviceBuffer) -> Done {
        assert!(a.rows == b.rows && a.cols == b.cols && a.float == b.float, "matrices of one shape and type");
        assert!(y.float() == Float::F32 && y.len() >= a.rows, "a sum a row");
        let shape = Shape { grid: (a.rows.div_ceil(8).max(1), 1), block: (256, 1), shared: 0 };
        self.launch(of!(a.float, "row_dots"), shape, &args![[a], [b], y.ptr(), a.rows, a.cols])
    }

    /// `y[c] = Σ a[r, c] · b[r, c]` over the rows, in f32.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn column_dots(&self, a: View<'_>, b: View<'_>, y: &DeviceBuffer) -> Done {
        assert!(a.rows == b.rows && a.cols == b.cols && a.float == b.float, "matrices of one shape and type");
        assert!(y.float() == Float::F32 && y.len() >= a.cols, "a sum a column");
        let shape = Shape { grid: (a.cols.div_ceil(256).max(1), 1), block: (256, 1), shared: 0 };
        self.launch(of!(a.float, "column_dots"), shape, &args![[a], [b], y.ptr(), a.rows, a.cols])
    }

    /// `y[places[r]] += x[r]`; places are distinct rows of `y`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn add_rows(&self, x: View<'_>, places: &DeviceBuffer, y: View<'_>) -> Done {
        assert!(x.cols == y.cols && x.float == y.float && places.len() >= 4 * x.rows, "rows of one type with places");
        let args = args![[x], places.ptr(), [y], x.rows, x.cols];
        self.launch(of!(x.float, "add_rows"), self.spread(x.rows * x.cols), &args)
    }

    /// Adds runs of `width` columns of `x`, a run a head, to those of `y`, row by row.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn add_heads(
        &self,
        (x, from): (View<'_>, ColumnRuns),
        (y, to): (View<'_>, ColumnRuns),
        heads: usize,
        width: usize,
    ) -> Done {
        assert!(x.rows == y.rows && x.float == y.float, "rows of one type");
        assert!(from.end(heads, width) <= x.cols && to.end(heads, width) <= y.cols, "runs of columns");
        let args = args![[x], from.first, from.step, [y], to.first, to.step, x.rows, heads, width];
        self.launch(of!(x.float, "add_heads"), self.spread(x.rows * heads * width), &args)
    }

    /// Backward of [`Device::soft_limit`] in place; `y` is what it gave.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn soft_limit_backward(&self, cap: f32, y: View<'_>, d: View<'_>) -> Done {
        assert!(y.rows == d.rows && y.cols == d.cols && y.float == d.float, "matrices of one shape and type");
        let args = args![[y], [d], d.rows, d.cols, cap];
        self.launch(of!(d.float, "soft_limit_backward"), self.spread(d.rows * d.cols), &args)
    }

    /// A gated short convolution within documents: `x` has the columns of an input gate, an output gate and an input,
    /// `taps` are `[width, taps]` (f32), and `firsts` has for every row the first row of its document.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn document_convolution(
        &self,
        x: View<'_>,
        [taps, firsts]: [&DeviceBuffer; 2],
        bias: Option<&DeviceBuffer>,
        y: View<'_>,
    ) -> Done {
        let (width, count) = (y.cols, taps.len() / y.cols.max(1));
        assert!(x.cols == 3 * width && x.rows == y.rows && x.float == y.float, "rows of one type");
        assert!(taps.len() == count * width && bias.is_none_or(|bias| bias.len() == width), "factors of channels");
        assert!(firsts.len() >= 4 * x.rows, "a first row each");
        let bias = bias.map_or(0, DeviceBuffer::ptr);
        let args = args![[x], taps.ptr(), count, bias, firsts.ptr(), [y], y.rows, width];
        self.launch(of!(x.float, "document_convolution"), self.spread(y.rows * width), &args)
    }

    /// Backward of [`Device::document_convolution`]: the gradient of `x` goes to `d`.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn document_convolution_backward(
        &self,
        [dy, x]: [View<'_>; 2],
        [taps, firsts]: [&DeviceBuffer; 2],
        bias: Option<&DeviceBuffer>,
        d: View<'_>,
    ) -> Done {
        let (width, count) = (dy.cols, taps.len() / dy.cols.max(1));
        let fits = |view: &View<'_>| view.rows == dy.rows && view.cols == 3 * width && view.float == dy.float;
        assert!(fits(&x) && fits(&d), "rows of one type");
        assert!(taps.len() == count * width && bias.is_none_or(|bias| bias.len() == width), "factors of channels");
        assert!(firsts.len() >= 4 * x.rows, "a first row each");
        let bias = bias.map_or(0, DeviceBuffer::ptr);
        let args = args![[dy], [x], taps.ptr(), count, bias, firsts.ptr(), [d], dy.rows, width];
        self.launch(of!(x.float, "document_convolution_backward"), self.spread(dy.rows * width), &args)
    }
}
