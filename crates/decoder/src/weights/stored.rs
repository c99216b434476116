//! How the tensors of a model are stored.

use std::collections::BTreeMap;

use super::TensorStore;

/// Tensors that are stored in one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredTensors {
    /// How many.
    pub tensors: usize,
    /// Their bytes, those of scales beside 4-bit codes included.
    pub bytes: usize,
}

/// Counts and bytes of tensors by type.
pub(crate) fn by_type<'a>(
    contents: impl Iterator<Item = (&'a str, String, &'a [usize], &'a [u8])>,
) -> BTreeMap<String, StoredTensors> {
    let mut types: BTreeMap<String, StoredTensors> = BTreeMap::new();
    for (_, dtype, _, bytes) in contents {
        let entry = types.entry(dtype).or_default();
        entry.tensors += 1;
        entry.bytes += bytes.len();
    }
    types
}

impl TensorStore {
    /// As [`by_type`]; what bitsandbytes stores beside the codes of a weight counts as a part of it.
    pub(crate) fn by_type(&self) -> BTreeMap<String, StoredTensors> {
        const MARK: &str = ".weight.quant_state.bitsandbytes__";
        let kinds: BTreeMap<&str, &str> = self.names().filter_map(|name| name.split_once(MARK)).collect();
        let (mut quantised, mut rest) = (BTreeMap::<String, StoredTensors>::new(), vec![]);
        for tensor in self.contents() {
            let module = tensor.0.split_once(".weight").map_or("", |(module, _)| module);
            match kinds.get(module) {
                Some(kind) => {
                    let entry = quantised.entry((*kind).to_owned()).or_default();
                    entry.tensors += usize::from(tensor.0.ends_with(".weight"));
                    entry.bytes += tensor.3.len();
                }
                None => rest.push(tensor),
            }
        }
        quantised.extend(by_type(rest.into_iter()));
        quantised
    }
}
