//! From a request to the body that is sent, and from the body that comes to a response.

use harness_core::{ChatMessage, ChatRole, Finish, Output, Response, Sampling, TopLogprob};
use serde_json::{Map, Value, json};

use crate::{
    Api, EndpointOptions, chat,
    usage::{Bounds, counts},
};

/// What is sent for one generation.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) bounds: Bounds,
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
        return Err(format!("sample with {} (its server takes no such setting)", untaken.join(", ")));
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
    if !stops.is_empty() && sampling.pattern.is_none() {
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

/// A response, and whether its token counts had to be replaced.
///
/// # Errors
/// What is missing; the server may do better next time.
pub(crate) fn read(api: Api, stop: &[String], bounds: Bounds, body: &Value) -> Result<(Response, bool), String> {
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(format!("an error in place of an answer: {error}"));
    }
    let choice = body.get("choices").and_then(|choices| choices.get(0)).ok_or("an answer without choices")?;
    let text = match api {
        Api::Completions => choice.get("text").and_then(Value::as_str),
        Api::Chat => {
            let message = choice.get("message").ok_or("a choice without a message")?;
            // `content` is null where the model refused or used up its tokens before it said something.
            let said = message.get("content").and_then(Value::as_str);
            let refusal = message.get("refusal").and_then(Value::as_str);
            let silent = message.get("content").is_some_and(Value::is_null);
            said.filter(|text| !text.is_empty()).or(refusal).or(said).or(silent.then_some(""))
        }
    };
    let mut text = text.ok_or("a choice without text")?.to_owned();
    let mut finish = match choice.get("finish_reason").and_then(Value::as_str) {
        Some("length") => Finish::Length,
        _ => Finish::EndOfSequence,
    };
    for stop in stop.iter().filter(|stop| !stop.is_empty()) {
        if let Some(at) = text.find(stop.as_str()) {
            text.truncate(at);
            finish = Finish::Stop;
        }
    }
    let (token_logprobs, top_logprobs) = match (api, choice.get("logprobs")) {
        (Api::Chat, Some(logprobs)) => chat_logprobs(logprobs),
        (Api::Completions, Some(logprobs)) => completion_logprobs(logprobs),
        (_, None) => (vec![], vec![]),
    };
    let (usage, replaced) = counts(body.get("usage"), bounds);
    Ok((
        Response { output: Output::Text { text, token_ids: vec![], token_logprobs, finish, top_logprobs }, usage },
        replaced,
    ))
}

/// A log-probability; servers write "impossible" as −9999 or null.
fn logprob(value: Option<&Value>) -> Option<f32> {
    value.and_then(Value::as_f64).map(|x| x as f32).filter(|x| x.is_finite() && *x > -9000.0)
}

type Logprobs = (Vec<f32>, Vec<Vec<TopLogprob>>);

fn chat_logprobs(logprobs: &Value) -> Logprobs {
    let Some(content) = logprobs.get("content").and_then(Value::as_array) else { return (vec![], vec![]) };
    let tokens = content.iter().map(|token| logprob(token.get("logprob")).unwrap_or(-9000.0)).collect();
    let top = content.iter().map(|token| {
        let top = token.get("top_logprobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        top.iter()
            .filter_map(|top| {
                let token = top.get("token")?.as_str()?.to_owned();
                Some(TopLogprob { token, logprob: logprob(top.get("logprob"))? })
            })
            .collect()
    });
    (tokens, top.collect())
}

fn completion_logprobs(logprobs: &Value) -> Logprobs {
    let list = |key: &str| logprobs.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tokens = list("token_logprobs").iter().map(|x| logprob(Some(x)).unwrap_or(-9000.0)).collect();
    let top = list("top_logprobs").iter().map(|place| {
        let mut found: Vec<TopLogprob> = place.as_object().map_or_else(Vec::new, |place| {
            place
                .iter()
                .filter_map(|(token, x)| Some(TopLogprob { token: token.clone(), logprob: logprob(Some(x))? }))
                .collect()
        });
        found.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then_with(|| a.token.cmp(&b.token)));
        found
    });
    (tokens, top.collect())
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
        let (response, replaced) = read(Api::Chat, &[" END".into()], bounds, &body).unwrap();
        let Output::Text { text, finish, top_logprobs, .. } = response.output else { panic!("no text") };
        assert_eq!((text.as_str(), finish, top_logprobs[0].len(), replaced), ("M", Finish::Stop, 2, false));
        for (body, says) in [
            (json!({}), "without choices"),
            (json!({"choices": []}), "without choices"),
            (json!({"choices": [{}]}), "without a message"),
            (json!({"choices": [{"message": {}}]}), "without text"),
            (json!({"error": {"message": "overloaded"}}), "overloaded"),
        ] {
            let error = read(Api::Chat, &[], bounds, &body).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let refused = json!({"choices": [{"message": {"content": null, "refusal": "I cannot."}}]});
        let (response, replaced) = read(Api::Chat, &[], bounds, &refused).unwrap();
        assert!(matches!(response.output, Output::Text { text, .. } if text == "I cannot.") && replaced);
    }
}
