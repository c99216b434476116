//! Canonical JSON: the byte form that is hashed.

use serde::Serialize;
use serde_json::Value;

/// Compact JSON with the keys of every object in byte order, so that equal values have equal bytes whatever
/// order their fields were written in. Floats use the shortest form that reads back to the same bits.
///
/// # Panics
/// If the value cannot be represented as JSON (a map with keys that are not strings).
pub fn canonical_json<T: Serialize + ?Sized>(value: &T) -> String {
    let mut value = serde_json::to_value(value).expect("the value must be representable as JSON");
    sort(&mut value);
    value.to_string()
}

fn sort(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.sort_keys();
            map.values_mut().for_each(sort);
        }
        Value::Array(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_of_keys_does_not_matter() {
        let a = json!({"b": {"y": 1, "x": [1.5, null]}, "a": "é"});
        let b = json!({"a": "é", "b": {"x": [1.5, null], "y": 1}});
        assert_eq!(canonical_json(&a), canonical_json(&b));
        assert_eq!(canonical_json(&a), r#"{"a":"é","b":{"x":[1.5,null],"y":1}}"#);
    }
}
