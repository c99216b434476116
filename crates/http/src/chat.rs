//! Chats as prompts.
//!
//! A local model renders a chat as text by its template; a server does that itself and wants the messages. So that both
//! can be asked through one kind of request, the "rendered" form here is the messages as JSON behind a mark that no text
//! begins with.

use harness_core::{CHAT_PROMPT_MARK as MARK, ChatMessage, canonical_json};

/// The prompt that stands for these messages.
pub fn chat_prompt(messages: &[ChatMessage]) -> String {
    format!("{MARK}{}", canonical_json(messages))
}

/// Whether a prompt stands for messages.
pub fn is_chat_prompt(prompt: &str) -> bool {
    prompt.starts_with(MARK)
}

/// The messages of a prompt; `None` if it is plain text.
pub(crate) fn messages(prompt: &str) -> Option<Vec<ChatMessage>> {
    serde_json::from_str(prompt.strip_prefix(MARK)?).ok()
}

#[cfg(test)]
mod tests {
    use harness_core::ChatRole;

    use super::*;

    #[test]
    fn messages_round_trip() {
        let chat = [ChatMessage::new(ChatRole::System, "Be \"kind\"."), ChatMessage::new(ChatRole::User, "é\n{}")];
        let prompt = chat_prompt(&chat);
        assert!(is_chat_prompt(&prompt) && !is_chat_prompt("messages[]"));
        assert_eq!(messages(&prompt).unwrap(), chat);
        assert_eq!(messages("[{}]"), None);
    }
}
