//! Bad input, full disks, signals and torn files through the binary: one error that says what is wrong and what to do,
//! and nothing lost.

mod data;
mod definitions;
#[cfg(feature = "cuda")]
mod devices;
mod disk;
mod interruption;
mod models;
mod ranks;
mod store;
mod training;

use harness_test_support::World;

fn world() -> World {
    World::new(env!("CARGO_BIN_EXE_harness"))
}
