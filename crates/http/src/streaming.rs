//! An answer whose text is handed over as it comes.

use std::cell::{Cell, RefCell};

use harness_core::{Control, ModelError, Output, Request, Response, before_a_stop};
use serde_json::json;

use crate::{Endpoint, HttpError};

impl Endpoint {
    /// Answers a generation and hands over its text as it comes. `None` if it was stopped.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(crate) fn streamed(
        &self,
        request: &Request,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Option<Response>, ModelError> {
        let Request::Generate { stop, .. } = request else { return harness_core::stream_whole(self, request, on_text) };
        let mut jobs = self.jobs(0, request, None, None)?;
        let (on_text, stopped) = (RefCell::new(on_text), Cell::new(false));
        // The text so far, and how much of it was handed over.
        let (text, told) = (RefCell::new(String::new()), Cell::new(0));
        let hand_over = |text: &str, end: usize| {
            let new = text.get(told.get()..end).unwrap_or_default();
            told.set(told.get().max(end));
            if !new.is_empty() && (on_text.borrow_mut())(new) == Control::Stop {
                stopped.set(true);
                return Control::Stop;
            }
            Control::Continue
        };
        let hear = |new: &str| {
            let mut text = text.borrow_mut();
            text.push_str(new);
            hand_over(&text, before_a_stop(&text, stop))
        };
        for job in &mut jobs {
            job.call.stream();
            job.heard = Some(&hear);
        }
        let mut found = None;
        let ended = self.runtime.block_on(self.run(&jobs, &mut |_, response| {
            found = Some(response);
            Control::Continue
        }));
        match ended {
            _ if stopped.get() => return Ok(None),
            Err((_, HttpError::Interrupted { .. })) => return Ok(None),
            // Some servers do not stream, or not with counts at the end.
            Err((_, HttpError::Refused { ref message, .. })) if told.get() == 0 && message.contains("stream") => {
                return harness_core::stream_whole(self, request, &mut **on_text.borrow_mut());
            }
            Err((job, error)) => return Err(self.failed(job, error)),
            Ok(()) => {}
        }
        if let Some(Response { output: Output::Text { text, .. }, .. }) = &found
            && hand_over(text, text.len()) == Control::Stop
        {
            return Ok(None);
        }
        Ok(found)
    }
}

impl crate::answer::Call {
    /// The same call for an answer in pieces. Log-probabilities are not asked for: pieces do not have them in one form.
    fn stream(&mut self) {
        *self = self.without_logprobs();
        self.body["stream"] = json!(true);
        self.body["stream_options"] = json!({"include_usage": true});
    }
}
