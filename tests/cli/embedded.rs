//! The default experiment of the repository.

use std::{fs, process::Command};

use harness_test_support::{World, workspace_root};

use super::PROGRAM;

/// Runs the README's first command on a few documents, with a number of threads of its own.
fn compare(home: &World, threads: &str) -> String {
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
    let home = World::empty(PROGRAM);
    let two = compare(&home, "2");
    for word in ["tiny_mmlu", "tiny_arc", "tiny_gsm8k", "tiny_summary", "base", "r8", "r32"] {
        assert!(two.contains(word), "{word}:\n{two}");
    }
    // The adapters stay, every answer is asked for again.
    fs::remove_dir_all(home.path("store")).expect("the store of the first run");
    assert_eq!(compare(&home, "1"), two);
}
