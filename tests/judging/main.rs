//! Judging through the program: a scripted judge behind a real HTTP server that makes faults, local judges kept within
//! the protocol's form, and everything that can be wrong with what a judge is given or says; and the thinking of models
//! behind a server.

#[path = "../../crates/http/tests/server/mod.rs"]
mod server;

mod bad;
mod comparison;
mod evidence;
mod local;
mod mt_bench;
mod remote;
mod requests;
mod thinking;
mod withheld;

use harness_test_support::World;
use serde_json::{Value, json};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_harness");

/// Instructions of our own with two models' outputs.
fn fixture(count: usize) -> Vec<(String, String, String)> {
    let things = ["river", "engine", "violin", "harbour", "orchard", "comet", "bakery"];
    (0..count)
        .map(|n| {
            let thing = things[n % things.len()];
            let instruction = format!("Describe the {thing} number {n} in one sentence.");
            let base = format!("The {thing} number {n} is what it is.");
            let other = format!("The {thing} has a story of {} years, and {} people tell it.", 7 * n + 3, n % 5 + 2);
            // Some outputs are equal: they are a tie without asking.
            if n % 10 == 4 { (instruction, base.clone(), base) } else { (instruction, base, other) }
        })
        .collect()
}

/// Outputs in alpaca_eval's form.
fn outputs(model: &str, rows: impl Iterator<Item = (String, String)>) -> String {
    let rows: Vec<Value> = rows
        .map(|(instruction, output)| json!({"instruction": instruction, "output": output, "generator": model, "dataset": "own"}))
        .collect();
    json!(rows).to_string()
}

/// Writes the outputs of both models as `base.json` and `other.json`.
fn write_outputs(world: &World, rows: &[(String, String, String)]) {
    world.write("base.json", outputs("base-model", rows.iter().map(|(i, base, _)| (i.clone(), base.clone()))));
    world.write("other.json", outputs("other-model", rows.iter().map(|(i, _, other)| (i.clone(), other.clone()))));
}

/// Two texts on which a script bases a preference: a number from 0 to 1 that depends on the pair and on its order.
fn script(first: &str, second: &str) -> f64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in first.bytes().chain([0]).chain(second.bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    0.05 + 0.9 * ((state >> 40) as f64 / (1u64 << 24) as f64)
}
