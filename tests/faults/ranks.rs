//! Several ranks as real processes: what one does when another dies, and when they do not fit.

use std::{
    io::Read as _,
    net::TcpListener,
    process::{Child, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use harness_test_support::{Outcome, World, tasks, wait_until};

use super::world;

/// A world whose recipe can be shared by two ranks, takes a while and saves often.
fn long() -> World {
    let world = world();
    world.write("data/instructions.jsonl", tasks::lines(&tasks::instruction_rows(300)));
    world.replace("recipes/r4.toml", "max_steps = 6", "max_steps = 2000");
    world.replace("recipes/r4.toml", "eval_steps = 2", "save_steps = 5");
    world.replace("recipes/r4.toml", "batch_size = 2", "batch_size = 1\ngradient_accumulation_steps = 4");
    world
}

/// A port that no other test is given and that no connection takes by chance: systems draw those from 32768 on.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 20_000 + (std::process::id() as u16 % 600) * 20 + NEXT.fetch_add(1, Ordering::Relaxed) % 20;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Two ranks as a launcher would start them, each with its own arguments.
fn ranks(world: &World, calls: [&[&str]; 2]) -> [Child; 2] {
    let port = port();
    [0, 1].map(|rank| {
        let mut command = world.command(calls[rank]);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", rank.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).env("RAYON_NUM_THREADS", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program")
    })
}

fn end(child: Child) -> Outcome {
    Outcome::new(&child.wait_with_output().expect("its end"))
}

#[test]
fn a_killed_rank_ends_the_others_with_its_error() {
    for sharding in ["none", "fsdp"] {
        let world = long();
        let call = ["train", "r4", "--out", "mine", "--quiet", "--sharding", sharding];
        let [mut first, mut second] = ranks(&world, [&call, &call]);
        let checkpoint = world.path("mine/checkpoint-5");
        wait_until("a checkpoint is written", || {
            checkpoint.exists() || first.try_wait().is_ok_and(|end| end.is_some())
        });
        assert!(checkpoint.exists(), "a rank has ended: {}", end(first).stderr);
        second.kill().expect("it was running");
        second.wait().expect("its end");
        // It ends by itself, because it notices; nothing else ends it.
        let outcome = end(first).expect(1).says(&["rank 1: is gone"]);
        assert_eq!(outcome.stdout, "", "no result");
        assert!(!world.path("mine/training.json").exists(), "{sharding}: it is not finished");
    }
}

#[test]
fn ranks_end_with_the_one_that_started_them() {
    let world = long();
    let mut command = world.command(&["train", "r4", "--out", "mine", "--nproc", "2"]);
    let mut starter = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
    let checkpoint = world.path("mine/checkpoint-5");
    wait_until("a checkpoint is written", || checkpoint.exists() || starter.try_wait().is_ok_and(|end| end.is_some()));
    assert!(checkpoint.exists(), "the ranks have ended: {}", end(starter).stderr);
    starter.kill().expect("it was running");
    starter.wait().expect("its end");
    // Both ranks hold the other end, so that there is an end only once both have ended.
    let mut said = String::new();
    starter.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(said.contains("interrupted after update"), "{said}");
    assert!(!world.path("mine/training.json").exists(), "they were in the middle");
}

#[test]
fn ranks_that_are_not_about_to_do_the_same_are_refused() {
    let world = long();
    let call = ["train", "r4", "--out", "mine", "--quiet"];
    let other = [&call[..], &["--set", "training.learning_rate=0.5"]].concat();
    let outcomes = ranks(&world, [&call, &other]).map(end);
    for outcome in outcomes {
        outcome.expect(2).says(&["rank 1 has recipe and data", "rank 0 has", "same files and options"]);
    }
    assert!(!world.path("mine").exists(), "nothing is written");
}

#[test]
fn numbers_of_ranks_that_do_not_divide_the_work_are_refused() {
    let world = long();
    let outcome = world.run(&["train", "r4", "--out", "mine", "--nproc", "3"]).expect(2);
    outcome.says(&["training.gradient_accumulation_steps", "multiple of the 3 ranks", "can be 1, 2, 4"]);
    assert!(!world.path("mine").exists(), "nothing is written");
}

#[test]
fn sharding_and_launchers_change_no_byte() {
    let world = long();
    let train = |out: &str, more: &[&str]| {
        let call = [&["train", "r4", "--max-steps", "6", "--quiet", "--out", out], more].concat();
        world.run(&call).expect(0);
        world.bytes(&format!("{out}/adapter_model.safetensors"))
    };
    let replicated = train("ddp", &["--nproc", "2"]);
    assert!(replicated == train("fsdp", &["--nproc", "2", "--sharding", "fsdp"]));
    let call = ["train", "r4", "--max-steps", "6", "--quiet", "--out", "launched"];
    let [first, second] = ranks(&world, [&call, &call]).map(end);
    assert_eq!((first.code, second.code, second.stdout.as_str()), (Some(0), Some(0), ""), "one result is printed");
    assert!(replicated == world.bytes("launched/adapter_model.safetensors"));
}
