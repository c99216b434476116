//! Prompt texts from the user's disk: official texts that do not come with the program.

use std::path::Path;

use serde_json::Value;

use crate::{JudgesError, Location, Result};

/// One prompt of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PromptText {
    /// Its name, in files of several.
    pub(crate) name: Option<String>,
    /// System text, where the file has one.
    pub(crate) system: Option<String>,
    /// Line the system text begins on.
    pub(crate) system_line: usize,
    /// User text.
    pub(crate) user: String,
    /// Line the user text begins on.
    pub(crate) user_line: usize,
}

/// Reads `judge_prompts.jsonl` (FastChat) or a text.
pub(crate) fn read(path: &Path) -> Result<Vec<PromptText>> {
    let text = harness_core::read_text(path).map_err(|source| JudgesError::Io {
        action: "read the prompt file",
        path: path.to_owned(),
        source,
    })?;
    let name = path.display().to_string();
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        return json_lines(&text, &name);
    }
    let text = text.replace("\r\n", "\n");
    if text.trim().is_empty() {
        let message = "the file is empty; expected the text of a prompt".into();
        return Err(JudgesError::Syntax { at: Location::new(name, None), message });
    }
    chat_markers(&text, &name).map(|prompt| vec![prompt])
}

fn json_lines(text: &str, file: &str) -> Result<Vec<PromptText>> {
    let mut prompts = vec![];
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = Location::new(file, Some(number + 1));
        let row: Value = serde_json::from_str(line)
            .map_err(|error| JudgesError::Syntax { at: at.clone(), message: format!("not JSON: {error}") })?;
        let field = |key: &str| {
            row[key].as_str().map(str::to_owned).ok_or_else(|| JudgesError::Row {
                at: at.clone(),
                found: format!("no text `{key}`"),
                expected: "`name`, `system_prompt` and `prompt_template`, as in FastChat's judge_prompts.jsonl".into(),
            })
        };
        prompts.push(PromptText {
            name: Some(field("name")?),
            system: Some(field("system_prompt")?),
            system_line: number + 1,
            user: field("prompt_template")?,
            user_line: number + 1,
        });
    }
    Ok(prompts)
}

/// A text in which `<|im_start|>role` and `<|im_end|>` mark messages; without marks all of it is the user's.
fn chat_markers(text: &str, file: &str) -> Result<PromptText> {
    const START: &str = "<|im_start|>";
    const END: &str = "<|im_end|>";
    let mut prompt = PromptText { name: None, system: None, system_line: 1, user: text.to_owned(), user_line: 1 };
    if !text.contains(START) {
        return Ok(prompt);
    }
    let mut user = None;
    let mut position = 0;
    while let Some(start) = text[position..].find(START) {
        let begin = position + start + START.len();
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let wrong = |message: String| JudgesError::Syntax { at: Location::new(file, Some(line(begin))), message };
        let role_end =
            text[begin..].find('\n').map(|n| begin + n).ok_or_else(|| wrong("a message without text".into()))?;
        let end =
            text[role_end..].find(END).map(|n| role_end + n).ok_or_else(|| wrong(format!("no {END} after it")))?;
        let content = text[role_end + 1..end.max(role_end + 1)].trim_end_matches('\n').to_owned();
        match text[begin..role_end].trim() {
            "system" => (prompt.system, prompt.system_line) = (Some(content), line(role_end) + 1),
            "user" => (user, prompt.user_line) = (Some(content), line(role_end) + 1),
            other => return Err(wrong(format!("a message of `{other}`; expected `system` or `user`"))),
        }
        position = end + END.len();
    }
    let message = "no user message; expected <|im_start|>user".to_owned();
    prompt.user = user.ok_or(JudgesError::Syntax { at: Location::new(file, None), message })?;
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_messages_are_told_apart() {
        let text = "<|im_start|>system\nBe fair.\n<|im_end|>\n<|im_start|>user\nQ: {instruction}\n<|im_end|>\n";
        let prompt = chat_markers(text, "p.txt").unwrap();
        assert_eq!(
            (prompt.system.as_deref(), prompt.user.as_str(), prompt.user_line),
            (Some("Be fair."), "Q: {instruction}", 5)
        );
        assert_eq!(chat_markers("plain {x}", "p.txt").unwrap().user, "plain {x}");
        assert!(
            chat_markers("<|im_start|>user\nnever closed", "p.txt").unwrap_err().to_string().contains("<|im_end|>")
        );
    }
}
