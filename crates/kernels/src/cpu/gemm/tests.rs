//! The product against a plain triple loop, and its laws.

use half::{bf16, f16};
use harness_core::Seed;
use proptest::prelude::*;

use super::*;
use crate::{
    CodeKind, CodedTensor, HostData, HostTensor, Scales, Zeros,
    cpu::isa::available,
    gguf::{BlockTensor, BlockType},
};

fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Seed(seed).stream("gemm test", 0);
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// One chain of fused multiply-adds an element, as the module promises.
fn naive(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: &mut [f32]) {
    for i in 0..a.rows {
        for j in 0..b.cols {
            let start = if beta == 0.0 { 0.0 } else { c[i * b.cols + j] * beta };
            c[i * b.cols + j] = (0..a.cols).fold(start, |sum, k| (alpha * a.at(i, k)).mul_add(b.at(k, j), sum));
        }
    }
}

/// Chains of [`KC`] steps, added up in order.
fn naive_chains(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, c: &mut [f32]) {
    for from in (0..a.cols).step_by(KC) {
        let part = from..a.cols.min(from + KC);
        for i in 0..a.rows {
            for j in 0..b.cols {
                let chain = part.clone().fold(0.0, |sum, k| (alpha * a.at(i, k)).mul_add(b.at(k, j), sum));
                c[i * b.cols + j] += chain;
            }
        }
    }
}

fn has_fma() -> bool {
    crate::cpu::isa::isa() != crate::cpu::isa::Isa::Portable
}

fn assert_same(found: &[f32], expected: &[f32]) {
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        let same = if has_fma() { x.to_bits() == y.to_bits() } else { (x - y).abs() <= 1e-4 * y.abs().max(1.0) };
        assert!(same, "element {i}: {x} is not {y}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equals_the_plain_loop(
        m in 0usize..40, k in 0usize..300, n in 0usize..80,
        ta: bool, tb: bool, alpha in prop_oneof![Just(1.0f32), Just(-0.5)],
        beta in prop_oneof![Just(0.0f32), Just(1.0), Just(0.25)],
    ) {
        let (a, b) = (random(1, m * k), random(2, k * n));
        let view = |data, rows, cols, transposed| {
            if transposed { MatRef::new(data, cols, rows).t() } else { MatRef::new(data, rows, cols) }
        };
        let (a, b) = (view(&a, m, k, ta), view(&b, k, n, tb));
        let mut expected = random(3, m * n);
        let mut found = expected.clone();
        naive(alpha, a, b, beta, &mut expected);
        gemm(alpha, a, b, beta, MatMut::new(&mut found, m, n));
        assert_same(&found, &expected);
        let mut found = vec![0.0; m * n];
        let mut expected = found.clone();
        naive_chains(alpha, a, b, &mut expected);
        gemm_in_chains(alpha, a, b, 0.0, MatMut::new(&mut found, m, n));
        assert_same(&found, &expected);
    }

    #[test]
    fn rows_do_not_depend_on_each_other(m in 1usize..60, first in 0usize..60) {
        let (k, n) = (513, 70);
        let first = first % m;
        let (a, b) = (random(4, m * k), random(5, n * k));
        let packed = PackedMatrix::weight_f32(&b, n, k);
        let mut all = vec![0.0; m * n];
        gemm_packed(1.0, MatRef::new(&a, m, k), &packed, 0.0, MatMut::new(&mut all, m, n));
        let mut tail = vec![0.0; (m - first) * n];
        let rows = MatRef::new(&a[first * k..], m - first, k);
        gemm_packed(1.0, rows, &packed, 0.0, MatMut::new(&mut tail, m - first, n));
        prop_assert_eq!(&all[first * n..], &tail[..]);
    }
}

#[test]
fn large_product_is_the_same_on_any_number_of_threads() {
    let (m, k, n) = (333, 700, 555);
    let (a, b) = (random(6, m * k), random(7, k * n));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut c = vec![0.0; m * n];
        pool.install(|| gemm(1.0, MatRef::new(&a, m, k), MatRef::new(&b, k, n), 0.0, MatMut::new(&mut c, m, n)));
        c
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
    let mut expected = vec![0.0; m * n];
    naive(1.0, MatRef::new(&a, m, k), MatRef::new(&b, k, n), 0.0, &mut expected);
    assert_same(&one, &expected);
}

#[test]
fn stored_halves_are_widened_exactly() {
    let (m, k, n) = (17, 290, 45);
    let (a, w) = (random(8, m * k), random(9, n * k));
    let product = |packed: &PackedMatrix| {
        let mut c = vec![0.0; m * n];
        gemm_packed(1.0, MatRef::new(&a, m, k), packed, 0.0, MatMut::new(&mut c, m, n));
        c
    };
    let halves: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
    let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
    let packed = PackedMatrix::weight_bf16(&halves, n, k);
    assert_eq!(product(&packed), product(&PackedMatrix::weight_f32(&widened, n, k)));
    let mut row = vec![0.0; k];
    packed.weight_row(33, &mut row);
    assert_eq!(row, widened[33 * k..34 * k]);

    let halves: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
    let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
    assert_eq!(product(&PackedMatrix::weight_f16(&halves, n, k)), product(&PackedMatrix::weight_f32(&widened, n, k)));
}

/// As many outputs as do not fill panels, of weights in every form that is kept.
fn all_forms(k: usize, n: usize) -> Vec<PackedMatrix> {
    let w = random(40, n * k);
    let bf16s: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
    let f16s: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
    let nf4 = crate::Nf4Tensor::quantise(&w, &crate::Quantization::default()).unwrap();
    let blocks = BLOCKS.map(|kind| HostData::Blocks(random_blocks(41, kind, n * k)));
    let mut forms = vec![
        PackedMatrix::weight_f32(&w, n, k),
        PackedMatrix::weight_bf16(&bf16s, n, k),
        PackedMatrix::weight_f16(&f16s, n, k),
        PackedMatrix::weight_nf4(&[&nf4], k),
    ];
    forms.extend(blocks.iter().map(|data| PackedMatrix::weight_codes(&[data], k).unwrap()));
    forms
}

#[test]
fn few_rows_have_the_bits_of_many_on_any_number_of_threads() {
    let (m, k, n) = (20, 512, 300);
    let x = random(42, m * k);
    for (form, packed) in all_forms(k, n).iter().enumerate() {
        let product = |rows: usize, threads: usize, beta: f32| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = random(43, rows * n);
            let (x, out) = (MatRef::new(&x[..rows * k], rows, k), MatMut::new(&mut y, rows, n));
            pool.install(|| gemm_packed(0.5, x, packed, beta, out));
            y
        };
        for beta in [0.0, 1.0] {
            let many = product(m, 1, beta);
            for rows in 1..=10 {
                for threads in [1, 3] {
                    let few = product(rows, threads, beta);
                    assert!(few == many[..rows * n], "form {form}, {rows} rows, {threads} threads, beta {beta}");
                }
            }
        }
    }
}

#[test]
fn instruction_sets_agree() {
    let k = 100;
    let starts = [Start::Zero, Start::Loaded, Start::Added];
    for (rows, start) in (1..=MR).flat_map(|rows| starts.map(|start| (rows, start))) {
        let (a, b) = (random(10, rows * k), random(11, k * NR));
        let results: Vec<Vec<f32>> = available()
            .into_iter()
            .map(|isa| {
                let mut c = random(12, rows * NR);
                // SAFETY: the buffers have the sizes that the kernel reads and writes, and the processor can run it.
                unsafe { Microkernel::of(isa).run(rows, k, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), NR, start) };
                c
            })
            .collect();
        for other in &results[1..] {
            for (x, y) in results[0].iter().zip(other) {
                assert!((x - y).abs() <= 1e-4 * y.abs().max(1.0), "{x} is not {y}");
            }
        }
        if results.len() == 3 {
            assert_eq!(results[0], results[1], "AVX-512 and AVX2 with {rows} rows");
        }
    }
}

#[test]
fn a_packed_matrix_serves_transposed_too() {
    for (m, k, n) in [(1, 1, 1), (17, 290, 45), (30, 64, 96), (3, 33, 520)] {
        let (w, d) = (random(20, n * k), random(21, m * n));
        let mut expected = random(22, m * k);
        let mut found = expected.clone();
        let halves: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
        let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        naive_chains(0.5, MatRef::new(&d, m, n), MatRef::new(&widened, n, k), &mut expected);
        for packed in [PackedMatrix::weight_bf16(&halves, n, k), PackedMatrix::weight_f32(&widened, n, k)] {
            let mut found = std::mem::replace(&mut found, random(22, m * k));
            gemm_packed_transposed(0.5, MatRef::new(&d, m, n), &packed, 1.0, MatMut::new(&mut found, m, k));
            assert_same(&found, &expected);
        }
    }
}

#[test]
fn four_bit_codes_give_the_products_of_their_values() {
    use crate::{Nf4Tensor, Quantization};
    // Blocks inside of rows and across them, stacked weights that do not fill panels.
    for (k, outs, double) in [(128, [40, 24], true), (40, [5, 33], false), (70, [64, 1], true)] {
        let options = Quantization { double, ..Quantization::default() };
        let weights = outs.map(|out| Nf4Tensor::quantise(&random(out as u64, out * k), &options).expect("finite"));
        let widened: Vec<f32> = weights.iter().flat_map(Nf4Tensor::dequantise).collect();
        let (n, m) = (outs.iter().sum(), 19);
        let packed = PackedMatrix::weight_nf4(&[&weights[0], &weights[1]], k);
        assert!(packed.bytes() < packed.rows() * packed.cols().next_multiple_of(NR) * 5 / 8 + 64);
        let (x, d) = (random(30, m * k), random(31, m * n));
        let (mut y, mut dx) = (vec![0.0; m * n], vec![0.0; m * k]);
        let (mut expected_y, mut expected_dx) = (y.clone(), dx.clone());
        gemm_packed(1.0, MatRef::new(&x, m, k), &packed, 0.0, MatMut::new(&mut y, m, n));
        gemm_packed_transposed(1.0, MatRef::new(&d, m, n), &packed, 0.0, MatMut::new(&mut dx, m, k));
        naive(1.0, MatRef::new(&x, m, k), MatRef::new(&widened, n, k).t(), 0.0, &mut expected_y);
        naive_chains(1.0, MatRef::new(&d, m, n), MatRef::new(&widened, n, k), &mut expected_dx);
        assert_same(&y, &expected_y);
        assert_same(&dx, &expected_dx);
        let mut row = vec![0.0; k];
        packed.weight_row(n - 1, &mut row);
        assert_eq!(row, widened[(n - 1) * k..]);
    }
}

/// Types of blocks with everything that differs between them: sizes, minima, groups of 16.
const BLOCKS: [BlockType; 14] = [
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::Q8_1,
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::Q4K,
    BlockType::Q5K,
    BlockType::Q6K,
    BlockType::Q8K,
    BlockType::IQ4_NL,
    BlockType::IQ4_XS,
];

/// Any codes, with scales of half precision from subnormal ones to about 4.
fn random_blocks(seed: u64, kind: BlockType, len: usize) -> BlockTensor {
    let mut rng = Seed(seed).stream("blocks test", 0);
    let mut bytes: Vec<u8> = (0..len / kind.elements() * kind.bytes()).map(|_| rng.below(256) as u8).collect();
    let at: &[usize] = match kind {
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q8_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        BlockType::Q8K => &[0, 2],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(kind.bytes()) {
        for at in at {
            let scale = f16::from_f32(rng.normal() as f32 * [1e-6, 1e-2, 1.0][rng.below(3) as usize]);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    BlockTensor { kind, bytes: bytes.into(), len }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn blocks_give_the_products_of_their_values(
        first in 0usize..14, second in 0usize..14, m in 1usize..20, deep in 1usize..4,
        outs in (1usize..70, 1usize..40), beta in prop_oneof![Just(0.0f32), Just(1.0), Just(0.25)],
    ) {
        let kinds = [BLOCKS[first], BLOCKS[second]];
        // Whole blocks of both; not whole panels of 256 steps if they are small.
        let k = kinds.iter().map(|kind| kind.elements()).max().unwrap_or(1) * deep;
        let parts = [(kinds[0], outs.0), (kinds[1], outs.1)];
        let parts = parts.map(|(kind, out)| random_blocks((deep * 64 + out) as u64, kind, out * k));
        let widened: Vec<f32> = parts.iter().flat_map(BlockTensor::widen).collect();
        let n = outs.0 + outs.1;
        let stored = parts.clone().map(HostData::Blocks);
        let packed = PackedMatrix::weight_codes(&[&stored[0], &stored[1]], k).unwrap();
        prop_assert_eq!(packed.bytes(), parts.iter().map(|part| part.bytes.len()).sum::<usize>());
        let (x, d) = (random(30, m * k), random(31, m * n));
        let (mut y, mut dx) = (random(32, m * n), vec![0.0; m * k]);
        let (mut expected_y, mut expected_dx) = (y.clone(), dx.clone());
        gemm_packed(1.0, MatRef::new(&x, m, k), &packed, beta, MatMut::new(&mut y, m, n));
        gemm_packed_transposed(1.0, MatRef::new(&d, m, n), &packed, 0.0, MatMut::new(&mut dx, m, k));
        naive(1.0, MatRef::new(&x, m, k), MatRef::new(&widened, n, k).t(), beta, &mut expected_y);
        naive_chains(1.0, MatRef::new(&d, m, n), MatRef::new(&widened, n, k), &mut expected_dx);
        assert_same(&y, &expected_y);
        assert_same(&dx, &expected_dx);
        let mut row = vec![0.0; k];
        packed.weight_row(n - 1, &mut row);
        prop_assert_eq!(&row, &widened[(n - 1) * k..]);
    }
}

#[test]
fn tiny_scales_keep_their_bits() {
    let (k, n) = (512, 40);
    let mut tensor = random_blocks(44, BlockType::Q8K, n * k);
    let mut bytes = tensor.bytes.to_vec();
    for (i, block) in bytes.chunks_exact_mut(BlockType::Q8K.bytes()).enumerate() {
        block[..4].copy_from_slice(&[1e-36f32, 3e-41, -2e-33, 0.5][i % 4].to_le_bytes());
    }
    tensor.bytes = bytes.into();
    let widened = tensor.widen();
    let packed = PackedMatrix::weight_codes(&[&HostData::Blocks(tensor)], k).unwrap();
    for m in [1, 3, 8, 11] {
        let x = random(45, m * k);
        let (mut found, mut expected) = (vec![0.0; m * n], vec![0.0; m * n]);
        gemm_packed(1.0, MatRef::new(&x, m, k), &packed, 0.0, MatMut::new(&mut found, m, n));
        naive(1.0, MatRef::new(&x, m, k), MatRef::new(&widened, n, k).t(), 0.0, &mut expected);
        assert_same(&found, &expected);
    }
}

/// A matrix of random codes; what differs between formats by bits of `how`.
fn random_coded(kind: CodeKind, rows: usize, cols: usize, how: u64) -> CodedTensor {
    let mut rng = Seed(how).stream("codes test", rows as u64);
    let nibbles = matches!(kind, CodeKind::Nibble | CodeKind::E2m1);
    let stride = if nibbles { cols.div_ceil(2) } else { cols } + 4 * (how as usize & 1);
    let block = [[1, 16], [1, cols], [1, 32], [3, 64], [1, 24]][how as usize / 2 % 5];
    let groups = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    let count = groups[0] * groups[1];
    let mut byte = |most: u64| rng.below(most) as u8;
    let codes: Vec<u8> = (0..rows * stride).map(|_| byte(0x7f) | byte(2) << 7).collect();
    let zeros = match (kind, how / 10 % 2) {
        (CodeKind::Unsigned, 0) => Zeros::Same(128),
        (CodeKind::Nibble, 0) => Zeros::Same(8),
        (CodeKind::Nibble, _) => Zeros::Each((0..count).map(|_| byte(16)).collect::<Vec<_>>().into()),
        (CodeKind::Unsigned | CodeKind::Signed, 1) => {
            Zeros::Each((0..count).map(|_| byte(255)).collect::<Vec<_>>().into())
        }
        _ => Zeros::Same(0),
    };
    let scales = match how / 20 % 4 {
        0 => Scales::Exponents((0..count).map(|_| 120 + byte(12)).collect::<Vec<_>>().into()),
        1 => Scales::F16((0..count).map(|_| f16::from_f32(f32::from(byte(200)) * 1e-3)).collect::<Vec<_>>().into()),
        2 => Scales::Bf16((0..count).map(|_| bf16::from_f32(f32::from(byte(200)) * 1e-3)).collect::<Vec<_>>().into()),
        _ => Scales::F32((0..count).map(|_| f32::from(byte(200)) * 1e-3).collect::<Vec<_>>().into()),
    };
    let order =
        (how / 80 % 4 == 3).then(|| (0..cols).map(|_| byte(groups[1] as u64).into()).collect::<Vec<u32>>().into());
    let divisor = if how / 320 % 4 == 3 { 127.0 } else { 1.0 };
    CodedTensor { kind, codes: codes.into(), stride, rows, cols, scales, block, zeros, order, divisor }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn codes_give_the_products_of_their_values(
        kind in 0usize..5, how in 0u64..1280, m in 1usize..8, k in prop_oneof![1usize..90, 250usize..530],
        outs in (1usize..40, 1usize..40), cut in 0usize..40,
    ) {
        use CodeKind::{E2m1, E4m3, Nibble, Signed, Unsigned};
        let kind = [Nibble, E2m1, Unsigned, Signed, E4m3][kind];
        let parts = [random_coded(kind, outs.0, k, how), random_coded(kind, outs.1, k, how * 7 % 1280)];
        let mut widened: Vec<f32> = parts.iter().flat_map(CodedTensor::widen).collect();
        let n = outs.0 + outs.1;
        let stored = parts.map(HostData::Coded);
        let packed = PackedMatrix::weight_codes(&[&stored[0], &stored[1]], k).unwrap();
        let (x, d) = (random(30, m * k), random(31, m * n));
        let (mut y, mut dx) = (random(32, m * n), vec![0.0; m * k]);
        let (mut expected_y, mut expected_dx) = (y.clone(), dx.clone());
        gemm_packed(1.0, MatRef::new(&x, m, k), &packed, 1.0, MatMut::new(&mut y, m, n));
        gemm_packed_transposed(1.0, MatRef::new(&d, m, n), &packed, 0.0, MatMut::new(&mut dx, m, k));
        naive(1.0, MatRef::new(&x, m, k), MatRef::new(&widened, n, k).t(), 1.0, &mut expected_y);
        naive_chains(1.0, MatRef::new(&d, m, n), MatRef::new(&widened, n, k), &mut expected_dx);
        assert_same(&y, &expected_y);
        assert_same(&dx, &expected_dx);
        let first = HostTensor { shape: vec![outs.0, k], data: stored[0].clone() };
        let runs = [0..cut % outs.0, cut % outs.0..outs.0, 0..1];
        widened.truncate(outs.0 * k);
        widened.extend_from_within(..k);
        let selected = first.select_rows(runs.into_iter());
        prop_assert_eq!(selected.to_f32(), &widened[..]);
    }
}
