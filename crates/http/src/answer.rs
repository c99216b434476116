//! From a request to the body that is sent, and from the body that comes to a response.

use harness_core::{ChatMessage, ChatRole, Finish, Output, Response, Sampling, TopLogprob};
use serde_json::{Map, Value, json};

use crate::{
    Api, EndpointOptions, chat,
    choice::{Said, Unreadable, choice, said},
    usage::{Bounds, counts},
};

/// What is sent for one generation.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) bounds: Bounds,
}

impl Call {
    /// Whether log-probabilities of what is generated are asked for (and not those of the prompt).
    pub(crate) fn asks_logprobs(&self) -> bool {
        self.body.get("logprobs").is_some() && self.body.get("echo").is_none()
    }

    /// The same call without them.
    pub(crate) fn without_logprobs(&self) -> Self {
        let mut call = self.clone();
        if let (true, Some(body)) = (self.asks_logprobs(), call.body.as_object_mut()) {
            body.remove("logprobs");
            body.remove("top_logprobs");
        }
        call
    }
}

/// Stop strings that servers take.
const STOPS: usize = 4;

/// The call of a generation; the reason where this API cannot make it.
pub(crate) fn call(
    options: &EndpointOptions,
    prompt: &str,
    stop: &[String],
    sampling: &Sampling,
) -> Result<Call, String> {
    let mut body = Map::new();
    body.insert("model".into(), json!(options.spec.model));
    let (path, length) = match (options.api, chat::messages(prompt)) {
        (Api::Chat, messages) => {
            let messages = messages.unwrap_or_else(|| vec![ChatMessage::new(ChatRole::User, prompt)]);
            let length = messages.iter().map(|message| message.content.len() + 32).sum();
            body.insert("messages".into(), json!(messages));
            if !options.chat_template_kwargs.is_empty() {
                body.insert("chat_template_kwargs".into(), json!(options.chat_template_kwargs));
            }
            ("/chat/completions", length)
        }
        (Api::Completions, None) => {
            body.insert("prompt".into(), json!(prompt));
            ("/completions", prompt.len())
        }
        (Api::Completions, Some(_)) => {
            return Err("a chat is asked for, but its api is \"completions\"; set api = \"chat\"".into());
        }
    };
    let untaken = options.untaken(sampling);
    if !untaken.is_empty() {
        return Err(format!("sample with {} (its server does not accept this setting)", untaken.join(", ")));
    }
    sample(options, stop, sampling, &mut body);
    let bounds = Bounds { prompt: length + 64, completion: sampling.max_new_tokens };
    Ok(Call { path, body: Value::Object(body), bounds })
}

/// The keys that say how tokens are chosen.
fn sample(options: &EndpointOptions, stop: &[String], sampling: &Sampling, body: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    // OpenAI's newer models take only the new name, other servers only the old one.
    let limit = if options.is_openai() && options.api == Api::Chat { "max_completion_tokens" } else { "max_tokens" };
    put(limit, json!(sampling.max_new_tokens));
    put("temperature", json!(if sampling.is_greedy() { 0.0 } else { sampling.temperature }));
    if !sampling.is_greedy() {
        if let Some(p) = sampling.top_p {
            put("top_p", json!(p));
        }
        put("seed", json!(sampling.seed));
    }
    let stops: Vec<&String> = stop.iter().filter(|stop| !stop.is_empty()).take(STOPS).collect();
    // A server would apply them to the thinking too.
    if !stops.is_empty() && sampling.pattern.is_none() && sampling.think_end.is_none() {
        put("stop", json!(stops));
    }
    if let Some(count) = sampling.top_logprobs {
        match options.api {
            Api::Chat => {
                put("logprobs", json!(true));
                put("top_logprobs", json!(count));
            }
            Api::Completions => {
                put("logprobs", json!(count));
            }
        }
    }
    if let Some(pattern) = &sampling.pattern {
        // The new and the old name of the same thing in vLLM.
        put("structured_outputs", json!({"regex": pattern}));
        put("guided_regex", json!(pattern));
    }
    if let (Some(k), false) = (sampling.top_k, sampling.is_greedy()) {
        put("top_k", json!(k));
    }
    if let (Some(p), false) = (sampling.min_p, sampling.is_greedy()) {
        put("min_p", json!(p));
    }
    if sampling.repetition_penalty != 1.0 {
        put("repetition_penalty", json!(sampling.repetition_penalty));
    }
}

/// A response.
///
/// # Errors
/// What cannot be read.
pub(crate) fn read(api: Api, stop: &[String], bounds: Bounds, body: &Value) -> Result<Response, Unreadable> {
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(format!("an error in place of an answer: {error}").into());
    }
    let Said { mut text, reasoning, mut finish } = said(api, body)?;
    for stop in stop.iter().filter(|stop| !stop.is_empty()) {
        if let Some(at) = text.find(stop.as_str()) {
            text.truncate(at);
            finish = Finish::Stop;
        }
    }
    let (token_logprobs, top_logprobs) = match (api, choice(body)?.and_then(|choice| choice.get("logprobs"))) {
        (Api::Chat, Some(logprobs)) => chat_logprobs(logprobs)?,
        (Api::Completions, Some(logprobs)) => completion_logprobs(logprobs)?,
        (_, None) => (vec![], vec![]),
    };
    let usage = counts(body.get("usage"), bounds);
    let output = Output::Text { text, token_ids: vec![], token_logprobs, finish, top_logprobs, reasoning };
    Ok(Response { output, usage })
}

/// A log-probability above 0 by no more than this is rounding and counts as 0.
const ROUNDING: f64 = 1e-6;

/// A log-probability; servers write "impossible" as −9999 or null.
///
/// # Errors
/// If it is above 0, which none can be: what the server gives is something else.
pub(crate) fn logprob(value: Option<&Value>) -> Result<Option<f32>, Unreadable> {
    let Some(found) = value.and_then(Value::as_f64).filter(|x| x.is_finite()) else { return Ok(None) };
    if found > ROUNDING {
        return Err(Unreadable::Never(format!("the server gives a log-probability of {found}, which is above 0")));
    }
    Ok(Some(found.min(0.0) as f32))
}

/// The same where "impossible" is left out.
fn possible(value: Option<&Value>) -> Result<Option<f32>, Unreadable> {
    Ok(logprob(value)?.filter(|x| x.is_finite() && *x > IMPOSSIBLE))
}

/// What is lower stands for a probability of 0.
const IMPOSSIBLE: f32 = -9000.0;

type Logprobs = (Vec<f32>, Vec<Vec<TopLogprob>>);

fn chat_logprobs(logprobs: &Value) -> Result<Logprobs, Unreadable> {
    let Some(content) = logprobs.get("content").and_then(Value::as_array) else { return Ok((vec![], vec![])) };
    let (mut tokens, mut places) = (vec![], vec![]);
    for token in content {
        tokens.push(possible(token.get("logprob"))?.unwrap_or(IMPOSSIBLE));
        let mut top = vec![];
        for other in token.get("top_logprobs").and_then(Value::as_array).into_iter().flatten() {
            let text = other.get("token").and_then(Value::as_str);
            if let (Some(token), Some(logprob)) = (text, possible(other.get("logprob"))?) {
                top.push(TopLogprob { token: token.to_owned(), logprob });
            }
        }
        places.push(top);
    }
    Ok((tokens, places))
}

fn completion_logprobs(logprobs: &Value) -> Result<Logprobs, Unreadable> {
    let list = |key: &str| logprobs.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tokens = list("token_logprobs").iter().map(|x| Ok(possible(Some(x))?.unwrap_or(IMPOSSIBLE)));
    let tokens = tokens.collect::<Result<_, Unreadable>>()?;
    let mut places = vec![];
    for place in list("top_logprobs") {
        let mut top = vec![];
        for (token, x) in place.as_object().into_iter().flatten() {
            top.extend(possible(Some(x))?.map(|logprob| TopLogprob { token: token.clone(), logprob }));
        }
        top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then_with(|| a.token.cmp(&b.token)));
        places.push(top);
    }
    Ok((tokens, places))
}

#[cfg(test)]
mod tests {
    use harness_core::ChatKwargs;

    use super::*;
    use crate::EndpointSpec;

    fn options(spec: &str) -> EndpointOptions {
        EndpointOptions::new(EndpointSpec::parse(spec).unwrap())
    }

    #[test]
    fn bodies_say_what_was_asked() {
        let chat = chat::chat_prompt(&[ChatMessage::new(ChatRole::User, "Hi")]);
        let sampling = Sampling {
            max_new_tokens: 7,
            temperature: 0.5,
            seed: 3,
            repetition_penalty: 1.03,
            top_logprobs: Some(5),
            ..Sampling::default()
        };
        let body = call(&options("openai:m@http://localhost:1/v1"), &chat, &["x".into()], &sampling).unwrap().body;
        assert_eq!(
            body,
            json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7, "temperature": 0.5,
                "seed": 3, "stop": ["x"], "logprobs": true, "top_logprobs": 5, "repetition_penalty": 1.03})
        );
        let openai = options("openai:gpt-4o-mini");
        let refused = call(&openai, &chat, &[], &sampling).unwrap_err();
        assert!(refused.contains("repetition_penalty 1.03"), "{refused}");
        let mut less = Sampling { top_k: Some(4), ..sampling.clone() };
        assert_eq!(openai.drop_extended(&mut less), ["top_k 4", "repetition_penalty 1.03"]);
        let body = call(&openai, &chat, &[], &less).unwrap().body;
        assert!(body.get("top_k").is_none() && body["max_completion_tokens"] == 7, "{body}");
        let greedy = Sampling { top_k: Some(4), ..Sampling::default() };
        assert!(call(&openai, &chat, &[], &greedy).is_ok(), "without draws top_k changes nothing");
        let thinking = Sampling { think_end: Some("</think>".into()), ..Sampling::default() };
        let body = call(&openai, &chat, &["x".into()], &thinking).unwrap().body;
        assert!(body.get("stop").is_none(), "a server applies stop strings to the thinking too: {body}");
        let mut thinking = options("openai:m@http://localhost:1/v1");
        thinking.chat_template_kwargs = ChatKwargs::parse(&["enable_thinking=false", "tags=[1, \"a\"]"]).unwrap();
        let body = call(&thinking, &chat, &[], &Sampling::default()).unwrap().body;
        assert_eq!(body["chat_template_kwargs"], json!({"enable_thinking": false, "tags": [1, "a"]}));
        let mut plain = options("openai:m@http://localhost:1/v1");
        plain.api = Api::Completions;
        let call_plain = call(&plain, "Hi", &[], &Sampling::default()).unwrap();
        assert_eq!((call_plain.path, &call_plain.body["prompt"]), ("/completions", &json!("Hi")));
        assert!(call(&plain, &chat, &[], &Sampling::default()).is_err());
    }

    #[test]
    fn answers_are_read() {
        let bounds = Bounds { prompt: 50, completion: 9 };
        let body = json!({"choices": [{"message": {"role": "assistant", "content": "M END x"}, "finish_reason": "stop",
            "logprobs": {"content": [{"token": "M", "logprob": -0.1, "top_logprobs": [
                {"token": "M", "logprob": -0.1}, {"token": "m", "logprob": -2.5}, {"token": "x", "logprob": -9999.0}]}]}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1}});
        let response = read(Api::Chat, &[" END".into()], bounds, &body).unwrap();
        assert!(!response.usage.prompt_untold && !response.usage.completion_untold);
        let Output::Text { text, finish, top_logprobs, .. } = response.output else { panic!("no text") };
        assert_eq!((text.as_str(), finish, top_logprobs[0].len()), ("M", Finish::Stop, 2));
        let error = read(Api::Chat, &[], bounds, &json!({"error": {"message": "overloaded"}})).unwrap_err();
        assert!(matches!(&error, Unreadable::Again(reason) if reason.contains("overloaded")), "{error}");
        let refused = json!({"choices": [{"message": {"content": null, "refusal": "I cannot."}}]});
        let response = read(Api::Chat, &[], bounds, &refused).unwrap();
        assert!(response.usage.prompt_untold && response.usage.completion_untold);
        assert!(matches!(response.output, Output::Text { text, finish: Finish::Refusal, .. } if text == "I cannot."));
    }

    #[test]
    fn no_log_probability_is_above_0() {
        let top = |x: f64| json!({"content": [{"token": "m", "logprob": -0.1, "top_logprobs": [{"token": "m", "logprob": x}]}]});
        let (_, places) = chat_logprobs(&top(4e-7)).unwrap();
        assert_eq!(places[0][0].logprob, 0.0, "rounding");
        let error = chat_logprobs(&top(0.25)).unwrap_err();
        assert!(matches!(&error, Unreadable::Never(reason) if reason.contains("0.25, which is above 0")), "{error}");
        let legacy = json!({"token_logprobs": [0.5], "top_logprobs": [{"m": -0.5}]});
        assert!(completion_logprobs(&legacy).is_err());
    }
}
