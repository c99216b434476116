//! Views of buffers as slices, rows and the engine's matrices.

use harness_kernels::cpu::{MatMut as Out, MatRef};
use rayon::prelude::*;

use super::memory::CpuBuf;
use crate::backend::{Mat, MatMut};

/// The rows of a writable matrix.
pub(super) fn rows_mut(m: MatMut<'_, CpuBuf>) -> impl IndexedParallelIterator<Item = &mut [f32]> {
    let cols = m.cols;
    let end = if m.rows == 0 { m.at } else { m.at + (m.rows - 1) * m.pitch + cols };
    m.buf[m.at..end].par_chunks_mut(m.pitch).map(move |row| &mut row[..cols])
}

/// Row `i` of a matrix that is not transposed.
#[inline]
pub(super) fn row<'a>(m: &Mat<'a, CpuBuf>, i: usize) -> &'a [f32] {
    let at = m.at + i * m.pitch;
    &m.buf[at..at + m.cols]
}

pub(super) fn view<'a>(m: Mat<'a, CpuBuf>) -> MatRef<'a> {
    let stored = if m.transposed { (m.cols, m.rows) } else { (m.rows, m.cols) };
    let view = MatRef::with_strides(&m.buf[m.at..], stored.0, stored.1, m.pitch, 1);
    if m.transposed { view.t() } else { view }
}

pub(super) fn out(m: MatMut<'_, CpuBuf>) -> Out<'_> {
    Out::with_stride(&mut m.buf[m.at..], m.rows, m.cols, m.pitch)
}
