//! Decoding several steps at a time: the tokens drawn in a step are read by the next one without the host between them,
//! which looks on a step behind.

use harness_kernels::{
    KernelError,
    cuda::{DecodePlan, Device, Query},
};

use super::{
    DeviceAdapter, DeviceFeedForward, DeviceModel,
    cache::{Cache, lock},
    frames::{Drawing, Frame, Frames, Shape},
    head::States,
    mixer::DeviceMixer,
    steps::{Activations, Pass},
};
use crate::{DecoderError, Draw, Piece, Positions};

/// Most steps of a stretch, for which places in the cache are taken at once.
const STEPS: usize = 64;

impl DeviceModel {
    /// Reads the last tokens of sequences and goes on with those that `draws` say, or with the most probable ones where there
    /// are none, at most `most` times. `seen` gets the new
    /// tokens of all sequences with their log-probabilities, and says whether to go on; the tails grow by the positions that
    /// were read. It must not drop what is in the cache. `false`, and nothing is computed, where steps cannot follow each other so.
    pub(crate) fn go_on(
        &self,
        adapter: Option<&DeviceAdapter>,
        pieces: &mut [Piece<'_>],
        draws: &[Draw],
        most: usize,
        seen: &mut dyn FnMut(&[(u32, f32)]) -> bool,
    ) -> Result<bool, DecoderError> {
        if !self.steps_follow(adapter, pieces) {
            return Ok(false);
        }
        let mut tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect();
        self.check_tokens(adapter, &tokens)?;
        let mut frames = lock(&self.frames);
        let mut left = most;
        while left > 0 {
            let (taken, on) = self.stretch(&mut frames, adapter, pieces, draws, &mut tokens, left.min(STEPS), seen)?;
            left -= taken;
            // Draws are for one stretch.
            if !on || !draws.is_empty() {
                break;
            }
        }
        Ok(true)
    }

    /// Whether a step needs nothing of the host but what the steps before it left behind.
    fn steps_follow(&self, adapter: Option<&DeviceAdapter>, pieces: &[Piece<'_>]) -> bool {
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
        let rows = Shape::rows_for(pieces.len());
        !pieces.is_empty()
            && single
            && placed
            && layers
            && block.query_scale.is_none()
            && self.holds_logits(adapter, rows)
    }

    #[allow(clippy::too_many_arguments, reason = "one stretch")]
    /// Up to `steps` steps; how many `seen` has seen, and whether it wants more.
    fn stretch(
        &self,
        frames: &mut Frames,
        adapter: Option<&DeviceAdapter>,
        pieces: &mut [Piece<'_>],
        draws: &[Draw],
        tokens: &mut Vec<u32>,
        steps: usize,
        seen: &mut dyn FnMut(&[(u32, f32)]) -> bool,
    ) -> Result<(usize, bool), DecoderError> {
        let (c, device) = (&self.config, &self.device);
        let positions: Vec<usize> = pieces.iter().map(Piece::position).collect();
        let last = positions.iter().max().map_or(0, |position| position + steps);
        if last > self.max_length {
            let most = self.max_length;
            let reason = format!("an input of {last} tokens is longer than the longest allowed, {most}");
            return Err(device.fail(reason).into());
        }
        self.learned_positions(&[last - 1])?;
        let (frame, memory) = {
            let mut cache = lock(&self.cache);
            let (mut queries, mut slots) = (vec![], vec![]);
            for (row, (piece, &position)) in pieces.iter_mut().zip(&positions).enumerate() {
                let other = || device.fail("keys and values of another device");
                let kv = piece.tail.as_mut().and_then(|tail| tail.device_mut()).ok_or_else(other)?;
                cache.reserve(device, kv, steps)?;
                slots.push(kv.next_slots().take(steps).collect::<Vec<u32>>());
                let before = piece.path.iter().filter_map(|block| block.device()).flat_map(|kv| kv.segments());
                let segments = before.chain(kv.segments_with(steps)).collect();
                queries.push(Query { row, rows: 1, position, segments });
            }
            let spare = cache.spare(device)? as u32;
            let plan = DecodePlan::new(device, &queries, [c.num_heads, c.num_kv_heads])
                .ok_or_else(|| device.fail("single rows without a plan of their attention"))?;
            let [runs, members, _] = plan.counts();
            let shape = Shape {
                rows: Shape::rows_for(pieces.len()),
                parts: [runs, members].map(Shape::parts_for),
                adapter: adapter.map(|adapter| adapter.id),
                drawing: match draws {
                    [] => Drawing::Best,
                    _ if draws.iter().any(|draw| draw.penalty != 1.0) => {
                        Drawing::Penalised(self.vocab(adapter).div_ceil(32))
                    }
                    _ => Drawing::Sampled,
                },
                moved: cache.moved(),
            };
            let (frame, memory) = frames.get(device, shape, STEPS)?;
            let positions: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
            frame.write(device, tokens, &positions, &slots, spare, &plan, draws)?;
            (frame, memory)
        };
        let (mut queued, mut taken, mut on) = (0, 0, true);
        while on && taken < steps {
            while queued < steps && queued < taken + 2 {
                let cache = lock(&self.cache);
                if cache.moved() != frame.shape.moved {
                    break;
                }
                frame.run(device, memory, queued, |frame| self.queue_step(adapter, frame, &cache))?;
                queued += 1;
            }
            if queued == taken {
                // Somebody else's pass moved the cache: the next stretch finds it.
                break;
            }
            let found = frame.found(device, taken, pieces.len())?;
            taken += 1;
            pieces.iter_mut().filter_map(|piece| piece.tail.as_mut()?.device_mut()).for_each(|kv| kv.advance(1));
            tokens.clear();
            tokens.extend(found.iter().map(|&(token, _)| token));
            self.check_tokens(adapter, tokens)?;
            on = seen(&found);
        }
        Ok((taken, on))
    }

    /// Queues all of a step.
    fn queue_step(&self, adapter: Option<&DeviceAdapter>, frame: &Frame, cache: &Cache) -> Result<(), KernelError> {
        let (device, state) = (&self.device, &frame.rows);
        let learned = self.positions.as_ref().map(|_| &state.positions);
        let x = self.embed(adapter, &state.tokens, learned, state.rows)?;
        let mut pass = Pass {
            cache,
            slots: &state.slots,
            work: &frame.work,
            last: None,
            taps: None,
            places: [&state.positions; 2],
            query_factors: None,
            acts: Activations::new(self, x, state.rows)?,
        };
        self.blocks(adapter, &mut pass)?;
        let (states, rows) = pass.acts.finish(self)?;
        let (best, width) = (device.alloc_bytes(8 * rows)?, self.config.hidden_size);
        self.each_logits(adapter, States::Device(states.view(0, rows, width, width)), |_, logits| {
            assert!(logits.height() == rows, "all logits at once");
            match frame.draws() {
                Some(draws) => device.sample(logits, draws, state, &best),
                None => device.read_best(logits, &best),
            }
        })?;
        device.advance(&best, state)
    }
}
