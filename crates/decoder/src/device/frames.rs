//! Shapes of decoding steps: their buffers, and the graphs that repeat them.

use std::{ops::Range, sync::Arc};

use harness_kernels::{
    KernelError,
    cuda::{
        AttentionWork, Choice, DecodePlan, DecodeRows, DecodeWork, Device, DeviceBuffer, Draws, Graph, GraphMemory,
        Moment,
    },
};

use super::{DeviceAdapter, DeviceModel, adapter::AdapterSet};
use crate::Draw;

/// Rows of a tile, which have one adapter.
pub(super) const TILE: usize = 8;

/// Parts of what is written for a stretch of steps.
const PARTS: usize = 10;

/// How often a step may be queued directly because its recording was broken off.
const RECORDINGS: usize = 8;

/// Most shapes kept.
const KEPT: usize = 32;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawing {
    /// The most probable ones.
    Best,
    /// Each row its own way.
    Sampled,
    /// Likewise, with a penalty on tokens that were seen: words of bits a row.
    Penalised(usize),
}

/// What the launches of a step depend on; all else is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Rows, with those of nobody.
    pub(super) rows: usize,
    /// Runs and members of the plan, with those that do nothing.
    pub(super) parts: [usize; 2],
    /// The adapters of the models.
    pub(super) adapters: Vec<Option<u64>>,
    /// The model of every tile of rows; empty where there is one.
    pub(super) owners: Vec<usize>,
    pub(super) drawing: Drawing,
    /// How often the cache had moved.
    pub(super) moved: u64,
}

impl Shape {
    /// Rows of the next larger shape, in whole tiles if so wanted: those of nobody cost little beside the weights.
    pub(super) fn rows_for(rows: usize, tiles: bool) -> usize {
        let step = match rows {
            0..=8 if !tiles => 1,
            0..=8 => TILE,
            9..=64 => 8,
            65..=256 => 16,
            _ => 64,
        };
        rows.next_multiple_of(step)
    }

    /// Likewise runs or members of a plan.
    pub(super) fn parts_for(parts: usize) -> usize {
        parts.next_multiple_of((parts.next_power_of_two() / 4).max(32))
    }

    /// Numbers of runs, members and rows.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.parts[0], self.parts[1], self.rows]
    }
}

/// What a row begins with.
#[derive(Clone, Debug, Default)]
pub(super) struct Row<'a> {
    pub(super) token: u32,
    pub(super) position: u32,
    /// Where its keys and values of all steps go.
    pub(super) slots: Vec<u32>,
    pub(super) draw: Option<&'a Draw>,
}

/// The buffers of a shape.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) shape: Shape,
    /// All words that are written for a stretch of steps, which the buffers below are parts of.
    input: Arc<DeviceBuffer>,
    pub(super) rows: DecodeRows,
    pub(super) work: AttentionWork,
    choices: DeviceBuffer,
    uniform: DeviceBuffer,
    seen: Option<DeviceBuffer>,
    /// The model of every tile of rows.
    pub(super) owners: DeviceBuffer,
    /// Ends of the steps in flight, in turn.
    moments: [Moment; 2],
    /// The launches of a step, once a step has been run.
    graph: Option<Graph>,
    has_run: bool,
    /// Recordings that were broken off.
    broken: usize,
}

impl Frame {
    fn new(device: &Device, shape: Shape, steps: usize) -> Result<Self, KernelError> {
        let [runs, members, rows] = shape.counts();
        let sampled = if shape.drawing == Drawing::Best { 0 } else { rows };
        let words = [
            1,
            rows,
            rows,
            rows,
            rows * steps,
            DecodeWork::RUN_WORDS * runs,
            2 * members,
            2 * rows,
            Choice::WORDS * sampled,
            2 * sampled * steps,
        ];
        let places = places(words);
        let input = Arc::new(device.alloc_bytes(4 * places[PARTS - 1].end)?);
        let part = |number: usize| {
            let like = device.alloc_bytes(4 * places[number].len())?;
            Ok::<_, KernelError>(DeviceBuffer::part(&input, 4 * places[number].start, &like))
        };
        let work = DecodeWork::new([part(5)?, part(6)?, part(7)?, part(2)?], shape.counts());
        let rows = DecodeRows {
            step: part(0)?,
            tokens: part(1)?,
            positions: part(2)?,
            slots: part(3)?,
            table: part(4)?,
            out: device.zeros_on_host(2 * rows * steps)?,
            rows,
            steps,
        };
        let (work, moments) = (AttentionWork::planned(device, work)?, [device.moment()?, device.moment()?]);
        let seen = match shape.drawing {
            Drawing::Penalised(words) => Some(device.alloc_bytes(4 * words * shape.rows)?),
            _ => None,
        };
        let (choices, uniform) = (part(8)?, part(9)?);
        // Models without an adapter have no additions, which is found in the set.
        let owners = device.bytes(&shape.owners.iter().map(|owner| *owner as u32).collect::<Vec<u32>>())?;
        Ok(Self {
            shape,
            input,
            rows,
            work,
            choices,
            uniform,
            seen,
            owners,
            moments,
            graph: None,
            has_run: false,
            broken: 0,
        })
    }

    /// Writes what a stretch begins with, and its plan.
    pub(super) fn write(&self, device: &Device, rows: &[Row<'_>], plan: &DecodePlan) -> Result<(), KernelError> {
        let steps = self.rows.steps;
        assert!(rows.len() == self.rows.rows, "all rows");
        let each = |f: fn(&Row<'_>) -> u32| rows.iter().map(f).collect::<Vec<u32>>();
        let mut table = vec![0; rows.len() * steps];
        for (to, row) in table.chunks_exact_mut(steps).zip(rows) {
            to[..row.slots.len()].copy_from_slice(&row.slots);
        }
        let [runs, members, of_rows] = plan.words(self.shape.counts());
        let (mut choices, mut uniform) = (vec![], vec![]);
        if self.shape.drawing != Drawing::Best {
            for row in rows {
                choices.extend(row.draw.map_or(Choice::BEST, Draw::choice).words());
                let own = row.draw.map_or(&[][..], |draw| &draw.uniform);
                let own = own.iter().copied().chain(std::iter::repeat(0.0)).take(steps);
                uniform.extend(own.flat_map(|x| [x.to_bits() as u32, (x.to_bits() >> 32) as u32]));
            }
        }
        if let (Some(seen), Drawing::Penalised(width)) = (&self.seen, self.shape.drawing) {
            let mut bits = vec![0u32; width * rows.len()];
            for (bits, row) in bits.chunks_exact_mut(width).zip(rows) {
                let seen = row.draw.map_or(&[][..], |draw| &draw.seen);
                seen.iter().for_each(|&token| bits[token as usize / 32] |= 1 << (token % 32));
            }
            device.overwrite(&bits, seen)?;
        }
        let parts = [
            vec![0],
            each(|row| row.token),
            each(|row| row.position),
            each(|row| row.slots.first().copied().unwrap_or(0)),
            table,
            runs,
            members,
            of_rows,
            choices,
            uniform,
        ];
        let places = places(parts.each_ref().map(Vec::len));
        let mut words = vec![0; places[PARTS - 1].end];
        for (place, part) in places.into_iter().zip(&parts) {
            words[place].copy_from_slice(part);
        }
        device.overwrite(&words, &self.input)
    }

    /// What tokens are drawn with; `None` for the most probable ones.
    pub(super) fn draws(&self) -> Option<Draws<'_>> {
        let draws = Draws { choices: &self.choices, uniform: &self.uniform, seen: self.seen.as_ref() };
        (self.shape.drawing != Drawing::Best).then_some(draws)
    }

    /// Queues a step: `queue` queues it directly the first time, is recorded the second time, and repeated from then on.
    pub(super) fn run(
        &mut self,
        device: &Device,
        memory: &Arc<GraphMemory>,
        number: usize,
        queue: impl Fn(&Self) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        // The driver loads kernels and the library chooses its own when they run first, which cannot be recorded. What other
        // threads ask of the driver meanwhile can break a recording off as well; then the step is queued directly too.
        if self.has_run && self.graph.is_none() {
            match device.record(memory, || queue(self)) {
                Ok(graph) => self.graph = Some(graph),
                Err(error) if self.broken == RECORDINGS => return Err(error),
                Err(_) => self.broken += 1,
            }
        }
        self.has_run = true;
        self.graph.as_ref().map_or_else(|| queue(self), |graph| device.replay(graph))?;
        device.mark(&self.moments[number % 2])
    }

    /// The tokens of all rows of a step and their log-probabilities, once it is done.
    pub(super) fn found(&self, device: &Device, number: usize) -> Result<Vec<(u32, f32)>, KernelError> {
        let width = 2 * self.rows.rows;
        let Some(memory) = self.rows.out.host() else {
            return Err(device.fail("tokens are read from the host's memory"));
        };
        let bits = memory.bits_after(&self.moments[number % 2], number * width, width)?;
        Ok(bits.as_chunks().0.iter().map(|&[token, logprob]| (token, f32::from_bits(logprob))).collect())
    }
}

/// Where parts of so many words lie one behind the other.
fn places(words: [usize; PARTS]) -> [Range<usize>; PARTS] {
    let mut at = 0;
    words.map(|words| {
        // Aligned as the driver aligns buffers of words.
        let from = usize::next_multiple_of(at, 64);
        at = from + words;
        from..at
    })
}

/// The shapes used last, the latest at the end.
#[derive(Debug, Default)]
pub(super) struct Frames {
    memory: Option<Arc<GraphMemory>>,
    kept: Vec<Frame>,
    /// Adapters that were computed together last, by their numbers; `None` where the kernels do not serve them.
    sets: Vec<(Vec<Option<u64>>, Option<Arc<AdapterSet>>)>,
}

impl Frames {
    /// The adapters of models as a set.
    pub(super) fn set(
        &mut self,
        model: &DeviceModel,
        adapted: &[(Option<&DeviceAdapter>, usize)],
    ) -> Result<Option<Arc<AdapterSet>>, KernelError> {
        let ids: Vec<Option<u64>> = adapted.iter().map(|(adapter, _)| adapter.map(|adapter| adapter.id)).collect();
        if let Some((_, set)) = self.sets.iter().find(|(known, _)| *known == ids) {
            return Ok(set.clone());
        }
        let adapters: Vec<Option<&DeviceAdapter>> = adapted.iter().map(|(adapter, _)| *adapter).collect();
        let set = AdapterSet::new(model, &adapters)?.map(Arc::new);
        if self.sets.len() >= KEPT {
            // Its graphs hold its place in memory.
            let (ids, _) = self.sets.remove(0);
            self.kept.retain(|frame| frame.shape.adapters != ids);
        }
        self.sets.push((ids, set.clone()));
        Ok(set)
    }

    /// The frame of a shape, and the memory for its graph.
    pub(super) fn get(
        &mut self,
        device: &Device,
        shape: Shape,
        steps: usize,
    ) -> Result<(&mut Frame, &Arc<GraphMemory>), KernelError> {
        let memory = match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(device.graph_memory()?),
        };
        // Where the cache has moved, no graph finds it any more.
        self.kept.retain(|frame| frame.shape.moved == shape.moved);
        let frame = match self.kept.iter().position(|frame| frame.shape == shape) {
            Some(at) => self.kept.remove(at),
            None => Frame::new(device, shape, steps)?,
        };
        if self.kept.len() >= KEPT {
            self.kept.remove(0);
        }
        self.kept.push(frame);
        let last = self.kept.len() - 1;
        Ok((&mut self.kept[last], memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_few_and_never_too_small() {
        for n in 1..2000 {
            for tiles in [false, true] {
                let rows = Shape::rows_for(n, tiles);
                assert!(rows >= n && rows <= n + n / 8 + 7 && (!tiles || rows.is_multiple_of(TILE)), "{n}");
            }
            assert!((n..=n + n / 2 + 31).contains(&Shape::parts_for(n)), "{n}");
        }
    }

    #[test]
    fn parts_lie_behind_each_other() {
        let places = places([1, 3, 0, 70, 1, 1, 1, 2, 0, 0]);
        assert_eq!(places[3], 128..198);
        assert_eq!(places[4].start, 256);
    }
}
