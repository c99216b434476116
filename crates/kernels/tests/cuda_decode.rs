//! What decoding adds to the GPU's kernels: rotation on the way to the cache, plans that hold for several steps, and graphs.
//! Skipped with a message where there is no GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod support;

use harness_core::Seed;
use harness_kernels::{
    HostTensor,
    cpu::{attention::AttentionShape, rope::RopeTable},
    cuda::{
        AttentionWork, Choice, DecodePlan, DecodeRows, DecodeWork, Device, DeviceMatrix, Draws, Float, KeySegment,
        LoraRows, LoraTable, Query, Rotation,
    },
};
use support::{Matrix, gpu, numbers};

#[test]
fn rotation_goes_to_the_cache() {
    let Some(device) = gpu() else { return };
    let (rows, heads, kv_heads, width, places) = (13, 4, 2, 20, 40);
    for float in [Float::F32, Float::Bf16, Float::F16] {
        for (planes, pairs) in [(10, false), (10, true), (8, false), (4, false), (3, true)] {
            let frequencies: Vec<f32> = (0..planes).map(|i| 0.7f32.powi(i)).collect();
            let host = RopeTable::new(&frequencies, 50, 1.1).with_heads(width, pairs);
            let table: Vec<f32> = (0..50).flat_map(|p| [host.angles(p).0, host.angles(p).1].concat()).collect();
            let positions: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 50).collect();
            let slots: Vec<u32> = (0..rows as u32).map(|i| i * 3 % places as u32).collect();
            let (table, positions) = (device.floats(&table).unwrap(), device.bytes(&positions).unwrap());
            let slots = device.bytes(&slots).unwrap();
            let (q_dim, kv_dim) = (heads * width, kv_heads * width);
            let x = numbers(rows * (q_dim + 2 * kv_dim), 1, float);
            let cache = || Matrix::zeros(&device, places, kv_dim, float);
            let on = || Matrix::padded(&device, &x, rows, q_dim + 2 * kv_dim, 8, float);
            let dims = 2 * planes as usize;

            let (one, keys, values) = (on(), cache(), cache());
            let turned = one.view().columns(0, q_dim + kv_dim);
            device.rotate(turned, heads + kv_heads, dims, pairs, &positions, &table, false).unwrap();
            device.store_kv(one.view(), q_dim, &slots, keys.view(), values.view()).unwrap();

            let (both, own_keys, own_values) = (on(), cache(), cache());
            let rotation = Rotation { table: &table, dims, pairs };
            let (k, v) = (own_keys.view(), own_values.view());
            device.rotate_and_store(both.view(), [heads, kv_heads], rotation, &positions, &slots, k, v).unwrap();
            let queries = |x: Vec<f32>| -> Vec<f32> {
                x.chunks_exact(q_dim + 2 * kv_dim).flat_map(|row| row[..q_dim].to_vec()).collect()
            };
            let name = format!("{} {planes} {pairs}", float.name());
            assert_eq!(queries(both.read()), queries(one.read()), "{name}");
            assert_eq!(own_keys.read(), keys.read(), "{name}");
            assert_eq!(own_values.read(), values.read(), "{name}");
        }
    }
}

/// A plan that reaches behind the rows' positions sees as much as one that ends there, also as positions go on; rows of
/// nobody get zeros.
#[test]
fn plans_hold_for_several_steps() {
    let Some(device) = gpu() else { return };
    let (heads, kv_heads, dim, places) = (6, 2, 64, 3000);
    let (width, kv) = (heads * dim, kv_heads * dim);
    // What stands behind the positions is no number.
    let poisoned = |seed| {
        let mut x = numbers(places * kv, seed, Float::Bf16);
        x[2000 * kv..].fill(f32::NAN);
        x
    };
    let q = numbers(4 * width, 1, Float::Bf16);
    let queries = |own: [usize; 3], len: [i32; 2]| -> Vec<Query> {
        let query = |row: usize| {
            let mut segments = vec![KeySegment { start: 0, len: 700 }];
            segments.extend(
                [(1900, len[0]), (2100, len[1])].map(|(at, len)| KeySegment { start: at + 30 * row as i32, len }),
            );
            segments.retain(|segment| segment.len > 0);
            Query { row, rows: 1, position: 699 + own[row], segments }
        };
        (0..3).map(query).collect()
    };
    for seen in [1usize, 20, 30, 31, 55] {
        let mut keys = [poisoned(2), poisoned(3)];
        // The keys seen so far are there.
        for data in &mut keys {
            let fresh = numbers(places * kv, 4, Float::Bf16);
            for row in 0..3 {
                let (a, b) = (1900 + 30 * row, 2100 + 30 * row);
                let first = seen.min(30);
                data[a * kv..(a + 30) * kv].fill(f32::NAN);
                data[a * kv..(a + first) * kv].copy_from_slice(&fresh[a * kv..(a + first) * kv]);
                data[b * kv..(b + seen - first) * kv].copy_from_slice(&fresh[b * kv..(b + seen - first) * kv]);
            }
        }
        let on = |data: &[f32], rows, cols| Matrix::new(&device, data, rows, cols, Float::Bf16);
        let (on_q, k, v) = (on(&q, 4, width), on(&keys[0], places, kv), on(&keys[1], places, kv));
        let run = |work: &AttentionWork| {
            let (o, shape) =
                (on(&vec![9.0; 4 * width], 4, width), AttentionShape { heads, kv_heads, head_dim: dim, window: None });
            device.attention([on_q.view(), k.view(), v.view()], shape, work, o.view(), None).unwrap();
            o.read()
        };
        let exact = queries([seen; 3], [seen.min(30) as i32, seen.saturating_sub(30) as i32]);
        let expected = run(&AttentionWork::cached(&device, &exact, [heads, kv_heads]).unwrap());
        let ahead = queries([1; 3], [30, 30]);
        let plan = DecodePlan::new(&device, &ahead, [heads, kv_heads]).unwrap();
        let [runs, members, _] = plan.counts();
        let counts = [runs + 5, members + 3, 4];
        let words = plan.words(counts);
        let [runs, members, slots] = words.each_ref().map(|words| device.bytes(words).unwrap());
        let positions = device.bytes(&[699 + seen as u32, 699 + seen as u32, 699 + seen as u32, 0]).unwrap();
        let work = DecodeWork::new([runs, members, slots, positions], counts);
        let found = run(&AttentionWork::planned(&device, work).unwrap());
        let worst = found[..3 * width].iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 4e-3 && found.iter().all(|x| x.is_finite()), "{seen}: {worst}");
        assert!(found[3 * width..].iter().all(|x| *x == 0.0), "a row of nobody");
    }
}

/// Rows at the positions 10, 20, ... that write to places of their own, a hundred apart.
fn state(device: &Device, n: usize, steps: usize) -> DecodeRows {
    let words = |words: Vec<u32>| device.bytes(&words).unwrap();
    DecodeRows {
        tokens: words(vec![0; n]),
        positions: words((1..=n as u32).map(|row| 10 * row).collect()),
        slots: words((0..n as u32).map(|row| 100 * row).collect()),
        table: words((0..n * steps).map(|i| (i / steps * 100 + i % steps) as u32).collect()),
        step: words(vec![0]),
        out: device.zeros_on_host(2 * n * steps).unwrap(),
        rows: n,
        steps,
    }
}

/// A graph repeats its launches with what memory holds by then; its own memory is nobody else's.
#[test]
fn graphs_repeat_their_launches() {
    let Some(device) = gpu() else { return };
    let memory = device.graph_memory().unwrap();
    let (n, steps) = (3, 5);
    let state = state(&device, n, steps);
    let x = device.floats(&vec![1.0; 3 * 50]).unwrap();
    // Logits are what `x` holds, by way of memory of the graph's own.
    let queue = || {
        let (logits, best) = (device.alloc(3 * 50, Float::F32)?, device.alloc_bytes(8 * n)?);
        device.cast(x.row(), logits.row())?;
        device.read_best(logits.view(0, 3, 50, 50), &best)?;
        device.advance(&best, &state)
    };
    queue().unwrap();
    let graph = device.record(&memory, queue).unwrap();
    assert!(device.record(&memory, || device.read(x.row()).map(|_| ())).is_err(), "a copy to the host in a graph");
    let moment = device.moment().unwrap();
    let mut filled = vec![];
    for step in 1..steps {
        let mut logits = vec![0.0; 3 * 50];
        (0..n).for_each(|row| logits[row * 50 + (7 * row + step) % 50] = 2.0);
        device.write(&logits, x.row()).unwrap();
        device.replay(&graph).unwrap();
        device.mark(&moment).unwrap();
        // Buffers made in between get other memory than the graph's.
        filled.push(device.floats(&[f32::NAN; 3 * 50]).unwrap());
        let bits = state.out.host().unwrap().bits_after(&moment, 2 * n * step, 2 * n).unwrap();
        let tokens: Vec<u32> = bits.iter().step_by(2).copied().collect();
        let expected: Vec<u32> = (0..n).map(|row| ((7 * row + step) % 50) as u32).collect();
        assert_eq!(tokens, expected, "step {step}");
        assert_eq!(device.read_ints(&state.tokens, n).unwrap(), expected);
        let positions = [10, 20, 30].map(|position| position + step as u32 + 1);
        assert_eq!(device.read_ints(&state.positions, n).unwrap(), positions);
        let slot = (step + 1).min(steps - 1) as u32;
        assert_eq!(device.read_ints(&state.slots, n).unwrap(), [slot, 100 + slot, 200 + slot]);
    }
    assert!(filled.iter().all(|buffer| device.read(buffer.row()).unwrap().iter().all(|x| x.is_nan())));
}

/// A row's choice as the kernel makes it, in f64: the token, and how near the draw is to a border of another.
fn chosen(logits: &[f32], choice: &Choice, seen: &[u32], uniform: f64) -> (u32, f64) {
    let mut z: Vec<(u32, f32)> = logits.iter().enumerate().map(|(token, z)| (token as u32, *z)).collect();
    for &token in seen {
        let z = &mut z[token as usize].1;
        *z = if *z > 0.0 { *z / choice.penalty } else { *z * choice.penalty };
    }
    z.retain(|(_, z)| *z != f32::NEG_INFINITY);
    z.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if choice.sharpness == 0.0 {
        return (z[0].0, 1.0);
    }
    let best = z[0].1;
    let weight = |z: f32| (f64::from(z - best) * f64::from(choice.sharpness)).exp();
    let mut nearest = 1.0f64;
    if choice.top_k > 0 {
        z.truncate(choice.top_k as usize);
    }
    let total: f64 = z.iter().map(|(_, z)| weight(*z)).sum();
    let mut mass = 0.0;
    let kept = z.iter().take_while(|(_, z)| {
        let before = mass / total;
        mass += weight(*z);
        if choice.top_p < 1.0 {
            nearest = nearest.min((before - f64::from(choice.top_p)).abs());
        }
        choice.top_p >= 1.0 || before < f64::from(choice.top_p)
    });
    let kept = kept.count();
    z.truncate(kept);
    z.retain(|(_, z)| {
        if choice.min_p > 0.0 {
            nearest = nearest.min((weight(*z) - f64::from(choice.min_p)).abs());
        }
        weight(*z) >= f64::from(choice.min_p)
    });
    let total: f64 = z.iter().map(|(_, z)| weight(*z)).sum();
    let mut left = uniform * total;
    for (token, z) in &z {
        left -= weight(*z);
        nearest = nearest.min((left / total).abs());
        if left < 0.0 {
            return (*token, nearest);
        }
    }
    (z[z.len() - 1].0, nearest)
}

/// Temperature, filters and penalty against the same in f64 on the processor, with equal logits and with impossible tokens.
#[test]
fn tokens_are_drawn_as_on_the_processor() {
    let Some(device) = gpu() else { return };
    let mut rng = Seed(11).stream("draws", 0);
    let best = Choice::BEST;
    let choices = [
        best,
        Choice { sharpness: 1.0, ..best },
        Choice { sharpness: 0.7, top_k: 40, ..best },
        Choice { sharpness: 1.4, top_p: 0.9, ..best },
        Choice { sharpness: 1.0, min_p: 0.05, ..best },
        Choice { sharpness: 1.2, top_k: 50, top_p: 0.95, min_p: 0.01, penalty: 1.3 },
        Choice { penalty: 1.5, ..best },
        Choice { sharpness: 0.3, top_k: 1, ..best },
    ];
    let (mut drawn, mut doubtful, mut kinds) = (0, 0, std::collections::BTreeSet::new());
    for vocab in [1, 31, 1000, 50_257, 128_256] {
        let (n, steps) = (choices.len(), 3);
        for coarse in [false, true] {
            let mut logits: Vec<f32> = (0..n * vocab).map(|_| 3.0 * rng.normal() as f32).collect();
            if coarse {
                // Many equal ones, and some that are impossible.
                logits.iter_mut().for_each(|z| *z = (*z * 2.0).round() / 2.0);
                logits.iter_mut().skip(1).step_by(7).for_each(|z| *z = f32::NEG_INFINITY);
            }
            for (row, z) in logits.chunks_exact_mut(vocab).enumerate() {
                z[row % vocab] = 9.0;
            }
            let uniform: Vec<f64> = (0..n * steps).map(|_| rng.uniform()).collect();
            let mut seen: Vec<Vec<u32>> = (0..n).map(|row| vec![(row % vocab) as u32]).collect();
            let words = vocab.div_ceil(32);
            let mut bits = vec![0u32; n * words];
            for (row, seen) in seen.iter().enumerate() {
                seen.iter().for_each(|token| bits[row * words + *token as usize / 32] |= 1 << (token % 32));
            }
            let all: Vec<u32> = choices.iter().flat_map(Choice::words).collect();
            let (on, all) = (device.floats(&logits).unwrap(), device.bytes(&all).unwrap());
            let (draws, bits) = (device.bytes(&uniform).unwrap(), device.bytes(&bits).unwrap());
            let state = state(&device, n, steps);
            let best = device.alloc_bytes(8 * n).unwrap();
            for step in 0..steps {
                let with = Draws { choices: &all, uniform: &draws, seen: Some(&bits) };
                device.sample(on.view(0, n, vocab, vocab), with, &state, &best).unwrap();
                device.advance(&best, &state).unwrap();
                let found = device.read_ints(&best, 2 * n).unwrap();
                for (row, logits) in logits.chunks_exact(vocab).enumerate() {
                    let choice = &choices[row];
                    let penalised: &[u32] = if choice.penalty == 1.0 { &[] } else { &seen[row] };
                    let (expected, nearest) = chosen(logits, choice, penalised, uniform[row * steps + step]);
                    let token = found[2 * row];
                    drawn += 1;
                    if nearest < 1e-5 {
                        doubtful += 1;
                    } else {
                        assert_eq!(token, expected, "{vocab} {coarse} row {row} step {step}");
                    }
                    kinds.insert(token);
                    let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
                    let logprob = f64::from(logits[token as usize]) - sum.ln();
                    assert!((f64::from(f32::from_bits(found[2 * row + 1])) - logprob).abs() < 1e-4);
                    if !seen[row].contains(&token) {
                        seen[row].push(token);
                    }
                }
            }
        }
    }
    eprintln!("{drawn} tokens drawn, {} of them different, {doubtful} at a border", kinds.len());
    assert!(doubtful * 20 < drawn && kinds.len() > 40);
}

/// Additions of several adapters to rows in tiles against products in f64.
#[test]
fn every_row_gets_the_addition_of_its_adapter() {
    let Some(device) = gpu() else { return };
    let (inputs, rows, owners) = (416, 40, [1i32, -1, 0, 2, 0]);
    let columns = [64, 32, 48];
    let wide: usize = columns.iter().sum();
    for float in [Float::Bf16, Float::F16] {
        let matrix = |rows: usize, cols: usize, seed| {
            let data: Vec<f32> = numbers(rows * cols, seed, float).into_iter().map(|x| x / 16.0).collect();
            let on = DeviceMatrix::new(&device, float, &[&HostTensor::from_f32([rows, cols], data.clone())]).unwrap();
            (on, data)
        };
        // Ranks of the parts of two adapters; the third changes nothing here.
        let ranks = [vec![(0, 8), (2, 8)], vec![(0, 32), (1, 40), (2, 64)]];
        let a = [matrix(16, inputs, 1), matrix(136, inputs, 2)];
        let b: Vec<Vec<_>> = ranks
            .iter()
            .map(|parts| parts.iter().map(|&(part, rank)| matrix(columns[part], rank, 3 + rank as u64)).collect())
            .collect();
        let mut adapters: Vec<_> = (0..2)
            .map(|adapter| {
                let mut first_rank = 0;
                let parts = ranks[adapter].iter().zip(&b[adapter]).map(|(&(part, rank), (b, _))| {
                    let first_column = columns[..part].iter().sum();
                    let part = LoraRows { b, first_rank, first_column, scale: 0.5 + adapter as f32 };
                    first_rank += rank;
                    part
                });
                Some((&a[adapter].0, parts.collect::<Vec<_>>()))
            })
            .collect();
        adapters.push(None);
        let table = LoraTable::new(&device, &adapters, [inputs, wide]).unwrap().expect("ranks that are served");
        let (x, y) = (numbers(rows * inputs, 7, float), numbers(rows * wide, 8, float));
        let on_x = Matrix::padded(&device, &x, rows, inputs, 8, float);
        let on_y = Matrix::padded(&device, &y, rows, wide, 3, float);
        let tiles = device.bytes(&owners).unwrap();
        device.add_loras(&table, &tiles, on_x.view(), on_y.view()).unwrap();
        let found = on_y.read();
        let mut worst = 0f64;
        for row in 0..rows {
            let mut expected: Vec<f64> = y[row * wide..][..wide].iter().map(|y| f64::from(*y)).collect();
            let owner = owners[row / 8];
            if let Some(parts) = usize::try_from(owner).ok().and_then(|owner| ranks.get(owner)) {
                let (owner, mut first_rank) = (owner as usize, 0);
                for (&(part, rank), (_, b)) in parts.iter().zip(&b[owner]) {
                    let first: usize = columns[..part].iter().sum();
                    for column in 0..columns[part] {
                        let of = |j: usize| {
                            let a = &a[owner].1[(first_rank + j) * inputs..][..inputs];
                            let x = &x[row * inputs..][..inputs];
                            let u: f64 = a.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum();
                            u * f64::from(b[column * rank + j])
                        };
                        expected[first + column] += (0.5 + owner as f64) * (0..rank).map(of).sum::<f64>();
                    }
                    first_rank += rank;
                }
            }
            for (found, expected) in found[row * wide..][..wide].iter().zip(&expected) {
                worst = worst.max((f64::from(*found) - expected).abs() / (1.0 + expected.abs()));
            }
        }
        eprintln!("additions of adapters {}: {worst:.1e}", float.name());
        assert!(worst < if float == Float::Bf16 { 1e-2 } else { 1.5e-3 }, "{worst}");
        // Ranks that are no multiples of 8 are not served.
        let (odd, _) = matrix(12, inputs, 9);
        assert!(LoraTable::new(&device, &[Some((&odd, vec![]))], [inputs, wide]).unwrap().is_none());
    }
}
