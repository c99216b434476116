//! NVIDIA GPUs: one context and one stream a device, memory that is used again, products through cuBLASLt, and the
//! kernels in `kernels/`.
//!
//! The driver and cuBLASLt are loaded when the first device is opened, so a program with this code runs without either.
//! All work of a device is ordered by its one stream: a buffer that is given back may be handed out again at once.

mod attention;
mod attention_decode;
mod blocks;
mod codes;
mod decode_step;
mod driver;
mod few;
mod frozen;
mod gemm;
mod gpu;
mod graph;
mod host;
mod lora;
mod matrix;
mod memory;
#[cfg(feature = "nccl")]
mod nccl;
mod ops;
mod pool;
mod products;
mod queries;
mod raw;
mod reduce;
mod side;
mod training;

pub use attention::{AttentionTile, AttentionWork, DeviceScores};
pub use attention_decode::{DecodePlan, DecodeWork};
pub use blocks::{By, HeadNorm, LatentParts};
pub use decode_step::{Choice, DecodeRows, Draws, Rotation};
pub use driver::Device;
pub use few::{FewKeys, FewLinear, FewRows};
pub use frozen::DeviceMatrix;
pub use gpu::Gpu;
pub use graph::{Graph, GraphMemory};
pub use host::HostMemory;
pub use lora::{LoraRows, LoraTable};
pub use matrix::{Float, View};
pub use memory::DeviceBuffer;
#[cfg(feature = "nccl")]
pub use nccl::{Communicator, Copied, MeetingPoint};
pub use queries::{KeySegment, Query};
pub use reduce::AdamWConstants;
pub use side::{Moment, SideStream};
pub use training::ColumnRuns;
