//! Rotary embeddings as transformers 5.24 resolves `rope_theta`, `rope_scaling` and `rope_parameters`.

use serde_json::{Map, Value};

use super::{Rope, RopeScaling, keys::Keys, limits::POSITIONS};
use crate::DecoderError;

/// The rotary embedding of a configuration whose class has this theta.
///
/// `rope_scaling`, unless empty, replaces `rope_parameters` whole. A theta inside counts before the one at the top level,
/// which counts before the class's.
pub(super) fn rope(keys: &Keys<'_>, class_theta: f64, max_position_embeddings: usize) -> Result<Rope, DecoderError> {
    let empty = Map::new();
    let key = if keys.json.get("rope_scaling").is_some_and(is_true) { "rope_scaling" } else { "rope_parameters" };
    let json = match keys.get(key) {
        None => &empty,
        Some(Value::Object(json)) => json,
        Some(other) => return Err(keys.error(key, other, "an object")),
    };
    let prefix = format!("{key}.");
    let inner = Keys { path: keys.path, json, prefix: &prefix };
    if let Some((kind, value)) = json.iter().find(|(_, value)| value.is_object()) {
        return Err(inner.error(
            kind,
            value,
            "no parameters by layer type (this architecture has one rotary embedding)",
        ));
    }
    let theta = match inner.has("rope_theta") {
        true => inner.required_number("rope_theta")?,
        false => keys.number_or("rope_theta", class_theta)?,
    };
    let kind_key = if inner.has("rope_type") { "rope_type" } else { "type" };
    let kind = inner.or(kind_key, "default".to_owned(), "a name")?;
    let factor = || inner.required_number("factor");
    let scaling = match kind.as_str() {
        "default" => return Ok(Rope { theta, scaling: RopeScaling::None }),
        "linear" => RopeScaling::Linear { factor: factor()? },
        // `original_max_position_embeddings` is not read.
        "dynamic" => RopeScaling::Dynamic { factor: factor()?, original_max: max_position_embeddings },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: inner.required_number("low_freq_factor")?,
            high_freq_factor: inner.required_number("high_freq_factor")?,
            // One at the top level counts before the one inside.
            original_max: match keys.has("original_max_position_embeddings") {
                true => keys.size_or("original_max_position_embeddings", max_position_embeddings, POSITIONS)?,
                false => inner.size_or("original_max_position_embeddings", max_position_embeddings, POSITIONS)?,
            },
        },
        other => return Err(inner.error(kind_key, other, "default, linear, dynamic or llama3")),
    };
    // The unscaled embedding does not read it, the others would rotate a part of the head.
    let partial = if inner.has("partial_rotary_factor") { &inner } else { keys };
    let part = partial.value("partial_rotary_factor", "1 (the whole head)")?.unwrap_or(1.0);
    if part != 1.0 {
        return Err(partial.error("partial_rotary_factor", part, "1 (the whole head)"));
    }
    Ok(Rope { theta, scaling })
}

/// What Python takes for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
