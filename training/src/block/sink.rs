//! Where gradients go, and when they are complete.

use crate::{TrainingError, backend::Backend};

/// Where gradients go.
pub trait GradSink<B: Backend> {
    /// Gradients of a part of the model come next.
    ///
    /// # Errors
    /// If there is no memory for them.
    fn begin(&mut self, _: ModelPart) -> Result<(), TrainingError> {
        Ok(())
    }
    /// The flat buffer that gradients are added to.
    fn grads(&mut self) -> &mut B::Buf;
    /// All gradients of a part of the model are complete for this micro-batch.
    ///
    /// # Errors
    /// If they are to be summed over ranks, and another one is gone.
    fn done(&mut self, _: ModelPart) -> Result<(), TrainingError> {
        Ok(())
    }
}

/// Parts of a model in which gradients are completed, from the last to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPart {
    /// Last norm and, where it is not tied, the output head.
    Head,
    /// A block.
    Layer(usize),
    /// The embedding, with a tied head.
    Embedding,
}
