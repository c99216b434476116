//! CPU kernels in f32: matrix products, normalisation, rotary embedding, SwiGLU, attention, log-softmax.
//!
//! Two laws hold for all of them. A row's result depends on that row's inputs alone, never on how many rows are
//! computed together or on the number of threads: reductions run in an order fixed by position. And the vector width
//! changes no bits: AVX-512 and AVX2 with FMA give the same result.

pub mod activation;
pub mod attention;
pub mod elementwise;
pub mod gemm;
pub mod isa;
pub mod logits;
mod matrix;
pub mod norm;
pub mod rope;

pub use gemm::{PackedMatrix, gemm, gemm_in_chains, gemm_packed, gemm_packed_transposed};
pub use matrix::{MatMut, MatRef};
