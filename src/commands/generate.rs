//! `harness generate`.

use std::io::{BufRead as _, Write as _};

use harness_core::{ChatMessage, ChatOptions, ChatRole, Control, Output, Request, Response, Sampling, visible};
use harness_evaluation::{
    evaluate::stopped_in_thinking,
    models::{Loader, Missing, Model},
    training::ensure_trained,
};
use harness_metrics::comparison::Caveat;
use serde_json::json;

use super::{App, Failure};
use crate::{
    cli::{GenerateArgs, SamplingArgs},
    options,
};

/// Runs `harness generate`.
///
/// # Errors
/// If the model cannot be loaded or refuses a prompt.
pub(super) fn generate(app: &App, args: &GenerateArgs) -> Result<(), Failure> {
    check_sampling(&args.sampling)?;
    let resolved = app.experiment.model(&args.model)?.asked(&options::prompts(&args.texts)?);
    let ready = Loader::new(app, app.device.limits(), ensure_trained).for_a_look().load(&resolved, Missing::Refuse)?;
    let prompts = if args.prompt == "-" { read_lines()? } else { vec![args.prompt.clone()] };
    let rendered: Vec<String> =
        prompts.iter().map(|prompt| render(&ready.model, prompt, args)).collect::<Result<_, _>>()?;
    let sampling = args.sampling.sampling(ready.think_end_token.as_deref());
    let system = args.system.as_deref();
    let what = &ready.own_texts;
    let own =
        (!what.is_empty()).then(|| Caveat::OwnTexts { model: ready.name.clone(), what: what.clone() }.to_string());
    if let ([prompt], false) = (&rendered[..], app.global.json) {
        return stream(app, &ready.model, prompt, args, &sampling);
    }
    let requests: Vec<Request> = rendered
        .iter()
        .map(|prompt| Request::Generate {
            prompt: prompt.clone(),
            stop: args.sampling.stop.clone(),
            sampling: sampling.clone(),
        })
        .collect();
    let bar = app.stage("generate", requests.len() as u64);
    let mut responses: Vec<Option<Response>> = vec![None; requests.len()];
    ready.model.answer(&requests, &mut |index, response| {
        responses[index] = Some(response);
        bar.step();
        if app.interrupted() { Control::Stop } else { Control::Continue }
    })?;
    bar.finish(&format!("{} prompts", requests.len()));
    let left = responses.iter().filter(|response| response.is_none()).count();
    if app.global.json {
        let completions: Vec<_> = prompts
            .iter()
            .zip(&rendered)
            .zip(&responses)
            .zip(&requests)
            .map(|(((prompt, rendered), response), request)| {
                let mut caveats =
                    response.as_ref().map_or_else(Vec::new, |response| caveats(system, request, response));
                caveats.extend(own.clone());
                json!({ "prompt": prompt, "rendered": rendered, "response": response, "caveats": caveats })
            })
            .collect();
        app.output(&json!({ "model": ready.name, "completions": completions }), String::new)?;
    } else {
        for (request, response) in requests.iter().zip(responses) {
            let Some(response) = response else { continue };
            caveats(system, request, &response).iter().for_each(|caveat| app.note(caveat));
            if let Output::Text { text, .. } = response.output {
                app.print(text.replace('\n', "\\n"))?;
            }
        }
    }
    match left {
        0 => Ok(()),
        _ => Err(Failure::work(format!("interrupted: prompts without an answer: {left}")).after_output()),
    }
}

/// What limits an answer: a system message that the prompt does not hold, a prompt that was cut, thinking that was.
pub(super) fn caveats(system: Option<&str>, request: &Request, response: &Response) -> Vec<String> {
    let Request::Generate { prompt, sampling, .. } = request else { return vec![] };
    let mut found = vec![];
    if system.is_some_and(|system| !ChatMessage::new(ChatRole::System, system).stands_in(prompt)) {
        found.push("the chat template does not show the system message".to_owned());
    }
    let (cut, of) = (response.usage.truncated_tokens, response.usage.prompt_tokens);
    if cut > 0 {
        found.push(format!(
            "the first {cut} of {of} tokens of the prompt were cut, to leave room for {} new ones",
            sampling.max_new_tokens
        ));
    }
    if stopped_in_thinking(request, response) {
        found.push("a stop string ended the text inside its thinking, so it contains no answer".to_owned());
    }
    found
}

/// Refuses settings of sampling that mean nothing.
pub(super) fn check_sampling(args: &SamplingArgs) -> Result<(), Failure> {
    let at_least = |least: f64, value: f64| value >= least && value.is_finite();
    let share = |value: Option<f64>| value.is_none_or(|p| p > 0.0 && p <= 1.0);
    let shown = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let rules = [
        (args.max_new_tokens > 0, "max-new-tokens", args.max_new_tokens.to_string(), "at least 1"),
        (at_least(0.0, args.temperature), "temperature", args.temperature.to_string(), "0 (greedy) or more"),
        (args.top_k != Some(0), "top-k", "0".to_owned(), "at least 1"),
        (share(args.top_p), "top-p", shown(args.top_p), "a probability above 0 and up to 1"),
        (args.min_p.is_none_or(|p| (0.0..=1.0).contains(&p)), "min-p", shown(args.min_p), "a fraction from 0 to 1"),
        (
            args.repetition_penalty > 0.0 && args.repetition_penalty.is_finite(),
            "repetition-penalty",
            args.repetition_penalty.to_string(),
            "a number above 0; 1 is off",
        ),
    ];
    match rules.into_iter().find(|(good, ..)| !good) {
        None => Ok(()),
        Some((_, name, found, expected)) => Err(Failure::usage(format!("--{name} {found}: expected {expected}"))),
    }
}

fn read_lines() -> Result<Vec<String>, Failure> {
    let lines: Result<Vec<String>, _> = std::io::stdin().lock().lines().collect();
    let lines = lines.map_err(|e| Failure::usage(format!("cannot read prompts from standard input: {e}")))?;
    if lines.is_empty() {
        return Err(Failure::usage("no prompts on standard input; expected one per line"));
    }
    Ok(lines)
}

fn render(model: &Model, prompt: &str, args: &GenerateArgs) -> Result<String, Failure> {
    if !args.chat {
        return Ok(prompt.to_owned());
    }
    let system = args.system.iter().map(|text| ChatMessage::new(ChatRole::System, text));
    let messages: Vec<ChatMessage> = system.chain([ChatMessage::new(ChatRole::User, prompt)]).collect();
    Ok(model.apply_chat_template(&messages, ChatOptions { add_generation_prompt: true })?)
}

/// Prints text as it comes.
fn stream(app: &App, model: &Model, prompt: &str, args: &GenerateArgs, sampling: &Sampling) -> Result<(), Failure> {
    let stop = args.sampling.stop.clone();
    let mut out = std::io::stdout();
    let mut broken = None;
    let request = Request::Generate { prompt: prompt.to_owned(), stop, sampling: sampling.clone() };
    let response = model.stream(&request, &mut |text| {
        broken = write!(out, "{}", visible(text)).and_then(|()| out.flush()).err();
        if broken.is_some() || app.interrupted() { Control::Stop } else { Control::Continue }
    })?;
    if let Some(error) = broken {
        return Err(Failure::work(format!("cannot print: {error}")));
    }
    if let Some(response) = &response {
        caveats(args.system.as_deref(), &request, response).iter().for_each(|caveat| app.note(caveat));
    }
    app.print("\n")?;
    if app.interrupted() {
        return Err(Failure::work("interrupted: the text is not finished").after_output());
    }
    Ok(())
}
