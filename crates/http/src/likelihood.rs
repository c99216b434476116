//! Log-probabilities of given texts, where a server gives those of its prompts.

use harness_core::{Output, Response, Usage};
use serde_json::{Value, json};

use crate::{
    EndpointOptions,
    answer::{Call, logprob},
    choice::{Unreadable, choice},
    rolling::Window,
    usage::{Bounds, counts},
};

/// How a server gives log-probabilities of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LikelihoodApi {
    /// `/completions` with `echo` and `logprobs`.
    Echo,
    /// vLLM's `prompt_logprobs`.
    PromptLogprobs,
}

/// A token of a prompt.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    /// First character in the prompt, where the server says it.
    offset: Option<usize>,
    /// `None` for the first token of a text.
    logprob: Option<f32>,
    is_greedy: bool,
    id: Option<u32>,
}

/// The call that scores a text.
pub(crate) fn call(options: &EndpointOptions, api: LikelihoodApi, text: &str) -> Call {
    scoring(options, api, &json!(text), text.len() + 64)
}

/// The call that scores a prompt of tokens.
pub(crate) fn call_tokens(options: &EndpointOptions, api: LikelihoodApi, prompt: &[u32]) -> Call {
    scoring(options, api, &json!(prompt), prompt.len())
}

fn scoring(options: &EndpointOptions, api: LikelihoodApi, prompt: &Value, most: usize) -> Call {
    let mut body = json!({"model": options.spec.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0});
    match api {
        LikelihoodApi::Echo => {
            body["echo"] = json!(true);
            body["logprobs"] = json!(1);
        }
        LikelihoodApi::PromptLogprobs => body["prompt_logprobs"] = json!(1),
    }
    Call { path: "/completions", body, bounds: Bounds { prompt: most, completion: 1 } }
}

/// Context and continuation with the blanks between them on the continuation's side, as lm-eval has them.
pub(crate) fn split(context: &str, continuation: &str) -> (String, String) {
    let kept = context.trim_end();
    (kept.to_owned(), format!("{}{continuation}", &context[kept.len()..]))
}

/// The log-likelihood of the continuation, from the answer about both together.
///
/// # Errors
/// What is missing or contradictory; the server may do better next time.
pub(crate) fn read_pair(
    api: LikelihoodApi,
    context: &str,
    continuation: &str,
    bounds: Bounds,
    body: &Value,
) -> Result<Response, Unreadable> {
    let (context, continuation) = split(context, continuation);
    let (tokens, usage) = read(api, &format!("{context}{continuation}"), bounds, body)?;
    let (first, shifted) = boundary(&tokens, &context, &continuation)?;
    let (before, scored) = tokens.split_at(first);
    let logprobs: Option<Vec<f32>> = scored.iter().map(|token| token.logprob).collect();
    let logprobs = logprobs
        .ok_or("no log-probability for the first token of the text: the context is empty and the server adds no BOS")?;
    let output = Output::LogLikelihood {
        logprob: logprobs.iter().map(|&x| f64::from(x)).sum(),
        is_greedy: scored.iter().all(|token| token.is_greedy),
        token_ids: scored.iter().map(|token| token.id).collect::<Option<Vec<u32>>>().unwrap_or_default(),
        token_logprobs: logprobs,
    };
    let usage = Usage { boundary_shifted: shifted, ..counted(before.len(), scored.len(), usage) };
    Ok(Response { output, usage })
}

/// The log-likelihood of a whole text: of every token that has one.
///
/// # Errors
/// What is missing or contradictory.
pub(crate) fn read_rolling(
    api: LikelihoodApi,
    text: &str,
    bounds: Bounds,
    body: &Value,
) -> Result<Response, Unreadable> {
    let (tokens, usage) = read(api, text, bounds, body)?;
    let scored: Vec<f32> = tokens.iter().filter_map(|token| token.logprob).collect();
    let logprob = scored.iter().map(|&x| f64::from(x)).sum();
    let output = Output::RollingLogLikelihood { logprob, tokens: scored.len() };
    let first_unscored = first_unscored(api, text, &tokens);
    let usage = Usage { first_unscored, ..counted(0, scored.len(), usage) };
    Ok(Response { output, usage })
}

/// The log-likelihood of the last tokens of a prompt of tokens, a window of the text.
///
/// # Errors
/// What is missing or contradictory.
pub(crate) fn read_window(
    api: LikelihoodApi,
    window: &Window,
    text: &str,
    bounds: Bounds,
    body: &Value,
) -> Result<Response, Unreadable> {
    let choice = choice(body)?.ok_or("an answer without choices")?;
    let usage = counts(body.get("usage"), bounds);
    let mut tokens = given(api, choice, body)?;
    let expected = window.prompt.len();
    tokens.truncate(expected);
    if tokens.len() < expected || (!usage.prompt_untold && usage.prompt_tokens != expected) {
        let found = if usage.prompt_untold { tokens.len() } else { usage.prompt_tokens };
        return Err(format!("{found} tokens of a prompt that has {expected}").into());
    }
    let scored: Option<Vec<f32>> = tokens[expected - window.scored..].iter().map(|token| token.logprob).collect();
    let logprob = scored.ok_or("no log-probability for a token of the prompt")?.iter().map(|&x| f64::from(x)).sum();
    let output = Output::RollingLogLikelihood { logprob, tokens: window.scored };
    let first_unscored = window.begins && first_unscored(api, text, &tokens);
    let usage = Usage { first_unscored, ..counted(0, window.scored, usage) };
    Ok(Response { output, usage })
}

/// Counts that the tokens themselves tell.
fn counted(prompt_tokens: usize, completion_tokens: usize, usage: Usage) -> Usage {
    Usage { prompt_tokens, completion_tokens, prompt_untold: false, completion_untold: false, ..usage }
}

/// Whether the first token, which has no log-probability, is the text's own and not BOS before it.
fn first_unscored(api: LikelihoodApi, text: &str, tokens: &[Token]) -> bool {
    let Some((first, scored)) = tokens.split_first().filter(|(first, _)| first.logprob.is_none()) else { return false };
    match api {
        LikelihoodApi::Echo => !first.text.is_empty() && text.starts_with(&first.text),
        // What the first token is goes unsaid: the others do not make up the text if it was a part of it. Tokens decoded
        // one by one lose blanks between words and parts of characters.
        LikelihoodApi::PromptLogprobs => {
            let given: String = scored.iter().map(|token| token.text.as_str()).collect();
            let given = given.split(char::REPLACEMENT_CHARACTER).next().unwrap_or_default();
            let dense = |text: &str| text.split_whitespace().collect::<String>();
            let blanks = |text: &str| text.len() - text.trim_start().len();
            !dense(text).starts_with(&dense(given)) || blanks(given) < blanks(text)
        }
    }
}

/// The tokens that an answer tells of: those of the prompt, and with `echo` those generated after it.
fn given(api: LikelihoodApi, choice: &Value, body: &Value) -> Result<Vec<Token>, Unreadable> {
    match api {
        LikelihoodApi::Echo => echoed(choice.get("logprobs").ok_or("a choice without logprobs")?),
        LikelihoodApi::PromptLogprobs => {
            let list = choice.get("prompt_logprobs").or_else(|| body.get("prompt_logprobs"));
            prompt_logprobs(list.and_then(Value::as_array).ok_or("a choice without prompt_logprobs")?)
        }
    }
}

/// The tokens of the prompt.
fn read(api: LikelihoodApi, text: &str, bounds: Bounds, body: &Value) -> Result<(Vec<Token>, Usage), Unreadable> {
    let choice = choice(body)?.ok_or("an answer without choices")?;
    let usage = counts(body.get("usage"), bounds);
    let mut tokens = given(api, choice, body)?;
    if api == LikelihoodApi::Echo {
        // The one token that had to be generated comes after the prompt.
        let end = text.chars().count();
        match tokens.iter().position(|token| token.offset.is_some_and(|offset| offset >= end)) {
            Some(at) => tokens.truncate(at),
            None if tokens.iter().any(|token| token.offset.is_none()) && !usage.prompt_untold => {
                tokens.truncate(usage.prompt_tokens);
            }
            None => {}
        }
    }
    if tokens.is_empty() {
        return Err("no tokens of the prompt".into());
    }
    if !usage.prompt_untold && tokens.len() != usage.prompt_tokens {
        return Err(format!("{} tokens of a prompt that has {}", tokens.len(), usage.prompt_tokens).into());
    }
    Ok((tokens, usage))
}

fn echoed(logprobs: &Value) -> Result<Vec<Token>, Unreadable> {
    let list = |key: &str| logprobs.get(key).and_then(Value::as_array);
    let (texts, scores) = (list("tokens").ok_or("logprobs without tokens")?, list("token_logprobs"));
    let scores = scores.filter(|scores| scores.len() == texts.len());
    let scores = scores.ok_or("as many token_logprobs as tokens were expected")?;
    let (offsets, top) = (list("text_offset"), list("top_logprobs"));
    let tokens = texts.iter().enumerate().map(|(at, text)| {
        let logprob = logprob(Some(&scores[at]))?;
        let best = top.and_then(|top| top.get(at)?.as_object()).into_iter().flat_map(|top| top.values());
        let best = best.filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max);
        Ok(Token {
            text: text.as_str().ok_or("a token that is not text")?.to_owned(),
            offset: offsets.and_then(|offsets| offsets.get(at)?.as_u64()).map(|offset| offset as usize),
            logprob,
            is_greedy: scores[at].as_f64().is_some_and(|told| told >= best),
            id: None,
        })
    });
    tokens.collect()
}

/// vLLM gives an object a token: the token itself first, then the most probable one.
fn prompt_logprobs(list: &[Value]) -> Result<Vec<Token>, Unreadable> {
    let token = |place: &Value| {
        let Some((id, own)) = place.as_object().and_then(|place| place.iter().next()) else {
            // The first token has none.
            return Ok(Token { text: String::new(), offset: None, logprob: None, is_greedy: false, id: None });
        };
        Ok(Token {
            text: own.get("decoded_token").and_then(Value::as_str).ok_or("a token without decoded_token")?.to_owned(),
            offset: None,
            logprob: logprob(own.get("logprob"))?,
            is_greedy: own.get("rank").and_then(Value::as_u64) == Some(1),
            id: id.parse().ok(),
        })
    };
    list.iter().map(token).collect()
}

/// The first token of the continuation, and whether it begins inside the context.
fn boundary(tokens: &[Token], context: &str, continuation: &str) -> Result<(usize, bool), Unreadable> {
    let start = context.chars().count();
    let offsets: Option<Vec<usize>> = tokens.iter().map(|token| token.offset).collect();
    if let Some(offsets) = offsets {
        let at = offsets.iter().position(|&offset| offset >= start).unwrap_or(offsets.len());
        if offsets.get(at) == Some(&start) {
            return Ok((at, false));
        }
        return if at > 0 { Ok((at - 1, true)) } else { Err("text offsets that do not cover the context".into()) };
    }
    let wanted = continuation.chars().count();
    let mut length = 0;
    for (at, token) in tokens.iter().enumerate().rev() {
        length += token.text.chars().count();
        if length >= wanted {
            return Ok((at, length > wanted));
        }
    }
    Err("tokens that do not cover the continuation".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { prompt: 60, completion: 1 };

    fn echo(offsets: bool) -> Value {
        let mut logprobs = json!({
            "tokens": ["The", " sky", " is", " b", "lue", "!"],
            "token_logprobs": [null, -2.0, -0.5, -1.0, -0.25, -3.0],
            "top_logprobs": [null, {" cat": -1.0}, {" is": -0.5}, {" b": -1.0}, {"lue": -0.25}, {"!": -3.0}],
        });
        if offsets {
            logprobs["text_offset"] = json!([0, 3, 7, 10, 12, 15]);
        }
        json!({"choices": [{"text": "", "logprobs": logprobs}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
    }

    fn pair(response: Response) -> (f64, bool, usize, bool) {
        let Output::LogLikelihood { logprob, is_greedy, token_logprobs, .. } = response.output else {
            panic!("no pair")
        };
        (logprob, is_greedy, token_logprobs.len(), response.usage.boundary_shifted)
    }

    #[test]
    fn the_continuation_is_what_is_summed() {
        for body in [echo(true), echo(false)] {
            let read = |context: &str, continuation: &str| {
                pair(read_pair(LikelihoodApi::Echo, context, continuation, BOUNDS, &body).unwrap())
            };
            assert_eq!(read("The sky is", " blue"), (-1.25, true, 2, false));
            assert_eq!(read("The sky is ", "blue"), (-1.25, true, 2, false), "blanks move to the continuation");
            assert_eq!(read("The", " sky is blue"), (-3.75, false, 4, false));
            assert_eq!(read("The sky is bl", "ue"), (-0.25, true, 1, true), "a token over the boundary");
            let error = read_pair(LikelihoodApi::Echo, "", "The sky is blue", BOUNDS, &body).unwrap_err();
            assert!(error.to_string().contains("no BOS"), "{error}");
        }
        let rolling = read_rolling(LikelihoodApi::Echo, "The sky is blue", BOUNDS, &echo(true)).unwrap();
        assert_eq!(rolling.output, Output::RollingLogLikelihood { logprob: -3.75, tokens: 4 });
    }

    #[test]
    fn a_first_token_of_the_text_is_missed_and_bos_is_not() {
        let no_bos = read_rolling(LikelihoodApi::Echo, "The sky is blue", BOUNDS, &echo(true)).unwrap();
        assert!(no_bos.usage.first_unscored);
        let mut body = echo(false);
        body["choices"][0]["logprobs"]["tokens"][0] = json!("<s>");
        let bos = read_rolling(LikelihoodApi::Echo, " sky is blue", BOUNDS, &body).unwrap();
        assert!(!bos.usage.first_unscored && bos.output == no_bos.output);
        let token = |text: &str| json!({"5": {"logprob": -1.0, "rank": 2, "decoded_token": text}});
        let vllm = |text: &str, tokens: &[&str]| {
            let list: Vec<Value> = std::iter::once(Value::Null).chain(tokens.iter().map(|text| token(text))).collect();
            let usage = json!({"prompt_tokens": list.len(), "completion_tokens": 1});
            let body = json!({"choices": [{"prompt_logprobs": list}], "usage": usage});
            read_rolling(LikelihoodApi::PromptLogprobs, text, BOUNDS, &body).unwrap().usage.first_unscored
        };
        assert!(vllm("The sky", &[" sky"]) && !vllm("The sky", &["The", " sky"]));
        assert!(!vllm("The sky", &["The", "sky"]), "decoded one by one, blanks are lost");
        assert!(!vllm("The né", &["The", " n", "\u{FFFD}", "\u{FFFD}"]), "half characters");
        assert!(vllm(" \n = Robert", &["\n", " =", " Robert"]) && !vllm(" \n =", &[" ", "\n", " ="]), "blank first");
    }

    #[test]
    fn vllm_gives_the_token_first() {
        let token = |id: &str, text: &str, logprob: f64, rank: u64| {
            json!({id: {"logprob": logprob, "rank": rank, "decoded_token": text},
                "9": {"logprob": -0.1, "rank": 1, "decoded_token": " x"}})
        };
        let list = json!([null, token("5", "The", -4.0, 7), token("6", " sky", -1.5, 1), token("7", " is", -0.5, 2)]);
        let body =
            json!({"choices": [{"prompt_logprobs": list}], "usage": {"prompt_tokens": 4, "completion_tokens": 1}});
        let response = read_pair(LikelihoodApi::PromptLogprobs, "The", " sky is", BOUNDS, &body).unwrap();
        assert!(matches!(&response.output, Output::LogLikelihood { token_ids, .. } if *token_ids == [6, 7]));
        assert_eq!(pair(response), (-2.0, false, 2, false));
    }

    #[test]
    fn contradictions_are_errors() {
        let mut body = echo(true);
        body["usage"]["prompt_tokens"] = json!(9);
        let read =
            |body: &Value| read_pair(LikelihoodApi::Echo, "The sky is", " blue", BOUNDS, body).unwrap_err().to_string();
        assert!(read(&body).contains("5 tokens of a prompt that has 9"));
        body["choices"][0]["logprobs"]["token_logprobs"] = json!([null, -1.0]);
        assert!(read(&body).contains("as many token_logprobs"));
        assert!(read(&json!({"choices": [{"text": "x"}]})).contains("without logprobs"));
        body["choices"][0]["logprobs"]["token_logprobs"] = json!([null, -2.0, 0.5, -1.0, -0.25, -3.0]);
        assert!(read(&body).contains("a log-probability of 0.5, which is above 0"));
    }
}
