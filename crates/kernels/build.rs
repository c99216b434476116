//! Compiles the CUDA kernels where the feature `cuda` asks for them: machine code for Hopper (sm_90a) and PTX for all
//! other GPUs from Ampere (compute_80) on, in files that the library embeds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

const KERNELS: &str = "src/cuda/kernels";

/// The files that are compiled, each to a file of its own; `src/cuda/driver.rs` embeds them.
const UNITS: [&str; 5] = ["attention", "attention_general", "blocks", "codes", "decoding"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={KERNELS}");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = nvcc();
    thread::scope(|scope| UNITS.iter().for_each(|unit| drop(scope.spawn(|| compile(&nvcc, unit, &out)))));
}

/// Compiles a file, unless that was done before from the same sources.
fn compile(nvcc: &Path, unit: &str, out: &Path) {
    let source = Path::new(KERNELS).join(unit).with_extension("cu");
    let (to, from) = (out.join(unit).with_extension("fatbin"), out.join(unit).with_extension("from"));
    let sources = format!("{}\n{}", nvcc.display(), with_includes(&source, &mut vec![]));
    if to.is_file() && fs::read_to_string(&from).is_ok_and(|before| before == sources) {
        return;
    }
    let status = Command::new(nvcc)
        .args(["-fatbin", "-std=c++17", "-O3", "-lineinfo"])
        .args(["-gencode", "arch=compute_90a,code=sm_90a", "-gencode", "arch=compute_80,code=compute_80"])
        .arg(&source)
        .arg("-o")
        .arg(&to)
        .status();
    match status {
        Ok(status) if status.success() => fs::write(from, sources).expect("the build's folder can be written"),
        Ok(status) => panic!("{} failed on {} ({status})", nvcc.display(), source.display()),
        Err(error) => panic!(
            "feature `cuda` needs NVIDIA's compiler: {} cannot be run ({error}); install the CUDA 13 toolkit and set \
             CUDA_HOME or NVCC, or build without the feature",
            nvcc.display()
        ),
    }
}

/// A file and what it includes of its folder, one after the other.
fn with_includes(file: &Path, seen: &mut Vec<PathBuf>) -> String {
    if seen.iter().any(|other| other == file) {
        return String::new();
    }
    seen.push(file.to_owned());
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let included = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let included: String = included.map(|name| with_includes(&Path::new(KERNELS).join(name), seen)).collect();
    text + &included
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
