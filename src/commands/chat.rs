//! `harness chat`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use harness_core::{ChatMessage, ChatOptions, ChatRole, Control, Output, split_thinking_after};

use super::{
    App, Failure,
    generate::check_sampling,
    load::{Loader, Missing},
};
use crate::cli::ChatArgs;

/// Runs `harness chat`: reads messages from standard input until it ends, or `/exit`; `/reset` forgets them.
///
/// # Errors
/// If the model cannot be loaded, or has no chat template.
pub(super) fn chat(app: &App, args: &ChatArgs) -> Result<(), Failure> {
    check_sampling(&args.sampling)?;
    let resolved = app.experiment.model(&args.model)?;
    let ready = Loader::new(app, app.device.limits()).load(&resolved, Missing::Refuse)?;
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
                let mut out = std::io::stdout();
                let response = model.stream(&rendered, &args.sampling.stop, &sampling, &mut |text| {
                    let _ = write!(out, "{text}").and_then(|()| out.flush());
                    if app.interrupted() { Control::Stop } else { Control::Continue }
                })?;
                app.print("\n")?;
                if let Some(Output::Text { text, .. }) = response.map(|response| response.output) {
                    // What the model thought before is not sent back to it, as its own template leaves it out.
                    let answer = split_thinking_after(&rendered, &text).answer().trim();
                    messages.push(ChatMessage::new(ChatRole::Assistant, answer));
                }
            }
        }
        if app.interrupted() {
            return Err(Failure::work("interrupted").after_output());
        }
    }
    Ok(())
}
