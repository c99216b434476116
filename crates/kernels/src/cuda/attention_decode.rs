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

/// Keys that a warp takes at once.
const KEYS: usize = 16;

/// Keys of a run are a multiple of what a block of threads takes at once.
const STEP: usize = 64;

/// Most keys of a run.
const LONGEST: usize = 1024;

/// Blocks for each multiprocessor that splitting aims at.
const BLOCKS: usize = 4;

/// As `KeyRun` of `kernels/attention_decode.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct KeyRun {
    start: i32,
    len: i32,
    position: i32,
    members: i32,
    /// The first of its members, and that one's row.
    member: i32,
    row: i32,
}

/// As `Member` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Member {
    row: i32,
    slot: i32,
}

/// As `Slots` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Slots {
    first: i32,
    count: i32,
}

/// Which keys are read for which rows. A row sees keys up to its own position: segments may go on behind it, where the
/// keys of its next positions will stand.
#[derive(Debug, Default, PartialEq)]
pub struct DecodePlan {
    runs: Vec<KeyRun>,
    members: Vec<Member>,
    slots: Vec<Slots>,
}

impl DecodePlan {
    /// Whether plans serve so many query heads for one head of keys.
    pub(super) fn serves(group: usize) -> bool {
        (1..=ROWS).contains(&group)
    }

    /// The plan for queries of one row each, in order of their rows from 0 on; `None` for others. `heads` are those of
    /// queries and of keys.
    pub fn new(device: &Device, queries: &[Query], [heads, kv_heads]: [usize; 2]) -> Option<Self> {
        let group = heads / kv_heads.max(1);
        let single = queries.iter().enumerate().all(|(row, query)| query.rows == 1 && query.row == row);
        if queries.is_empty() || !single || !Self::serves(group) {
            return None;
        }
        let keys: usize = queries.iter().flat_map(|query| &query.segments).map(|segment| segment.len as usize).sum();
        let blocks = device.0.multiprocessors as usize * BLOCKS;
        let longest = (keys * kv_heads / blocks).next_multiple_of(STEP).clamp(STEP, LONGEST);
        Some(Self::split(queries, longest, ROWS / group))
    }

    /// A run has at most `longest` keys and `most` members.
    fn split(queries: &[Query], longest: usize, most: usize) -> Self {
        let mut plan = Self::default();
        let mut by_run: BTreeMap<(i32, i32, i32), Vec<Member>> = BTreeMap::new();
        let mut slot = 0;
        for query in queries {
            let (first, mut position) = (slot, 0);
            for &KeySegment { start, len } in &query.segments {
                // Parts of about one length, of whole steps of a warp.
                let parts = (len as usize).div_ceil(longest);
                let part = (len as usize).div_ceil(parts).next_multiple_of(KEYS);
                for from in (0..len).step_by(part) {
                    let run = (start + from, part.min((len - from) as usize) as i32, position + from);
                    by_run.entry(run).or_default().push(Member { row: query.row as i32, slot });
                    slot += 1;
                }
                position += len;
            }
            plan.slots.push(Slots { first, count: slot - first });
        }
        for ((start, len, position), members) in by_run {
            for members in members.chunks(most) {
                let member = plan.members.len() as i32;
                let row = members[0].row;
                plan.runs.push(KeyRun { start, len, position, members: members.len() as i32, member, row });
                plan.members.extend_from_slice(members);
            }
        }
        // The longest first, so that no block is left alone at the end.
        plan.runs.sort_by_key(|run| std::cmp::Reverse(run.len));
        plan
    }

    /// Numbers of runs, of members and of rows.
    pub fn counts(&self) -> [usize; 3] {
        [self.runs.len(), self.members.len(), self.slots.len()]
    }

    /// The plan in words, as [`DecodeWork`] wants it, filled up to these counts with what does nothing.
    ///
    /// # Panics
    /// If there is more.
    pub fn words(&self, counts: [usize; 3]) -> [Vec<u32>; 3] {
        let [runs, members, rows] = counts;
        assert!(self.counts().iter().zip(&counts).all(|(own, most)| own <= most), "room for the plan");
        let fill = |mut words: Vec<i32>, len: usize| {
            words.resize(len, 0);
            words.into_iter().map(|word| word as u32).collect()
        };
        let of_run = |run: &KeyRun| [run.start, run.len, run.position, run.members, run.member, run.row, 0, 0];
        [
            fill(self.runs.iter().flat_map(of_run).collect(), DecodeWork::RUN_WORDS * runs),
            fill(self.members.iter().flat_map(|member| [member.row, member.slot]).collect(), 2 * members),
            fill(self.slots.iter().flat_map(|slots| [slots.first, slots.count]).collect(), 2 * rows),
        ]
    }
}

/// A plan on the device.
#[derive(Debug)]
pub struct DecodeWork {
    /// In words: of a run eight, of a member two, of a row two; and the position of every row.
    runs: DeviceBuffer,
    members: DeviceBuffer,
    slots: DeviceBuffer,
    positions: DeviceBuffer,
    /// Numbers of runs, members and rows.
    counts: [usize; 3],
}

impl DecodeWork {
    /// Words of 32 bits of a run.
    pub const RUN_WORDS: usize = 8;

    /// A plan in buffers of the words of [`DecodePlan::words`], and the position of every row in 32 bits.
    ///
    /// # Panics
    /// If a buffer is too short for the counts.
    pub fn new([runs, members, slots, positions]: [DeviceBuffer; 4], counts: [usize; 3]) -> Self {
        let words = [Self::RUN_WORDS * counts[0], 2 * counts[1], 2 * counts[2], counts[2]];
        let fit = [&runs, &members, &slots, &positions].iter().zip(words).all(|(buffer, n)| buffer.bytes() >= 4 * n);
        assert!(fit, "words of the whole plan");
        Self { runs, members, slots, positions, counts }
    }

    /// The plan for queries of one row each, which lie one behind the other; `None` for others.
    pub(super) fn of(device: &Device, queries: &[Query], heads: [usize; 2]) -> Result<Option<Self>, KernelError> {
        let Some(plan) = DecodePlan::new(device, queries, heads) else { return Ok(None) };
        let positions: Vec<u32> = queries.iter().map(|query| query.position as u32).collect();
        let [runs, members, slots] = plan.words(plan.counts());
        let buffers = [device.bytes(&runs)?, device.bytes(&members)?, device.bytes(&slots)?, device.bytes(&positions)?];
        Ok(Some(Self::new(buffers, plan.counts())))
    }
}

impl Device {
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
        let [runs, slots, rows] = work.counts;
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
        let args = [&given[..], &args![work.positions.ptr(), heads, group, scale, window.unwrap_or(0)]].concat();
        self.launch_early(of_runs, Shape { grid: (runs * kv_heads, 1), block: (128, 1), shared: 0 }, &args)?;
        let args = args![sums.ptr(), stats.ptr(), work.slots.ptr(), [o], rows, heads];
        self.launch_early(join, Shape { grid: ((rows * heads).div_ceil(8), 1), block: (256, 1), shared: 0 }, &args)
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
        let plan = DecodePlan::split(&[query(0, 102, 200), query(1, 102, 300), query(2, 102, 400)], 64, 2);
        let run = |start, len, position, member, members, row| KeyRun { start, len, position, members, member, row };
        assert_eq!(
            plan.runs,
            [
                run(0, 64, 0, 0, 2, 0),
                run(0, 64, 0, 2, 1, 2),
                run(64, 36, 64, 3, 2, 0),
                run(64, 36, 64, 5, 1, 2),
                run(200, 3, 100, 6, 1, 0),
                run(300, 3, 100, 7, 1, 1),
                run(400, 3, 100, 8, 1, 2),
            ]
        );
        let slots: Vec<[i32; 2]> = plan.slots.iter().map(|slots| [slots.first, slots.count]).collect();
        assert_eq!(slots, [[0, 3], [3, 3], [6, 3]]);
        let members: Vec<[i32; 2]> = plan.members.iter().map(|member| [member.row, member.slot]).collect();
        assert_eq!(members, [[0, 0], [1, 3], [2, 6], [0, 1], [1, 4], [2, 7], [0, 2], [1, 5], [2, 8]]);
    }
}
