//! `--help` of the program and of every command.

use super::{snapshot, world};

fn help(name: &str, command: &[&str]) {
    let call: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
    let outcome = world().run(&call).expect(0);
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 100), "{}", outcome.stdout);
    snapshot(name, &outcome.stdout);
}

#[test]
fn of_the_program() {
    help("help", &[]);
}

#[test]
fn of_evaluation() {
    help("help_compare", &["compare"]);
    help("help_run", &["run"]);
    help("help_judge", &["judge"]);
}

#[test]
fn of_training() {
    help("help_train", &["train"]);
}

#[test]
fn of_text() {
    help("help_generate", &["generate"]);
    help("help_chat", &["chat"]);
    help("help_serve", &["serve"]);
    help("help_bench_serve", &["bench", "serve"]);
}

#[test]
fn of_tasks() {
    help("help_tasks", &["tasks"]);
    help("help_tasks_list", &["tasks", "list"]);
    help("help_tasks_show", &["tasks", "show"]);
    help("help_tasks_check", &["tasks", "check"]);
}

#[test]
fn of_models() {
    help("help_models", &["models"]);
    help("help_models_list", &["models", "list"]);
    help("help_models_show", &["models", "show"]);
    help("help_models_merge", &["models", "merge"]);
}

#[test]
fn of_golden() {
    help("help_golden", &["golden"]);
    help("help_golden_check", &["golden", "check"]);
    help("help_golden_accept", &["golden", "accept"]);
}

#[test]
fn version_is_that_of_the_package() {
    let outcome = world().run(&["--version"]).expect(0);
    assert_eq!(outcome.stdout, format!("harness {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn no_command_is_a_wrong_call() {
    let outcome = world().run::<&str>(&[]).expect(2);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("Usage: harness"), "{}", outcome.stderr);
}
