//! The client against a real server that serves this project's own models and makes every fault a server can make.

mod server;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Control, Irregular, LanguageModel, ModelError, Output, Request, Response,
    Sampling,
};
use harness_engine::{LoadedBase, LocalModel, ModelOptions};
use harness_http::{Api, Budget, Endpoint, EndpointOptions, EndpointSpec, HttpError, LikelihoodApi};
use harness_test_support::workspace_root;
use server::{Fault, Faults, Server, scripted::Scripted};

/// The embedded model.
static TINY: LazyLock<Arc<LocalModel>> = LazyLock::new(|| {
    let base = LoadedBase::load(&workspace_root().join("models/tiny"), ModelOptions::default()).unwrap();
    Arc::new(LocalModel::new(Arc::new(base)))
});

/// A variable that cargo sets for every test: it plays the key.
const KEY: &str = "CARGO_MANIFEST_DIR";

fn options(server: &Server, model: &str) -> EndpointOptions {
    let spec = EndpointSpec::parse(&format!("openai:{model}@{}", server.url())).unwrap();
    EndpointOptions { backoff: Duration::from_millis(1), ..EndpointOptions::new(spec) }
}

fn echo() -> Arc<Scripted> {
    Arc::new(Scripted::new(1000, Box::new(|prompt, _| (format!("You said {}", prompt.trim()), vec![]))))
}

fn questions(count: usize) -> Vec<Request> {
    let sampling = Sampling { max_new_tokens: 50, ..Sampling::default() };
    let request = |n| Request::Generate { prompt: format!("number {n}"), stop: vec![], sampling: sampling.clone() };
    (0..count).map(request).collect()
}

fn collect(model: &dyn LanguageModel, requests: &[Request]) -> (BTreeMap<usize, Response>, Result<(), ModelError>) {
    let mut found = BTreeMap::new();
    let result = model.answer(requests, &mut |index, response| {
        assert!(found.insert(index, response).is_none(), "request {index} is answered once");
        Control::Continue
    });
    (found, result)
}

fn text(response: &Response) -> &str {
    let Output::Text { text, .. } = &response.output else { panic!("no text") };
    text
}

fn http(error: &ModelError) -> &HttpError {
    let ModelError::Other(error) = error else { panic!("{error}") };
    error.downcast_ref().expect("an error of HTTP")
}

/// The number that the scripted server was asked about.
fn number(body: &serde_json::Value) -> usize {
    let text = body["messages"][0]["content"].as_str().unwrap();
    text.trim_start_matches("number ").parse().unwrap()
}

#[test]
fn a_local_model_behind_http_says_the_same() {
    let server = Server::sound(TINY.clone(), "tiny");
    let endpoint = Endpoint::new(options(&server, "tiny")).unwrap();
    let served = endpoint.check().unwrap();
    assert_eq!((served.models, served.max_length), (vec!["tiny".to_owned()], Some(TINY.capabilities().max_length)));
    let chat = [ChatMessage::new(ChatRole::User, "Who lives in the house?")];
    let rendering = ChatOptions { add_generation_prompt: true };
    let requests = |model: &dyn LanguageModel| -> Vec<Request> {
        let sampling = |n: u64| Sampling {
            max_new_tokens: 6 + n as usize,
            temperature: n as f64 * 0.3,
            seed: n,
            top_logprobs: (n == 2).then_some(3),
            ..Sampling::default()
        };
        let prompt = model.apply_chat_template(&chat, rendering).unwrap();
        (0..6).map(|n| Request::Generate { prompt: prompt.clone(), stop: vec![], sampling: sampling(n) }).collect()
    };
    let (far, result) = collect(&endpoint, &requests(&endpoint));
    result.unwrap();
    let (near, result) = collect(&**TINY, &requests(&**TINY));
    result.unwrap();
    for (index, near) in &near {
        let far = &far[index];
        assert_eq!((text(far), far.usage), (text(near), near.usage), "request {index}");
        let (Output::Text { top_logprobs: far, .. }, Output::Text { top_logprobs: near, .. }) =
            (&far.output, &near.output)
        else {
            panic!("no text")
        };
        assert_eq!(far, near);
    }
    assert_eq!(endpoint.usage().answered, 6);
    assert_ne!(endpoint.identity().digest(), TINY.identity().digest());
}

#[test]
fn given_texts_are_scored_by_echo_and_by_prompt_logprobs() {
    let pairs = [("Who lives in the house", " near the river"), ("The house is ", "red and old")];
    let requests: Vec<Request> = pairs
        .map(|(context, continuation)| Request::LogLikelihood {
            context: context.into(),
            continuation: continuation.into(),
        })
        .to_vec();
    let (near, result) = collect(&**TINY, &requests);
    result.unwrap();
    for (name, api) in [("tiny", LikelihoodApi::Echo), ("tiny-no-echo", LikelihoodApi::PromptLogprobs)] {
        let server = Server::sound(TINY.clone(), name);
        let endpoint = Endpoint::new(options(&server, name)).unwrap();
        assert_eq!(endpoint.likelihood_api().unwrap(), api);
        let (far, result) = collect(&endpoint, &requests);
        result.unwrap();
        for (index, near) in &near {
            let (Output::LogLikelihood { logprob: far, .. }, Output::LogLikelihood { logprob: near, .. }) =
                (&far[index].output, &near.output)
            else {
                panic!("no log-likelihood")
            };
            assert!((far - near).abs() < 1e-5, "{name}, pair {index}: {far} for {near}");
        }
    }
    let name = "tiny-no-echo-no-prompt-logprobs";
    let server = Server::sound(TINY.clone(), name);
    let endpoint = Endpoint::new(options(&server, name)).unwrap();
    let (_, result) = collect(&endpoint, &requests);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("cannot score given texts") && error.contains("echo is not supported here"), "{error}");
}

#[test]
fn every_passing_fault_is_survived() {
    // Every request meets two faults before it is answered, each kind in turn.
    let kinds = Fault::PASSING;
    let faults: Faults =
        Box::new(move |before, body| (before < 2).then(|| kinds[(number(body) + 3 * before) % kinds.len()]));
    let server = Server::start(echo(), "m", None, faults);
    let mut options = options(&server, "m");
    options.timeout = Duration::from_millis(700);
    options.input_price = Some(1.0);
    options.output_price = Some(2.0);
    let endpoint = Endpoint::new(options).unwrap();
    let (found, result) = collect(&endpoint, &questions(42));
    result.unwrap();
    for n in 0..42 {
        assert!(text(&found[&n]).ends_with(&format!("number {n}")), "{}", text(&found[&n]));
    }
    let stats = endpoint.usage();
    assert_eq!(stats.answered, 42);
    assert_eq!(stats.sent, stats.answered + stats.retried + stats.throttled);
    // Of 7 numbers in a row two begin with a wrong count or meet it second; it is an answer.
    assert_eq!((stats.counts_replaced, stats.throttled), (12, 12));
    assert!(stats.cost > 0.0 && endpoint.concurrency() < 8, "{stats:?}, {}", endpoint.concurrency());
}

#[test]
fn servers_that_never_recover_are_given_up_on() {
    for (fault, says) in [
        (Fault::Broken, "no answer after 4 attempts; the last: 500: the server stumbled"),
        (Fault::Garbage, "an answer that is not JSON"),
        (Fault::Html, "a web page instead of JSON titled \"Sign in\""),
        (Fault::Cut, "the connection broke"),
        (Fault::Throttle, "no answer after 25 attempts; the last: 429: slow down"),
        (Fault::LongThrottle, "asks to wait 86400 s, more than the 300 s allowed"),
    ] {
        let server = Server::start(echo(), "m", None, Box::new(move |_, body| (number(body) == 3).then_some(fault)));
        let endpoint = Endpoint::new(EndpointOptions { retries: 3, ..options(&server, "m") }).unwrap();
        let (found, result) = collect(&endpoint, &questions(4));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says), "{fault:?}: {error}");
        assert!(!found.contains_key(&3), "what was answered before stays");
    }
}

#[test]
fn an_answer_that_repeats_the_key_comes_without_it() {
    let key = std::env::var(KEY).unwrap();
    let said = format!("I was sent Bearer {key}, thanks");
    let model = Scripted::new(1000, Box::new(move |_, _| (said.clone(), vec![("I", -0.1)])));
    let server = Server::sound(Arc::new(model), "m");
    let with_key = |api| EndpointOptions { api_key_env: Some(KEY.into()), api, ..options(&server, "m") };
    for api in [Api::Chat, Api::Completions] {
        let (found, result) = collect(&Endpoint::new(with_key(api)).unwrap(), &questions(1));
        result.unwrap();
        assert_eq!(text(&found[&0]), "I was sent Bearer [key], thanks");
        assert!(!serde_json::to_string(&found).unwrap().contains(&key));
    }
}

#[test]
fn no_key_shows_anywhere() {
    let key = std::env::var(KEY).unwrap();
    let server = Server::start(echo(), "m", Some(&key), Box::new(|_, _| None));
    let with_key = EndpointOptions { api_key_env: Some(KEY.into()), ..options(&server, "m") };
    let endpoint = Endpoint::new(with_key.clone()).unwrap();
    let (found, result) = collect(&endpoint, &questions(2));
    result.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(endpoint.key(), (true, KEY));
    let shown = [
        format!("{endpoint:?}"),
        format!("{with_key:?}"),
        serde_json::to_string(endpoint.identity()).unwrap(),
        format!("{:?}", endpoint.usage()),
    ];
    for shown in shown {
        assert!(!shown.contains(&key), "{shown}");
    }
    assert!(server.bodies().iter().all(|body| !body.to_string().contains(&key)), "the key travels in a header alone");

    // The server refuses the key and repeats it in its message.
    let other = Server::start(echo(), "m", Some("another"), Box::new(|_, _| None));
    let refused = Endpoint::new(EndpointOptions { api_key_env: Some(KEY.into()), ..options(&other, "m") }).unwrap();
    let error = refused.check().unwrap_err();
    let texts = [error.to_string(), format!("{error:?}")];
    for text in &texts {
        assert!(!text.contains(&key) && text.contains("[key]"), "{text}");
    }
    assert!(texts[0].contains("the key was refused (401") && texts[0].contains(KEY), "{}", texts[0]);

    // The key stands where a long message is cut, in the escapes of JSON.
    let long: &str = Box::leak(format!("{}{key}", "x".repeat(295)).into_boxed_str());
    let cut = Server::start(echo(), "m", None, Box::new(move |_, _| Some(Fault::Refuses(400, long))));
    let endpoint = Endpoint::new(EndpointOptions { api_key_env: Some(KEY.into()), ..options(&cut, "m") }).unwrap();
    let error = collect(&endpoint, &questions(1)).1.unwrap_err().to_string();
    assert!(error.contains("xxx[key") && !error.contains(&key[..4]), "{error}");

    // No key where one is needed.
    let unset = Some("HARNESS_TEST_NO_SUCH_KEY".to_owned());
    let endpoint = Endpoint::new(EndpointOptions { api_key_env: unset, ..options(&other, "m") }).unwrap();
    let (_, result) = collect(&endpoint, &questions(1));
    let error = result.unwrap_err();
    assert!(matches!(http(&error), HttpError::Key { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("none is set") && error.contains("environment variable HARNESS_TEST_NO_SUCH_KEY"),
        "{error}"
    );
}

#[test]
fn a_cost_limit_is_never_passed_and_work_goes_on_after_it() {
    let server = Server::start(
        echo(),
        "m",
        None,
        Box::new(|before, body| (before == 0 && number(body).is_multiple_of(5)).then_some(Fault::Garbage)),
    );
    let with_budget = |limit: f64| {
        let budget = Arc::new(Budget::new(limit).unwrap());
        let mut options = options(&server, "m");
        options.input_price = Some(1e6);
        options.output_price = Some(1e6);
        options.budget = Some(Arc::clone(&budget));
        (Endpoint::new(options).unwrap(), budget)
    };
    let all = questions(60);
    let (endpoint, budget) = with_budget(900.0);
    let (found, result) = collect(&endpoint, &all);
    let error = result.unwrap_err();
    assert!(matches!(http(&error), HttpError::Budget { .. }), "{error}");
    assert!(error.to_string().contains("the cost limit of 900.0000 is reached"), "{error}");
    assert!(budget.spent() <= 900.0 && budget.spent() > 600.0, "{}", budget.spent());
    assert!((budget.spent() - endpoint.usage().cost).abs() < 1e-6);
    assert!(found.len() > 10 && found.len() < 60, "{}", found.len());
    let rest: Vec<Request> = (0..60).filter(|n| !found.contains_key(n)).map(|n| all[n].clone()).collect();
    let (endpoint, budget) = with_budget(1e5);
    let (others, result) = collect(&endpoint, &rest);
    result.unwrap();
    assert_eq!(found.len() + others.len(), 60);
    assert!(budget.spent() > 0.0);
    let error = Endpoint::new(EndpointOptions { input_price: None, ..endpoint.options().clone() }).unwrap_err();
    assert!(error.to_string().contains("set input_price and output_price"), "{error}");
}

#[test]
fn what_is_no_api_is_recognised() {
    let server = Server::sound(echo(), "m");
    let endpoint = |url: String| {
        let spec = EndpointSpec::parse(&format!("openai:m@{url}")).unwrap();
        Endpoint::new(EndpointOptions { backoff: Duration::from_millis(1), ..EndpointOptions::new(spec) }).unwrap()
    };
    // The base without /v1: nothing is there.
    let error = endpoint(format!("http://{}", server.address)).check().unwrap_err().to_string();
    assert!(error.contains("404") && error.contains("usually ending in /v1"), "{error}");
    // Nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = endpoint(format!("http://127.0.0.1:{port}/v1")).check().unwrap_err().to_string();
    assert!(error.contains("after 1 attempt;") && error.contains("cannot connect"), "{error}");
    // A web site.
    let pages = Server::start(echo(), "m", None, Box::new(|_, _| Some(Fault::Html)));
    let error = endpoint(pages.url()).likelihood_api().unwrap_err().to_string();
    assert!(error.contains("a web page instead of JSON"), "{error}");
}

#[test]
fn a_prompt_that_is_too_long_is_named_and_the_others_are_answered() {
    let short = Arc::new(Scripted::new(5, Box::new(|_, _| ("yes".into(), vec![]))));
    let server = Server::sound(short, "m");
    let endpoint = Endpoint::new(options(&server, "m")).unwrap();
    let mut requests = questions(12);
    let Request::Generate { prompt, .. } = &mut requests[2] else { panic!("no generation") };
    *prompt = "many words ".repeat(10);
    let (found, result) = collect(&endpoint, &requests);
    let Err(ModelError::BadRequest { index: 2, reason }) = &result else { panic!("{result:?}") };
    assert!(reason.contains("maximum context length is 5 tokens"), "{reason}");
    assert!(found.len() >= 2 && !found.contains_key(&2));
}

#[test]
fn stopping_is_heard() {
    let server = Server::sound(echo(), "m");
    let endpoint = Endpoint::new(EndpointOptions { concurrency: 3, ..options(&server, "m") }).unwrap();
    let mut count = 0;
    endpoint
        .answer(&questions(50), &mut |_, _| {
            count += 1;
            if count == 4 { Control::Stop } else { Control::Continue }
        })
        .unwrap();
    assert_eq!(count, 4);
    assert!(server.bodies().len() < 12, "{}", server.bodies().len());
    assert!(server.shared.most_in_flight.load(std::sync::atomic::Ordering::SeqCst) <= 3);
}

#[test]
fn what_an_endpoint_cannot_do_is_said() {
    let server = Server::sound(TINY.clone(), "tiny");
    let endpoint = Endpoint::new(options(&server, "tiny")).unwrap();
    let sampling = Sampling { pattern: Some("a|b".into()), max_new_tokens: 4, ..Sampling::default() };
    let request = Request::Generate { prompt: "a or b?".into(), stop: vec![], sampling };
    let (_, result) = collect(&endpoint, std::slice::from_ref(&request));
    assert!(result.unwrap_err().to_string().contains("patterns = true"));
    let endpoint = Endpoint::new(EndpointOptions { patterns: true, ..options(&server, "tiny") }).unwrap();
    let (found, result) = collect(&endpoint, &[request]);
    result.unwrap();
    assert!(["a", "b"].contains(&text(&found[&0])), "{}", text(&found[&0]));

    let plain = Endpoint::new(EndpointOptions { api: Api::Completions, ..options(&server, "tiny") }).unwrap();
    let chat = plain.apply_chat_template(&[], ChatOptions { add_generation_prompt: true });
    assert!(chat.unwrap_err().to_string().contains("set api = \"chat\""));
    let (found, result) = collect(&plain, &questions(1));
    result.unwrap();
    let (near, _) = collect(&**TINY, &questions(1));
    assert_eq!(text(&found[&0]), text(&near[&0]), "a plain prompt stays plain");
    let endpoint = Endpoint::new(EndpointOptions { concurrency: 0, ..options(&server, "tiny") });
    assert!(endpoint.unwrap_err().to_string().contains("concurrency 0: expected at least 1"));
}

/// The answers to some questions where the server says `fault` about number 3.
fn with_fault(fault: Fault) -> (BTreeMap<usize, Response>, Result<(), ModelError>, usize) {
    let server = Server::start(echo(), "m", None, Box::new(move |_, body| (number(body) == 3).then_some(fault)));
    let endpoint = Endpoint::new(EndpointOptions { retries: 3, ..options(&server, "m") }).unwrap();
    let (found, result) = collect(&endpoint, &questions(6));
    (found, result, server.bodies().len())
}

#[test]
fn what_a_server_withholds_is_an_answer_of_its_own_and_asked_once() {
    for (fault, irregular) in [
        (Fault::Says(r#"{"choices": []}"#), Irregular::NoChoice),
        (
            Fault::Says(r#"{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}"#),
            Irregular::NoContent,
        ),
        (Fault::Says(r#"{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}"#), Irregular::Empty),
        (
            Fault::Says(r#"{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}"#),
            Irregular::Filtered,
        ),
        (Fault::Refuses(400, "The response was filtered (content_filter)"), Irregular::Filtered),
        (Fault::Says(r#"{"error": {"message": "content policy", "code": 403}}"#), Irregular::Filtered),
        (Fault::Says(r#"{"choices": [{"message": {"content": null, "refusal": "No."}}]}"#), Irregular::Refused),
        (
            Fault::Says(
                r#"{"choices": [{"message": {"content": null, "reasoning": "hm"}, "finish_reason": "length"}]}"#,
            ),
            Irregular::OnlyReasoning,
        ),
    ] {
        let (found, result, sent) = with_fault(fault);
        result.unwrap();
        assert_eq!((found.len(), found[&3].irregular(), sent), (6, Some(irregular), 6), "{fault:?}");
        assert_eq!(found[&2].irregular(), None);
    }
}

#[test]
fn an_answer_that_cannot_be_used_is_not_asked_for_again() {
    for (fault, says) in [
        (Fault::Says(r#"{"choices": [{"message": {"content": 18}}]}"#), "its content is 18; expected a text"),
        (
            Fault::Says(
                r#"{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": 0.5}]}}]}"#,
            ),
            "a log-probability of 0.5, which is above 0",
        ),
    ] {
        let (_, result, sent) = with_fault(fault);
        let Err(ModelError::BadRequest { index: 3, reason }) = &result else { panic!("{result:?}") };
        assert!(reason.contains(says) && sent <= 6, "{reason}, {sent}");
    }
    let (_, result, sent) = with_fault(Fault::Says(r#"{"error": {"message": "no such model", "code": 404}}"#));
    let error = result.unwrap_err();
    assert!(matches!(http(&error), HttpError::Refused { status: 404, .. }), "{error}");
    assert!(sent <= 6);
}

#[test]
fn where_log_probabilities_are_refused_the_text_is_asked_for_without_them() {
    let refuses = |_: usize, body: &serde_json::Value| {
        body.get("top_logprobs").is_some().then_some(Fault::Refuses(400, "This model doesn't support 'logprobs'."))
    };
    let server = Server::start(echo(), "m", None, Box::new(refuses));
    let endpoint = Endpoint::new(EndpointOptions { concurrency: 2, ..options(&server, "m") }).unwrap();
    let mut requests = questions(12);
    for request in &mut requests {
        let Request::Generate { sampling, .. } = request else { panic!("no generation") };
        sampling.top_logprobs = Some(5);
    }
    let (found, result) = collect(&endpoint, &requests);
    result.unwrap();
    assert!(found.len() == 12 && text(&found[&7]).ends_with("number 7"));
    assert!(server.bodies().len() <= 14, "those in flight are refused, no other: {}", server.bodies().len());
}
