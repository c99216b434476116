//! What a model answers.

use harness_core::{Control, LanguageModel, ModelError, Request, Response};

/// The response to every request, in their order.
pub(crate) fn answers(model: &dyn LanguageModel, requests: &[Request]) -> Result<Vec<Response>, ModelError> {
    let mut found = vec![None; requests.len()];
    model.answer(requests, &mut |index, response| {
        found[index] = Some(response);
        Control::Continue
    })?;
    Ok(found.into_iter().map(|response| response.expect("every request is answered")).collect())
}
