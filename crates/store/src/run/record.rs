//! One line of a segment.

use harness_core::{Digest, Output, RequestKey, Response};
use serde::{Deserialize, Serialize};

use crate::{Result, StoreError};

const VERSION: u32 = 1;
const START: &str = "{\"sum\":\"";
const SUM_DIGITS: usize = 16;
/// Length of `{"sum":"0123456789abcdef",`.
const HEAD: usize = START.len() + SUM_DIGITS + 2;

#[derive(Serialize)]
struct Body<'a> {
    v: u32,
    model: &'a Digest,
    key: &'a RequestKey,
    response: &'a Response,
}

#[derive(Deserialize)]
struct Parsed {
    v: u32,
    model: Digest,
    key: RequestKey,
    response: Response,
}

/// The line of a record, with its line end.
///
/// # Errors
/// If the response holds a number that is not finite, which JSON cannot keep.
pub(super) fn encode(model: &Digest, key: &RequestKey, response: &Response) -> Result<Vec<u8>> {
    if !is_finite(response) {
        return Err(StoreError::NotFinite { model: *model, key: *key });
    }
    let mut line = format!("{START}{}\",", "0".repeat(SUM_DIGITS)).into_bytes();
    let body = Body { v: VERSION, model, key, response };
    let before = line.len() - 1;
    serde_json::to_writer(&mut line, &body).map_err(|_| StoreError::NotFinite { model: *model, key: *key })?;
    // The body's opening brace is dropped: `{"sum":"…",` takes its place.
    line.remove(before + 1);
    let sum = checksum(&line[HEAD..]);
    line[START.len()..START.len() + SUM_DIGITS].copy_from_slice(sum.as_bytes());
    line.push(b'\n');
    Ok(line)
}

/// The record of a line without its line end; `None` if it is damaged or of another model or version.
pub(super) fn decode(model: &Digest, line: &[u8]) -> Option<(RequestKey, Response)> {
    let sum = line.strip_prefix(START.as_bytes())?.get(..SUM_DIGITS)?;
    let rest = line.get(HEAD..)?;
    if &line[HEAD - 2..HEAD] != b"\"," || checksum(rest).as_bytes() != sum {
        return None;
    }
    let mut body = Vec::with_capacity(rest.len() + 1);
    body.push(b'{');
    body.extend_from_slice(rest);
    let parsed: Parsed = serde_json::from_slice(&body).ok()?;
    (parsed.v == VERSION && parsed.model == *model).then_some((parsed.key, parsed.response))
}

fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..SUM_DIGITS].to_owned()
}

pub(super) fn is_finite(response: &Response) -> bool {
    match &response.output {
        Output::LogLikelihood { logprob, token_logprobs, .. } => {
            logprob.is_finite() && token_logprobs.iter().all(|x| x.is_finite())
        }
        Output::RollingLogLikelihood { logprob, .. } => logprob.is_finite(),
        Output::Text { token_logprobs, top_logprobs, .. } => {
            token_logprobs.iter().chain(top_logprobs.iter().flatten().map(|top| &top.logprob)).all(|x| x.is_finite())
        }
    }
}
