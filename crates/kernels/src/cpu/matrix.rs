//! Views of matrices in f32.

/// What lies in `len` elements: a matrix by the number and stride of its rows and columns. Kernels write through pointers
/// what is checked here, so a product that does not fit into a `usize` is no small number.
fn check(len: usize, sides: [(usize, usize); 2]) {
    let [(rows, _), (cols, _)] = sides;
    if rows > 0 && cols > 0 {
        let last = sides.iter().try_fold(0_usize, |at, &(n, stride)| at.checked_add((n - 1).checked_mul(stride)?));
        assert!(
            last.is_some_and(|last| last < len),
            "matrix {rows}x{cols} ends at element {}, there are {len}",
            last.map_or("2^64 or later".to_owned(), |last| last.to_string())
        );
    }
}

/// A read-only view with any strides; a transpose is a view.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A contiguous row-major matrix.
    ///
    /// # Panics
    /// If `data` is shorter than `rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// A view where element `(i, j)` is `data[i * row_stride + j * col_stride]`.
    ///
    /// # Panics
    /// If the last element lies outside of `data`.
    pub fn with_strides(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        check(data.len(), [(rows, row_stride), (cols, col_stride)]);
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// The transpose, without copying.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Element `(i, j)`.
    pub fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row_stride + j * self.col_stride]
    }
}

/// A writable row-major view; the columns of a row are adjacent.
#[derive(Debug)]
pub struct MatMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A contiguous row-major matrix.
    ///
    /// # Panics
    /// If `data` is shorter than `rows * cols`.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A view where element `(i, j)` is `data[i * row_stride + j]`.
    ///
    /// # Panics
    /// If rows overlap, or the last element lies outside of `data`.
    pub fn with_stride(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(row_stride >= cols, "rows of {cols} columns overlap at a stride of {row_stride}");
        check(data.len(), [(rows, row_stride), (cols, 1)]);
        Self { data, rows, cols, row_stride }
    }
}
