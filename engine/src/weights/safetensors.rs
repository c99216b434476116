//! Safetensors files, single or sharded, memory-mapped.
