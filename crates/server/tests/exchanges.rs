//! Exchanges over a socket with the embedded model.

mod support;

use harness_core::{Control, LanguageModel as _, Output, Request, Response, Sampling};
use harness_engine::{Limits, LocalModel};
use serde_json::{Value, json};
use support::{Running, joined, tiny};

/// What the model itself answers.
fn own(prompt: &str, stop: &[&str], sampling: Sampling) -> Response {
    let stop = stop.iter().map(|&stop| stop.to_owned()).collect();
    let request = Request::Generate { prompt: prompt.to_owned(), stop, sampling };
    let model = LocalModel::new(tiny(Limits::default()));
    model.stream(&request, &mut |_| Control::Continue).unwrap().unwrap()
}

fn text_of(response: &Response) -> &str {
    let Output::Text { text, .. } = &response.output else { panic!("no text") };
    text
}

#[test]
fn models_are_listed() {
    let server = Running::usual();
    let list: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((list["object"].as_str(), names), (Some("list"), vec!["base", "twin"]));
    let one: Value = serde_json::from_str(&server.get("/v1/models/twin").1).unwrap();
    assert_eq!(one, list["data"][1]);
    assert_eq!(server.get("/health"), (200, r#"{"status":"ok"}"#.to_owned()));
    let tokens = server.answer("/tokenize", &json!({"model": "base", "prompt": "The river"}));
    let expected: Vec<u32> =
        LocalModel::new(tiny(Limits::default())).tokenize("The river").unwrap().iter().map(|token| token.0).collect();
    assert_eq!(tokens["tokens"], json!(expected));
}

#[test]
fn the_tokenizer_is_told() {
    let server = Running::usual();
    // As lm-eval asks: without a model's name, where all have one tokenizer.
    let tokens =
        server.answer("/tokenize", &json!({"prompt": "The river</s>", "add_special_tokens": false}))["tokens"].clone();
    let text = server.answer("/detokenize", &json!({"tokens": tokens}));
    assert_eq!(text["prompt"], json!("The river</s>"));
    assert_eq!(server.answer("/v1/detokenize", &json!({"model": "twin", "tokens": []}))["prompt"], json!(""));
    let (status, error) = server.post("/detokenize", &json!({"tokens": [5, 4_000_000]}));
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("tokens")), "{error}");
    let (status, error) = server.post("/detokenize", &json!({"tokens": [-1]}));
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("tokens")), "{error}");
    let info: Value = serde_json::from_str(&server.get("/tokenizer_info").1).unwrap();
    assert_eq!(
        (&info["bos_token"], &info["eos_token"], &info["add_bos_token"]),
        (&json!("<s>"), &json!("</s>"), &json!(true))
    );
    assert!(info["chat_template"].as_str().unwrap().contains("### Instruction"));
}

#[test]
fn texts_are_those_of_the_model_itself_streamed_or_not() {
    let server = Running::usual();
    let sampling = |temperature, seed| Sampling { max_new_tokens: 40, temperature, seed, ..Sampling::default() };
    for (temperature, seed) in [(0.0, 0), (1.0, 7), (30.0, 8)] {
        let expected = own("The river", &[], sampling(temperature, seed));
        let ask = json!({"model": "base", "prompt": "The river", "max_tokens": 40, "temperature": temperature,
            "seed": seed, "stream_options": {"include_usage": true}});
        let pieces = server.stream("/v1/completions", &ask);
        assert_eq!(joined(&pieces, 0), text_of(&expected));
        let mut whole = ask.clone();
        whole.as_object_mut().unwrap().remove("stream_options");
        let answer = server.answer("/v1/completions", &whole);
        assert_eq!(answer["choices"][0]["text"], json!(text_of(&expected)));
        let usage = &pieces.last().unwrap()["usage"];
        assert_eq!((usage, &pieces.last().unwrap()["choices"]), (&answer["usage"], &json!([])));
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece["usage"].is_null()));
        assert_eq!(usage["completion_tokens"], json!(expected.usage.completion_tokens));
        assert_eq!(usage["prompt_tokens"], json!(expected.usage.prompt_tokens));
        let last = pieces[pieces.len() - 2]["choices"][0]["finish_reason"].clone();
        assert_eq!(last, answer["choices"][0]["finish_reason"]);
    }
}

#[test]
fn chats_go_through_the_template() {
    let server = Running::usual();
    let model = LocalModel::new(tiny(Limits::default()));
    let messages = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]);
    let chat: Vec<harness_core::ChatMessage> = serde_json::from_value(messages.clone()).unwrap();
    let ask = json!({"model": "base", "messages": messages, "max_completion_tokens": 20, "temperature": 0, "n": 2,
        "logprobs": true, "top_logprobs": 2});
    if !model.capabilities().chat {
        let (status, error) = server.post("/v1/chat/completions", &ask);
        assert_eq!(status, 400);
        assert!(error["error"]["message"].as_str().unwrap().contains("no chat template"), "{error}");
        return;
    }
    let options = harness_core::ChatOptions { add_generation_prompt: true };
    let prompt = model.apply_chat_template(&chat, options).unwrap();
    let expected = own(&prompt, &[], Sampling { max_new_tokens: 20, ..Sampling::default() });
    let answer = server.answer("/v1/chat/completions", &ask);
    for index in 0..2 {
        let choice = &answer["choices"][index];
        assert_eq!(choice["message"]["content"], json!(text_of(&expected)));
        let content = choice["logprobs"]["content"].as_array().unwrap();
        let Output::Text { token_logprobs, .. } = &expected.output else { panic!("no text") };
        for (token, expected) in content.iter().zip(token_logprobs) {
            assert_eq!(token["logprob"], json!(f64::from(*expected)), "all digits");
            assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        }
        assert!(!content.is_empty());
    }
    let pieces = server.stream("/v1/chat/completions", &ask);
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], json!("assistant"));
    assert_eq!(pieces[0]["object"], json!("chat.completion.chunk"));
    for index in 0..2 {
        assert_eq!(joined(&pieces, index), text_of(&expected));
    }
    let told = |index: usize| -> Vec<Value> {
        let choices = pieces.iter().flat_map(|piece| piece["choices"].as_array().unwrap());
        let of = choices.filter(|choice| choice["index"] == json!(index));
        of.flat_map(|choice| choice["logprobs"]["content"].as_array().cloned().unwrap_or_default()).collect()
    };
    assert_eq!(json!(told(1)), answer["choices"][1]["logprobs"]["content"]);
}

#[test]
fn stop_strings_are_in_no_piece() {
    let server = Running::usual();
    let sampling = Sampling { max_new_tokens: 60, temperature: 20.0, seed: 3, ..Sampling::default() };
    let whole = own("The river", &[], sampling.clone());
    let text = text_of(&whole);
    let at = text.char_indices().nth(12).unwrap().0;
    let end = text[at..].char_indices().nth(4).unwrap().0 + at;
    let stop = &text[at..end];
    let expected = own("The river", &[stop], sampling);
    let ask = json!({"model": "base", "prompt": "The river", "max_tokens": 60, "temperature": 20, "seed": 3, "stop": stop,
        "logprobs": 0});
    let pieces = server.stream("/v1/completions", &ask);
    assert_eq!(joined(&pieces, 0), text_of(&expected));
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], json!("stop"));
    let answer = server.answer("/v1/completions", &ask);
    let offsets = answer["choices"][0]["logprobs"]["text_offset"].as_array().unwrap();
    let characters = text_of(&expected).chars().count() as u64;
    assert!(offsets.iter().all(|offset| offset.as_u64().unwrap() < characters), "{answer}");
}

#[test]
fn several_answers_are_those_of_consecutive_seeds() {
    let server = Running::usual();
    let ask = |n: usize, seed: u64| json!({"model": "twin", "prompt": ["One", "Two"], "max_tokens": 8, "temperature": 2, "n": n, "seed": seed});
    let texts = |answer: &Value| -> Vec<String> {
        answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    let three = texts(&server.answer("/v1/completions", &ask(3, 5)));
    for seed in 0..3 {
        let one = texts(&server.answer("/v1/completions", &ask(1, 5 + seed as u64)));
        assert_eq!([&three[seed], &three[3 + seed]], [&one[0], &one[1]]);
    }
    assert_ne!(three[0], three[1], "seeds matter");
}

#[test]
fn echoed_prompts_have_the_log_probabilities_that_the_program_computes() {
    let server = Running::usual();
    let model = LocalModel::new(tiny(Limits::default()));
    let text = "The old mill stands by the river. Its wheel turns.";
    let ids: Vec<u32> = model.tokenize(text).unwrap().iter().map(|token| token.0).collect();
    let expected = model.score_tokens(std::slice::from_ref(&ids), &[1]).unwrap().remove(0).0;
    for (prompt, new) in [(json!(text), 1), (json!(ids), 1), (json!([ids]), 0)] {
        let ask = json!({"model": "base", "prompt": prompt, "max_tokens": new, "echo": true, "logprobs": 1,
            "temperature": 0});
        let answer = server.answer("/v1/completions", &ask);
        let logprobs = &answer["choices"][0]["logprobs"];
        let told = logprobs["token_logprobs"].as_array().unwrap();
        assert!(told[0].is_null() && told.len() == ids.len() + new);
        for (told, expected) in told[1..].iter().zip(&expected) {
            assert_eq!(told, &json!(f64::from(*expected)));
        }
        let top = logprobs["top_logprobs"].as_array().unwrap();
        for (top, told) in top[1..].iter().zip(&told[1..]) {
            let best = top.as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max);
            assert!(best >= told.as_f64().unwrap());
        }
        assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with(text));
        assert_eq!(answer["usage"]["prompt_tokens"], json!(ids.len()));
        let offsets: Vec<usize> = logprobs["text_offset"]
            .as_array()
            .unwrap()
            .iter()
            .map(|offset| offset.as_u64().unwrap() as usize)
            .collect();
        assert!(offsets.is_sorted() && offsets[ids.len() - 1] < text.len());
        if new == 1 {
            assert_eq!(offsets[ids.len()], text.len());
        }
        let pieces = server.stream("/v1/completions", &ask);
        assert_eq!(joined(&pieces, 0), answer["choices"][0]["text"].as_str().unwrap());
    }
}

#[test]
fn formats_are_kept() {
    let server = Running::usual();
    let schema = json!({"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let ask = json!({"model": "base", "prompt": "Say", "max_tokens": 30, "temperature": 1, "seed": 1,
        "response_format": format});
    let answer = server.answer("/v1/completions", &ask);
    let said: Value = serde_json::from_str(answer["choices"][0]["text"].as_str().unwrap()).unwrap();
    assert!(said["age"].is_i64() || said["age"].is_u64() || said["age"].is_f64(), "{said}");
    let ask = json!({"model": "base", "prompt": "Say", "guided_regex": "(yes|no)!", "max_tokens": 9});
    let said = server.answer("/v1/completions", &ask)["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(said == "yes!" || said == "no!", "{said}");
}
