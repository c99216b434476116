//! Programs of others in Python, for tests that a server or a file satisfies them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The Python of an environment in `folder` that has these packages (`name==version`), installed by pip if they are not
/// there; the reason where that cannot be done.
///
/// # Errors
/// If there is no Python with venv and pip, or no registry can be reached.
pub fn python_with(folder: &Path, packages: &[&str]) -> Result<PathBuf, String> {
    let python = folder.join("bin/python");
    let run = |command: &mut Command| -> Result<Output, String> {
        let output = command.output().map_err(|error| error.to_string())?;
        let told = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        if output.status.success() { Ok(output) } else { Err(told) }
    };
    // Written when all is installed.
    let (installed, wanted) = (folder.join("installed.txt"), packages.join("\n"));
    if std::fs::read_to_string(&installed).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(&python).args(pip).args(packages))?;
    std::fs::write(&installed, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}
