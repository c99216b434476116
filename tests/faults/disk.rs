//! Places that cannot be written.

use std::process::Command;

use harness_test_support::{Outcome, World};

use super::world;

#[test]
fn a_file_where_the_reports_should_go() {
    let world = world();
    world.write("report", "mine");
    let outcome = world.run(&["compare", "base", "a4", "--out", "report"]).expect(1);
    outcome.says(&["report"]);
    world.run(&["run", "base", "--out", "report"]).expect(1).says(&["report"]);
    assert_eq!(world.read("report"), "mine");
    // The answers are kept: another place is all it takes.
    let stored = world.stored();
    world.run(&["compare", "base", "a4", "--out", "elsewhere", "--from-store"]).expect(0);
    assert_eq!(world.stored(), stored);
}

#[test]
fn a_file_where_the_store_should_be() {
    let world = world();
    world.write(".harness", "mine");
    let outcome = world.run(&["run", "base", "-t", "toy_choice"]);
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    outcome.says(&[".harness"]);
    assert_eq!(world.read(".harness"), "mine");
}

#[test]
fn a_file_where_an_adapter_should_go() {
    let world = world();
    world.write("mine", "mine");
    world.run(&["train", "r4", "--out", "mine"]).expect(2).says(&["mine", "is a file"]);
    assert_eq!(world.read("mine"), "mine");
    world.run(&["train", "r4", "--out", "mine/below"]).expect(1).says(&["mine/below"]);
}

#[test]
fn a_file_where_a_folder_of_golden_metrics_should_be() {
    let world = world();
    world.run(&["compare", "base", "a4", "-t", "toy_choice", "--out", "report"]).expect(0);
    world.write("golden", "mine");
    world.run(&["golden", "accept", "report", "--golden", "golden/metrics.json"]).expect(1).says(&["golden"]);
    assert_eq!(world.read("golden"), "mine");
}

/// Runs the program where no file may grow beyond some blocks of 512 bytes, as on a full disk.
fn with_small_files(world: &World, blocks: usize, args: &[&str]) -> Outcome {
    let mut command = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(world.program()).args(args);
    world.surround(&mut command);
    Outcome::new(&command.output().expect("a shell"))
}

#[test]
fn a_full_disk_in_the_middle_of_an_evaluation() {
    let undisturbed = world().run(&["run", "base"]).expect(0);
    let world = world();
    let outcome = with_small_files(&world, 8, &["run", "base"]).expect(1);
    outcome.says(&[".harness/store", "the next run continues from there"]);
    let kept = world.stored();
    assert!(kept > 0 && kept < 60, "{kept} responses are kept");
    let rest = world.run(&["run", "base"]).expect(0);
    assert_eq!(rest.stdout, undisturbed.stdout);
    assert!(world.stored() <= 60, "what was kept is not asked again: {}", world.stored());
}

#[test]
fn a_full_disk_in_the_middle_of_a_training() {
    let undisturbed = world();
    let folder = undisturbed.run(&["train", "r4", "--out", "mine"]).expect(0).stdout;
    let expected = undisturbed.bytes(&format!("{}/adapter_model.safetensors", folder.trim()));
    let world = world();
    with_small_files(&world, 8, &["train", "r4", "--out", "mine"]).expect(1).says(&["mine"]);
    assert!(!world.path("mine/adapter_model.safetensors").exists(), "nothing half");
    world.run(&["train", "r4", "--out", "mine"]).expect(0);
    assert!(world.bytes("mine/adapter_model.safetensors") == expected);
}
