//! Rotary embeddings as transformers 5.24 resolves `rope_theta`, `rope_scaling` and `rope_parameters`.

use serde_json::{Map, Value};

use super::{keys::Keys, limits::POSITIONS};
use crate::{DecoderError, Rope, RopeScaling, families::Family};

/// The rotation of a model: the main one, that of layers with a window where it is another one, and the elements of a head
/// that are rotated.
pub(super) struct Rotation {
    pub(super) main: Rope,
    pub(super) local: Option<Rope>,
    pub(super) dims: usize,
}

/// The objects that say how a model rotates.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl<'a> Keys<'a> {
    /// The object that speaks of rotation, that of full attention where there are several; empty where there is none.
    /// `rope_scaling`, unless empty, replaces `rope_parameters` whole.
    pub(crate) fn rotation(&self) -> Result<Keys<'a>, DecoderError> {
        let outer = self.outer_rotation()?;
        if outer.get(FULL).is_some_and(Value::is_object) { outer.inner(FULL) } else { Ok(outer) }
    }

    fn outer_rotation(&self) -> Result<Keys<'a>, DecoderError> {
        let scaled = self.json.get("rope_scaling").is_some_and(is_true);
        self.raw().inner(if scaled { "rope_scaling" } else { "rope_parameters" })
    }

    /// The name of the scaling.
    pub(crate) fn kind(&self) -> Result<String, DecoderError> {
        self.or(self.kind_key(), "default".to_owned(), "a name")
    }

    fn kind_key(&self) -> &'static str {
        if self.has("rope_type") { "rope_type" } else { "type" }
    }
}

/// The rotary embeddings of a configuration.
///
/// A theta inside of the object counts before the one at the top level, which counts before the class's.
pub(super) fn rope(keys: &Keys<'_>, family: &Family, max: usize, head_dim: usize) -> Result<Rotation, DecoderError> {
    let inner = keys.rotation()?;
    let nested = inner.prefix == FULL;
    let outer = if nested { keys.outer_rotation()? } else { inner };
    let two = outer.json.iter().find(|(_, value)| value.is_object()).filter(|_| family.local_rope.is_none());
    if let Some((kind, value)) = two {
        let expected = "no parameters by layer type (this architecture has one rotary embedding)";
        return Err(outer.error(kind, value, expected));
    }
    let absent: Map<String, Value>;
    let (inner, theta) = match family.absent_rope {
        Some((json, reads_theta)) if inner.json.is_empty() => {
            absent = serde_json::from_str(json)
                .map_err(|source| DecoderError::Json { path: keys.path.to_owned(), source })?;
            let given = if reads_theta { keys.number_or("rope_theta", family.rope_theta)? } else { family.rope_theta };
            (Keys { json: &absent, ..inner }, given)
        }
        _ if nested => (inner, family.rope_theta),
        _ => (inner, keys.number_or("rope_theta", family.rope_theta)?),
    };
    let theta = if inner.has("rope_theta") { inner.required_number("rope_theta")? } else { theta };
    let dims = rotated(keys, &inner, family, head_dim)?;
    let main = Rope { theta, scaling: scaling(keys, &inner, &outer, family, (max, dims))? };
    let local = match family.local_rope {
        None => None,
        Some(_) if nested => {
            let inner = outer.inner(SLIDING)?;
            let theta = inner.number_or("rope_theta", family.local_rope.map_or(1e4, |(_, theta)| theta))?;
            Some(Rope { theta, scaling: scaling(keys, &inner, &outer, family, (max, dims))? })
        }
        Some((key, default)) => {
            let theta = if key.is_empty() { default } else { keys.number_or(key, default)? };
            Some(Rope { theta, scaling: RopeScaling::None })
        }
    };
    let local = local.filter(|local| *local != main);
    Ok(Rotation { main, local, dims })
}

/// Elements of a head that are rotated.
fn rotated(keys: &Keys<'_>, inner: &Keys<'_>, family: &Family, head_dim: usize) -> Result<usize, DecoderError> {
    let (place, key) = match inner.has("partial_rotary_factor") {
        true => (inner, "partial_rotary_factor"),
        false => (keys, "partial_rotary_factor"),
    };
    let part = place.number(key)?;
    let Some(default) = family.rotated else {
        // The unscaled embedding does not read it, the others would rotate a part of the head.
        if inner.kind()? != "default"
            && let Some(part) = part.filter(|&part| part != 1.0)
        {
            return Err(place.error(key, part, "1 (the whole head)"));
        }
        return Ok(head_dim);
    };
    let part = part.unwrap_or(default);
    let dims = (head_dim as f64 * part) as usize;
    if !(0.0..=1.0).contains(&part) || dims == 0 || !dims.is_multiple_of(2) {
        return Err(place.error(
            key,
            part,
            format!("a part of the {head_dim} elements of a head that is an even number"),
        ));
    }
    Ok(dims)
}

/// The scaling that an object asks for.
fn scaling(
    keys: &Keys<'_>,
    inner: &Keys<'_>,
    outer: &Keys<'_>,
    family: &Family,
    (max, dims): (usize, usize),
) -> Result<RopeScaling, DecoderError> {
    let kind = inner.kind()?;
    // Phi-3's class gives its one scaling other names too.
    let kind = match kind.as_str() {
        "yarn" | "su" if family.original_max.is_some() => "longrope",
        kind => kind,
    };
    let factor = || inner.required_number("factor");
    const ORIGINAL: &str = "original_max_position_embeddings";
    // One at the top level counts before the one inside; a class with a default always has one.
    let original_max = || match (keys.has(ORIGINAL), family.original_max) {
        (true, _) => keys.size_or(ORIGINAL, max, POSITIONS),
        (false, Some(default)) => Ok(default),
        (false, None) => inner.size_or(ORIGINAL, max, POSITIONS),
    };
    let given = |key: &str| inner.number(key);
    Ok(match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        // `original_max_position_embeddings` is not read.
        "dynamic" => RopeScaling::Dynamic { factor: factor()?, original_max: max },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: inner.required_number("low_freq_factor")?,
            high_freq_factor: inner.required_number("high_freq_factor")?,
            original_max: original_max()?,
        },
        "yarn" => {
            let original_max = original_max()?;
            let factor = if inner.get("factor").is_some() { factor()? } else { max as f64 / original_max as f64 };
            let grown = |scale: f64| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
            let scale = |key| given(key).map(|scale| scale.filter(|&scale| scale != 0.0));
            let attention_factor = match (given("attention_factor")?, scale("mscale")?, scale("mscale_all_dim")?) {
                (Some(factor), ..) => factor,
                (None, Some(scale), Some(all)) => grown(scale) / grown(all),
                _ => grown(1.0),
            };
            RopeScaling::Yarn {
                factor,
                original_max,
                beta_fast: given("beta_fast")?.filter(|&beta| beta != 0.0).unwrap_or(32.0),
                beta_slow: given("beta_slow")?.filter(|&beta| beta != 0.0).unwrap_or(1.0),
                // Read from the outer object, where there are several.
                truncate: if outer.json.contains_key(FULL) { outer } else { inner }.or(
                    "truncate",
                    true,
                    "true or false",
                )?,
                attention_factor,
            }
        }
        "longrope" => {
            let original_max = original_max()?;
            let list = |key: &str| -> Result<Vec<f64>, DecoderError> {
                let list: Vec<f64> = inner.value(key, "a list of numbers")?.unwrap_or_default();
                if list.len() != dims / 2 || list.iter().any(|&x| !x.is_finite() || x <= 0.0) {
                    let found = format!("{} numbers", list.len());
                    return Err(inner.error(key, found, format!("{} positive numbers", dims / 2)));
                }
                Ok(list)
            };
            let (short, long) = (list("short_factor")?, list("long_factor")?);
            let factor = given("factor")?.unwrap_or(max as f64 / original_max as f64);
            let grown = if factor > 1.0 { (1.0 + factor.ln() / (original_max as f64).ln()).sqrt() } else { 1.0 };
            let factor = given("attention_factor")?.unwrap_or(grown);
            match (given("short_mscale")?, given("long_mscale")?) {
                // Phi-MoE's class takes the short divisors at any length.
                (Some(of_short), Some(of_long)) => RopeScaling::LongRope {
                    long: short.clone(),
                    short,
                    original_max,
                    attention_factor: of_short,
                    long_attention_factor: of_long,
                },
                _ => RopeScaling::LongRope {
                    short,
                    long,
                    original_max,
                    attention_factor: factor,
                    long_attention_factor: factor,
                },
            }
        }
        other => {
            let expected = "default, linear, dynamic, llama3, yarn or longrope";
            return Err(inner.error(inner.kind_key(), other, expected));
        }
    })
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
