//! Drivers, GPUs and libraries that are missing or too old, as a driver without GPUs says it (`driver.c`): one error each,
//! before anything is read or written.

use std::{path::Path, process::Command};

use harness_test_support::{Outcome, World};

use super::world;

/// Libraries that the program can load instead of NVIDIA's.
const ALL: [&str; 3] = ["libcuda.so", "libcublasLt.so", "libnccl.so"];

/// A folder with these libraries.
fn libraries(world: &World, names: &[&str]) -> String {
    let folder = world.path(format!("libraries-{}", names.len()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/driver.c");
    for name in names {
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.join(name)).arg(&source);
        assert!(compiler.status().expect("a C compiler, which nvcc needs too").success(), "{name}");
    }
    folder.to_string_lossy().into_owned()
}

fn train(world: &World, libraries: &str, variables: &[(&str, &str)], more: &[&str]) -> Outcome {
    let mut command = world.command(&[&["train", "r4", "--out", "mine"], more].concat());
    command.env("LD_LIBRARY_PATH", libraries).env_remove("CUDA_VISIBLE_DEVICES").envs(variables.iter().copied());
    let outcome = Outcome::new(&command.output().expect("the program")).expect(2);
    assert_eq!(outcome.stdout, "");
    assert!(!world.path("mine").exists() && !world.path(".harness/prepared").exists(), "nothing is written");
    outcome
}

#[test]
fn drivers_and_gpus_that_cannot_be_used_are_named() {
    let world = world();
    let all = libraries(&world, &ALL);
    let cases = [
        (
            &[("DRIVER_VERSION", "12080")][..],
            "cuda",
            ["the driver is for CUDA 12.8; expected 13.0", "update the driver"],
        ),
        (&[("DRIVER_GPUS", "0")], "cuda", ["cuda:0: there is no GPU;", "--device cpu"]),
        (
            &[("DRIVER_INIT", "100"), ("CUDA_VISIBLE_DEVICES", "")],
            "cuda",
            ["no GPU that", "CUDA_VISIBLE_DEVICES = \"\""],
        ),
        (&[("DRIVER_INIT", "802")], "cuda", ["the driver does not start", "system not ready"]),
        (&[("DRIVER_GPUS", "2")], "cuda:7", ["cuda:7: no such GPU", "there are 2, cuda:0 to cuda:1"]),
        (
            &[("DRIVER_CAPABILITY", "75")],
            "cuda",
            ["A GPU has compute capability 7.5", "expected 8.0 (Ampere) or later"],
        ),
    ];
    for (variables, device, said) in cases {
        train(&world, &all, variables, &["--device", device]).says(&said);
    }
    let without = libraries(&world, &ALL[..1]);
    train(&world, &without, &[], &["--device", "cuda"]).says(&["cuBLASLt (libcublasLt.so.13) is missing"]);
}

#[cfg(feature = "nccl")]
#[test]
fn ranks_that_cannot_compute_together_are_named() {
    let world = world();
    let (all, without) = (libraries(&world, &ALL), libraries(&world, &ALL[..2]));
    let two = ["--device", "cuda", "--nproc", "2"];
    let gpus = [("DRIVER_GPUS", "2")];
    train(&world, &without, &gpus, &two).says(&["NCCL (libnccl.so) is missing", "LD_LIBRARY_PATH", "libnccl.so.2"]);
    let old = [gpus[0], ("NCCL_VERSION_FOUND", "21703")];
    train(&world, &all, &old, &two).says(&["NCCL 2.17 is too old; expected 2.18 or later"]);
    train(&world, &all, &[], &two)
        .says(&["2 ranks need a GPU each, and from here on there is 1 on this host; use --nproc 1"]);
    let same = [gpus[0], ("DRIVER_SAME", "1")];
    let outcome = train(&world, &all, &same, &two);
    outcome.says(&["ranks 0 and 1 have the same GPU, A GPU (GPU-01010101-", "of host", "CUDA_VISIBLE_DEVICES"]);
}
