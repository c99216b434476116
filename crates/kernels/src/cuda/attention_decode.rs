//! Attention of single query rows over cached keys, split over the context (flash-decoding, Dao et al. 2023), with runs of
//! keys that several sequences share read once (cascade attention, Ye et al. 2024).

use std::collections::BTreeMap;

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Shape, args},
    ops::Done,
    queries::{KeySegment, Query},
};
use crate::{KernelError, cpu::attention::AttentionShape};

/// Rows of a product: the query heads of one head of keys, of the members of a run.
const ROWS: usize = 16;

/// Keys of a run are a multiple of what a block of threads takes at once.
const STEP: usize = 64;

/// Most keys of a run.
const LONGEST: usize = 1024;

/// Blocks for each multiprocessor that splitting aims at.
const BLOCKS: usize = 8;

/// As `KeyRun` of `kernels/attention_decode.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct KeyRun {
    start: i32,
    len: i32,
    position: i32,
    member: i32,
    members: i32,
}

/// As `Member` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Member {
    row: i32,
    position: i32,
    slot: i32,
}

/// As `Slots` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Slots {
    first: i32,
    count: i32,
}

/// Which keys are read for which rows.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    runs: Vec<KeyRun>,
    members: Vec<Member>,
    slots: Vec<Slots>,
}

impl Plan {
    /// The plan for queries of one row each, in order of their rows from 0 on. A run has at most `longest` keys and
    /// `most` members.
    fn new(queries: &[Query], longest: usize, most: usize) -> Self {
        let mut plan = Self::default();
        let mut by_run: BTreeMap<(i32, i32, i32), Vec<Member>> = BTreeMap::new();
        let mut slot = 0;
        for query in queries {
            let (first, mut position) = (slot, 0);
            for &KeySegment { start, len } in &query.segments {
                for from in (0..len).step_by(longest) {
                    let run = (start + from, longest.min((len - from) as usize) as i32, position + from);
                    let member = Member { row: query.row as i32, position: query.position as i32, slot };
                    by_run.entry(run).or_default().push(member);
                    slot += 1;
                }
                position += len;
            }
            plan.slots.push(Slots { first, count: slot - first });
        }
        for ((start, len, position), members) in by_run {
            for members in members.chunks(most) {
                let member = plan.members.len() as i32;
                plan.runs.push(KeyRun { start, len, position, member, members: members.len() as i32 });
                plan.members.extend_from_slice(members);
            }
        }
        // The longest first, so that no block is left alone at the end.
        plan.runs.sort_by_key(|run| std::cmp::Reverse(run.len));
        plan
    }
}

/// A plan on the device.
#[derive(Debug)]
pub(super) struct DecodeWork {
    runs: DeviceBuffer,
    members: DeviceBuffer,
    slots: DeviceBuffer,
    /// Numbers of runs, rows and slots.
    counts: [usize; 3],
    /// Query heads of a head of keys, at most.
    group: usize,
}

impl DecodeWork {
    /// For queries of one row each, which lie one behind the other; `None` for others. `heads` are those of queries and of
    /// keys.
    pub(super) fn new(
        device: &Device,
        queries: &[Query],
        [heads, kv_heads]: [usize; 2],
    ) -> Result<Option<Self>, KernelError> {
        let group = heads / kv_heads.max(1);
        let single = queries.iter().enumerate().all(|(row, query)| query.rows == 1 && query.row == row);
        if queries.is_empty() || !single || !(1..=ROWS).contains(&group) {
            return Ok(None);
        }
        let keys: usize = queries.iter().flat_map(|query| &query.segments).map(|segment| segment.len as usize).sum();
        let blocks = device.0.multiprocessors as usize * BLOCKS;
        let longest = (keys * kv_heads / blocks).next_multiple_of(STEP).clamp(STEP, LONGEST);
        let plan = Plan::new(queries, longest, ROWS / group);
        let counts = [plan.runs.len(), plan.slots.len(), plan.members.len()];
        let (runs, members) = (device.bytes(&plan.runs)?, device.bytes(&plan.members)?);
        Ok(Some(Self { runs, members, slots: device.bytes(&plan.slots)?, counts, group }))
    }
}

impl Device {
    /// Whether [`Device::attention_decode`] computes heads of this width, and so many of queries for one of keys.
    pub(super) fn decodes(work: &DecodeWork, dim: usize, group: usize) -> bool {
        matches!(dim, 64 | 128) && group == work.group
    }

    /// Causal attention of single rows, in 16 bits.
    pub(super) fn attention_decode(
        &self,
        [q, k, v]: [View<'_>; 3],
        shape: AttentionShape,
        scale: f32,
        work: &DecodeWork,
        o: View<'_>,
    ) -> Done {
        let AttentionShape { heads, kv_heads, head_dim: dim, window, .. } = shape;
        let [runs, rows, slots] = work.counts;
        // Rows behind those of the queries are nobody's.
        assert!(q.rows >= rows && o.rows >= rows && q.float != Float::F32, "a row a query");
        let sums = self.alloc(slots * heads * dim, Float::F32)?;
        let stats = self.alloc(slots * heads * 2, Float::F32)?;
        let group = heads / kv_heads.max(1);
        let (of_runs, join) = match (q.float, dim) {
            (Float::F16, 64) => ("attention_runs_f16_64", "attention_join_f16_64"),
            (Float::F16, _) => ("attention_runs_f16_128", "attention_join_f16_128"),
            (_, 64) => ("attention_runs_bf16_64", "attention_join_bf16_64"),
            (_, _) => ("attention_runs_bf16_128", "attention_join_bf16_128"),
        };
        let given = args![[q], [k], [v], sums.ptr(), stats.ptr(), work.runs.ptr(), work.members.ptr()];
        let args = [&given[..], &args![heads, group, scale, window.unwrap_or(0)]].concat();
        self.launch(of_runs, Shape { grid: (runs * kv_heads, 1), block: (128, 1), shared: 0 }, &args)?;
        let args = args![sums.ptr(), stats.ptr(), work.slots.ptr(), [o], rows, heads];
        self.launch(join, Shape { grid: ((rows * heads).div_ceil(8), 1), block: (256, 1), shared: 0 }, &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_runs_are_read_once() {
        let segment = |start, len| KeySegment { start, len };
        let query = |row: usize, position, own| Query {
            row,
            rows: 1,
            position,
            segments: vec![segment(0, 100), segment(own, 3)],
        };
        let plan = Plan::new(&[query(0, 102, 200), query(1, 102, 300), query(2, 102, 400)], 64, 2);
        let run = |start, len, position, member, members| KeyRun { start, len, position, member, members };
        assert_eq!(
            plan.runs,
            [
                run(0, 64, 0, 0, 2),
                run(0, 64, 0, 2, 1),
                run(64, 36, 64, 3, 2),
                run(64, 36, 64, 5, 1),
                run(200, 3, 100, 6, 1),
                run(300, 3, 100, 7, 1),
                run(400, 3, 100, 8, 1),
            ]
        );
        let slots: Vec<[i32; 2]> = plan.slots.iter().map(|slots| [slots.first, slots.count]).collect();
        assert_eq!(slots, [[0, 3], [3, 3], [6, 3]]);
        let members: Vec<[i32; 2]> = plan.members.iter().map(|member| [member.row, member.slot]).collect();
        assert_eq!(members, [[0, 0], [1, 3], [2, 6], [0, 1], [1, 4], [2, 7], [0, 2], [1, 5], [2, 8]]);
    }
}
