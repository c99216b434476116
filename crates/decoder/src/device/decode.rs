//! Decoding several steps at a time: the tokens drawn in a step are read by the next one without the host between them,
//! which looks on a step behind.

use std::sync::Arc;

use harness_kernels::{
    KernelError,
    cuda::{DecodePlan, Device, GraphMemory, Query},
};

use super::{
    DeviceAdapter, DeviceFeedForward, DeviceModel,
    adapter::{AdapterSet, Loras},
    cache::{Cache, lock},
    frames::{Drawing, Frame, Frames, Row, Shape, TILE},
    head::States,
    mixer::DeviceMixer,
    steps::{Activations, Pass},
};
use crate::{DecoderError, Draw, Piece, Positions, Seen};

/// Most steps of a stretch, for which places in the cache are taken at once.
const STEPS: usize = 64;

/// The models of a pass in order, each with its adapter and the number of its sequences, which stand together.
pub(crate) type Adapted<'a> = [(Option<&'a DeviceAdapter>, usize)];

/// What a stretch begins with.
struct Begun<'f> {
    frame: &'f mut Frame,
    memory: &'f Arc<GraphMemory>,
    /// The sequence of every row; rows between those of two models are nobody's.
    rows: Vec<Option<usize>>,
}

impl DeviceModel {
    /// Reads the last tokens of sequences and goes on with those that `draws` say, or with the most probable ones where there
    /// are none, at most `most` times. `seen` gets the new tokens of all sequences with their log-probabilities, and says
    /// whether to go on; the tails grow by the positions that were read. It must not drop what is in the cache. `false`, and
    /// nothing is computed, where steps cannot follow each other so.
    pub(crate) fn go_on(
        &self,
        adapted: &Adapted<'_>,
        pieces: &mut [Piece<'_>],
        draws: &[Draw],
        most: usize,
        seen: Seen<'_>,
    ) -> Result<bool, DecoderError> {
        let mut frames = lock(&self.frames);
        if !self.steps_follow(pieces) {
            return Ok(false);
        }
        let set = match adapted {
            [(None, _)] => None,
            _ => frames.set(self, adapted)?,
        };
        let one = match adapted {
            // What is more than a sum of products is added to all rows alike.
            [(adapter, _)] if set.is_none() => *adapter,
            _ if set.is_none() => return Ok(false),
            _ => None,
        };
        if !self.holds_logits(one, Shape::rows_for(pieces.len(), true) + TILE * adapted.len()) {
            return Ok(false);
        }
        let mut tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect();
        self.check_tokens(one, &tokens)?;
        let stretch = Stretch { model: self, adapted, one, set: set.as_deref(), draws };
        let mut left = most;
        while left > 0 {
            let (taken, on) = stretch.run(&mut frames, pieces, &mut tokens, left.min(STEPS), seen)?;
            left -= taken;
            // Draws are for one stretch; one that took nothing begins anew.
            if !on || (taken > 0 && !draws.is_empty()) {
                break;
            }
        }
        Ok(true)
    }

    /// Whether a step needs nothing of the host but what the steps before it left behind.
    fn steps_follow(&self, pieces: &[Piece<'_>]) -> bool {
        let (c, block) = (&self.config, &self.config.block);
        let single = pieces.iter().all(|piece| piece.tokens.len() == 1 && piece.wanted == [0] && piece.tail.is_some());
        let placed = !matches!(block.positions, Positions::Learned { offset } if offset > 0)
            && self.rotary.is_plain()
            && self.local.as_ref().is_none_or(|local| local.is_plain());
        let layers = self.layers.iter().enumerate().all(|(number, layer)| match (&layer.mixer, &layer.feed_forward) {
            (DeviceMixer::Attention(attention), DeviceFeedForward::Dense(_)) => {
                Device::decodes(self.float, &c.attention(number), &self.scores(number, attention))
            }
            _ => false,
        });
        !pieces.is_empty() && single && placed && layers && block.query_scale.is_none()
    }
}

/// How stretches of steps are computed.
struct Stretch<'a> {
    model: &'a DeviceModel,
    adapted: &'a Adapted<'a>,
    /// The adapter of all rows.
    one: Option<&'a DeviceAdapter>,
    /// Those of rows in tiles.
    set: Option<&'a AdapterSet>,
    draws: &'a [Draw],
}

impl Stretch<'_> {
    /// Up to `steps` steps; how many `seen` has seen, and whether it wants more.
    fn run(
        &self,
        frames: &mut Frames,
        pieces: &mut [Piece<'_>],
        tokens: &mut Vec<u32>,
        steps: usize,
        seen: Seen<'_>,
    ) -> Result<(usize, bool), DecoderError> {
        let (model, device) = (self.model, &self.model.device);
        let Begun { frame, memory, rows } = self.begin(frames, pieces, tokens, steps)?;
        let (mut queued, mut taken, mut on) = (0, 0, true);
        while on && taken < steps {
            while queued < steps && queued < taken + 2 {
                let cache = lock(&model.cache);
                if cache.moved() != frame.shape.moved {
                    break;
                }
                frame.run(device, memory, queued, |frame| self.queue_step(frame, &cache))?;
                queued += 1;
            }
            if queued == taken {
                // Somebody else's pass moved the cache: the next stretch finds it.
                break;
            }
            let all = frame.found(device, taken)?;
            let found = rows.iter().zip(all).filter_map(|(sequence, found)| sequence.map(|_| found));
            let found: Vec<(u32, f32)> = found.collect();
            taken += 1;
            pieces.iter_mut().filter_map(|piece| piece.tail.as_mut()?.device_mut()).for_each(|kv| kv.advance(1));
            tokens.clear();
            tokens.extend(found.iter().map(|&(token, _)| token));
            model.check_tokens(self.one, tokens)?;
            on = seen(&found);
        }
        Ok((taken, on))
    }

    /// Takes places in the cache for all steps, and writes what the first one begins with.
    fn begin<'f>(
        &self,
        frames: &'f mut Frames,
        pieces: &mut [Piece<'_>],
        tokens: &[u32],
        steps: usize,
    ) -> Result<Begun<'f>, DecoderError> {
        let (c, device) = (&self.model.config, &self.model.device);
        let positions: Vec<usize> = pieces.iter().map(Piece::position).collect();
        let last = positions.iter().max().map_or(0, |position| position + steps);
        if last > self.model.max_length {
            let most = self.model.max_length;
            let reason = format!("an input of {last} tokens is longer than the longest allowed, {most}");
            return Err(device.fail(reason).into());
        }
        self.model.learned_positions(&[last - 1])?;
        let (mut owners, mut sequences): (Vec<usize>, Vec<Option<usize>>) = Default::default();
        for (number, (_, count)) in self.adapted.iter().enumerate() {
            let first = sequences.iter().flatten().count();
            let rows = Shape::rows_for(*count, self.set.is_some());
            sequences.extend((0..rows).map(|row| (row < *count).then_some(first + row)));
            owners.extend(std::iter::repeat_n(number, rows / TILE));
        }
        let mut cache = lock(&self.model.cache);
        let spare = cache.spare(device)? as u32;
        let (mut queries, mut rows) = (vec![], vec![]);
        for (row, sequence) in sequences.iter().enumerate() {
            let Some(sequence) = *sequence else {
                queries.push(Query { row, rows: 1, position: 0, segments: vec![] });
                rows.push(Row { slots: vec![spare; steps], ..Row::default() });
                continue;
            };
            let (piece, position) = (&mut pieces[sequence], positions[sequence]);
            let other = || device.fail("keys and values of another device");
            let kv = piece.tail.as_mut().and_then(|tail| tail.device_mut()).ok_or_else(other)?;
            cache.reserve(device, kv, steps)?;
            let before = piece.path.iter().filter_map(|block| block.device()).flat_map(|kv| kv.segments());
            let segments = before.chain(kv.segments_with(steps)).collect();
            queries.push(Query { row, rows: 1, position, segments });
            rows.push(Row {
                token: tokens[sequence],
                position: position as u32,
                slots: kv.next_slots().take(steps).collect(),
                draw: self.draws.get(sequence),
            });
        }
        let plan = DecodePlan::new(device, &queries, [c.num_heads, c.num_kv_heads])
            .ok_or_else(|| device.fail("single rows without a plan of their attention"))?;
        let [runs, members, _] = plan.counts();
        let shape = Shape {
            rows: rows.len(),
            parts: [runs, members].map(Shape::parts_for),
            adapters: self.adapted.iter().map(|(adapter, _)| adapter.map(|adapter| adapter.id)).collect(),
            owners: if self.set.is_some() { owners } else { vec![] },
            drawing: match self.draws {
                [] => Drawing::Best,
                draws if draws.iter().any(|draw| draw.penalty != 1.0) => {
                    Drawing::Penalised(self.model.vocab(self.one).div_ceil(32))
                }
                _ => Drawing::Sampled,
            },
            moved: cache.moved(),
        };
        let (frame, memory) = frames.get(device, shape, STEPS)?;
        frame.write(device, &rows, &plan)?;
        Ok(Begun { frame, memory, rows: sequences })
    }

    /// Queues all of a step.
    fn queue_step(&self, frame: &Frame, cache: &Cache) -> Result<(), KernelError> {
        let (model, device, state) = (self.model, &self.model.device, &frame.rows);
        let learned = model.positions.as_ref().map(|_| &state.positions);
        let x = model.embed(self.one, &state.tokens, learned, state.rows)?;
        let mut pass = Pass {
            cache,
            slots: &state.slots,
            work: &frame.work,
            last: None,
            taps: None,
            places: [&state.positions; 2],
            query_factors: None,
            acts: Activations::new(model, x, state.rows)?,
        };
        let loras = self.set.map_or(Loras::One(self.one), |set| Loras::Rows(set, &frame.owners));
        model.blocks(loras, &mut pass)?;
        let (states, rows) = pass.acts.finish(model)?;
        let (best, width) = (device.alloc_bytes(8 * rows)?, model.config.hidden_size);
        model.each_logits(self.one, States::Device(states.view(0, rows, width, width)), |_, logits| {
            assert!(logits.height() == rows, "all logits at once");
            match frame.draws() {
                Some(draws) => device.sample(logits, draws, state, &best),
                None => device.read_best(logits, &best),
            }
        })?;
        device.advance(&best, state)
    }
}
