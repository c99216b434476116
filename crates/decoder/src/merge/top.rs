//! What an adapter does to embedding and head, which may be one tensor.

use std::borrow::Cow;

use harness_kernels::HostTensor;

use super::change::{Change, Run, Source, Sum};
use crate::{
    Adapter, DecoderConfig, DecoderError, LoraPair, TokenRows, TopAdditions,
    weights::{HfSource, Place, TensorSource, TensorStore},
};

/// A base in Hugging Face layout.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) source: &'a HfSource<'a>,
    pub(super) store: &'a TensorStore,
}

/// The changes of embedding and head.
pub(super) struct Top<'a> {
    /// By the names that they get.
    pub(super) changes: Vec<(String, Change<'a>)>,
    /// Whether the head is still the embedding, or again.
    pub(super) tied: bool,
}

/// The changes of embedding and head. Where the base ties them, each is what evaluation makes of the one tensor: PEFT's
/// modules, too, change only what they take the place of, until its `merge_and_unload` adds to the one tensor, which
/// changes both. If the two differ, both are written.
///
/// # Errors
/// If the adapter replaces other modules.
pub(super) fn top<'a>(adapter: &'a Adapter, base: Base<'_>) -> Result<Top<'a>, DecoderError> {
    let [whole_head, whole_embedding] = adapter.whole_modules()?;
    let Base { config, source, store } = base;
    let (top, tied) = (&adapter.top, config.tie_word_embeddings);
    let names = [Place::Embed, Place::LmHead].map(|place| source.name(place));
    // Of two tied tensors either may be the one that is stored, or both.
    let stored = names.each_ref().map(|name| !tied || store.contains(name));
    let source = |at: usize, whole: Option<&HostTensor>| {
        let name = names[if stored[at] { at } else { 1 - at }].clone();
        match whole {
            Some(whole) => Source::Given(whole.clone(), name),
            None => Source::Base(name),
        }
    };
    let changes = changes(top, [source(0, whole_embedding), source(1, whole_head)]);
    let tied = tied && are_one(&changes[0], &changes[1]);
    let all = names.into_iter().zip(changes).zip(stored);
    let written = all.filter(|((name, change), stored)| match stored {
        true => !matches!(&change.source, Source::Base(_) if change.is_none()),
        false => !tied && !name.is_empty(),
    });
    Ok(Top { changes: written.map(|(change, _)| change).collect(), tied })
}

/// The changes of embedding and head over these.
fn changes(top: &TopAdditions, [embedding, head]: [Source; 2]) -> [Change<'_>; 2] {
    fn change<'a>(source: Source, pair: Option<&'a LoraPair>, rows: Option<&'a TokenRows>) -> Change<'a> {
        let run = |pair: &'a LoraPair| Run { at: 0..pair.b.len() / pair.rank, pair: Cow::Borrowed(pair), from: 0 };
        let sum = Sum { runs: pair.map(run).into_iter().collect(), transposed: false, began: None };
        Change { source, sum, rows }
    }
    let mut embedding = change(embedding, top.embedding.as_ref(), top.embedding_rows.as_ref());
    embedding.sum.transposed = true;
    [embedding, change(head, top.head.as_ref(), top.head_rows.as_ref())]
}

/// Embedding and head with an adapter's changes as whole tables, where it changes them: what a GPU computes with. `base`
/// gives those of the base, in f32.
///
/// # Errors
/// If the adapter replaces other modules; those of `base`.
#[cfg(feature = "cuda")]
pub(crate) fn whole_tables(
    adapter: &Adapter,
    base: [&dyn Fn() -> Result<HostTensor, DecoderError>; 2],
) -> Result<[Option<HostTensor>; 2], DecoderError> {
    let [whole_head, whole_embedding] = adapter.whole_modules()?;
    let whole = [whole_embedding, whole_head];
    let sources = whole.map(|whole| match whole {
        Some(whole) => Source::Given(whole.clone(), String::new()),
        None => Source::Base(String::new()),
    });
    let mut tables = whole.map(|whole| whole.cloned());
    let modules = ["embedding", "head"].into_iter();
    for (((table, base), change), module) in
        tables.iter_mut().zip(base).zip(changes(&adapter.top, sources)).zip(modules)
    {
        if !change.is_none() {
            let before = table.take().map_or_else(base, Ok)?;
            let failed = |reason| DecoderError::AdapterPart { module: module.to_owned(), reason };
            let mut values = before.to_f32().into_owned();
            change.over(&before).map_err(failed)?.change(0, &mut values);
            *table = Some(HostTensor::from_f32(before.shape, values));
        }
    }
    Ok(tables)
}

/// Whether the changes of one tensor as embedding and as head give one tensor.
fn are_one(embedding: &Change<'_>, head: &Change<'_>) -> bool {
    let sources = match (&embedding.source, &head.source) {
        (Source::Base(_), Source::Base(_)) => true,
        (Source::Given(a, _), Source::Given(b, _)) => a.shape == b.shape && a.to_f32() == b.to_f32(),
        _ => false,
    };
    let sums = match (&embedding.sum.runs[..], &head.sum.runs[..]) {
        ([], []) => true,
        ([a], [b]) => mirror(&a.pair, &b.pair),
        _ => false,
    };
    sources && sums && embedding.rows == head.rows
}

/// Whether an addition to an embedding is one to a head: the factors have exchanged their roles.
fn mirror(embedding: &LoraPair, head: &LoraPair) -> bool {
    let turned = |a: &[f32], b: &[f32], rank: usize| {
        let length = a.len() / rank;
        a.len() == b.len() && a.iter().enumerate().all(|(at, a)| *a == b[at % length * rank + at / length])
    };
    let plain = embedding.magnitude.is_none() && head.magnitude.is_none();
    plain
        && (embedding.rank, embedding.scale) == (head.rank, head.scale)
        && turned(&embedding.a, &head.b, head.rank)
        && turned(&head.a, &embedding.b, head.rank)
}
