//! What lies outside of the blocks: the way from tokens to the residual stream, and the frozen weights at both ends.

use harness_decoder::{DecoderConfig, Positions, QueryScale, Weights, rotary_table};

use crate::{
    backend::{Backend, FrozenNorm, Mat, MatMut, Result, Span, Weight},
    block::{Rows, Shared},
    data::Batch,
};

/// A vector on the device with its length.
type Vector<B> = (<B as crate::backend::Memory>::Buf, usize);

/// Frozen weights outside of the blocks; none where all parameters are trained.
pub(super) struct Outer<B: Backend> {
    pub embed: Option<B::Frozen>,
    pub norm: Option<Vector<B>>,
    norm_bias: Option<Vector<B>>,
    pub head: Option<B::Frozen>,
    pub head_bias: Option<Vector<B>>,
    positions: Option<B::Frozen>,
    embedding_norm: [Option<Vector<B>>; 2],
    /// From the embedding's width to the hidden size, and back.
    pub projections: Option<[B::Frozen; 2]>,
}

impl<B: Backend> Outer<B> {
    /// Nothing is frozen.
    pub(super) fn none() -> Self {
        Self {
            embed: None,
            norm: None,
            norm_bias: None,
            head: None,
            head_bias: None,
            positions: None,
            embedding_norm: [None, None],
            projections: None,
        }
    }

    /// Uploads the weights of a model.
    pub(super) fn new(backend: &B, weights: &Weights) -> Result<Self> {
        let more = &weights.more;
        let vector = |data: &[f32]| -> Result<Option<Vector<B>>> {
            let there = (!data.is_empty()).then(|| Ok((backend.upload(data)?, data.len())));
            there.transpose()
        };
        let projections = match &more.projections {
            Some((to, back)) => Some([backend.frozen(&[to], false)?, backend.frozen(&[back], true)?]),
            None => None,
        };
        Ok(Self {
            embed: Some(backend.frozen(&[&weights.embed], weights.lm_head.is_none())?),
            norm: vector(&weights.norm)?,
            norm_bias: vector(&more.norm_bias)?,
            head: weights.lm_head.as_ref().map(|head| backend.frozen(&[head], true)).transpose()?,
            head_bias: vector(more.head_bias.as_deref().unwrap_or_default())?,
            positions: more.positions.as_ref().map(|table| backend.frozen(&[table], false)).transpose()?,
            embedding_norm: [vector(&more.embedding_norm.0)?, vector(&more.embedding_norm.1)?],
            projections,
        })
    }

    /// The residual stream before the first block, of the rows of `table` that the tokens name.
    pub(super) fn embed(
        &self,
        (backend, config): (&B, &DecoderConfig),
        table: Weight<'_, B>,
        tokens: &B::Ints,
        batch: &Batch,
    ) -> Result<B::Buf> {
        let (rows, hidden, block) = (batch.len(), config.hidden_size, &config.block);
        let width = block.embedding_width.unwrap_or(hidden);
        let mut x = backend.alloc(rows * width)?;
        backend.embed(table, tokens, MatMut::new(&mut x, 0, rows, width))?;
        if let Some([to_hidden, _]) = &self.projections {
            let mut wide = backend.alloc(rows * hidden)?;
            let to = MatMut::new(&mut wide, 0, rows, hidden);
            backend.linear(Mat::new(&x, 0, rows, width), Weight::Frozen(to_hidden), to)?;
            x = wide;
        }
        if block.embedding_scale != 1.0 {
            backend.scale(MatMut::new(&mut x, 0, rows, hidden), block.embedding_scale)?;
        }
        if let (Some(table), Positions::Learned { offset }) = (&self.positions, &block.positions) {
            let at: Vec<u32> = batch.positions.iter().map(|position| position + *offset as u32).collect();
            let mut added = backend.alloc(rows * hidden)?;
            let to = MatMut::new(&mut added, 0, rows, hidden);
            backend.embed(Weight::Frozen(table), &backend.ints(&at)?, to)?;
            backend.add(&added, &mut x)?;
        }
        if block.embedding_norm {
            let norm = self.frozen_norm(config, &self.embedding_norm);
            let (mut normed, mut rstd) = (backend.alloc(rows * hidden)?, backend.alloc_statistics(rows)?);
            let to = MatMut::new(&mut normed, 0, rows, hidden);
            backend.norm(Mat::new(&x, 0, rows, hidden), 1, norm, to, &mut rstd)?;
            x = normed;
        }
        Ok(x)
    }

    fn frozen_norm<'a>(
        &self,
        config: &DecoderConfig,
        [weight, bias]: &'a [Option<Vector<B>>; 2],
    ) -> FrozenNorm<'a, B::Buf> {
        let span = |vector: &'a Option<Vector<B>>| vector.as_ref().map(|(buf, len)| Span { buf, at: 0, len: *len });
        FrozenNorm { kind: config.block.norm.kind, weight: span(weight), bias: span(bias), eps: config.norm_eps }
    }

    /// The last norm, with its weight where that is frozen.
    pub(super) fn last_norm(&self, config: &DecoderConfig) -> FrozenNorm<'_, B::Buf> {
        let span = |vector: &Option<Vector<B>>| vector.as_ref().map(|(_, len)| *len);
        let of = |vector| span(vector).zip(vector.as_ref()).map(|(len, (buf, _))| Span { buf, at: 0, len });
        let (weight, bias) = (of(&self.norm), of(&self.norm_bias));
        FrozenNorm { kind: config.block.norm.kind, weight, bias, eps: config.norm_eps }
    }
}

/// The tables that all blocks share, and how places in them are found.
pub(super) struct Tables<B: Backend> {
    pub shared: Shared<B>,
    max_length: usize,
    /// Beyond which lengths documents have other places, in the first and the second table.
    longest: [Option<usize>; 2],
}

impl<B: Backend> Tables<B> {
    /// Tables for documents of at most `max_length` tokens.
    pub(super) fn new(backend: &B, config: &DecoderConfig, max_length: usize) -> Result<Self> {
        let (main, longest) = rotary_table(config, &config.rope, max_length);
        let local = config.block.local_rope.as_ref().map(|rope| rotary_table(config, rope, max_length));
        let (local, longest_local) = match local {
            Some((table, longest)) => (Some(backend.upload(&table)?), longest),
            None => (None, None),
        };
        let slopes = match &config.block.positions {
            Positions::Alibi { slopes, .. } => Some(backend.upload(slopes)?),
            _ => None,
        };
        let shared = Shared { rope: backend.upload(&main)?, local_rope: local, slopes };
        Ok(Self { shared, max_length, longest: [longest, longest_local] })
    }

    /// Places of a batch's tokens.
    pub(super) fn rows(&self, backend: &B, config: &DecoderConfig, batch: &Batch) -> Result<Rows<B>> {
        let bounds: Vec<u32> = batch.boundaries.iter().map(|&row| row as u32).collect();
        let places = |longest: Option<usize>| -> Vec<u32> {
            let mut places = batch.positions.clone();
            for document in batch.boundaries.windows(2) {
                if longest.is_some_and(|longest| document[1] - document[0] > longest) {
                    places[document[0]..document[1]].iter_mut().for_each(|place| *place += self.max_length as u32);
                }
            }
            places
        };
        let factors = |scale: QueryScale| -> Vec<f32> { batch.positions.iter().map(|&p| scale.at(p)).collect() };
        let factors = config.block.query_scale.map(|scale| backend.upload(&factors(scale))).transpose()?;
        let local = self.shared.local_rope.is_some().then(|| backend.ints(&places(self.longest[1]))).transpose()?;
        Ok(Rows {
            len: batch.len(),
            positions: backend.ints(&places(self.longest[0]))?,
            local_positions: local,
            query_factors: factors,
            bounds: backend.ints(&bounds)?,
        })
    }
}
