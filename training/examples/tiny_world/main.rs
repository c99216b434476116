//! Writes everything the embedded model and its tasks are made of: see README.md beside this file.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(unreachable_pub, reason = "the modules are shared with a test")]

mod world;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use world::{World, corpus, instructions, tasks, tokenizer_config, train_tokenizer};

/// The seed of the world that ships with the program.
const SEED: u64 = 2026;
/// Instruction rows for the candidates.
const INSTRUCTIONS: usize = 2_400;
/// Tokens of the tokenizer.
const VOCABULARY: usize = 1_408;
/// Longest context of the model in tokens.
const CONTEXT: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let root: PathBuf = match std::env::args_os().nth(1) {
        Some(argument) => argument.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
    };
    let (model, data, definitions) =
        (root.join("models/tiny"), root.join("models/tiny/data"), root.join("tasks/definitions/tiny"));
    for folder in [&data, &definitions] {
        fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    }
    let world = World::new(SEED);
    let texts = corpus(&world, 1.0);
    let rows: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    write(&data.join("pretraining.jsonl"), &lines(&rows))?;
    write(&data.join("instructions.jsonl"), &lines(&instructions(&world, INSTRUCTIONS)))?;
    for task in tasks(&world) {
        write(&definitions.join(format!("{}_test.jsonl", task.name)), &lines(&task.test))?;
        write(&definitions.join(format!("{}_dev.jsonl", task.name)), &lines(&task.dev))?;
    }
    let tokenizer = train_tokenizer(&texts, VOCABULARY).map_err(|error| error.to_string())?;
    write(&model.join("tokenizer.json"), &tokenizer)?;
    write(&model.join("tokenizer_config.json"), &format!("{:#}\n", tokenizer_config(CONTEXT)))?;
    Ok(())
}

/// JSON Lines.
fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// Writes a file and says so.
fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!("{:>9} bytes  {}", text.len(), path.display());
    Ok(())
}
