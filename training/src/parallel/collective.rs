//! What ranks compute together on buffers of a device.

use std::{ops::Range, sync::Arc};

use super::{
    Partition,
    exchange::{Bytes, Exchange},
    unit::{Gathered, Unit},
};
use crate::{
    TrainingError,
    backend::{self, Backend, Span, SpanMut},
};

/// Operations of all ranks together; every rank calls the same ones in the same order. Sums are taken in order of rank, so
/// that they are the same everywhere and from run to run.
///
/// # Errors
/// All of them fail with [`TrainingError::Peer`] if another rank is gone or has failed, and those on buffers if the device
/// fails or its memory runs out.
pub trait Collective<B: Backend>: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn world(&self) -> usize;
    /// Every rank's slice of `buf` becomes the sum over the ranks; what lies outside of the own slice is undefined.
    fn reduce_scatter_sum(&self, backend: &B, buf: &mut B::Buf, parts: &Partition) -> Result<(), TrainingError>;
    /// Every rank gets all slices, each from its owner.
    fn all_gather(&self, backend: &B, buf: &mut B::Buf, parts: &Partition) -> Result<(), TrainingError>;
    /// Every element becomes the sum over the ranks.
    fn all_reduce_sum(&self, backend: &B, buf: &mut B::Buf, parts: &Partition) -> Result<(), TrainingError> {
        self.reduce_scatter_sum(backend, buf, parts)?;
        self.all_gather(backend, buf, parts)
    }
    /// Begins to sum the elements of a range, which change no more, beside what is computed next, where the device can; the
    /// next sum of the whole buffer leaves them out and waits for them.
    fn begin_sum(&self, _: &B, _: &mut B::Buf, _: Range<usize>) -> Result<(), TrainingError> {
        Ok(())
    }
    /// Whether [`Collective::gather`] and [`Collective::begin_reduce`] run beside what is computed next.
    fn runs_beside(&self) -> bool {
        false
    }
    /// Begins to sum the elements of a range, which change no more, into the slices of `parts`, beside what is computed next,
    /// where the device can, and says whether it has: [`Collective::end_reduce`] of the buffer must follow.
    fn begin_reduce(&self, _: &B, _: &mut B::Buf, _: Range<usize>, _: &Partition) -> Result<bool, TrainingError> {
        Ok(false)
    }
    /// As [`Collective::reduce_scatter_sum`]; leaves out what has been begun, and waits for it.
    fn end_reduce(&self, backend: &B, buf: &mut B::Buf, parts: &Partition) -> Result<(), TrainingError> {
        self.reduce_scatter_sum(backend, buf, parts)
    }
    /// All elements of a unit from the ranks, of which this one holds `own`; as products read them, and vectors as they are.
    fn gather(&self, backend: &B, own: &B::Buf, unit: &Unit) -> Result<Gathered<B>, TrainingError> {
        let mut whole = backend.zeros(unit.len())?;
        let mine = unit.mine();
        if !mine.is_empty() {
            let data = backend.read(Span { buf: own, at: unit.at(), len: mine.len() })?;
            backend.write(&data, SpanMut { buf: &mut whole, at: mine.start, len: mine.len() })?;
        }
        self.all_gather(backend, &mut whole, unit.parts())?;
        Ok(Gathered::new(whole, None))
    }
    /// What every rank gives, in order of rank: for small things and for weights in host memory.
    fn all_gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError>;
    /// As [`Collective::all_gather_bytes`], where rank 0 alone needs the answer; others may get nothing.
    fn gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        self.all_gather_bytes(mine)
    }
    /// As [`Exchange::allow`].
    fn allow(&self, bytes: u64) -> Result<(), TrainingError>;
    /// Tells the other ranks that this one ends with an error.
    fn abort(&self, message: &str);
    /// As [`Exchange::failure`].
    fn failure(&self) -> Option<(usize, String)>;
}

/// Collectives through host memory, over any [`Exchange`].
#[derive(Debug)]
pub struct Host<E>(pub E);

/// Little-endian bytes of floats.
pub(crate) fn to_bytes(data: &[f32]) -> Bytes {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Floats of [`to_bytes`].
pub(crate) fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The answer of a rank whose buffer has another length, which would be a bug of this program or of its build.
fn check(rank: usize, bytes: &[u8], expected: usize) -> Result<(), TrainingError> {
    if bytes.len() == 4 * expected {
        return Ok(());
    }
    let message =
        format!("sent {} bytes where {} were expected; do all ranks run the same build?", bytes.len(), 4 * expected);
    Err(TrainingError::Peer { rank, message })
}

impl<B: Backend, E: Exchange> Collective<B> for Host<E> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world(&self) -> usize {
        self.0.world()
    }

    fn reduce_scatter_sum(&self, backend: &B, buf: &mut B::Buf, parts: &Partition) -> Result<(), TrainingError> {
        if self.0.world() == 1 {
            return Ok(());
        }
        let read = |slice: Range<usize>| backend.read(Span { buf, at: slice.start, len: slice.len() });
        let send = parts.slices().map(|slice| Ok(to_bytes(&read(slice)?)));
        let received = self.0.all_to_all(send.collect::<backend::Result<_>>()?)?;
        let mine = parts.of(self.0.rank());
        let mut sum: Option<Vec<f32>> = None;
        for (rank, bytes) in received.iter().enumerate() {
            check(rank, bytes, mine.len())?;
            let part = from_bytes(bytes);
            match &mut sum {
                None => sum = Some(part),
                Some(sum) => sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x),
            }
        }
        backend.write(&sum.unwrap_or_default(), SpanMut { buf, at: mine.start, len: mine.len() })?;
        Ok(())
    }

    fn all_gather(&self, backend: &B, buf: &mut B::Buf, parts: &Partition) -> Result<(), TrainingError> {
        if self.0.world() == 1 {
            return Ok(());
        }
        let mine = parts.of(self.0.rank());
        let bytes = to_bytes(&backend.read(Span { buf, at: mine.start, len: mine.len() })?);
        let received = self.0.all_to_all(vec![bytes; self.0.world()])?;
        for ((rank, bytes), slice) in received.iter().enumerate().zip(parts.slices()) {
            check(rank, bytes, slice.len())?;
            backend.write(&from_bytes(bytes), SpanMut { buf, at: slice.start, len: slice.len() })?;
        }
        Ok(())
    }

    fn all_gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        self.0.all_to_all(vec![mine; self.0.world()])
    }

    fn gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        let mut parts: Vec<Bytes> = vec![Arc::from([]); self.0.world()];
        parts[0] = mine;
        self.0.all_to_all(parts)
    }

    fn allow(&self, bytes: u64) -> Result<(), TrainingError> {
        self.0.allow(bytes)
    }

    fn abort(&self, message: &str) {
        self.0.abort(message);
    }

    fn failure(&self) -> Option<(usize, String)> {
        self.0.failure()
    }
}

/// The numbers that every rank gives, in order of rank.
///
/// # Errors
/// As all collectives.
pub fn all_gather_f64<B: Backend>(ranks: &dyn Collective<B>, mine: &[f64]) -> Result<Vec<Vec<f64>>, TrainingError> {
    let bytes: Bytes = mine.iter().flat_map(|x| x.to_le_bytes()).collect();
    let parse = |bytes: &Bytes| {
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect()
    };
    Ok(ranks.all_gather_bytes(bytes)?.iter().map(parse).collect())
}

/// Refuses a run whose ranks are not about to do the same; `facts` are compared one by one.
///
/// # Errors
/// [`TrainingError::Mismatch`], the same on every rank, naming the first fact in which a rank differs from rank 0.
pub fn agree<B: Backend>(ranks: &dyn Collective<B>, facts: &[(&str, String)]) -> Result<(), TrainingError> {
    let text = facts.iter().map(|(name, value)| format!("{name}\u{1f}{value}")).collect::<Vec<_>>().join("\u{1e}");
    let all = ranks.all_gather_bytes(Arc::from(text.into_bytes()))?;
    let parse = |bytes: &Bytes| -> Vec<(String, String)> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.split('\u{1e}').filter_map(|fact| fact.split_once('\u{1f}')).map(|(a, b)| (a.into(), b.into())).collect()
    };
    let first = all.first().map(parse).unwrap_or_default();
    for (rank, bytes) in all.iter().enumerate().skip(1) {
        let theirs = parse(bytes);
        if let Some((a, b)) = first.iter().zip(&theirs).find(|(a, b)| a != b) {
            let (what, expected, found) = (a.0.clone(), a.1.clone(), b.1.clone());
            return Err(TrainingError::Mismatch { rank, what, found, expected });
        }
        if first.len() != theirs.len() {
            let (expected, found) = (first.len().to_string(), theirs.len().to_string());
            return Err(TrainingError::Mismatch { rank, what: "number of facts".to_owned(), found, expected });
        }
    }
    Ok(())
}
