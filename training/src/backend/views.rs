//! Runs and matrices in a device's flat buffers.

/// A run of `len` elements from `at` of a buffer.
#[derive(Debug)]
pub struct Span<'a, T> {
    /// The buffer.
    pub buf: &'a T,
    /// First element.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

impl<T> Clone for Span<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Span<'_, T> {}

/// A writable run of `len` elements from `at` of a buffer.
#[derive(Debug)]
pub struct SpanMut<'a, T> {
    /// The buffer.
    pub buf: &'a mut T,
    /// First element.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

/// A matrix in a buffer: element `(i, j)` is at `at + i * pitch + j`, or at `at + j * pitch + i` if `transposed`.
#[derive(Debug)]
pub struct Mat<'a, T> {
    /// The buffer.
    pub buf: &'a T,
    /// First element.
    pub at: usize,
    /// Rows of the matrix as seen (after the transposition).
    pub rows: usize,
    /// Columns of the matrix as seen.
    pub cols: usize,
    /// Distance between adjacent stored rows.
    pub pitch: usize,
    /// Whether the stored matrix is seen transposed.
    pub transposed: bool,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

impl<'a, T> Mat<'a, T> {
    /// A contiguous row-major matrix from element `at`.
    pub fn new(buf: &'a T, at: usize, rows: usize, cols: usize) -> Self {
        Self { buf, at, rows, cols, pitch: cols, transposed: false }
    }

    /// `cols` columns from column `from` (of a matrix that is not transposed).
    pub fn columns(self, from: usize, cols: usize) -> Self {
        debug_assert!(!self.transposed && from + cols <= self.cols);
        Self { at: self.at + from, cols, ..self }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }
}

/// A writable row-major matrix in a buffer.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    /// The buffer.
    pub buf: &'a mut T,
    /// First element.
    pub at: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Distance between adjacent rows.
    pub pitch: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A contiguous row-major matrix from element `at`.
    pub fn new(buf: &'a mut T, at: usize, rows: usize, cols: usize) -> Self {
        Self { buf, at, rows, cols, pitch: cols }
    }

    /// `cols` columns from column `from`.
    pub fn columns(self, from: usize, cols: usize) -> Self {
        debug_assert!(from + cols <= self.cols);
        Self { at: self.at + from, cols, ..self }
    }
}
