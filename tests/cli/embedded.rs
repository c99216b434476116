//! The default experiment of the repository.

use std::process::Command;

use harness_test_support::{World, workspace_root};

use super::PROGRAM;

/// Runs the README's first command on a few documents, with a home and a number of threads of its own.
fn compare(threads: &str) -> String {
    let home = World::empty(PROGRAM);
    let mut command = Command::new(PROGRAM);
    command.args(["compare", "base", "r8", "r32", "--limit", "4"]);
    home.surround(&mut command);
    command.env("RAYON_NUM_THREADS", threads).env("HARNESS_HOME", home.folder()).current_dir(workspace_root());
    let output = command.output().expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_first_command_prints_the_same_with_any_number_of_threads() {
    if !workspace_root().join("models/tiny/model.safetensors").is_file() {
        return;
    }
    let one = compare("1");
    for word in ["tiny_mmlu", "tiny_arc", "tiny_gsm8k", "tiny_summary", "base", "r8", "r32"] {
        assert!(one.contains(word), "{word}:\n{one}");
    }
    assert_eq!(compare("2"), one);
}
