//! What a run of the program did.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Exit code and output of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Of a finished process.
    pub fn new(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, if the exit code is this one.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n--- standard output\n{}\n--- standard error\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Itself, if standard error contains each of these.
    ///
    /// # Panics
    /// If one is missing.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not said on standard error:\n{}", self.stderr);
        }
        self
    }

    /// Standard output as the one JSON value it must be.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not one JSON value ({e}):\n{}", self.stdout))
    }

    /// What was called and what came of it, as text for a snapshot.
    pub fn transcript(&self, call: &[&str]) -> String {
        let words: Vec<String> =
            call.iter()
                .map(|word| {
                    if word.is_empty() || word.contains([' ', '\n']) { format!("{word:?}") } else { (*word).to_owned() }
                })
                .collect();
        let code = self.code.map_or("signal".to_owned(), |code| code.to_string());
        let mut text = format!("$ harness {}\n", words.join(" "));
        text.push_str(&self.stdout);
        for line in self.stderr.lines() {
            text.push_str(&format!("! {line}\n"));
        }
        text.push_str(&format!("= {code}\n"));
        text
    }
}

/// Waits until a condition holds, looking at it again and again.
///
/// # Panics
/// If it does not hold within a minute.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited a minute in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
