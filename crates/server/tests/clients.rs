//! Clients that others wrote. They are installed by pip into a folder of the tests; where that cannot be done, it is said
//! and nothing is tested.

mod support;

use std::{path::Path, process::Command};

use harness_test_support::{python_with, skipped};
use support::Running;

#[test]
fn the_client_of_openai_is_served() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openai");
    let python = match python_with(&folder, &["openai==3.51.0"]) {
        Ok(python) => python,
        Err(reason) => {
            skipped(format_args!("the client of OpenAI cannot be installed here: {reason}"));
            return;
        }
    };
    let server = Running::usual();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_client.py");
    let output = Command::new(python).arg(script).arg(format!("http://{}/v1", server.address)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
