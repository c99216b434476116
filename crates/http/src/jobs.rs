//! From requests to calls, and from answers to responses.

use harness_core::{Finish, ModelError, Output, Request, Response, begins_in_thinking, cut_at_stops};
use serde_json::Value;

use crate::{
    Endpoint, HttpError, LikelihoodApi, answer,
    choice::Unreadable,
    job::Job,
    likelihood,
    rolling::{self, TOKENIZE, Window},
};

impl Endpoint {
    fn job<'a>(&self, index: usize, request: &'a Request, api: Option<LikelihoodApi>) -> Result<Job<'a>, ModelError> {
        let options = &self.options;
        let unsupported = |what: String| ModelError::Unsupported { model: options.spec.model.clone(), what };
        let call = match (request, api) {
            (Request::Generate { prompt, stop, sampling }, _) => {
                if sampling.pattern.is_some() && !options.patterns {
                    let what = "keep to a pattern (set patterns = true for a server with vLLM's structured outputs)";
                    return Err(unsupported(what.to_owned()));
                }
                if sampling.max_new_tokens == 0 {
                    let reason = "max_new_tokens is 0; expected at least 1".to_owned();
                    return Err(ModelError::BadRequest { index, reason });
                }
                answer::call(options, prompt, stop, sampling).map_err(unsupported)?
            }
            (Request::LogLikelihood { context, continuation }, Some(api)) => {
                if crate::is_chat_prompt(context) {
                    return Err(unsupported("score a continuation of a chat; ask for top_logprobs instead".into()));
                }
                likelihood::call(options, api, &format!("{context}{continuation}"))
            }
            (Request::RollingLogLikelihood { text }, Some(api)) => likelihood::call(options, api, text),
            (_, None) => return Err(unsupported("score given texts".into())),
        };
        Ok(Job { call, request, index, api, window: None, heard: None })
    }

    /// The calls of one request: one, or one a window of a text that is too long for the server.
    pub(crate) fn jobs<'a>(
        &self,
        index: usize,
        request: &'a Request,
        api: Option<LikelihoodApi>,
        max_length: Option<usize>,
    ) -> Result<Vec<Job<'a>>, ModelError> {
        let whole = self.job(index, request, api)?;
        let (Request::RollingLogLikelihood { text }, Some(api), Some(max_length)) = (request, api, max_length) else {
            return Ok(vec![whole]);
        };
        // A token is at least a byte, but for one at the beginning.
        if text.len() + 1 < max_length {
            return Ok(vec![whole]);
        }
        let question = rolling::question(&self.options.spec.model, text);
        let tokens = match self.runtime.block_on(self.patient(TOKENIZE, Some(&question))) {
            Ok(body) => rolling::tokens(&body),
            // A server need not tell its tokens; it refuses the text if it is too long.
            Err(HttpError::Refused { .. } | HttpError::Request { .. } | HttpError::Address { .. }) => None,
            Err(error) => return Err(self.failed(None, error)),
        };
        let Some(windows) = tokens.and_then(|tokens| rolling::windows(&tokens, max_length)) else {
            return Ok(vec![whole]);
        };
        let job = |window: Window| Job {
            call: likelihood::call_tokens(&self.options, api, &window.prompt),
            request,
            index,
            api: Some(api),
            window: Some(window),
            heard: None,
        };
        Ok(windows.into_iter().map(job).collect())
    }

    /// The longest prompt with its answer: as the options say, else as the server does.
    pub(crate) fn longest(&self, requests: &[Request]) -> Result<Option<usize>, ModelError> {
        let rolling = requests.iter().any(|request| matches!(request, Request::RollingLogLikelihood { .. }));
        if !rolling || self.options.max_length.is_some() {
            return Ok(self.options.max_length);
        }
        self.check().map(|served| served.max_length).map_err(|error| self.failed(None, error))
    }

    pub(crate) fn read(&self, job: &Job<'_>, body: &Value) -> Result<Response, Unreadable> {
        let bounds = job.call.bounds;
        match (job.request, job.api) {
            (Request::LogLikelihood { context, continuation }, Some(api)) => {
                likelihood::read_pair(api, context, continuation, bounds, body)
            }
            (Request::RollingLogLikelihood { text }, Some(api)) => match &job.window {
                Some(window) => likelihood::read_window(api, window, text, bounds, body),
                None => likelihood::read_rolling(api, text, bounds, body),
            },
            (Request::Generate { stop, sampling, .. }, _) if sampling.think_end.is_none() => {
                answer::read(self.options.api, stop, bounds, body)
            }
            (Request::Generate { prompt, stop, sampling }, _) => {
                let mut response = answer::read(self.options.api, &[], bounds, body)?;
                if let Output::Text { text, finish, .. } = &mut response.output {
                    let end = sampling.think_end.as_deref();
                    let opened = begins_in_thinking(prompt, end.unwrap_or_default(), *finish);
                    if cut_at_stops(text, stop, end, opened) {
                        *finish = Finish::Stop;
                    }
                }
                Ok(response)
            }
            _ => Err("an answer to nothing".into()),
        }
    }
}
