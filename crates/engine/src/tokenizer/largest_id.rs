//! The largest id of a vocabulary in JSON, found without keeping the vocabulary.

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The largest value of an object; `None` for an empty one and for a list, whose ids are places.
#[derive(Default)]
pub(super) struct LargestId(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for LargestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Vocabulary)
    }
}

struct Vocabulary;

impl<'de> Visitor<'de> for Vocabulary {
    type Value = LargestId;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a vocabulary: ids by token, or a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<LargestId, E> {
        Ok(LargestId(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LargestId, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(LargestId(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LargestId, A::Error> {
        let mut largest = None;
        while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u64>()? {
            largest = largest.max(Some(id));
        }
        Ok(LargestId(largest))
    }
}
