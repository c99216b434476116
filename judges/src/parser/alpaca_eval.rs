//! alpaca_eval's parsers, as they are. A preference is 1 for the output shown first, 2 for the second, 0 for a draw.

use regex::Regex;
use serde_json::Value;

/// The weighted preference from log-probabilities of the answer's first token (`logprob_parser`): 2 − p, where p is the
/// share of `numerator` in the probability of both `labels`; `binarize` rounds it to a label. Tokens count only if they
/// equal a label exactly; of equal tokens the last counts; `None` where no label is among them.
pub fn label_preference(logprobs: &[(String, f64)], numerator: &str, labels: [&str; 2], binarize: bool) -> Option<f64> {
    let of = |label: &str| {
        let found = logprobs.iter().rev().find(|(token, _)| token == label);
        found.map_or(f64::NEG_INFINITY, |(_, logprob)| *logprob)
    };
    let all = labels.map(of);
    let most = all[0].max(all[1]);
    if !most.is_finite() {
        return None;
    }
    if binarize {
        let others = labels.into_iter().filter(|label| *label != numerator).map(of);
        return Some(if of(numerator) > others.fold(f64::NEG_INFINITY, f64::max) { 1.0 } else { 2.0 });
    }
    let sum = most + all.iter().map(|logprob| (logprob - most).exp()).sum::<f64>().ln();
    Some(2.0 - (of(numerator) - sum).exp())
}

/// `ranking_parser`: the rank of `model_1` in a Python or JSON list of `{"model": …, "rank": …}`. `None` where there is
/// none.
pub fn ranking_parser(text: &str) -> Option<u8> {
    // A Python list of dictionaries is JSON but for its quotation marks.
    let list: Vec<Value> =
        serde_json::from_str(text).or_else(|_| serde_json::from_str(&text.replace('\'', "\""))).ok()?;
    let entry = list.iter().find(|entry| entry["model"] == "model_1")?;
    entry["rank"].as_u64().filter(|rank| (1..=2).contains(rank)).map(|rank| rank as u8)
}

/// `lmsys_parser`: two scores on the first line, separated by a comma or a blank. 0 where they are equal, `None` where
/// there are not exactly two.
pub fn lmsys_parser(text: &str) -> Option<u8> {
    let line = text.split('\n').next().unwrap_or_default().replace(',', " ");
    let scores: Vec<f64> = line.split(' ').map(|score| score.trim().parse()).collect::<Result<_, _>>().ok()?;
    match scores.as_slice() {
        [a, b] if a > b => Some(1),
        [a, b] if a < b => Some(2),
        [_, _] => Some(0),
        _ => None,
    }
}

/// `regex_parser`: the keys of all patterns in order of their matches in the text.
///
/// # Errors
/// If a pattern is no regular expression.
pub fn regex_parser(text: &str, patterns: &[(u8, &str)]) -> Result<Vec<u8>, regex::Error> {
    let compiled: Vec<(u8, Regex)> =
        patterns.iter().map(|&(key, pattern)| Ok((key, Regex::new(pattern)?))).collect::<Result<_, regex::Error>>()?;
    let mut keys = vec![];
    let mut position = 0;
    while let Some((key, end)) = compiled
        .iter()
        .filter_map(|(key, pattern)| pattern.find_at(text, position).map(|found| (found.start(), *key, found.end())))
        .min()
        .map(|(_, key, end)| (key, end))
    {
        keys.push(key);
        if end <= position {
            break;
        }
        position = end;
    }
    Ok(keys)
}
