//! How tokens are chosen, and how often.

use std::hash::{BuildHasher as _, RandomState};

use harness_core::Sampling;
use serde_json::{Value, json};

use super::{
    fields::{Fields, wrong},
    pattern,
};
use crate::error::ApiError;

/// Most answers to a prompt.
const CHOICES: i64 = 128;
/// Most stop strings.
const STOPS: usize = 16;
/// Most likely tokens that are told of a place.
pub(super) const TOP: i64 = 20;

/// Parameters that change no answer.
const WITHOUT_EFFECT: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// How tokens are chosen, and how often.
#[derive(Debug)]
pub(crate) struct Choosing {
    /// Without the number of tokens and what is told of them.
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    /// Answers to every prompt.
    pub(crate) n: usize,
}

/// Takes the parameters that chats and completions have in common.
///
/// # Errors
/// If one is wrong or not supported.
pub(super) fn choosing(fields: &mut Fields) -> Result<Choosing, ApiError> {
    fields.ignore(&WITHOUT_EFFECT);
    fields.neutral("frequency_penalty", &[json!(0)])?;
    fields.neutral("presence_penalty", &[json!(0)])?;
    fields.neutral("logit_bias", &[json!({})])?;
    let n = fields.whole("n", 1, CHOICES)?.unwrap_or(1);
    fields.neutral("best_of", &[json!(n)])?;
    let temperature = fields.number("temperature", |x| (0.0..=100.0).contains(&x), "a number from 0 to 100")?;
    let top_p = fields.number("top_p", |x| x > 0.0 && x <= 1.0, "a number above 0 and up to 1")?;
    let min_p = fields.number("min_p", |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")?;
    let penalty = fields.number("repetition_penalty", |x| x > 0.0 && x <= 100.0, "a number above 0; 1 is off")?;
    // vLLM's −1 and 0 are off.
    let top_k = fields.whole("top_k", -1, i64::from(u32::MAX))?.filter(|&k| k > 0);
    let seed = match fields.take("seed") {
        None => RandomState::new().hash_one(n),
        Some(value) => {
            let bits = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
            bits.ok_or_else(|| wrong("seed", &value, "a whole number"))?
        }
    };
    let stop = stops(fields)?;
    let pattern = pattern::take(fields)?;
    if pattern.is_some() && !stop.is_empty() {
        return Err(ApiError::unsupported("stop", "stop together with a pattern or a format is not supported"));
    }
    let sampling = Sampling {
        temperature: temperature.unwrap_or(1.0),
        top_k: top_k.map(|k| k as usize),
        top_p: top_p.filter(|&p| p < 1.0),
        min_p: min_p.filter(|&p| p > 0.0),
        repetition_penalty: penalty.unwrap_or(1.0),
        seed,
        pattern,
        ..Sampling::default()
    };
    Ok(Choosing { sampling, stop, n: n as usize })
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let Some(value) = fields.take("stop") else { return Ok(vec![]) };
    let expected = format!("a text or a list of up to {STOPS} texts");
    let texts: Option<Vec<String>> = match &value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) if list.len() <= STOPS => list.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let mut texts = texts.ok_or_else(|| wrong("stop", &value, &expected))?;
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}

/// Whether the answer is streamed, and whether its counts come at the end of the stream.
///
/// # Errors
/// If a parameter is wrong or not supported.
pub(super) fn streaming(fields: &mut Fields) -> Result<(bool, bool), ApiError> {
    let stream = fields.flag("stream")?;
    let usage = match fields.take("stream_options") {
        None => false,
        Some(Value::Object(options)) if stream => {
            let mut options = Fields::from(options);
            options.ignore(&["include_obfuscation"]);
            let usage = options.flag("include_usage")?;
            options.finish()?;
            usage
        }
        Some(Value::Object(_)) => {
            return Err(ApiError::parameter("stream_options", "stream_options need stream to be true"));
        }
        Some(other) => return Err(wrong("stream_options", &other, "an object")),
    };
    Ok((stream, usage))
}
