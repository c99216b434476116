//! The part of the base that an adapter's factors began as, taken out of the base.

use std::ops::Range;

use super::{AdapterLayer, Initialisation, LoraPair};
use crate::{DecoderError, LinearPlace, Projection};

/// The pairs of the projections that are stacked in a linear of so many inputs, each with what its module's factors began
/// as subtracted: the adapter's factors and the negative of these, side by side, of twice the rank. `rows` gives rows of
/// the linear's weight; `None` if it is quantised.
///
/// # Errors
/// If the base is quantised, or its decomposition is not unique; those of `rows`.
pub(crate) fn without_part(
    initialisation: Initialisation,
    layer: &AdapterLayer,
    stacked: &[Projection],
    places: &[LinearPlace],
    inputs: usize,
    rows: &dyn Fn(Range<usize>) -> Result<Option<Vec<f32>>, DecoderError>,
) -> Result<AdapterLayer, DecoderError> {
    let mut changed = AdapterLayer::new();
    let mut column = 0;
    let place = |projection: &Projection| places.iter().find(|place| place.projection == *projection);
    let stacked: Vec<&LinearPlace> = stacked.iter().filter_map(place).collect();
    // Projections of one module are decomposed together; the order of its rows does not matter to that.
    for module in stacked.chunk_by(|a, b| a.module == b.module) {
        let outputs: usize = module.iter().map(|place| place.outputs).sum();
        let (first, path) = (column, &module[0].path);
        column += outputs;
        let Some(LoraPair { rank, scale, .. }) = layer.get(&module[0].projection) else { continue };
        let failed = |reason: String| DecoderError::AdapterPart { module: path.clone(), reason };
        let Some(weight) = rows(first..column)? else { return Err(failed("the base is quantised".to_owned())) };
        let taken = initialisation.taken_out(&weight, inputs, *rank, *scale).map_err(failed)?;
        let factor = taken.scale / scale;
        let mut rows = taken.b.chunks_exact(*rank);
        for place in module {
            let Some(pair) = layer.get(&place.projection) else { continue };
            let own = pair.b.chunks_exact(*rank).zip(rows.by_ref());
            let b = own.flat_map(|(own, part)| own.iter().copied().chain(part.iter().map(|b| b * factor))).collect();
            let pair = LoraPair { a: [&pair.a[..], &taken.a].concat(), b, rank: 2 * rank, ..pair.clone() };
            changed.insert(place.projection, pair);
        }
    }
    Ok(changed)
}
