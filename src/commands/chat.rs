//! `harness chat`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Control, Output, Request, canonical_json, split_thinking_after, visible,
    visible_json,
};
use harness_evaluation::{
    models::{Loader, Missing},
    training::ensure_trained,
};
use serde_json::json;

use super::{
    App, Failure,
    generate::{caveats, check_sampling},
};
use crate::{cli::ChatArgs, options};

/// Runs `harness chat`: reads messages from standard input until it ends, or `/exit`; `/reset` forgets them. With `--json`
/// every answer is an object on a line.
///
/// # Errors
/// If the model cannot be loaded, or has no chat template.
pub(super) fn chat(app: &App, args: &ChatArgs) -> Result<(), Failure> {
    check_sampling(&args.sampling)?;
    let resolved = app.experiment.model(&args.model)?.asked(&options::prompts(&args.texts)?);
    let ready = Loader::new(app, app.device.limits(), ensure_trained).for_a_look().load(&resolved, Missing::Refuse)?;
    let (model, sampling) = (ready.model, args.sampling.sampling(ready.think_end_token.as_deref()));
    if !model.capabilities().chat {
        return Err(Failure::usage(format!(
            "{} has no chat template; `harness generate` continues plain text",
            args.model
        )));
    }
    let system: Vec<ChatMessage> = args.system.iter().map(|text| ChatMessage::new(ChatRole::System, text)).collect();
    let mut messages = system.clone();
    let terminal = std::io::stdin().is_terminal();
    let prompt = || {
        if terminal {
            let _ = write!(std::io::stderr(), "> ").and_then(|()| std::io::stderr().flush());
        }
    };
    let mut lines = std::io::stdin().lock().lines();
    loop {
        prompt();
        let Some(line) = app.wait(|| lines.next()) else { break };
        let line = line.map_err(|e| Failure::work(format!("cannot read standard input: {e}")))?;
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => messages.clone_from(&system),
            text => {
                messages.push(ChatMessage::new(ChatRole::User, text));
                let rendered = model.apply_chat_template(&messages, ChatOptions { add_generation_prompt: true })?;
                let stop = args.sampling.stop.clone();
                let request = Request::Generate { prompt: rendered.clone(), stop, sampling: sampling.clone() };
                let mut out = std::io::stdout();
                let response = model.stream(&request, &mut |text| {
                    if !app.global.json {
                        let _ = write!(out, "{}", visible(text)).and_then(|()| out.flush());
                    }
                    if app.interrupted() { Control::Stop } else { Control::Continue }
                })?;
                if let Some(response) = response {
                    let caveats = caveats(args.system.as_deref(), &request, &response);
                    if app.global.json {
                        let said =
                            json!({"prompt": text, "rendered": rendered, "response": response, "caveats": caveats});
                        app.print(visible_json(&canonical_json(&said)))?;
                    } else {
                        app.print("\n")?;
                        caveats.iter().for_each(|caveat| app.note(caveat));
                    }
                    if let Output::Text { text, .. } = response.output {
                        // What the model thought before is not sent back to it, as its own template leaves it out.
                        let answer = split_thinking_after(&rendered, &text).answer().trim();
                        messages.push(ChatMessage::new(ChatRole::Assistant, answer));
                    }
                }
            }
        }
        if app.interrupted() {
            return Err(Failure::work("interrupted").after_output());
        }
    }
    Ok(())
}
