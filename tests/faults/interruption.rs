//! Signals in the middle of the work: what is answered is kept, and the next run goes on.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

use harness_test_support::{World, tasks, wait_until};
use serde_json::Value;

use super::world;

/// Documents of the long task; each is one request.
const DOCUMENTS: usize = 400;

const CALL: [&str; 7] = ["compare", "base", "a4", "-t", "toy_answer", "--batch-sequences", "1"];

/// A world whose generation task takes a while.
fn long() -> World {
    let world = world();
    world.write("tasks/toy_answer.jsonl", tasks::lines(&tasks::answer_rows(DOCUMENTS)));
    world.replace("tasks/toy_answer.yaml", "max_gen_toks: 12", "max_gen_toks: 40");
    world.replace("tasks/toy_answer.yaml", "until: [\"\\n\"]", "until: [\"</s>\"]");
    world
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().expect("kill");
    assert!(status.success(), "the process had ended before it was to be interrupted");
}

/// Everything that a finished comparison writes, to the byte, and what it prints; of the manifest all that a number depends
/// on, with its hash.
fn report_of(world: &World, call: &[&str]) -> Vec<(String, Vec<u8>)> {
    let outcome = world.run(&[call, &["--out", "report"]].concat()).expect(0);
    let files = ["md", "html", "tex", "csv", "json"].map(|end| format!("report/report.{end}"));
    let files = files.into_iter().chain(["svg", "png"].map(|end| format!("report/comparison.{end}")));
    let mut all: Vec<(String, Vec<u8>)> = files.map(|name| (name.clone(), world.bytes(&name))).collect();
    let mut manifest: Value = serde_json::from_str(&world.read("report/manifest.json")).unwrap();
    let run = manifest["manifest"]["run"].take();
    assert!(run["command"].is_array() && run["host"].is_object(), "{run}");
    all.push(("manifest".into(), manifest.to_string().into_bytes()));
    all.push(("output".into(), outcome.stdout.into_bytes()));
    all
}

fn report(world: &World) -> Vec<(String, Vec<u8>)> {
    report_of(world, &CALL)
}

#[track_caller]
fn assert_same(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)]) {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let text = String::from_utf8_lossy;
        assert!(found == expected, "{name} differs:\n{}\n--- undisturbed:\n{}", text(found), text(expected));
    }
}

#[test]
fn ctrl_c_keeps_what_is_answered() {
    let undisturbed = report(&long());
    let world = long();
    let child = world.start("first", &CALL);
    wait_until("some responses are stored", || world.stored() >= 20);
    signal(&child, "INT");
    let outcome =
        world.finish("first", child).expect(1).says(&["interrupted", "run the same command again to continue"]);
    assert_eq!(outcome.stdout, "", "no half report");
    let kept = world.stored();
    // Both models are asked together.
    let all = 2 * DOCUMENTS;
    assert!((20..all).contains(&kept), "{kept} responses are kept");
    assert!(outcome.stderr.contains(&format!("{kept} of {all} open requests")), "{}", outcome.stderr);

    assert_same(&report(&world), &undisturbed);
    assert_eq!(world.stored(), 2 * DOCUMENTS, "nothing is asked twice");
}

#[cfg(target_os = "linux")]
#[test]
fn weights_that_become_shorter_end_the_program() {
    use std::{
        fs::File,
        io::{BufRead as _, BufReader, Write as _},
        process::Stdio,
    };
    // Within its last page a map that shrank is read as zeros.
    for left in [|_| 0, |whole: u64| whole - 1] {
        let world = world();
        let mut command = world.command(&["chat", "base", "--max-new-tokens", "2"]);
        let mut chat =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
        let mut input = chat.stdin.take().unwrap();
        input.write_all(b"Hello\n").unwrap();
        let mut answer = String::new();
        BufReader::new(chat.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        let weights = File::options().write(true).open(world.path("models/base/model.safetensors")).unwrap();
        weights.set_len(left(weights.metadata().unwrap().len())).unwrap();
        input.write_all(b"And now?\n").unwrap();
        drop(input);
        let output = chat.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.ends_with("models/base/model.safetensors: the file became shorter while it was read\n"), "{said}");
    }
}

#[test]
fn kill_loses_at_most_what_was_in_flight() {
    let undisturbed = report(&long());
    let world = long();
    for (round, more) in [("first", 20), ("second", 3), ("third", 1), ("fourth", 37), ("fifth", 60)] {
        let mut child = world.start(round, &CALL);
        let before = world.stored();
        wait_until("some responses are stored", || world.stored() >= before + more);
        child.kill().unwrap();
        assert_eq!(world.finish(round, child).code, None, "ended by the signal");
    }
    let kept = world.stored();
    assert!(kept >= 80, "{kept} responses are kept");
    assert_same(&report(&world), &undisturbed);
    assert_eq!(world.stored(), 2 * DOCUMENTS, "nothing is asked twice");
}

/// Numbers that are the same in every run (Knuth's linear congruential generator).
struct Points(u64);

impl Points {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Half of the kills come from outside after some more responses, half at a byte within a write: the system ends a process
/// whose file grows beyond its limit, in the middle of the record that would. Each kill meets a run that resumes the last.
#[test]
fn a_hundred_kills_change_no_report() {
    let expected = report(&long());
    let mut points = Points(20_261_122);
    let world = long();
    for kill in 0..50 {
        let (name, more) = (format!("kill{kill}"), 1 + points.next(11));
        let before = world.stored();
        let mut child = world.start(&name, &CALL);
        wait_until("some responses are stored", || world.stored() >= before + more);
        child.kill().unwrap();
        assert_eq!(world.finish(&name, child).code, None, "ended by the signal");
    }
    let kept = world.stored();
    assert!((50..2 * DOCUMENTS).contains(&kept), "{kept} responses are kept");
    assert_same(&report(&world), &expected);

    let world = long();
    let mut torn = 0;
    for _ in 0..50 {
        let blocks = 1 + points.next(9);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -c 0; ulimit -f {blocks}; exec \"$0\" \"$@\""));
        command.arg(world.program()).args(CALL);
        world.surround(&mut command);
        let output = command.output().expect("a shell");
        assert_eq!(output.status.code(), None, "{}", String::from_utf8_lossy(&output.stderr));
        let last = world.segments().pop().map(|path| std::fs::read(path).unwrap()).unwrap_or_default();
        torn += usize::from(last.last().is_some_and(|&byte| byte != b'\n'));
    }
    let kept = world.stored();
    assert!((50..2 * DOCUMENTS).contains(&kept) && torn > 25, "{kept} responses are kept, {torn} writes were torn");
    assert_same(&report(&world), &expected);
}

/// Kills of a comparison that trains one of its models, each after some more checkpoints or responses.
#[test]
fn twenty_kills_of_training_and_evaluation_change_no_byte() {
    let call = ["compare", "base", "r4", "-t", "toy_answer,toy_choice"];
    let world = || {
        let world = long();
        world.write("data/instructions.jsonl", tasks::lines(&tasks::instruction_rows(200)));
        world.replace("recipes/r4.toml", "max_steps = 6", "max_steps = 60");
        world.replace("recipes/r4.toml", "eval_steps = 2", "eval_steps = 5\neval_samples = 8");
        world
    };
    let expected = report_of(&world(), &call);
    let world = world();
    let mut points = Points(20_261_128);
    let checkpoint = |world: &World| {
        let models = std::fs::read_dir(world.path(".harness/models")).into_iter().flatten().flatten();
        let files = models.flat_map(|model| std::fs::read_dir(model.path()).into_iter().flatten().flatten());
        let step = |name: String| name.strip_prefix("checkpoint-")?.parse().ok();
        files.filter_map(|file| step(file.file_name().to_string_lossy().into_owned())).max().unwrap_or(0_usize)
    };
    for kill in 0..20 {
        let name = format!("kill{kill}");
        let done = || checkpoint(&world) + world.stored();
        let (before, more) = (done(), if kill < 8 { 1 } else { 1 + points.next(30) });
        let mut child = world.start(&name, &call);
        wait_until("there is more", || done() >= before + more);
        child.kill().unwrap();
        assert_eq!(world.finish(&name, child).code, None, "ended by the signal");
        assert!(kill > 2 || !world.path("report").exists() && checkpoint(&world) < 60, "killed while it trains");
    }
    assert_same(&report_of(&world, &call), &expected);
}

#[test]
fn terminate_is_like_ctrl_c() {
    let world = long();
    let child = world.start("first", &CALL);
    wait_until("some responses are stored", || world.stored() >= 5);
    signal(&child, "TERM");
    world.finish("first", child).expect(1).says(&["interrupted"]);
}

/// The statistics of this comparison take many minutes: what is meant are two seconds, and the limit here is one for slow
/// machines.
#[test]
fn a_signal_ends_statistics_soon() {
    let world = world();
    for (model, factor) in [("m0", 7919), ("m1", 104_729)] {
        let row = |doc: u32| format!("{{\"id\": {doc}, \"score\": {}}}\n", f64::from(doc * factor % 1000) / 1000.0);
        world.write(&format!("{model}.jsonl"), (1..=3_000).map(row).collect::<String>());
        world.run(&["import", "jsonl", &format!("{model}.jsonl"), "--name", model, "--task", "t"]).expect(0);
    }
    world.write("harness.toml", "[compare]\nresamples = 3000000\n");
    let child = world.start("first", &["compare", "m0", "m1"]);
    wait_until("the statistics are told of", || world.read("first.err").contains("compare ..."));
    let told = Instant::now();
    signal(&child, "TERM");
    let outcome = world.finish("first", child).expect(1);
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
    assert_eq!(outcome.stdout, "", "no half report");
    outcome.says(&["interrupted", "what is done is kept", "run the same command again"]);
}

#[test]
fn ctrl_c_ends_a_generation_with_what_there_is() {
    let world = world();
    let call = ["generate", "base", "-p", "Anna has", "--max-new-tokens", "500"];
    let whole = world.run(&call).expect(0).stdout;
    let child = world.start("first", &call);
    wait_until("some text is printed", || world.read("first.out").len() > 5);
    // The process may be done by now; then the text is whole, which is as good.
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).output();
    let outcome = world.finish("first", child);
    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
    let text = outcome.stdout.trim_end_matches('\n');
    assert!(whole.starts_with(text), "{:?}", outcome.stdout);
    if text != whole.trim_end_matches('\n') {
        assert_eq!(outcome.code, Some(1), "half a text is no success");
        assert!(outcome.stderr.contains("interrupted"), "{}", outcome.stderr);
    }
}
