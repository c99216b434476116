//! The steps of a decoder block in their order, written once for whatever computes them.

use crate::{DecoderConfig, Placement, QueryScale, Rotation};

/// The two norms that stand before, or after, the parts of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockNorm {
    /// `input_layernorm`.
    First,
    /// `post_attention_layernorm`.
    Second,
}

/// The steps of one block over the rows of a pass.
///
/// Between steps there are the residual stream x, the input n of the next part, and the attention's queries, keys and
/// values. Each part reads n and adds to x; what it adds passes the norm and the factor that the block has for it.
pub trait Steps {
    /// What a device can fail with.
    type Error;

    /// `n = norm(x)`.
    ///
    /// # Errors
    /// If the device fails, as all steps.
    fn norm(&mut self, norm: BlockNorm) -> Result<(), Self::Error>;
    /// `n = x`.
    fn copy(&mut self) -> Result<(), Self::Error>;
    /// `x = n`.
    fn replace(&mut self) -> Result<(), Self::Error>;
    /// n as the first norm gave it, for the rows that go on after the mixer; x is as it was.
    fn keep_first(&mut self) -> Result<(), Self::Error>;

    /// Queries, keys and values are linear in n.
    fn project(&mut self) -> Result<(), Self::Error>;
    /// Queries, keys and values pass a narrow layer; they come with their rotation.
    fn project_latent(&mut self) -> Result<(), Self::Error>;
    /// The norms of queries and keys.
    fn norm_heads(&mut self) -> Result<(), Self::Error>;
    /// Queries, keys and values are limited to `±limit`.
    fn clip(&mut self, limit: f32) -> Result<(), Self::Error>;
    /// Queries and keys are rotated.
    fn rotate(&mut self, rotation: Rotation) -> Result<(), Self::Error>;
    /// Queries are multiplied by a factor of their position.
    fn scale_queries(&mut self, scale: QueryScale) -> Result<(), Self::Error>;
    /// The attention. What follows concerns the rows that go on: in the last block those that are wanted.
    fn attend(&mut self) -> Result<(), Self::Error>;
    /// The short convolution in place of all of these, from n.
    fn convolve(&mut self) -> Result<(), Self::Error>;
    /// `x += output projection`, of the attention or the convolution.
    fn add_mixed(&mut self) -> Result<(), Self::Error>;
    /// `x += f(n)`: the feed-forward block, or the mixture of experts.
    fn feed_forward(&mut self) -> Result<(), Self::Error>;
}

/// One block.
///
/// # Errors
/// If a step fails.
pub fn block<S: Steps>(steps: &mut S, config: &DecoderConfig, layer: usize) -> Result<(), S::Error> {
    use BlockNorm::{First, Second};
    let placement = config.block.placement;
    match placement {
        Placement::Post | Placement::AfterSum => steps.copy()?,
        _ => steps.norm(First)?,
    }
    if placement == Placement::NormedResidual {
        steps.replace()?;
    }
    if config.block.is_convolution(layer) {
        steps.convolve()?;
    } else {
        attention(steps, config, layer)?;
    }
    match placement {
        Placement::Parallel => steps.keep_first()?,
        Placement::ParallelTwo => steps.norm(Second)?,
        _ => {}
    }
    steps.add_mixed()?;
    match placement {
        Placement::Pre | Placement::Sandwich => steps.norm(Second)?,
        Placement::Post => steps.copy()?,
        Placement::AfterSum => {
            steps.norm(First)?;
            steps.replace()?;
        }
        Placement::NormedResidual => {
            steps.norm(Second)?;
            steps.replace()?;
        }
        Placement::Parallel | Placement::ParallelTwo => {}
    }
    steps.feed_forward()?;
    if placement == Placement::AfterSum {
        steps.norm(Second)?;
        steps.replace()?;
    }
    Ok(())
}

/// Queries, keys and values, and the attention over them.
fn attention<S: Steps>(steps: &mut S, config: &DecoderConfig, layer: usize) -> Result<(), S::Error> {
    let block = &config.block;
    let rotation = block.rotation(layer);
    let rotated = rotation != Rotation::None;
    if block.latent.is_some() {
        steps.project_latent()?;
    } else {
        steps.project()?;
        let after = block.qk_norm.is_some_and(|norm| norm.after_rotation);
        if block.qk_norm.is_some() && !after {
            steps.norm_heads()?;
        }
        if let Some(limit) = block.clip_qkv {
            steps.clip(limit)?;
        }
        if rotated {
            steps.rotate(rotation)?;
        }
        if after && rotated {
            steps.norm_heads()?;
        }
    }
    if let Some(scale) = block.query_scale.filter(|scale| !scale.unrotated || !rotated) {
        steps.scale_queries(scale)?;
    }
    steps.attend()
}
