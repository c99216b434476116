//! What an adapter changes of embedding and head: whole modules, low-rank additions, rows of single tokens.

use std::{collections::BTreeMap, ops::Range};

use super::linear::{Embedding, Linear, LoraLinear};
use crate::{Adapter, DecoderError, LoraPair, TokenRows};
use harness_kernels::HostTensor;

/// The changes of one adapter, packed.
#[derive(Debug, Default)]
pub(crate) struct TopLora {
    embedding: Option<Embedding>,
    embedding_lora: Option<EmbeddingLora>,
    embedding_rows: BTreeMap<u32, Vec<f32>>,
    head: Option<Linear>,
    head_lora: Option<LoraLinear>,
    /// Tokens with rows of their own in the head, and these rows.
    head_rows: Option<(Vec<u32>, Linear)>,
}

/// A low-rank addition to the rows of an embedding.
#[derive(Debug)]
struct EmbeddingLora {
    /// `A` transposed, `[vocab, rank]`.
    a: Vec<f32>,
    pair: LoraPair,
    /// DoRA: what the columns of the changed table are multiplied by.
    factors: Option<Vec<f32>>,
}

impl TopLora {
    /// Packs the changes of an adapter over a base with this embedding and this head.
    ///
    /// # Errors
    /// If modules other than embedding and head are replaced.
    pub(crate) fn pack(adapter: &Adapter, table: &Embedding, base_head: &Linear) -> Result<Self, DecoderError> {
        let [head, embedding] = adapter.whole_modules()?;
        let top = &adapter.top;
        let head = head.map(|tensor| Linear::pack(&[tensor], &[top.head_bias.as_ref()]));
        let base = head.as_ref().unwrap_or(base_head);
        let embedding = embedding.map(|tensor| Embedding::new(tensor.clone()));
        let table = embedding.as_ref().unwrap_or(table);
        let head_rows = top.head_rows.as_ref().map(|TokenRows { tokens, rows }| {
            let tensor = HostTensor::from_f32([tokens.len(), rows.len() / tokens.len()], rows.clone());
            (tokens.clone(), Linear::pack(&[&tensor], &[None]))
        });
        let embedding_rows = top.embedding_rows.iter().flat_map(|TokenRows { tokens, rows }| {
            tokens.iter().zip(rows.chunks_exact(rows.len() / tokens.len())).map(|(token, row)| (*token, row.to_vec()))
        });
        Ok(Self {
            embedding_lora: top.embedding.clone().map(|pair| EmbeddingLora::new(pair, table)).transpose()?,
            embedding_rows: embedding_rows.collect(),
            head_lora: LoraLinear::pack(&[(top.head.as_ref(), base.out())], base),
            head_rows,
            head,
            embedding,
        })
    }

    /// The head that replaces the base's.
    pub(crate) fn whole_head(&self) -> Option<&Linear> {
        self.head.as_ref()
    }

    /// Appends the embedding of tokens, over a base with this one.
    pub(crate) fn look_up(
        &self,
        base: &Embedding,
        tokens: impl Iterator<Item = u32>,
        out: &mut Vec<f32>,
    ) -> Result<(), DecoderError> {
        let (tokens, first): (Vec<u32>, _) = (tokens.collect(), out.len());
        self.embedding.as_ref().unwrap_or(base).lookup(tokens.iter().copied(), out)?;
        let width = (out.len() - first) / tokens.len().max(1);
        for (token, row) in tokens.iter().zip(out[first..].chunks_exact_mut(width.max(1))) {
            if let Some(own) = self.embedding_rows.get(token) {
                row.copy_from_slice(own);
            }
            if let Some(lora) = &self.embedding_lora {
                lora.add(*token, row);
            }
        }
        Ok(())
    }

    /// Puts the logits of tokens with rows of their own in their places.
    fn replace_rows(&self, normed: &[f32], width: usize, logits: &mut [f32]) {
        let Some((tokens, linear)) = &self.head_rows else { return };
        let rows = logits.len() / width;
        let mut own = vec![0.0; rows * tokens.len()];
        linear.forward(normed, rows, &[], false, &mut own);
        for (row, own) in logits.chunks_exact_mut(width).zip(own.chunks_exact(tokens.len())) {
            for (token, logit) in tokens.iter().zip(own) {
                row[*token as usize] = *logit;
            }
        }
    }
}

/// The products of normed rows with the head of a base, or with the heads that adapters have in its place; runs of rows
/// and their adapters are in order.
pub(crate) fn head(base: &Linear, normed: &[f32], parts: &[(Range<usize>, Option<&TopLora>)]) -> Vec<f32> {
    let mut logits = vec![];
    let same = |a: &(Range<usize>, Option<&TopLora>), b: &(Range<usize>, Option<&TopLora>)| {
        [a, b].iter().all(|(_, top)| top.is_none_or(|top| top.head.is_none()))
    };
    // The base's head is read once for neighbours that have no other.
    for parts in parts.chunk_by(same) {
        let (Some((first, top)), Some((last, _))) = (parts.first(), parts.last()) else { continue };
        let head = top.and_then(TopLora::whole_head).unwrap_or(base);
        let (all, from, width) = (first.start..last.end, logits.len(), head.out());
        let within = |rows: &Range<usize>| rows.start - all.start..rows.end - all.start;
        let lora: Vec<_> =
            parts.iter().filter_map(|(rows, top)| Some((within(rows), (*top)?.head_lora.as_ref()?))).collect();
        logits.resize(from + all.len() * width, 0.0);
        let normed = &normed[all.start * head.inputs()..all.end * head.inputs()];
        head.forward(normed, all.len(), &lora, false, &mut logits[from..]);
        for (rows, top) in parts {
            let (rows, Some(top)) = (within(rows), top) else { continue };
            let normed = &normed[rows.start * head.inputs()..rows.end * head.inputs()];
            top.replace_rows(normed, width, &mut logits[from + rows.start * width..from + rows.end * width]);
        }
    }
    logits
}

impl EmbeddingLora {
    fn new(pair: LoraPair, table: &Embedding) -> Result<Self, DecoderError> {
        let vocab = pair.a.len() / pair.rank;
        let a =
            (0..vocab).flat_map(|token| (0..pair.rank).map(move |k| k * vocab + token)).map(|i| pair.a[i]).collect();
        let mut lora = Self { a, pair, factors: None };
        if let Some(magnitude) = lora.pair.magnitude.clone() {
            let mut squares = vec![0f64; magnitude.len()];
            let mut row = Vec::with_capacity(magnitude.len());
            for token in 0..vocab as u32 {
                row.clear();
                table.lookup(std::iter::once(token), &mut row)?;
                lora.add(token, &mut row);
                squares.iter_mut().zip(&row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
            let factors = magnitude.iter().zip(squares).map(|(magnitude, sum)| magnitude / sum.sqrt() as f32);
            lora.factors = Some(factors.collect());
        }
        Ok(lora)
    }

    /// `row += scale · B · A[:, token]`.
    fn add(&self, token: u32, row: &mut [f32]) {
        let rank = self.pair.rank;
        let a = &self.a[token as usize * rank..][..rank];
        for (x, b) in row.iter_mut().zip(self.pair.b.chunks_exact(rank)) {
            let sum: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            *x += self.pair.scale * sum;
        }
        for (x, factor) in row.iter_mut().zip(self.factors.iter().flatten()) {
            *x *= factor;
        }
    }
}
