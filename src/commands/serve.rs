//! `harness serve`.

use std::time::Duration;

use harness_engine::Placement;
use harness_evaluation::{
    models::{Loader, Missing, Model, Ready},
    training::ensure_trained,
};
use harness_server::{ServedModel, Server, ServerKey, ServerOptions};
use serde_json::json;

use super::{App, Failure};
use crate::{cli::ServeArgs, options};

/// Variable that holds the key which requests must name.
const KEY: &str = "HARNESS_API_KEY";

/// Runs `harness serve`: answers requests until Ctrl-C or SIGTERM, and then what is in flight.
///
/// # Errors
/// If a model cannot be loaded or is behind a server itself, or the address cannot be listened on.
pub(super) fn serve(app: &App, args: &ServeArgs) -> Result<(), Failure> {
    let options = server_options(args, app.device)?;
    let texts = options::prompts(&args.texts)?;
    let mut loader = Loader::new(app, options::limits(&args.limits, app.device)?, ensure_trained).for_a_look();
    let mut models = vec![];
    for name in &args.models {
        let resolved = app.experiment.model(name)?.asked(&texts);
        models.push(served(loader.load(&resolved, Missing::Refuse)?)?);
    }
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    // Whoever asks the program to end waits for the answers that are in flight: they are unsaved to its end.
    std::mem::forget(app.stop().unsaved());
    let mut told = Ok(());
    let ready = |address| {
        let url = format!("http://{address}/v1");
        let line = match app.global.json {
            true => json!({"url": url, "models": names}).to_string(),
            false => format!("{} served at {url}", names.join(", ")),
        };
        told = app.print(line);
        // Nobody who started it knows its address.
        if told.is_err() {
            app.stop().request();
        }
    };
    Server::new(models, options)?.run(app.stop(), ready)?;
    told
}

fn served(ready: Ready) -> Result<ServedModel, Failure> {
    let Ready { name, model, base, think_end_token: think_end, .. } = ready;
    match model {
        Model::Local(model) => Ok(ServedModel { name, model: *model, base, think_end }),
        Model::Remote(_) | Model::Given(_) => {
            Err(Failure::usage(format!("{name} is behind a server already; expected a model on this machine")))
        }
    }
}

fn server_options(args: &ServeArgs, device: Placement) -> Result<ServerOptions, Failure> {
    options::at_least_one(&[
        ("--queue", Some(args.queue)),
        ("--timeout", Some(args.timeout as usize)),
        ("--max-body", Some(args.max_body)),
        ("--prompt-tokens", args.prompt_tokens),
    ])?;
    let usual = if device == Placement::Cpu { 256 } else { 2048 };
    let key = match std::env::var_os(KEY) {
        None => None,
        Some(key) => Some(key.to_str().and_then(ServerKey::new).ok_or_else(|| {
            Failure::usage(format!("{KEY} is empty or has characters that a header cannot hold; unset it for no key"))
        })?),
    };
    Ok(ServerOptions {
        host: args.host.clone(),
        port: args.port,
        key,
        body_bytes: args.max_body << 20,
        queue: args.queue,
        patience: Duration::from_secs(args.timeout),
        prompt_tokens: args.prompt_tokens.unwrap_or(usual),
    })
}
