//! `harness generate`.

use std::io::{BufRead as _, Write as _};

use harness_core::{ChatMessage, ChatOptions, ChatRole, Control, LanguageModel as _, Output, Request, Response};
use harness_engine::{Limits, LocalModel};
use serde_json::json;

use super::{
    App, Failure,
    load::{Loader, Missing},
};
use crate::cli::GenerateArgs;

/// Runs `harness generate`.
///
/// # Errors
/// If the model cannot be loaded or refuses a prompt.
pub(super) fn generate(app: &App, args: &GenerateArgs) -> Result<(), Failure> {
    let resolved = app.experiment.model(&args.model)?;
    let ready = Loader::new(app, Limits::default()).load(&resolved, Missing::Refuse)?;
    let prompts = if args.prompt == "-" { read_lines()? } else { vec![args.prompt.clone()] };
    let rendered: Vec<String> =
        prompts.iter().map(|prompt| render(&ready.model, prompt, args)).collect::<Result<_, _>>()?;
    if let ([prompt], false) = (&rendered[..], app.global.json) {
        return stream(app, &ready.model, prompt, args);
    }
    let requests: Vec<Request> = rendered
        .iter()
        .map(|prompt| Request::Generate {
            prompt: prompt.clone(),
            stop: args.sampling.stop.clone(),
            sampling: args.sampling.sampling(),
        })
        .collect();
    let bar = app.progress().bar("generate", requests.len() as u64);
    let mut responses: Vec<Option<Response>> = vec![None; requests.len()];
    ready.model.answer(&requests, &mut |index, response| {
        responses[index] = Some(response);
        bar.step();
        if app.interrupted() { Control::Stop } else { Control::Continue }
    })?;
    bar.finish(&format!("{} prompts", requests.len()));
    if app.global.json {
        let completions: Vec<_> = prompts
            .iter()
            .zip(&rendered)
            .zip(&responses)
            .map(|((prompt, rendered), response)| json!({ "prompt": prompt, "rendered": rendered, "response": response }))
            .collect();
        return app.output(&json!({ "model": ready.name, "completions": completions }), String::new);
    }
    for response in responses.into_iter().flatten() {
        if let Output::Text { text, .. } = response.output {
            app.print(text.replace('\n', "\\n"))?;
        }
    }
    Ok(())
}

fn read_lines() -> Result<Vec<String>, Failure> {
    let lines: Result<Vec<String>, _> = std::io::stdin().lock().lines().collect();
    let lines = lines.map_err(|e| Failure::usage(format!("cannot read prompts from standard input: {e}")))?;
    if lines.is_empty() {
        return Err(Failure::usage("no prompts on standard input; expected one a line"));
    }
    Ok(lines)
}

fn render(model: &LocalModel, prompt: &str, args: &GenerateArgs) -> Result<String, Failure> {
    if !args.chat {
        return Ok(prompt.to_owned());
    }
    let system = args.system.iter().map(|text| ChatMessage::new(ChatRole::System, text));
    let messages: Vec<ChatMessage> = system.chain([ChatMessage::new(ChatRole::User, prompt)]).collect();
    Ok(model.apply_chat_template(&messages, ChatOptions { add_generation_prompt: true })?)
}

/// Prints text as it comes.
fn stream(app: &App, model: &LocalModel, prompt: &str, args: &GenerateArgs) -> Result<(), Failure> {
    let sampling = &args.sampling;
    // Stop strings are cut from the finished text only, so with them the text is printed at the end.
    let live = sampling.stop.is_empty();
    let mut out = std::io::stdout();
    let mut broken = None;
    let response = model.stream(prompt, &sampling.stop, &sampling.sampling(), &mut |text| {
        if live {
            broken = write!(out, "{text}").and_then(|()| out.flush()).err();
        }
        if broken.is_some() || app.interrupted() { Control::Stop } else { Control::Continue }
    })?;
    if let Some(error) = broken {
        return Err(Failure::work(format!("cannot print: {error}")));
    }
    match response.output {
        Output::Text { text, .. } if !live => app.print(text),
        _ => app.print("\n"),
    }
}
