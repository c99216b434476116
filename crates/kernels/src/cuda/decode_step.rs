//! What a step of decoding does besides the kernels of any pass.

use super::{
    Device, DeviceBuffer, Float, View,
    driver::{Shape, args},
    ops::{Done, of},
};

/// A rotation of heads: the table has `dims / 2` cosines and as many sines a position, for the first `dims` elements of a
/// head, in halves against each other or in pairs of neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// The table (f32).
    pub table: &'a DeviceBuffer,
    /// Elements of a head that turn.
    pub dims: usize,
    /// Whether each element turns against its neighbour.
    pub pairs: bool,
}

/// How the next token of a row is chosen, as `Choice` of `kernels/sample.cuh`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// 1 / temperature; 0 for the most probable token.
    pub sharpness: f32,
    /// Only the k most probable tokens; 0 for all.
    pub top_k: u32,
    /// Only the first tokens whose probability reaches p; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this fraction as probable as the best one.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens already seen; 1 is off.
    pub penalty: f32,
}

impl Choice {
    /// The most probable token.
    pub const BEST: Self = Self { sharpness: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, penalty: 1.0 };
    /// Words of 32 bits.
    pub const WORDS: usize = 5;

    /// As the kernel reads it.
    pub fn words(&self) -> [u32; Self::WORDS] {
        let [top_p, min_p, penalty] = [self.top_p, self.min_p, self.penalty].map(f32::to_bits);
        [self.sharpness.to_bits(), self.top_k, top_p, min_p, penalty]
    }
}

/// What tokens are drawn with, a row a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Draws<'a> {
    /// A [`Choice`] a row.
    pub choices: &'a DeviceBuffer,
    /// Numbers of 64 bits, uniform in `[0, 1)`: `[rows, steps]`.
    pub uniform: &'a DeviceBuffer,
    /// A bit a token that was seen, whole words a row; those drawn are added.
    pub seen: Option<&'a DeviceBuffer>,
}

/// What goes on from step to step, a row a sequence, in words of 32 bits.
#[derive(Debug)]
pub struct DecodeRows {
    /// The tokens that are read next, and their positions.
    pub tokens: DeviceBuffer,
    /// See above.
    pub positions: DeviceBuffer,
    /// Where their keys and values go.
    pub slots: DeviceBuffer,
    /// The same for all steps: `[rows, steps]`.
    pub table: DeviceBuffer,
    /// The number of the step, one word.
    pub step: DeviceBuffer,
    /// For every step the tokens drawn and the bits of their log-probabilities: `[steps, rows, 2]`.
    pub out: DeviceBuffer,
    /// Numbers of rows and steps.
    pub rows: usize,
    /// See above.
    pub steps: usize,
}

impl Device {
    /// Rotates the heads of queries, in place, and of keys by the angles of their rows' positions, and writes keys and
    /// values to the rows' slots. A row of `qkv` has the heads of queries, of keys and of values side by side; keys are not
    /// rotated there.
    ///
    /// # Errors
    /// If the driver fails.
    #[allow(clippy::too_many_arguments, reason = "one kernel call")]
    pub fn rotate_and_store(
        &self,
        qkv: View<'_>,
        [heads, kv_heads]: [usize; 2],
        rotation: Rotation<'_>,
        positions: &DeviceBuffer,
        slots: &DeviceBuffer,
        keys: View<'_>,
        values: View<'_>,
    ) -> Done {
        let (kv_dim, half) = (keys.cols, rotation.dims / 2);
        let width = kv_dim / kv_heads.max(1);
        assert!(qkv.cols == (heads + 2 * kv_heads) * width && keys.pitch == kv_dim && values.pitch == kv_dim, "heads");
        assert!(slots.bytes() >= 4 * qkv.rows && positions.bytes() >= 4 * qkv.rows, "a slot and a position a row");
        assert!(qkv.float == keys.float && keys.float == values.float, "one type");
        assert!(rotation.dims <= width && rotation.dims.is_multiple_of(2) && half > 0, "an even part of a head");
        let at = (positions.ptr(), rotation.table.ptr(), slots.ptr());
        let by_four = [half, width - 2 * half].iter().all(|part| part.is_multiple_of(4));
        let vec = !rotation.pairs && by_four && [qkv, keys, values].iter().all(View::by_four);
        let args = args![
            [qkv],
            qkv.rows,
            heads,
            kv_heads,
            width,
            half,
            rotation.pairs,
            at.0,
            at.1,
            at.2,
            keys.ptr,
            values.ptr,
            vec
        ];
        let items = (heads + kv_heads) * half + kv_heads * (width - 2 * half) + kv_dim;
        self.launch(of!(qkv.float, "rope_store"), self.spread_by(qkv.rows * items, vec), &args)
    }

    /// Makes the tokens that were drawn (two words a row, as [`Device::read_best`] writes them) the next ones.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn advance(&self, drawn: &DeviceBuffer, of: &DecodeRows) -> Done {
        let (rows, steps) = (of.rows, of.steps);
        let fits = [
            (drawn, 2 * rows),
            (&of.tokens, rows),
            (&of.positions, rows),
            (&of.slots, rows),
            (&of.table, rows * steps),
            (&of.step, 1),
            (&of.out, 2 * rows * steps),
        ];
        assert!(fits.iter().all(|(buffer, words)| buffer.bytes() >= 4 * words), "words of all rows");
        let args = args![
            drawn.ptr(),
            of.tokens.ptr(),
            of.positions.ptr(),
            of.slots.ptr(),
            of.table.ptr(),
            steps,
            of.step.ptr(),
            of.out.ptr(),
            rows,
        ];
        self.launch("advance", Shape { grid: (1, 1), block: (256, 1), shared: 0 }, &args)
    }

    /// Chooses the next token of every row of f32 logits, as [`Device::read_best`] writes it, with the draws of the step that
    /// `rows` is in.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn sample(&self, logits: View<'_>, draws: Draws<'_>, of: &DecodeRows, drawn: &DeviceBuffer) -> Done {
        let (rows, vocab, words) = (logits.rows, logits.cols, logits.cols.div_ceil(32));
        assert!(logits.float == Float::F32 && rows == of.rows && vocab > 0, "logits of all rows");
        let fits = [
            (drawn, 8 * rows),
            (draws.choices, 4 * Choice::WORDS * rows),
            (draws.uniform, 8 * rows * of.steps),
            (&of.step, 4),
            (draws.seen.unwrap_or(drawn), draws.seen.map_or(0, |_| 4 * rows * words)),
        ];
        assert!(fits.iter().all(|(buffer, bytes)| buffer.bytes() >= *bytes), "draws of all rows");
        let seen = draws.seen.map_or(0, DeviceBuffer::ptr);
        let args = args![
            [logits],
            vocab,
            draws.choices.ptr(),
            seen,
            words,
            draws.uniform.ptr(),
            of.steps,
            of.step.ptr(),
            drawn.ptr(),
        ];
        self.launch("sample_tokens", Shape { grid: (rows, 1), block: (1024, 1), shared: 16 << 10 }, &args)
    }
}
