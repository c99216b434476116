//! Weights into 4-bit codes.

use harness_kernels::{HostData, HostTensor};

use super::{ExpertPart, Weights, expert_path};
use crate::DecoderError;
use harness_kernels::{Nf4Tensor, Quantization};

impl Weights {
    /// Quantises the linears of all blocks, those of experts too; embedding, head, norms, biases and the routers of experts
    /// (small, and all else hangs on them) stay as they are.
    ///
    /// # Errors
    /// If a weight is not finite, naming it.
    pub fn quantise(&mut self, options: &Quantization) -> Result<(), DecoderError> {
        for (number, layer) in self.layers.iter_mut().enumerate() {
            for (projection, tensor) in layer.all_linears_mut() {
                quantise(tensor, options, || format!("{}.weight", projection.path(number)))?;
            }
            let experts = layer.experts.iter_mut().flat_map(|mixture| mixture.experts.iter_mut().enumerate());
            for (expert, tensors) in experts {
                for (part, tensor) in ExpertPart::ALL.into_iter().zip(tensors) {
                    quantise(tensor, options, || format!("model.{}", expert_path(number, expert, part)))?;
                }
            }
        }
        Ok(())
    }
}

/// Quantises a weight that is not yet; `name` names it in an error.
fn quantise(
    tensor: &mut HostTensor,
    options: &Quantization,
    name: impl FnOnce() -> String,
) -> Result<(), DecoderError> {
    // The feed-forward block of a layer with experts is empty.
    if tensor.data.is_empty() || matches!(tensor.data, HostData::Nf4(_)) {
        return Ok(());
    }
    let quantised = Nf4Tensor::quantise(&tensor.to_f32(), options);
    let quantised = quantised.ok_or_else(|| DecoderError::NotFinite { tensor: name() })?;
    *tensor = HostTensor { shape: tensor.shape.clone(), data: HostData::Nf4(quantised) };
    Ok(())
}
