//! What the commands do, one file a command.

mod app;
mod audit;
mod bench;
mod chat;
mod compare;
mod data;
mod explain;
mod flips;
mod generate;
mod golden;
mod import;
mod judge;
mod launch;
mod models;
mod plan;
mod print;
mod progress;
mod report;
mod run;
mod serve;
mod stopping;
mod stored_report;
mod tasks;
mod train;
mod verify;

use std::io::{IsTerminal as _, Write as _};

use harness_core::{visible, visible_json};
use harness_kernels::{ShrunkenMap, end_where_maps_shrink};

use crate::{
    cli::{Cli, Command},
    failure::Failure,
};
use app::App;

/// Runs a command.
///
/// # Errors
/// The one thing that went wrong, with the exit code that stands for it.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let app = App::new(cli.global)?;
    match cli.command {
        Command::Compare(args) => compare::compare(&app, &args),
        Command::Judge(args) => judge::judge(&app, &args),
        Command::Run(args) => run::run(&app, &args),
        Command::Train(args) => train::train(&app, &args),
        Command::Data(args) => data::data(&app, &args),
        Command::Generate(args) => generate::generate(&app, &args),
        Command::Chat(args) => chat::chat(&app, &args),
        Command::Serve(args) => serve::serve(&app, &args),
        Command::Bench(args) => bench::bench(&app, &args),
        Command::Tasks(args) => tasks::tasks(&app, &args),
        Command::Models(args) => models::models(&app, &args),
        Command::Golden(args) => golden::golden(&app, &args),
        Command::Audit(args) => audit::audit(&app, &args),
        Command::Import(args) => import::import(&app, &args),
        Command::Explain(args) => explain::explain(&app, &args),
        Command::Verify(args) => verify::verify(&app, &args),
        Command::Report(args) => report::report(&app, &args),
    }
}

/// From now on a mapped file that becomes shorter while it is read ends the program with a message, as
/// [`report_failure`] tells one, and exit code 2.
pub fn watch_maps(json: bool) {
    let (output, before, after) = match json {
        true => (1, "{\"error\":\"", ": the file became shorter while it was read\",\"exit_code\":2}\n"),
        // Behind a bar that is drawn.
        false if std::io::stderr().is_terminal() => (2, "\nerror: ", ": the file became shorter while it was read\n"),
        false => (2, "error: ", ": the file became shorter while it was read\n"),
    };
    end_where_maps_shrink(ShrunkenMap { output, before, after, code: 2 });
}

/// Tells a failure, unless another process does: as text on standard error, or as a JSON object on standard output where none was printed yet.
pub fn report_failure(failure: &Failure, json: bool) {
    if failure.message().is_empty() {
        return;
    }
    if json && !failure.follows_output() {
        let object = serde_json::json!({ "error": failure.message(), "exit_code": failure.code() });
        let _ = writeln!(std::io::stdout(), "{}", visible_json(&object.to_string()));
    } else {
        let _ = writeln!(std::io::stderr(), "error: {}", visible(failure.message()));
    }
}
