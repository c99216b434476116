//! A decoder block in training: forward by the steps that `harness_decoder` has in their order, and the backward derived
//! by hand, step by step.
//!
//! The forward writes its steps down (`tape`) with what their backward needs; `backward` goes through them from the last
//! one to the first. Every projection may carry low-rank additions. Frozen weights get no gradient, and no gradient is
//! computed below the lowest thing that is trained. What is kept in between is in [`Saved`], which is dropped layer by
//! layer.

mod backward;
mod buffers;
mod context;
mod dropout;
mod experts;
mod frozen;
mod key;
mod linear;
mod magnitudes;
mod norms;
mod places;
mod policy;
mod sink;
mod source;
mod steps;
mod tape;
mod vector;
mod view;

use std::sync::Arc;

pub use context::{BlockContext, Rows, Shared};
pub use dropout::DropoutPlan;
pub use frozen::FrozenLayer;
use harness_decoder::block_steps;
pub use key::{MatrixKey, VectorKey};
pub use linear::Linear;
pub use places::{GroupPlaces, LayerPlaces, LoraPart};
pub use policy::SavePolicy;
pub use sink::{GradSink, ModelPart};
pub use source::{Pass, Resident, WeightSource};
pub use tape::Saved;
use tape::Tape;
pub use vector::Vector;
pub use view::LayerView;

use crate::backend::{Backend, Result};

impl<B: Backend> BlockContext<'_, B> {
    /// The block's output and what its backward needs. `lowest`: nobody needs the gradient of its input. With `full` also
    /// what is cheap to compute again is kept.
    ///
    /// # Errors
    /// If memory runs out, or the device fails.
    pub fn forward(
        &self,
        x: Arc<B::Buf>,
        view: &LayerView<'_, B>,
        lowest: bool,
        full: bool,
    ) -> Result<(B::Buf, Saved<B>)> {
        let (y, saved) = self.run(x, view, (lowest, full, false))?;
        Ok((y.expect("a pass that is no replay has an output"), saved))
    }

    /// What the backward of a block needs, of a block whose output is known already.
    ///
    /// # Errors
    /// As [`BlockContext::forward`].
    pub fn replay(&self, x: Arc<B::Buf>, view: &LayerView<'_, B>, lowest: bool) -> Result<Saved<B>> {
        Ok(self.run(x, view, (lowest, true, true))?.1)
    }

    fn run(
        &self,
        x: Arc<B::Buf>,
        view: &LayerView<'_, B>,
        (lowest, full, replay): (bool, bool, bool),
    ) -> Result<(Option<B::Buf>, Saved<B>)> {
        let mut tape = Tape::new(self, view, x, !lowest, replay);
        block_steps(&mut tape, self.config, self.layer)?;
        tape.finish(full)
    }
}
