//! Against bitsandbytes: bytes of codes and scales. The fixtures are made by tests/tools/make_nf4.py.

use std::path::{Path, PathBuf};

use harness_core::Seed;
use proptest::prelude::*;
use safetensors::tensor::TensorView;

use super::*;
use crate::weights::TensorStore;
use harness_kernels::Quantization;

/// Name, shape, block, double quantisation, whether the input is bf16; the place is the seed.
const CASES: [(&str, [usize; 2], usize, bool, bool); 8] = [
    ("rows_of_blocks", [24, 128], 64, true, false),
    ("across_rows", [9, 40], 64, true, false),
    ("odd", [3, 7], 64, false, false),
    ("nested_blocks", [64, 512], 64, true, false),
    ("small_blocks", [16, 64], 32, false, false),
    ("large_blocks", [4, 600], 256, true, false),
    ("bfloat16", [8, 192], 64, true, true),
    ("zeros", [2, 64], 64, true, false),
];

/// The input of a case, as the script computes it.
fn values(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64)
        .map(|i| {
            let mixed = (i.wrapping_mul(2_654_435_761) + seed * 40_503) % (1 << 32);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) % (1 << 32);
            let uniform = (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0;
            uniform * uniform * uniform * ((i / 64 % 13 + 1) as f32 / 64.0)
        })
        .collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4").join(format!("{name}.safetensors"))
}

fn nf4(tensor: &HostTensor) -> &Nf4Tensor {
    match &tensor.data {
        HostData::Nf4(data) => data,
        other => panic!("{} is not nf4", other.dtype()),
    }
}

/// Name, type, shape and bytes of a tensor in a file.
type Stored = (String, safetensors::Dtype, Vec<usize>, Vec<u8>);

#[test]
fn bytes_are_those_of_bitsandbytes() {
    for (seed, (name, shape, block_size, double, bf16)) in CASES.into_iter().enumerate() {
        let store = TensorStore::open_file(&fixture(name)).unwrap();
        let theirs = read(&store, "w.weight").unwrap().expect("a quantised weight");
        assert_eq!(theirs.shape, shape, "{name}");
        let theirs = nf4(&theirs);
        let mut data = values(shape[0] * shape[1], seed as u64);
        if name == "zeros" {
            data.fill(0.0);
        }
        if bf16 {
            data.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
        }
        let ours = Nf4Tensor::quantise(&data, &Quantization { double, block_size, ..Quantization::default() }).unwrap();
        assert!(ours.codes[..] == theirs.codes[..], "{name}: codes");
        match (&ours.scales, &theirs.scales) {
            (BlockScales::Plain(a), BlockScales::Plain(b)) => assert_eq!(a[..], b[..], "{name}: scales"),
            (BlockScales::Nested(a), BlockScales::Nested(b)) => {
                // The mean is a sum in another order: the same up to the last bits of f32.
                assert!((a.offset - b.offset).abs() <= 1e-6 * b.offset.abs(), "{name}: {} {}", a.offset, b.offset);
                assert!(a.codes[..] == b.codes[..], "{name}: codes of scales");
                let plain = Quantization { double: false, block_size, ..Quantization::default() };
                let BlockScales::Plain(scales) = Nf4Tensor::quantise(&data, &plain).unwrap().scales else {
                    panic!("plain scales");
                };
                let around = NestedScales::quantise_around(&scales, b.offset);
                assert!(around.absmax[..] == b.absmax[..], "{name}: scales");
                assert!(around.codes[..] == b.codes[..], "{name}: codes of scales");
            }
            _ => panic!("{name}: another form of scales"),
        }
        let wide = theirs.dequantise();
        if !bf16 {
            let expected = store.tensor("dequantised").unwrap();
            assert!(wide[..expected.data.len()] == expected.to_f32()[..], "{name}: values");
        }
        for (i, x) in wide.iter().enumerate() {
            assert_eq!(*x, theirs.at(i), "{name}: element {i}");
        }
    }
}

#[test]
fn what_is_written_is_what_bitsandbytes_writes() {
    for (name, ..) in CASES {
        let store = TensorStore::open_file(&fixture(name)).unwrap();
        let tensor = read(&store, "w.weight").unwrap().unwrap();
        let dtype = if name == "bfloat16" { "bfloat16" } else { "float32" };
        let written = write("w.weight", &tensor.shape, nf4(&tensor), dtype);
        let theirs: Vec<String> = store.names().filter(|name| *name != "dequantised").map(str::to_owned).collect();
        let mut names: Vec<&String> = written.iter().map(|(name, ..)| name).collect();
        names.sort();
        assert_eq!(names, theirs.iter().collect::<Vec<_>>());
        for (tensor, dtype, shape, bytes) in &written {
            let (_, their_dtype, their_shape, their_bytes) =
                store.contents().find(|(name, ..)| name == tensor).expect("a tensor");
            assert_eq!((format!("{dtype:?}").to_lowercase(), "quant_state"), (their_dtype, "quant_state"), "{tensor}");
            if tensor.contains("quant_state") {
                let json = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
                assert_eq!(json(bytes), json(their_bytes), "{name}");
            } else {
                assert_eq!(shape.as_slice(), their_shape, "{name} {tensor}");
                assert!(bytes == their_bytes, "{name} {tensor}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = TensorStore::open_file(&fixture("rows_of_blocks")).unwrap();
    let all: Vec<Stored> = write("w.weight", &[24, 128], nf4(&read(&store, "w.weight").unwrap().unwrap()), "float32");
    let refused = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut all = all.clone();
        change(&mut all);
        let views: Vec<_> = all.iter().map(|(n, d, s, b)| (n, TensorView::new(*d, s.clone(), b).unwrap())).collect();
        let path = folder.path().join("w.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        read(&TensorStore::open_file(&path).unwrap(), "w.weight").unwrap_err().to_string()
    };
    let state = |text: &'static str, other: &'static str| {
        move |all: &mut Vec<Stored>| {
            let (.., shape, bytes) = all.last_mut().unwrap();
            *bytes = String::from_utf8(bytes.clone()).unwrap().replace(text, other).into_bytes();
            *shape = vec![bytes.len()];
        }
    };
    assert!(refused(&state("\"nf4\"", "\"fp4\"")).contains("expected nf4"));
    assert!(refused(&state("[24,128]", "[24,129]")).contains("has 1536 elements, expected 1548"));
    assert!(refused(&state("{", "[")).contains("quant_state.bitsandbytes__nf4"));
    assert!(refused(&|all| all.retain(|(name, ..)| !name.ends_with("nested_absmax"))).contains("nested_absmax"));
    assert!(refused(&|all| all[1].3[5] ^= 64).contains("not the standard map"));
}

#[test]
fn what_is_not_finite_cannot_be_quantised() {
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(Nf4Tensor::quantise(&[0.5, bad, 1.0], &Quantization::default()).is_none());
    }
}

proptest! {
    #[test]
    fn values_come_back_within_half_a_step(n in 1usize..700, seed: u64, double: bool) {
        let mut rng = Seed(seed).stream("nf4", 0);
        let data: Vec<f32> = (0..n).map(|_| rng.normal() as f32).collect();
        let quantised = Nf4Tensor::quantise(&data, &Quantization { double, ..Quantization::default() }).unwrap();
        let plain = Nf4Tensor::quantise(&data, &Quantization { double: false, ..Quantization::default() }).unwrap();
        let widest = CODEBOOK.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
        for (i, (x, y)) in data.iter().zip(quantised.dequantise()).enumerate() {
            let (scale, exact) = (quantised.scales.at(i / 64), plain.scales.at(i / 64));
            prop_assert!((x - y).abs() <= exact * widest / 2.0 + (scale - exact).abs() + 1e-6, "{} {}", x, y);
            // The 8-bit scales are near the exact ones.
            prop_assert!((scale - exact).abs() <= 0.08 * 4.0, "{} {}", scale, exact);
        }
    }
}
