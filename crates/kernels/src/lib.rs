//! What decoders are computed with: kernels for CPU and CUDA, tensors in host memory, 4-bit and GGUF blocks.

mod buffer;
mod coded;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
pub mod gguf;
mod map;
mod nf4;
mod tensor;

pub use buffer::{Buffer, Element, mapped};
pub use coded::{CodeKind, CodedTensor, Scales, Zeros};
pub use error::KernelError;
pub use map::{Map, ShrunkenMap, check_maps, end_where_maps_shrink, map_file};
pub use nf4::{BlockScales, CODEBOOK, NestedScales, Nf4Tensor, Quantization, QuantizationKind};
pub use tensor::{FloatType, HostData, HostTensor};
