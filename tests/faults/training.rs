//! Trainings that go wrong or are ended.

use std::process::Command;

use harness_test_support::{World, tasks, wait_until};

use super::world;

const WEIGHTS: &str = "mine/adapter_model.safetensors";

/// A world whose recipe takes a while and saves often.
fn long() -> World {
    let world = world();
    world.write("data/instructions.jsonl", tasks::lines(&tasks::instruction_rows(300)));
    world.replace("recipes/r4.toml", "max_steps = 6", "max_steps = 160");
    world.replace("recipes/r4.toml", "eval_steps = 2", "eval_steps = 10\neval_samples = 8");
    world
}

const CALL: [&str; 4] = ["train", "r4", "--out", "mine"];

fn checkpoints(world: &World) -> Vec<u64> {
    let entries = std::fs::read_dir(world.path("mine")).into_iter().flatten().flatten();
    let mut steps: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let world = world();
    world.replace(
        "recipes/r4.toml",
        "learning_rate = 1e-3",
        "learning_rate = 1e30\nwarmup_ratio = 0.5\nmax_grad_norm = 0.0",
    );
    world.replace("recipes/r4.toml", "eval_steps = 2", "eval_steps = 1");
    let outcome = world.run(&CALL).expect(1).says(&["not finite at step", "is kept", "learning_rate"]);
    assert_eq!(outcome.stdout, "");
    let kept = checkpoints(&world);
    assert!(!kept.is_empty(), "a checkpoint from before is kept");
    assert!(
        outcome.stderr.contains(&format!("the checkpoint of step {} is kept", kept[kept.len() - 1])),
        "{outcome:?}"
    );
    assert!(!world.path(WEIGHTS).exists() && !world.path("mine/training.json").exists(), "it is not finished");
    let checkpoint = format!("mine/checkpoint-{}", kept[kept.len() - 1]);
    world.run(&["generate", &checkpoint, "-p", "Anna", "--max-new-tokens", "2"]).expect(0);
    let object = world.run(&[&CALL[..], &["--json"]].concat()).expect(1).json();
    assert_eq!(object["exit_code"], 1);
}

#[test]
fn a_comparison_whose_training_fails_reports_it() {
    let world = world();
    world.replace("recipes/r4.toml", "learning_rate = 1e-3", "learning_rate = 1e30\nmax_grad_norm = 0.0");
    let outcome = world.run(&["compare", "base", "r4", "-t", "toy_choice"]).expect(1);
    assert_eq!(outcome.stdout, "");
    outcome.says(&["not finite at step"]);
}

#[test]
fn kill_and_resume_give_the_same_bytes() {
    let undisturbed = long();
    undisturbed.run(&CALL).expect(0);
    let world = long();
    let mut child = world.start("first", &CALL);
    wait_until("a checkpoint is written", || checkpoints(&world).iter().any(|&step| step >= 10));
    child.kill().unwrap();
    assert_eq!(world.finish("first", child).code, None, "ended by the signal");
    assert!(!world.path("mine/training.json").exists(), "it was killed in the middle");

    world.run(&["train", "r4", "--out", "mine", "--resume"]).expect(0);
    assert!(world.bytes(WEIGHTS) == undisturbed.bytes(WEIGHTS));
    let losses = |world: &World| -> Vec<(u64, String)> {
        let text = world.read("mine/metrics.jsonl");
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| (line["step"].as_u64().unwrap(), format!("{} {}", line["loss"], line["eval_loss"]))).collect()
    };
    assert_eq!(losses(&world), losses(&undisturbed), "the log has no gap and nothing twice");
}

#[test]
fn ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on() {
    let undisturbed = long();
    undisturbed.run(&CALL).expect(0);
    let world = long();
    let child = world.start("first", &CALL);
    wait_until("a checkpoint is written", || !checkpoints(&world).is_empty());
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let outcome = world
        .finish("first", child)
        .expect(1)
        .says(&["interrupted after update", "run the same command again to continue"]);
    let last = *checkpoints(&world).last().unwrap();
    assert!(outcome.stderr.contains(&format!("interrupted after update {last} of 160")), "{}", outcome.stderr);
    world.run(&CALL).expect(0);
    assert!(world.bytes(WEIGHTS) == undisturbed.bytes(WEIGHTS));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let world = world();
    world.run(&[&CALL[..], &["--max-steps", "4"]].concat()).expect(0);
    std::fs::remove_file(world.path("mine/training.json")).unwrap();
    world.replace("recipes/r4.toml", "learning_rate = 1e-3", "learning_rate = 2e-3");
    let before = world.bytes(WEIGHTS);
    world.run(&[&CALL[..], &["--resume"]].concat()).expect(2).says(&["mine/checkpoint-", "belongs to another run"]);
    assert!(world.bytes(WEIGHTS) == before);
}

#[test]
fn a_broken_checkpoint_is_named() {
    let world = world();
    world.run(&CALL).expect(0);
    std::fs::remove_file(world.path("mine/training.json")).unwrap();
    let last = *checkpoints(&world).last().unwrap();
    let file = format!("mine/checkpoint-{last}/optimizer.safetensors");
    let bytes = world.bytes(&file);
    world.write(&file, &bytes[..bytes.len() / 2]);
    world.run(&[&CALL[..], &["--resume"]].concat()).expect(2).says(&[&file, "broken"]);
}

/// A template that passes a limit, of instructions or on a busy machine of time, passes it in every row: the first one
/// ends the work.
#[test]
fn a_template_of_training_data_without_end_ends() {
    let world = world();
    world.write("data/instructions.jsonl", tasks::lines(&tasks::instruction_rows(2_000)));
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    let template =
        format!("columns = [\"instruction\"]\nprompt = \"{endless}\"\ncompletion = \"{{{{ response }}}}\"\n");
    world.write("recipes/endless.toml", template);
    world.replace("recipes/r4.toml", "template = \"instruction\"", "template = \"endless.toml\"");
    for more in ["", "unusable_rows = \"drop\"\n"] {
        world.replace("recipes/r4.toml", "max_length = 256\n", &format!("max_length = 256\n{more}"));
        let outcome = world.run(&CALL).expect(2);
        outcome.says(&["instructions.jsonl: line ", "endless.toml, prompt: line 1: ", "(limits.template_"]);
    }
    assert!(!world.path("mine").exists(), "nothing is written");
}

#[test]
fn rows_that_are_wrong_are_named() {
    let world = world();
    let mut lines: Vec<String> = tasks::instruction_rows(20).iter().map(ToString::to_string).collect();
    lines[6] = "{\"instruction\": ".into();
    world.write("data/instructions.jsonl", lines.join("\n"));
    world.run(&CALL).expect(2).says(&["instructions.jsonl", "line 7"]);
    world.write("data/instructions.jsonl", "");
    world.run(&CALL).expect(2).says(&["instructions.jsonl"]);
    world.write("data/instructions.jsonl", tasks::lines(&tasks::answer_rows(20)));
    world.run(&CALL).expect(2).says(&["instructions.jsonl", "instruction"]);
    assert!(!world.path("mine").exists(), "nothing is written");
}
