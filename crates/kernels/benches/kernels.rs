//! Speed of the CPU kernels: GFLOP/s of matrix products at the shapes of a 135M model, and of weights in
//! ggml's blocks and in other tools' codes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use harness_core::Seed;
use harness_kernels::{
    CodeKind, CodedTensor, HostData, Scales, Zeros,
    cpu::{MatMut, MatRef, PackedMatrix, gemm, gemm_packed},
    gguf::{BlockTensor, BlockType},
};

fn random(n: usize) -> Vec<f32> {
    let mut rng = Seed(1).stream("bench", 0);
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    for (m, k, n) in [(1, 576, 1536), (64, 576, 1536), (512, 576, 1536), (512, 1536, 576), (2048, 2048, 2048)] {
        let (a, w) = (random(m * k), random(n * k));
        let mut out = vec![0.0; m * n];
        let packed = PackedMatrix::weight_f32(&w, n, k);
        let halves: Vec<half::bf16> = w.iter().map(|&x| half::bf16::from_f32(x)).collect();
        let stored = PackedMatrix::weight_bf16(&halves, n, k);
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        let shape = format!("{m}x{k}x{n}");
        group.bench_function(BenchmarkId::new("packed f32", &shape), |b| {
            b.iter(|| gemm_packed(1.0, MatRef::new(&a, m, k), &packed, 0.0, MatMut::new(&mut out, m, n)));
        });
        group.bench_function(BenchmarkId::new("packed bf16", &shape), |b| {
            b.iter(|| gemm_packed(1.0, MatRef::new(&a, m, k), &stored, 0.0, MatMut::new(&mut out, m, n)));
        });
        group.bench_function(BenchmarkId::new("unpacked", &shape), |b| {
            b.iter(|| gemm(1.0, MatRef::new(&a, m, k), MatRef::new(&w, n, k).t(), 0.0, MatMut::new(&mut out, m, n)));
        });
    }
    group.finish();
}

/// Codes with scales for 128 columns, or, of 8-bit floats, for 128 rows and columns; `ordered` gives columns groups of their
/// own, as GPTQ does where it is told to sort them.
fn coded(kind: CodeKind, rows: usize, cols: usize, ordered: bool) -> HostData {
    let bits = if matches!(kind, CodeKind::Nibble | CodeKind::E2m1) { 4 } else { 8 };
    let stride = cols * bits / 8;
    let block = [if kind == CodeKind::E4m3 { 128 } else { 1 }, 128];
    let groups = cols / 128;
    let zero = match kind {
        CodeKind::Nibble => 8,
        CodeKind::Unsigned => 128,
        _ => 0,
    };
    HostData::Coded(CodedTensor {
        kind,
        codes: (0..rows * stride).map(|i| (i * 7 % 119) as u8).collect::<Vec<_>>().into(),
        stride,
        rows,
        cols,
        scales: Scales::F16(vec![half::f16::from_f32(0.01); rows / block[0] * groups].into()),
        block,
        zeros: Zeros::Same(zero),
        order: ordered.then(|| (0..cols).map(|col| (col * 7 % groups) as u32).collect::<Vec<_>>().into()),
        divisor: 1.0,
    })
}

/// One row, as when one sequence is generated, and many; weights in blocks and codes against the same in f32.
fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("blocks");
    let (k, n) = (2048, 2048);
    let (a, w) = (random(64 * k), random(n * k));
    let wide = PackedMatrix::weight_f32(&w, n, k);
    for m in [1, 64] {
        let mut out = vec![0.0; m * n];
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        let mut run = |name: &str, packed: &PackedMatrix| {
            group.bench_function(BenchmarkId::new(name, format!("{m}x{k}x{n}")), |b| {
                b.iter(|| gemm_packed(1.0, MatRef::new(&a, m, k), packed, 0.0, MatMut::new(&mut out, m, n)));
            });
        };
        run("f32", &wide);
        for kind in [BlockType::Q4_0, BlockType::Q5_0, BlockType::Q8_0, BlockType::Q4K, BlockType::Q6K] {
            // Any bits are codes; a scale of a few bits is no infinity.
            let len = n * k;
            let bytes: Vec<u8> = (0..len / kind.elements() * kind.bytes()).map(|i| (i * 7 % 59) as u8).collect();
            let tensor = BlockTensor { kind, bytes: bytes.into(), len };
            let packed = PackedMatrix::weight_codes(&[&HostData::Blocks(tensor)], k).expect("codes");
            run(kind.name(), &packed);
        }
        for (name, kind, ordered) in [
            ("int4", CodeKind::Nibble, false),
            ("int4, ordered", CodeKind::Nibble, true),
            ("int8", CodeKind::Signed, false),
            ("fp8", CodeKind::E4m3, false),
            ("fp4", CodeKind::E2m1, false),
        ] {
            run(name, &PackedMatrix::weight_codes(&[&coded(kind, n, k, ordered)], k).expect("codes"));
        }
    }
    group.finish();
}

criterion_group!(benches, products, blocks);
criterion_main!(benches);
