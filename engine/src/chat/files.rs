//! Where a Hugging Face directory keeps its chat template.

use std::path::Path;

use serde_json::Value;

use super::ChatTemplate;
use crate::{EngineError, config::read_json};

impl ChatTemplate {
    /// The template of a directory: `chat_template.jinja`, else `chat_template.json`, else `chat_template` in
    /// `tokenizer_config.json`, which is one template or a list of named ones. `name` picks one of these; without it the
    /// one named `default` is taken. `None` where the model has no template and no name is asked for.
    ///
    /// # Errors
    /// If the template does not compile, or there is none of the name.
    pub fn load(dir: &Path, name: Option<&str>) -> Result<Option<Self>, EngineError> {
        let named = name.is_some_and(|name| name != "default");
        let path = dir.join("chat_template.jinja");
        if !named && path.exists() {
            let source = std::fs::read_to_string(&path).map_err(|e| EngineError::read(&path, e))?;
            return in_file(&path, &source).map(Some);
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            let path = dir.join(file);
            if !path.exists() {
                continue;
            }
            let config: Value = read_json(&path)?;
            match config.get("chat_template") {
                Some(Value::String(source)) if !named => return in_file(&path, source).map(Some),
                Some(Value::Array(templates)) => return pick(&path, templates, name),
                _ => {}
            }
        }
        match name {
            Some(name) if named => Err(in_path(dir, &format!("there is no chat template named {name:?}"))),
            _ => Ok(None),
        }
    }
}

fn pick(path: &Path, templates: &[Value], name: Option<&str>) -> Result<Option<ChatTemplate>, EngineError> {
    let name_of = |template: &Value| template["name"].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = templates.iter().map(name_of).collect();
    let wanted = name.unwrap_or("default");
    let found = templates.iter().find(|template| name_of(template) == wanted);
    match found.and_then(|template| template["template"].as_str()) {
        Some(source) => in_file(path, source).map(Some),
        None if name.is_none() && templates.is_empty() => Ok(None),
        None => Err(in_path(path, &format!("no chat template named {wanted:?}; there are {}", names.join(", ")))),
    }
}

/// Compiles, with the file's name in the error.
fn in_file(path: &Path, source: &str) -> Result<ChatTemplate, EngineError> {
    ChatTemplate::new(source).map_err(|error| match error {
        EngineError::ChatTemplate(reason) => in_path(path, &reason),
        other => other,
    })
}

fn in_path(path: &Path, reason: &str) -> EngineError {
    EngineError::ChatTemplate(format!("{}: {reason}", path.display()))
}
