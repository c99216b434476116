//! The forward pass over pieces of sequences, on a GPU.

use harness_kernels::{
    KernelError,
    cuda::{AttentionWork, DeviceBuffer, DeviceMatrix, KeySegment, Query},
};

use super::{
    DeviceAdapter, DeviceModel,
    adapter::Loras,
    cache::lock,
    head::States,
    linear::Addition,
    steps::{Activations, DeviceSteps, Pass},
};
use crate::{DecoderError, Piece, Positions, consecutive, steps::block};

/// Where the rows of a pass stand in the cache, and what they see of it.
#[derive(Default)]
struct Plan {
    /// The position of every new row.
    slots: Vec<u32>,
    queries: Vec<Query>,
    /// As `queries`, of the rows whose hidden state is wanted.
    wanted: Vec<Query>,
    /// For every row the positions that a short convolution sees, oldest first; `u32::MAX` = none.
    taps: Vec<u32>,
}

impl Plan {
    /// Adds a piece whose first row is `row` and stands at `position`.
    fn add(&mut self, piece: &Piece<'_>, row: usize, position: usize, segments: Vec<KeySegment>, taps: usize) {
        for run in consecutive(&piece.wanted) {
            let (row, position, segments) = (row + run.start, position + run.start, segments.clone());
            self.wanted.push(Query { row, rows: run.len(), position, segments });
        }
        if taps > 0 {
            let all: Vec<u32> = segments.iter().flat_map(|s| (s.start..s.start + s.len).map(|at| at as u32)).collect();
            for at in position..position + piece.tokens.len() {
                let back = (0..taps).rev().map(|back| at.checked_sub(back).map_or(u32::MAX, |at| all[at]));
                self.taps.extend(back);
            }
        }
        self.queries.push(Query { row, rows: piece.tokens.len(), position, segments });
    }
}

impl DeviceModel {
    /// Last hidden states of all wanted rows, before the final norm; keys and values go to the tails.
    pub(crate) fn forward(
        &self,
        adapter: Option<&DeviceAdapter>,
        pieces: &mut [Piece<'_>],
    ) -> Result<Vec<f32>, DecoderError> {
        let (states, rows) = self.states(adapter, pieces)?;
        let n = rows * self.config.hidden_size;
        Ok(self.device.read(states.view(0, 1, n, n.max(1)))?)
    }

    /// As [`DeviceModel::forward`], and the most probable token after each of these rows with its log-probability.
    pub(crate) fn forward_greedy(
        &self,
        adapter: Option<&DeviceAdapter>,
        pieces: &mut [Piece<'_>],
    ) -> Result<Vec<(u32, f32)>, DecoderError> {
        let (states, rows) = self.states(adapter, pieces)?;
        let width = self.config.hidden_size;
        Ok(self.greedy(adapter, States::Device(states.view(0, rows, width, width)))?)
    }

    /// The states of [`DeviceModel::forward`], and their number.
    fn states(
        &self,
        adapter: Option<&DeviceAdapter>,
        pieces: &mut [Piece<'_>],
    ) -> Result<(DeviceBuffer, usize), DecoderError> {
        let (c, device) = (&self.config, &self.device);
        let rows: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let firsts: Vec<usize> = pieces.iter().map(Piece::position).collect();
        let ends = pieces.iter().zip(&firsts).map(|(piece, first)| first + piece.tokens.len());
        let last = ends.max().unwrap_or(0);
        if last > self.max_length {
            let most = self.max_length;
            let reason = format!("an input of {last} tokens is longer than the longest allowed, {most}");
            return Err(device.fail(reason).into());
        }
        let tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect();
        self.check_tokens(adapter, &tokens)?;
        let positions = pieces.iter().zip(&firsts).flat_map(|(piece, &first)| first..first + piece.tokens.len());
        let positions: Vec<usize> = positions.collect();
        let learned = self.learned_positions(&positions)?.map(|rows| device.bytes(&rows)).transpose()?;
        let x = self.embed(adapter, &device.bytes(&tokens)?, learned.as_ref(), rows)?;

        // Every piece writes its keys and values; those that nobody needs are freed after the pass.
        let mut temporary = vec![];
        let mut cache = lock(&self.cache);
        let taps = c.block.convolution.as_ref().map_or(0, |convolution| convolution.taps);
        let (mut plan, mut row) = (Plan::default(), 0);
        for (piece, &position) in pieces.iter_mut().zip(&firsts) {
            let len = piece.tokens.len();
            let mut segments: Vec<_> =
                piece.path.iter().filter_map(|block| block.device()).flat_map(|kv| kv.segments()).collect();
            let kv = match &mut piece.tail {
                Some(tail) => tail.device_mut().ok_or_else(|| device.fail("keys and values of another device"))?,
                None => {
                    // Owned by the list at once: it is dropped after the lock on the cache is given up.
                    temporary.push(self.kv(len));
                    let index = temporary.len() - 1;
                    &mut temporary[index]
                }
            };
            cache.extend(device, kv, len, &mut plan.slots)?;
            segments.extend(kv.segments());
            plan.add(piece, row, position, segments, taps);
            row += len;
        }
        let wanted: Vec<u32> = plan.wanted.iter().flat_map(|q| (q.row..q.row + q.rows).map(|r| r as u32)).collect();
        let query_factors = c.block.query_scale.map(|scale| {
            device.floats(&positions.iter().map(|&position| scale.at(position as u32)).collect::<Vec<_>>())
        });
        let query_factors = query_factors.transpose()?;
        let heads = [c.num_heads, c.num_kv_heads];
        let (slots, work) = (device.bytes(&plan.slots)?, AttentionWork::cached(device, &plan.queries, heads)?);
        let last = (wanted.len() < rows).then(|| {
            Ok::<_, KernelError>((device.bytes(&wanted)?, AttentionWork::cached(device, &plan.wanted, heads)?))
        });
        let last = last.transpose()?;
        let (taps, places) = (device.bytes(&plan.taps)?, self.rotary.places(device, pieces, &firsts)?);
        let local = self.local.as_ref().map(|local| local.places(device, pieces, &firsts)).transpose()?;
        let mut pass = Pass {
            cache: &cache,
            slots: &slots,
            work: &work,
            last: last.as_ref().map(|(rows, work)| (wanted.len(), rows, work)),
            taps: Some(&taps),
            places: [&places, local.as_ref().unwrap_or(&places)],
            query_factors: query_factors.as_ref(),
            acts: Activations::new(self, x, rows)?,
        };
        self.blocks(Loras::One(adapter), &mut pass)?;
        Ok(pass.acts.finish(self)?)
    }

    /// All blocks.
    pub(super) fn blocks(&self, loras: Loras<'_>, pass: &mut Pass<'_>) -> Result<(), KernelError> {
        let c = &self.config;
        (0..c.num_layers).try_for_each(|layer| block(&mut DeviceSteps::new(self, loras, layer, pass), c, layer))
    }

    /// Refuses tokens that the embedding does not have.
    pub(super) fn check_tokens(&self, adapter: Option<&DeviceAdapter>, tokens: &[u32]) -> Result<(), DecoderError> {
        let vocab_size = self.embedding(adapter).rows();
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(DecoderError::TokenOutOfRange { token: token as usize, vocab_size }),
            None => Ok(()),
        }
    }

    fn embedding<'a>(&'a self, adapter: Option<&'a DeviceAdapter>) -> &'a DeviceMatrix {
        adapter.and_then(|adapter| adapter.embed.as_ref()).unwrap_or(&self.embed)
    }

    /// The rows of the learned positions at these, where the model has them.
    pub(super) fn learned_positions(&self, positions: &[usize]) -> Result<Option<Vec<u32>>, DecoderError> {
        let (Some(table), Positions::Learned { offset }) = (&self.positions, &self.config.block.positions) else {
            return Ok(None);
        };
        let rows: Vec<u32> = positions.iter().map(|position| (position + offset) as u32).collect();
        match rows.iter().find(|&&row| row as usize >= table.rows()) {
            Some(&row) => Err(DecoderError::TokenOutOfRange { token: row as usize, vocab_size: table.rows() }),
            None => Ok(Some(rows)),
        }
    }

    /// The residual stream before the first layer, of rows whose tokens and learned positions are given.
    pub(super) fn embed(
        &self,
        adapter: Option<&DeviceAdapter>,
        tokens: &DeviceBuffer,
        learned: Option<&DeviceBuffer>,
        rows: usize,
    ) -> Result<DeviceBuffer, KernelError> {
        let (c, device) = (&self.config, &self.device);
        let table = self.embedding(adapter);
        let (hidden, width) = (c.hidden_size, table.cols());
        let look_up = |table: &DeviceMatrix, at: &DeviceBuffer, width: usize| {
            let x = device.alloc(rows * width, self.float)?;
            table.look_up(device, at, x.view(0, rows, width, width))?;
            Ok::<_, KernelError>(x)
        };
        let mut x = look_up(table, tokens, width)?;
        if let Some((to_hidden, _)) = &self.projections {
            let narrow = x;
            x = device.alloc(rows * hidden, self.float)?;
            to_hidden.forward(
                device,
                Addition::None,
                narrow.view(0, rows, width, width),
                x.view(0, rows, hidden, hidden),
            )?;
        }
        if c.block.embedding_scale != 1.0 {
            device.scale(c.block.embedding_scale, x.row())?;
        }
        if let (Some(table), Some(at)) = (&self.positions, learned) {
            device.add(look_up(table, at, hidden)?.row(), x.row())?;
        }
        if c.block.embedding_norm {
            let view = x.view(0, rows, hidden, hidden);
            self.embedding_norm.run(device, c.block.norm, 1, c.norm_eps, view, view)?;
        }
        Ok(x)
    }
}
