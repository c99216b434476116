//! The `harness` program: parse, call, map errors to exit codes.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = harness::cli::Cli::parse();
    let json = cli.global.json;
    match harness::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            harness::commands::report_failure(&failure, json);
            failure.exit_code()
        }
    }
}
