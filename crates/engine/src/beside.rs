//! The files beside the weights of a model in Hugging Face layout.

use std::{fs, path::Path};

use harness_decoder::DecoderError;

/// Copies the files of one folder that stand beside weights (configurations, tokenizer, templates, licence) to another, and
/// folders of templates with what is in them, where `wanted` says so of their names. Indexes of weights are not copied.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy_beside(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), DecoderError> {
    fs::create_dir_all(to).map_err(|e| DecoderError::write(to, e))?;
    let entries = fs::read_dir(from).map_err(|e| DecoderError::read(from, e))?;
    for entry in entries {
        let path = entry.map_err(|e| DecoderError::read(from, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !wanted(&name) {
            continue;
        }
        let copied = ["json", "jinja", "model", "txt", "md"];
        let known = path.extension().is_some_and(|e| copied.iter().any(|known| e == *known));
        if path.is_dir() && name == "additional_chat_templates" {
            copy_beside(&path, &to.join(name), &|_| true)?;
        } else if path.is_file() && (known || name == "LICENSE") && !name.ends_with(".index.json") {
            let bytes = harness_core::read_file(&path).map_err(|e| DecoderError::read(&path, e))?;
            let place = to.join(name);
            harness_core::atomic_write(&place, bytes).map_err(|e| DecoderError::write(&place, e))?;
        }
    }
    Ok(())
}
