//! Types of elements, and matrices in a GPU's memory.

use std::marker::PhantomData;

/// A type of elements on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Float {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A matrix in a buffer: element `(i, j)` is `i * pitch + j` elements from its beginning, or `j * pitch + i` if
/// transposed. Kernels read and write through it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) ptr: u64,
    pub(super) float: Float,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) pitch: usize,
    pub(super) transposed: bool,
    buffer: PhantomData<&'a ()>,
}

impl View<'_> {
    pub(super) fn new(ptr: u64, float: Float, rows: usize, cols: usize, pitch: usize) -> Self {
        Self { ptr, float, rows, cols, pitch, transposed: false, buffer: PhantomData }
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// Type of the elements.
    pub fn float(&self) -> Float {
        self.float
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Columns `from..from + cols`.
    ///
    /// # Panics
    /// If there are not as many, or the matrix is transposed.
    pub fn columns(self, from: usize, cols: usize) -> Self {
        assert!(!self.transposed && from + cols <= self.cols, "columns of the matrix");
        Self { ptr: self.ptr + (from * self.float.bytes()) as u64, cols, ..self }
    }

    /// Rows `from..from + rows`.
    ///
    /// # Panics
    /// If there are not as many, or the matrix is transposed.
    pub fn rows(self, from: usize, rows: usize) -> Self {
        assert!(!self.transposed && from + rows <= self.rows, "rows of the matrix");
        Self { ptr: self.ptr + (from * self.pitch * self.float.bytes()) as u64, rows, ..self }
    }

    /// Whether four neighbouring elements may be moved at once.
    pub(super) fn by_four(&self) -> bool {
        let bytes = 4 * self.float.bytes();
        self.cols.is_multiple_of(4) && self.pitch.is_multiple_of(4) && (self.ptr as usize).is_multiple_of(bytes)
    }
}
