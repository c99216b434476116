//! The `harness` program: parse, call, map errors to exit codes.

use std::process::ExitCode;

use harness::{
    Failure,
    cli::Cli,
    commands::{report_failure, run, watch_maps},
    core::is_hidden,
};

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            let json = std::env::args_os().any(|argument| argument == "--json");
            // Help and version are no failures. After a wrong call nobody knows which flags hold, so look for the word.
            // clap prints in colour, and repeats what it was given as it is.
            if !error.use_stderr() || !(json || text.chars().any(is_hidden)) {
                error.exit();
            }
            let failure = Failure::usage(text.trim_start_matches("error: ").trim_end());
            report_failure(&failure, json);
            return failure.exit_code();
        }
    };
    let json = cli.global.json;
    watch_maps(json);
    harness_core::watch_panics();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report_failure(&failure, json);
            failure.exit_code()
        }
    }
}
