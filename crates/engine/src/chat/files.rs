//! Where a Hugging Face directory keeps its chat templates.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::ChatTemplate;
use crate::EngineError;
use harness_decoder::{DecoderError, read_json};

/// The name of the template that is taken where none is asked for.
const DEFAULT: &str = "default";

impl ChatTemplate {
    /// The template of a directory: `chat_template.jinja` and the files of `additional_chat_templates`, else
    /// `chat_template` in `tokenizer_config.json` or `chat_template.json`, which is one template or a list of named ones.
    /// `name` picks one of these; without it the one named `default` is taken. `None` where the model has no template and no
    /// name is asked for, or has named ones and none of them is the default.
    ///
    /// # Errors
    /// If the template does not compile, or there is none of the name.
    pub fn load(dir: &Path, name: Option<&str>) -> Result<Option<Self>, EngineError> {
        let templates = sources(dir)?;
        match templates.get(name.unwrap_or(DEFAULT)) {
            Some((path, source)) => Self::of_file(path.as_ref(), source).map(Some),
            None => match name {
                None | Some(DEFAULT) => Ok(None),
                Some(name) if templates.is_empty() => {
                    Err(in_path(dir, &format!("there is no chat template, so none named {name:?}")))
                }
                Some(name) => {
                    let names: Vec<&str> = templates.keys().map(String::as_str).collect();
                    Err(in_path(dir, &format!("no chat template named {name:?}; there are {}", names.join(", "))))
                }
            },
        }
    }

    /// Compiles the template of a file.
    ///
    /// # Errors
    /// As [`Self::new`], with the file.
    pub(crate) fn of_file(path: &Path, source: &str) -> Result<Self, EngineError> {
        Self::new(source).map_err(|error| match error {
            EngineError::ChatTemplate(reason) => in_path(path, &reason),
            other => other,
        })
    }

    /// The names of the templates of a directory.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn names(dir: &Path) -> Result<Vec<String>, EngineError> {
        Ok(sources(dir)?.into_keys().collect())
    }
}

/// The templates of a directory by name, each with the file that holds it.
fn sources(dir: &Path) -> Result<BTreeMap<String, (PathBuf, String)>, EngineError> {
    let read = |path: &Path| harness_core::read_text(path).map_err(|e| DecoderError::read(path, e));
    let mut found = BTreeMap::new();
    let main = dir.join("chat_template.jinja");
    if main.exists() {
        let source = read(&main)?;
        found.insert(DEFAULT.to_owned(), (main, source));
    }
    let further = dir.join("additional_chat_templates");
    if further.is_dir() {
        for entry in std::fs::read_dir(&further).map_err(|e| DecoderError::read(&further, e))? {
            let path = entry.map_err(|e| DecoderError::read(&further, e))?.path();
            if path.extension().is_some_and(|extension| extension == "jinja") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let source = read(&path)?;
                found.insert(name, (path, source));
            }
        }
    }
    // Files of their own go before everything in configurations.
    for file in ["tokenizer_config.json", "chat_template.json"] {
        let path = dir.join(file);
        if !found.is_empty() || !path.exists() {
            continue;
        }
        let config: Value = read_json(&path)?;
        match config.get("chat_template") {
            Some(Value::String(source)) => {
                found.insert(DEFAULT.to_owned(), (path, source.clone()));
            }
            Some(Value::Array(templates)) => {
                for template in templates {
                    let (Some(name), Some(source)) = (template["name"].as_str(), template["template"].as_str()) else {
                        return Err(in_path(
                            &path,
                            "chat_template is a list: expected name and template in each entry",
                        ));
                    };
                    found.insert(name.to_owned(), (path.clone(), source.to_owned()));
                }
            }
            Some(Value::Object(templates)) => {
                for (name, source) in templates {
                    let Some(source) = source.as_str() else {
                        return Err(in_path(&path, &format!("chat_template {name:?} is not text")));
                    };
                    found.insert(name.clone(), (path.clone(), source.to_owned()));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn in_path(path: &Path, reason: &str) -> EngineError {
    EngineError::ChatTemplate(format!("{}: {reason}", path.display()))
}
