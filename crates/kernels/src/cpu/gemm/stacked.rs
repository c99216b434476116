//! Several weights as one, in the form they are stored in.

use super::PackedMatrix;
use crate::{HostData, HostTensor};

impl PackedMatrix {
    /// Packs the rows of all weights `[out, in]`, one after another. What is stored in fewer bits stays so, and products
    /// widen it; weights of different forms become f32.
    ///
    /// # Panics
    /// If there are none, or they differ in their columns.
    pub fn stacked(weights: &[&HostTensor]) -> Self {
        let (out, inp) = (weights.iter().map(|w| w.rows()).sum(), weights[0].cols());
        assert!(weights.iter().all(|w| w.cols() == inp), "weights of one width");
        macro_rules! all {
            ($variant:ident) => {
                weights
                    .iter()
                    .map(|w| if let HostData::$variant(data) = &w.data { Some(&data[..]) } else { None })
                    .collect::<Option<Vec<_>>>()
                    .map(|parts| parts.concat())
            };
        }
        if let Some(data) = all!(Bf16) {
            return Self::weight_bf16(&data, out, inp);
        }
        if let Some(data) = all!(F16) {
            return Self::weight_f16(&data, out, inp);
        }
        let quantised = weights.iter().map(|w| if let HostData::Nf4(data) = &w.data { Some(data) } else { None });
        if let Some(parts) = quantised.collect::<Option<Vec<_>>>() {
            return Self::weight_nf4(&parts, inp);
        }
        let codes: Vec<&HostData> = weights.iter().map(|w| &w.data).collect();
        if let Some(packed) = Self::weight_codes(&codes, inp) {
            return packed;
        }
        let data: Vec<f32> = weights.iter().flat_map(|w| w.to_f32().into_owned()).collect();
        Self::weight_f32(&data, out, inp)
    }
}
