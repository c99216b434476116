//! Compiles the CUDA kernels where the feature `cuda` asks for them: machine code for Hopper (sm_90a) and PTX for all
//! other GPUs from Ampere (compute_80) on, in one file that the library embeds.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const KERNELS: &str = "src/cuda/kernels";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={KERNELS}");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.fatbin");
    let nvcc = nvcc();
    let status = Command::new(&nvcc)
        .args(["-fatbin", "-std=c++17", "-O3", "-lineinfo"])
        .args(["-gencode", "arch=compute_90a,code=sm_90a", "-gencode", "arch=compute_80,code=compute_80"])
        .arg(Path::new(KERNELS).join("harness.cu"))
        .arg("-o")
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} failed on {KERNELS}/harness.cu ({status})", nvcc.display()),
        Err(error) => panic!(
            "feature `cuda` needs NVIDIA's compiler: {} cannot be run ({error}); install the CUDA 13 toolkit and set \
             CUDA_HOME or NVCC, or build without the feature",
            nvcc.display()
        ),
    }
}

/// The compiler: `NVCC`, or the one of the toolkit in `CUDA_HOME` or `CUDA_PATH`, or the one on the path.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let found = homes.map(|home| Path::new(&home).join("bin/nvcc")).find(|nvcc| nvcc.is_file());
    found.unwrap_or_else(|| "nvcc".into())
}
