//! `generation_kwargs`: stop strings and sampling, and the cutting of generated text.

use harness_core::{Output, Request, Sampling, cut_at_stops, nearest_few};
use serde_json::{Map, Value};

use crate::error::suggest;

/// Names for the most new tokens, in order of priority.
const MAX_TOKENS: [&str; 4] = ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];

/// The mark that ends the thinking; an argument of the model in lm-eval.
pub(crate) const THINK_END: &str = "think_end_token";

const KNOWN: [&str; 16] = [
    "until",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
    "num_beams",
    "num_return_sequences",
    "use_cache",
    THINK_END,
];

/// Fills in lm-eval's defaults: greedy, and the delimiter between examples as the stop string.
pub(crate) fn defaults(kwargs: Option<Map<String, Value>>, fewshot_delimiter: &str) -> Map<String, Value> {
    let mut kwargs = kwargs.unwrap_or_else(|| {
        let mut map = Map::new();
        map.insert("temperature".into(), Value::from(0.0));
        map.insert("do_sample".into(), Value::Bool(false));
        map
    });
    if !kwargs.contains_key("until") {
        kwargs.insert("until".into(), Value::from(vec![fewshot_delimiter]));
    }
    kwargs
}

/// Stop strings and sampling of a mapping; the message names the key that is wrong.
pub(crate) fn settings(kwargs: &Map<String, Value>) -> Result<(Vec<String>, Sampling), String> {
    if let Some(key) = kwargs.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let close = nearest_few(key, KNOWN);
        let hint = if close.is_empty() { format!("; known: {}", KNOWN.join(", ")) } else { suggest(&close) };
        return Err(format!("unknown generation_kwargs key {key:?}{hint}"));
    }
    let wrong =
        |key: &str, expected: &str| format!("generation_kwargs.{key} must be {expected}, found {}", kwargs[key]);
    let number = |key: &str| match kwargs.get(key) {
        None | Some(Value::Null) => Ok(None),
        // A number in quotes counts as one: YAML 1.1 reads 1e-5 as a string.
        Some(value) => (value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()))
            .filter(|x| x.is_finite())
            .map(Some)
            .ok_or_else(|| wrong(key, "a number")),
    };
    let integer = |key: &str| match kwargs.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong(key, "an integer of at least 0")),
    };
    for key in ["num_beams", "num_return_sequences"] {
        if integer(key)?.is_some_and(|n| n != 1) {
            return Err(wrong(key, "1 (beam search is not supported)"));
        }
    }
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong("until", "a list of strings"));
    let stop = match kwargs.get("until") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().map(text).collect::<Result<_, _>>()?,
        Some(value) => vec![text(value)?],
    };
    let do_sample = match kwargs.get("do_sample") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_bool().ok_or_else(|| wrong("do_sample", "true or false"))?),
    };
    let temperature = number("temperature")?;
    if temperature.is_some_and(|t| t < 0.0) {
        return Err(wrong("temperature", "a number of at least 0"));
    }
    let temperature = match (do_sample, temperature) {
        // lm-eval 0.4.13 passes both on, and transformers ends with an error.
        (Some(true), Some(0.0)) => {
            return Err("generation_kwargs: do_sample is true and temperature 0: expected a temperature above 0, or \
                        do_sample: false"
                .to_owned());
        }
        (Some(false), _) => 0.0,
        (Some(true), temperature) => temperature.unwrap_or(1.0),
        (None, temperature) => temperature.unwrap_or(0.0),
    };
    let mut sampling = Sampling { temperature, ..Sampling::default() };
    sampling.think_end = match kwargs.get(THINK_END) {
        None | Some(Value::Null) => None,
        Some(Value::String(mark)) => Some(mark.clone()).filter(|mark| !mark.is_empty()),
        Some(_) => return Err(wrong(THINK_END, "the text of the mark, such as \"</think>\"")),
    };
    for key in MAX_TOKENS {
        if let Some(most) = integer(key)? {
            sampling.max_new_tokens = most as usize;
            break;
        }
    }
    sampling.repetition_penalty = number("repetition_penalty")?.unwrap_or(1.0);
    if temperature > 0.0 {
        sampling.top_k = integer("top_k")?.filter(|&k| k > 0).map(|k| k as usize);
        sampling.top_p = number("top_p")?.filter(|&p| p < 1.0);
        sampling.min_p = number("min_p")?.filter(|&p| p > 0.0);
        sampling.seed = integer("seed")?.unwrap_or(0);
    }
    Ok((stop, sampling))
}

/// Cuts a generation as lm-eval does: what follows the last end of thinking, then up to each stop string in the order of
/// the list.
pub fn postprocess_generation(text: &str, stop: &[String], think_end: Option<&str>) -> String {
    let mut text = text;
    if let Some(mark) = think_end.filter(|mark| !mark.is_empty())
        && let Some((_, after)) = text.rsplit_once(mark)
    {
        text = after.trim_start_matches(harness_python::is_space);
    }
    let mut text = text.to_owned();
    cut_at_stops(&mut text, stop, None, false);
    text
}

/// The answer of a generation as it is scored, and whether the generation was cut inside its thinking: the answer is empty
/// then. `None` where the output is no text.
pub(crate) fn answer(request: &Request, output: &Output) -> Option<(String, bool)> {
    let (Request::Generate { stop, sampling, .. }, Output::Text { text, .. }) = (request, output) else { return None };
    if request.divide(output)?.is_open() {
        return Some((String::new(), true));
    }
    Some((postprocess_generation(text, stop, sampling.think_end.as_deref()), false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<(Vec<String>, Sampling), String> {
        settings(value.as_object().unwrap())
    }

    #[test]
    fn aliases_and_sampling() {
        let (stop, sampling) =
            read(json!({"until": "x", "max_tokens": 7, "max_gen_toks": 9, "temperature": 0.5})).unwrap();
        assert_eq!((stop, sampling.max_new_tokens, sampling.temperature), (vec!["x".to_owned()], 9, 0.5));
        let greedy = read(json!({"do_sample": false, "temperature": 0.7, "top_p": 0.9})).unwrap().1;
        assert_eq!(greedy, Sampling::default());
        assert_eq!(read(json!({"do_sample": true})).unwrap().1.temperature, 1.0);
        assert_eq!(read(json!({"temperature": 0.5, "top_k": 0})).unwrap().1.top_k, None);
        let mark = |value: Value| read(json!({"think_end_token": value})).unwrap().1.think_end;
        assert_eq!(mark(json!("</think>")).as_deref(), Some("</think>"));
        assert_eq!((mark(json!("")), mark(Value::Null)), (None, None));
        assert_eq!(defaults(None, "\n\n")["until"], json!(["\n\n"]));
        assert_eq!(defaults(Some(Map::new()), "#"), *json!({"until": ["#"]}).as_object().unwrap());
    }

    #[test]
    fn wrong_settings_are_named() {
        assert!(read(json!({"temprature": 1})).unwrap_err().contains("did you mean temperature?"));
        assert!(read(json!({"max_gen_toks": "many"})).unwrap_err().contains("max_gen_toks must be an integer"));
        assert!(read(json!({"until": [1]})).unwrap_err().contains("until must be a list of strings"));
        assert!(read(json!({"num_beams": 4})).unwrap_err().contains("beam search"));
        assert!(read(json!({"do_sample": true, "temperature": 0})).unwrap_err().contains("a temperature above 0"));
        assert!(read(json!({"think_end_token": 151668})).unwrap_err().contains("the text of the mark"));
    }
}
