//! Models over one base in one pass: the base's weights are read once for the rows of all.

use std::{ops::Range, sync::Arc};

use super::{
    Decoder, Parts, Piece,
    host::{Adapted, Host},
};
#[cfg(feature = "cuda")]
use crate::device::{DeviceAdapter, DeviceModel};
use crate::{DecoderError, Draw, Seen};

/// Models over one base that are computed in one pass, each with a run of its pieces.
///
/// A row's bits do not depend on which other rows there are, so every model computes what it computes alone.
#[derive(Clone, Debug)]
pub struct Together<'a> {
    models: Vec<(&'a Decoder, Range<usize>)>,
}

impl<'a> Together<'a> {
    /// Models in order, each with the number of its pieces, which stand together in the same order.
    pub fn new(models: impl IntoIterator<Item = (&'a Decoder, usize)>) -> Self {
        let mut start = 0;
        let of = |(decoder, count)| {
            let run = start..start + count;
            start = run.end;
            (decoder, run)
        };
        Self { models: models.into_iter().map(of).collect() }
    }

    /// As [`Decoder::forward`], for the pieces of all models. What is not on the processor is computed model by model.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    ///
    /// # Panics
    /// If there are fewer pieces than the models have.
    pub fn forward(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<f32>, DecoderError> {
        if let Some((host, models)) = self.on_host() {
            return host.forward(pieces, &models);
        }
        let states = self.models.iter().map(|(decoder, run)| decoder.forward(&mut pieces[run.clone()]));
        Ok(states.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// As [`Decoder::forward_greedy`], for the pieces of all models.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    ///
    /// # Panics
    /// If there are fewer pieces than the models have.
    pub fn forward_greedy(&self, pieces: &mut [Piece<'_>]) -> Result<Option<Vec<(u32, f32)>>, DecoderError> {
        let mut found = vec![];
        for (decoder, run) in &self.models {
            let Some(own) = decoder.forward_greedy(&mut pieces[run.clone()])? else { return Ok(None) };
            found.extend(own);
        }
        Ok(Some(found))
    }

    /// Reads one token of each of many sequences and goes on with the tokens that `draws` say, or with the most probable
    /// ones where there are no draws, at most `most` times: `seen` gets the new tokens with their log-probabilities after
    /// every step, and says whether to go on. Tails grow by what was read; `seen` must drop no keys and values. `false`, and
    /// nothing is computed, where that saves nothing: on the processor, and for models whose steps need the host.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "the processor gains nothing"))]
    pub fn go_on(
        &self,
        pieces: &mut [Piece<'_>],
        draws: &[Draw],
        most: usize,
        seen: Seen<'_>,
    ) -> Result<bool, DecoderError> {
        #[cfg(feature = "cuda")]
        if let Some((model, adapted)) = self.on_device() {
            return model.go_on(&adapted, pieces, draws, most, seen);
        }
        Ok(false)
    }

    /// The base and the adapters where a GPU holds all, each with the number of its pieces.
    #[cfg(feature = "cuda")]
    fn on_device(&self) -> Option<(&'a DeviceModel, Vec<(Option<&'a DeviceAdapter>, usize)>)> {
        let (first, _) = self.models.first()?;
        let (mut base, mut adapted) = (None, Vec::with_capacity(self.models.len()));
        for (decoder, run) in &self.models {
            let Parts::Device(model, adapter) = decoder.parts() else { return None };
            if !Arc::ptr_eq(&first.base, &decoder.base) {
                return None;
            }
            base = Some(model);
            adapted.push((adapter, run.len()));
        }
        Some((base?, adapted))
    }

    /// Logits of last hidden states, of which each model has a run of rows here (in place of pieces), one row after the
    /// other: a row has as many as its model has tokens.
    ///
    /// # Errors
    /// If a GPU fails.
    ///
    /// # Panics
    /// If there are fewer states than the models have.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, DecoderError> {
        if let Some((host, models)) = self.on_host() {
            return Ok(host.logits(hidden, &models));
        }
        let of = |(decoder, run): &(&Decoder, Range<usize>)| {
            let width = decoder.base.config.hidden_size;
            decoder.logits(&hidden[run.start * width..run.end * width])
        };
        Ok(self.models.iter().map(of).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The base and the adapters where one pass can compute all: there is one base, on the processor, and one type of
    /// activations.
    fn on_host(&self) -> Option<(Host<'a>, Adapted<'a>)> {
        let (first, _) = self.models.first()?;
        let mut adapted = Vec::with_capacity(self.models.len());
        let mut base = None;
        for (decoder, run) in &self.models {
            if !Arc::ptr_eq(&first.base, &decoder.base) || first.rounded != decoder.rounded {
                return None;
            }
            match decoder.parts() {
                Parts::Host(host, adapter) => {
                    base = Some(host);
                    adapted.push((run.clone(), adapter));
                }
                #[cfg(feature = "cuda")]
                Parts::Device(..) => return None,
            }
        }
        Some((base?, adapted))
    }
}
