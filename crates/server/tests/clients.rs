//! Clients that others wrote. They are installed by pip into a folder of the tests; where that cannot be done, it is said
//! and nothing is tested.
#![allow(clippy::print_stderr, reason = "tests say what they skip")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use support::Running;

/// The version that is installed.
const OPENAI: &str = "openai==3.51.0";

/// The Python of an environment that has the client; the reason where there is none.
fn python() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let python = folder.join("bin/python");
    let run = |command: &mut Command| -> Result<Output, String> {
        let output = command.output().map_err(|error| error.to_string())?;
        let told = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        if output.status.success() { Ok(output) } else { Err(told) }
    };
    if run(Command::new(&python).args(["-c", "import openai"])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", OPENAI]))?;
    }
    Ok(python)
}

#[test]
fn the_client_of_openai_is_served() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            eprintln!("skipped: {OPENAI} cannot be installed here: {reason}");
            return;
        }
    };
    let server = Running::usual();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_client.py");
    let output = Command::new(python).arg(script).arg(format!("http://{}/v1", server.address)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
