//! Several ranks as real processes: what one does when another dies, and when they do not fit.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
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
    [0, 1].map(|number| rank(world, number, port, calls[number]))
}

fn rank(world: &World, rank: usize, port: u16, call: &[&str]) -> Child {
    let mut command = world.command(call);
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", rank.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).env("RAYON_NUM_THREADS", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program")
}

/// A call to rank 0, as soon as it listens.
fn dial(port: u16) -> TcpStream {
    let mut stream = None;
    wait_until("rank 0 listens", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    stream.expect("a connection")
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

#[test]
fn strangers_at_the_port_are_named_and_end_nothing() {
    let world = long();
    let (port, call) = (port(), ["train", "r4", "--out", "mine", "--max-steps", "2"]);
    let first = rank(&world, 0, port, &call);
    let _silent = [dial(port), dial(port)];
    let said: [&[u8]; 3] = [b"\x1b[2J\x1b]0;pwned\x07aaaaaaaaaaaaa", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64]];
    let _babbling = said.map(|bytes| {
        let mut stream = dial(port);
        stream.write_all(bytes).expect("a line");
        stream
    });
    let second = rank(&world, 1, port, &call);
    let first = end(first).expect(0).says(&["a connection from 127.0.0.1:", "pwned", "GET / HTTP", "takes no part"]);
    end(second).expect(0);
    assert!(!first.stderr.chars().any(|c| c.is_control() && c != '\n'), "{:?}", first.stderr);
}

#[test]
fn ranks_that_other_hosts_can_call_need_a_secret() {
    let world = long();
    let mut command = world.command(&["train", "r4", "--out", "mine", "--quiet"]);
    command.env("RANK", "0").env("WORLD_SIZE", "2").env("MASTER_ADDR", "10.0.0.1");
    let outcome = Outcome::new(&command.output().expect("the program")).expect(2);
    outcome.says(&["the ranks meet at 10.0.0.1", "set HARNESS_RANK_SECRET to the same random text for all ranks"]);
    assert!(!world.path("mine").exists(), "nothing is written");
}

#[test]
fn the_starter_gives_its_ranks_a_secret_that_no_argument_shows() {
    let world = long();
    let mut command = world.command(&["train", "r4", "--out", "mine", "--nproc", "2", "--quiet"]);
    let mut starter = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
    let id = starter.id().to_string();
    let is_started = |folder: &PathBuf| {
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == id))
    };
    let secret = |folder: &PathBuf| {
        let variables = fs::read(folder.join("environ")).unwrap_or_default();
        let mut all = variables.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        all.find_map(|text| text.strip_prefix("HARNESS_RANK_SECRET=").map(str::to_owned))
    };
    let mut started: Vec<(PathBuf, String)> = vec![];
    wait_until("two ranks are started", || {
        let all = fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path()).filter(is_started);
        started = all.filter_map(|folder| secret(&folder).map(|secret| (folder, secret))).collect();
        started.len() == 2 || starter.try_wait().is_ok_and(|end| end.is_some())
    });
    let calls: Vec<_> = started.iter().map(|(folder, _)| fs::read(folder.join("cmdline"))).collect();
    starter.kill().expect("it was running");
    starter.wait().expect("its end");
    let [(_, one), (_, two)] = started.as_slice() else { panic!("two ranks: {started:?}") };
    assert!(one.len() == 64 && one == two, "a secret of the run");
    for call in calls {
        let call = String::from_utf8(call.expect("a rank that runs")).expect("text");
        assert!(call.contains("train") && !call.contains(one), "{call}");
    }
}
