//! A panel of weights in codes of eight bits, with scales and minima for groups of steps: what products widen.

use super::{
    KC,
    kernel::NR,
    transpose::{TILE, transpose, transpose_bytes},
};
use crate::{
    cpu::isa::multiversion,
    gguf::{Factors, GROUP, LARGE},
};

/// Words of a group of steps.
const WORDS: usize = GROUP / 4 * NR;
/// Groups of a panel.
pub(super) const GROUPS: usize = KC / GROUP;
/// 2^-24: codes are converted where they are cheapest to move to, in the top byte of a word.
pub(super) const TOP: f32 = 1.0 / (1 << 24) as f32;
const _: () = assert!(KC == LARGE && 2 * GROUPS == NR, "the factors of a panel are a tile");

/// Up to [`KC`] steps of a panel. Element `(step, lane)` is `code · scale − minimum` of its group.
pub(super) struct CodePanel {
    /// Codes of four steps a word, the first in the lowest byte: `[KC / 4, NR]`.
    pub(super) words: [u32; KC / 4 * NR],
    /// Scales of all groups times [`TOP`], unless they are tiny; then their minima: `[2 * GROUPS, NR]`.
    pub(super) factors: [f32; TILE],
    pub(super) has_minima: bool,
    /// Some scale would lose bits if it were multiplied by [`TOP`].
    pub(super) tiny: bool,
}

impl Default for CodePanel {
    fn default() -> Self {
        Self { words: [0; KC / 4 * NR], factors: [0.0; TILE], has_minima: false, tiny: false }
    }
}

/// What panels are made in; kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) lanes: Lanes,
    pub(super) panel: CodePanel,
    /// Widened weights by lane, `[NR, KC]`; empty until it is needed.
    pub(super) rows: Vec<f32>,
}

/// A panel by lane, as weights are stored: what a panel is made from.
pub(super) struct Lanes {
    pub(super) codes: [[i8; KC]; NR],
    pub(super) factors: [Factors; NR],
}

impl Default for Lanes {
    fn default() -> Self {
        Self { codes: [[0; KC]; NR], factors: [[0.0; NR]; NR] }
    }
}

impl CodePanel {
    /// Takes all steps of all lanes.
    pub(super) fn fill(&mut self, lanes: &Lanes, has_minima: bool) {
        self.has_minima = has_minima;
        for (at, words) in self.words.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            transpose_bytes(&lanes.codes.as_flattened()[at * 4 * NR..], KC, words);
        }
        transpose(lanes.factors.as_flattened(), NR, &mut self.factors);
        let scales = &mut self.factors[..GROUPS * NR];
        self.tiny = scales.iter().any(|scale| *scale != 0.0 && scale.abs() < f32::MIN_POSITIVE / TOP);
        if !self.tiny {
            scales.iter_mut().for_each(|scale| *scale *= TOP);
        }
    }

    /// Steps from `start`, a multiple of a group, in f32: `[steps, NR]`, as many as `out` has.
    pub(super) fn widen(&self, start: usize, out: &mut [f32]) {
        let scales = &self.factors[start / GROUP * NR..];
        let minima = self.has_minima.then(|| &scales[GROUPS * NR..]);
        widen(&self.words[start / 4 * NR..], if self.tiny { 24 } else { 0 }, scales, minima, out);
    }
}

multiversion! {
    /// Codes stand in the top bytes of words, `down` bits above where they are what they are worth.
    fn widen(words: &[u32], down: u32, scales: &[f32], minima: Option<&[f32]>, out: &mut [f32]) {
        for (group, (words, out)) in words.chunks(WORDS).zip(out.chunks_mut(GROUP * NR)).enumerate() {
            let lanes = group * NR..(group + 1) * NR;
            let scales = &scales[lanes.clone()];
            for (words, out) in words.as_chunks::<NR>().0.iter().zip(out.chunks_mut(4 * NR)) {
                for (at, out) in out.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                    for ((y, word), scale) in out.iter_mut().zip(words).zip(scales) {
                        let code = (word << (24 - 8 * at) & 0xff00_0000).cast_signed() >> down;
                        *y = code as f32 * scale;
                    }
                    if let Some(minima) = minima {
                        for (y, minimum) in out.iter_mut().zip(&minima[lanes.clone()]) {
                            *y -= minimum;
                        }
                    }
                }
            }
        }
    }
}
