//! The command line through the binary: what it prints, where, and with which exit code. Snapshots lie in golden/cli.

mod chat;
mod compare;
mod data;
mod embedded;
mod errors;
mod experiment;
mod generate;
mod golden;
mod help;
mod imports;
mod models;
mod outside;
mod prompts;
mod run;
mod serve;
#[path = "../../crates/http/tests/server/mod.rs"]
mod server;
mod statistics;
mod tasks;
mod train;

use harness_test_support::{World, workspace_root};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_harness");

fn world() -> World {
    World::new(PROGRAM)
}

/// Compares text with the snapshot of this name; what differs between machines and runs is replaced before.
fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(workspace_root().join("golden/cli"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(r"\(\d+\.\d s\)", "([TIME])");
    // What takes longer than a second says so where nobody sees a bar.
    settings.add_filter(r"(?m)^! .* \.\.\. \(\d+ s\)\n", "");
    settings.add_filter(r"\d+\.\d a second", "[RATE] a second");
    settings.add_filter(r"\d+ tokens/s", "[RATE] tokens/s");
    settings.add_filter(r"(memory +)\d+ MiB", "${1}[MEMORY]");
    settings.add_filter(r"(time +)\d+ s", "${1}[TIME]");
    settings.add_filter(r"-[0-9a-f]{8,}\b", "-[HASH]");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Runs calls one after the other and compares all they say with a snapshot.
fn snapshot_of_calls(name: &str, world: &World, calls: &[&[&str]]) {
    let text: Vec<String> = calls.iter().map(|call| world.hide_path(&world.run(call).transcript(call))).collect();
    snapshot(name, &text.join("\n"));
}
