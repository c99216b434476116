//! An answer in one piece.

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::choice::{Form, News};
use crate::{desk::Event, error::ApiError};

/// Waits for all generations of a request.
///
/// # Errors
/// If one of them fails.
pub(crate) async fn whole(form: &Form, mut events: UnboundedReceiver<(usize, Event)>) -> Result<Value, ApiError> {
    let mut choices = form.choices();
    let mut news: Vec<News> = choices.iter().map(|_| News::default()).collect();
    while choices.iter().any(|choice| choice.finish.is_none()) {
        match events.recv().await {
            None => return Err(ApiError::internal("the engine has ended")),
            Some((_, Event::Failed(error))) => return Err(error),
            Some((at, event)) => news[at].add(choices[at].take(event)),
        }
    }
    let list = choices.iter_mut().zip(&news).enumerate().map(|(index, (choice, news))| {
        let (finish, logprobs) = (choice.finish, choice.logprobs(form, news));
        match form.chat {
            true => {
                let message = json!({"role": "assistant", "content": news.text, "refusal": null});
                json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
            }
            false => json!({"text": news.text, "index": index, "logprobs": logprobs, "finish_reason": finish}),
        }
    });
    let list = list.collect();
    let mut answer = form.frame(if form.chat { "chat.completion" } else { "text_completion" }, list);
    answer["usage"] = form.usage(&choices);
    Ok(answer)
}
