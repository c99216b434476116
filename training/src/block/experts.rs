//! A mixture of experts, forward and backward.
//!
//! The router's logits are read and experts chosen on the host. With y = Σ w e(x): de = w dy, dw = dy · e(x), and through
//! the weights the logits' gradient ([`route_backward`]), which goes on to x through the router.

use harness_decoder::{Experts, Routing, route, route_backward};

use super::{
    buffers::zeroed,
    context::BlockContext,
    key::MatrixKey::{ExpertDown, ExpertGateUp, Router},
    sink::GradSink,
    view::LayerView,
};
use crate::backend::{Activation, Backend, Mat, MatMut, Result, Span, SpanMut};

/// What the backward of a mixture needs.
pub(super) struct Mixture<B: Backend> {
    kind: Activation,
    /// The router's logits, row by row.
    logits: Vec<f32>,
    /// The experts of every row with their weights.
    chosen: Vec<Vec<(usize, f32)>>,
    parts: Vec<Part<B>>,
    /// Rank-space products of the router's additions.
    low_rank: Option<B::Buf>,
    /// Whether the backward reads the input.
    pub reads_input: bool,
    /// Whether something of an expert, or of the router, is trained.
    pub is_trained: bool,
}

/// One expert and its rows.
struct Part<B: Backend> {
    expert: usize,
    /// Row, and which of the row's experts this is.
    at: Vec<(usize, usize)>,
    rows: B::Ints,
    weights: Vec<f32>,
    wide: B::Buf,
    low_rank: [Option<B::Buf>; 2],
}

impl<B: Backend> Part<B> {
    fn len(&self) -> usize {
        self.at.len()
    }
}

/// Whether an expert's weight multiplies its input.
fn on_input(experts: &Experts) -> bool {
    experts.routing == Routing::SigmoidOnInput
}

impl<B: Backend> Mixture<B> {
    /// The output for all rows of `x`, and what the backward needs.
    pub(super) fn forward(
        ctx: &BlockContext<'_, B>,
        view: &LayerView<'_, B>,
        kind: Activation,
        x: &B::Buf,
    ) -> Result<(B::Buf, Self)> {
        let (b, rows, hidden) = (ctx.backend, ctx.rows.len, ctx.config.hidden_size);
        let experts = ctx.config.experts.as_ref().expect("a mixture has experts");
        let router = view.linear(Router);
        let (logits, low_rank) = router.forward(ctx, x, rows)?;
        let logits = b.read(Span { buf: &logits, at: 0, len: rows * router.out })?;
        let count = experts.per_token(ctx.layer);
        let bias = &view.host().selection_bias;
        let chosen: Vec<Vec<(usize, f32)>> =
            logits.chunks_exact(router.out).map(|logits| route(logits, bias, count, experts)).collect();
        let mut at = vec![vec![]; router.out];
        for (row, chosen) in chosen.iter().enumerate() {
            chosen.iter().enumerate().for_each(|(slot, (expert, _))| at[*expert].push((row, slot)));
        }
        let mut y = zeroed(b, rows * hidden)?;
        let (mut parts, mut is_trained) = (vec![], router.is_trained());
        for (expert, at) in at.into_iter().enumerate().filter(|(_, at)| !at.is_empty()) {
            let [gate_up, down] = [ExpertGateUp(expert), ExpertDown(expert)].map(|key| view.linear(key));
            is_trained |= gate_up.is_trained() || down.is_trained();
            let ids: Vec<u32> = at.iter().map(|(row, _)| *row as u32).collect();
            let weights: Vec<f32> = at.iter().map(|&(row, slot)| chosen[row][slot].1).collect();
            let (rows_here, n) = (b.ints(&ids)?, at.len());
            let input = Self::input(ctx, experts, x, &rows_here, &weights)?;
            let (wide, u_wide) = gate_up.forward(ctx, &input, n)?;
            let act = Self::activation(ctx, kind, &wide, (n, gate_up.out))?;
            let (mut out, u_down) = down.forward(ctx, &act, n)?;
            if !on_input(experts) {
                b.scale_rows(MatMut::new(&mut out, 0, n, hidden), &b.upload(&weights)?)?;
            }
            b.add_rows(Mat::new(&out, 0, n, hidden), &rows_here, MatMut::new(&mut y, 0, rows, hidden))?;
            parts.push(Part { expert, at, rows: rows_here, weights, wide, low_rank: [u_wide, u_down] });
        }
        let reads_input = is_trained || on_input(experts);
        Ok((y, Self { kind, logits, chosen, parts, low_rank, reads_input, is_trained }))
    }

    /// The rows of an expert's input.
    fn input(
        ctx: &BlockContext<'_, B>,
        experts: &Experts,
        x: &B::Buf,
        rows: &B::Ints,
        weights: &[f32],
    ) -> Result<B::Buf> {
        let (b, n, hidden) = (ctx.backend, weights.len(), ctx.config.hidden_size);
        let mut input = b.alloc(n * hidden)?;
        b.select_rows(Mat::new(x, 0, ctx.rows.len, hidden), rows, MatMut::new(&mut input, 0, n, hidden))?;
        if on_input(experts) {
            b.scale_rows(MatMut::new(&mut input, 0, n, hidden), &b.upload(weights)?)?;
        }
        Ok(input)
    }

    fn activation(
        ctx: &BlockContext<'_, B>,
        kind: Activation,
        wide: &B::Buf,
        (rows, cols): (usize, usize),
    ) -> Result<B::Buf> {
        let mut act = ctx.backend.alloc(rows * cols / 2)?;
        ctx.backend.activate(kind, Mat::new(wide, 0, rows, cols), MatMut::new(&mut act, 0, rows, cols / 2))?;
        Ok(act)
    }

    /// The gradient of the input from that of the output, if it is needed; gradients of what is trained go to the sink.
    /// `x` is the input, where [`Mixture::reads_input`] says so.
    pub(super) fn backward(
        self,
        ctx: &BlockContext<'_, B>,
        view: &LayerView<'_, B>,
        dy: &B::Buf,
        x: Option<&B::Buf>,
        input_needed: bool,
        sink: &mut dyn GradSink<B>,
    ) -> Result<Option<B::Buf>> {
        let (b, rows, hidden) = (ctx.backend, ctx.rows.len, ctx.config.hidden_size);
        let experts = ctx.config.experts.as_ref().expect("a mixture has experts");
        let mut dx = zeroed(b, rows * hidden)?;
        let mut d_weights: Vec<Vec<f32>> = self.chosen.iter().map(|chosen| vec![0.0; chosen.len()]).collect();
        for part in self.parts {
            let n = part.len();
            let [gate_up, down] = [ExpertGateUp(part.expert), ExpertDown(part.expert)].map(|key| view.linear(key));
            let mut d = b.alloc(n * hidden)?;
            b.select_rows(Mat::new(dy, 0, rows, hidden), &part.rows, MatMut::new(&mut d, 0, n, hidden))?;
            let mut wide = part.wide;
            let act = Self::activation(ctx, self.kind, &wide, (n, gate_up.out))?;
            let mut dots = b.alloc_statistics(n)?;
            let factors = b.upload(&part.weights)?;
            if !on_input(experts) {
                let (out, _) = down.forward(ctx, &act, n)?;
                b.row_dots(Mat::new(&d, 0, n, hidden), Mat::new(&out, 0, n, hidden), &mut dots)?;
                b.scale_rows(MatMut::new(&mut d, 0, n, hidden), &factors)?;
            }
            let [u_wide, u_down] = part.low_rank;
            let trained = down.is_trained().then_some(&act);
            let Some(d_act) = down.backward(ctx, (&d, n), trained, u_down, true, sink)? else { continue };
            let to = MatMut::new(&mut wide, 0, n, gate_up.out);
            b.activate_backward(self.kind, Mat::new(&d_act, 0, n, gate_up.out / 2), to)?;
            let input = match x.filter(|_| gate_up.is_trained()) {
                Some(x) => Some(Self::input(ctx, experts, x, &part.rows, &part.weights)?),
                None => None,
            };
            let d_input = gate_up.backward(ctx, (&wide, n), input.as_ref(), u_wide, input_needed, sink)?;
            if let Some(mut d_input) = d_input {
                if let Some(x) = x.filter(|_| on_input(experts)) {
                    let mut own = b.alloc(n * hidden)?;
                    let to = MatMut::new(&mut own, 0, n, hidden);
                    b.select_rows(Mat::new(x, 0, rows, hidden), &part.rows, to)?;
                    b.row_dots(Mat::new(&d_input, 0, n, hidden), Mat::new(&own, 0, n, hidden), &mut dots)?;
                    b.scale_rows(MatMut::new(&mut d_input, 0, n, hidden), &factors)?;
                }
                let from = Mat::new(&d_input, 0, n, hidden);
                b.add_rows(from, &part.rows, MatMut::new(&mut dx, 0, rows, hidden))?;
            }
            let dots = b.read(Span { buf: &dots, at: 0, len: n })?;
            part.at.iter().zip(dots).for_each(|(&(row, slot), dot)| d_weights[row][slot] = dot);
        }
        let router = view.linear(Router);
        if !input_needed && !router.is_trained() {
            return Ok(None);
        }
        let each = self.logits.chunks_exact(router.out).zip(&self.chosen).zip(&d_weights);
        let d_logits: Vec<f32> =
            each.flat_map(|((logits, chosen), d)| route_backward(logits, chosen, d, experts)).collect();
        let mut d = b.alloc(d_logits.len())?;
        b.write(&d_logits, SpanMut { buf: &mut d, at: 0, len: d_logits.len() })?;
        let x = x.filter(|_| router.is_trained());
        let through = router.backward(ctx, (&d, rows), x, self.low_rank, input_needed, sink)?;
        through.map_or(Ok(None), |through| b.add(&through, &mut dx).map(|()| Some(dx)))
    }
}
