//! Models over one base that are asked together: their generations are decoded in one batch.

use std::sync::Arc;

use harness_core::{Control, ModelError, Request, Response, Usage};

use super::{LoadedBase, LocalModel, check_maps, other, text_response};
use crate::{
    EngineError,
    generate::{Draft, Generated, Generator, List, Listener, Model, Pace, Prompt},
    schedule::Work,
};

/// What one of several models is asked.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The model.
    pub model: &'a LocalModel,
    /// Its requests.
    pub requests: &'a [Request],
    /// What is known of the answer to a request by its position: answers of other models to the same. They make the work
    /// shorter and no answer different.
    pub drafts: &'a dyn Fn(usize) -> Vec<Draft>,
}

/// Hears of answers: number of the model, position of the request, answer.
type Sink<'a> = &'a mut dyn FnMut(usize, usize, Response) -> Control;

impl LocalModel {
    /// Whether this model and another can be asked together: they are over the same weights in memory.
    pub fn shares_weights(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.base.model, &other.base.model)
    }
}

/// Answers the requests to models over one base, handing each answer to `sink(model, index, response)` as soon as it is
/// known. Given texts are scored model by model; generations of all models are decoded together. Answers are those that
/// each model gives alone. The stop flag of the first model ends the work.
///
/// # Errors
/// The first failure ends the call, with the number of the model that failed; what was handed over before stays valid.
///
/// # Panics
/// If the models are not over one base.
pub fn answer_together(asked: &[Asked<'_>], sink: Sink<'_>) -> Result<(), (usize, ModelError)> {
    let Some(first) = asked.first() else { return Ok(()) };
    assert!(asked.iter().all(|asked| asked.model.shares_weights(first.model)), "models are over one base");
    let mut shorter = None;
    let sink: Sink<'_> = &mut |model, index, response| match check_maps() {
        Ok(()) => sink(model, index, response),
        Err(error) => {
            shorter = Some(error);
            Control::Stop
        }
    };
    answer_all(asked, sink)?;
    shorter.map_or(Ok(()), |error| Err((0, other(error))))
}

fn answer_all(asked: &[Asked<'_>], sink: Sink<'_>) -> Result<(), (usize, ModelError)> {
    for (number, Asked { model, requests, .. }) in asked.iter().enumerate() {
        let control = model.answer_scores(requests, &mut |index, response| sink(number, index, response));
        if control.map_err(|error| (number, error))? == Control::Stop {
            return Ok(());
        }
    }
    let (mut prompts, mut owners) = (vec![], vec![]);
    for (number, Asked { model, requests, drafts }) in asked.iter().enumerate() {
        for (index, request) in requests.iter().enumerate() {
            let Request::Generate { prompt, stop, sampling } = request else { continue };
            let (prompt, usage) = model.prompt(index, prompt, stop, sampling).map_err(|error| (number, error))?;
            let known = if prompt.sampling.is_greedy() { drafts(index) } else { vec![] };
            prompts.push(Prompt { model: number, known: known.into_iter().map(Arc::new).collect(), ..prompt });
            owners.push((number, index, usage));
        }
    }
    let models: Vec<&LocalModel> = asked.iter().map(|asked| asked.model).collect();
    generate(&models, prompts, &mut Collecting { owners, sink }).map_err(|error| (0, other(error)))
}

struct Collecting<'a, 'b> {
    /// Model, request and usage of every prompt.
    owners: Vec<(usize, usize, Usage)>,
    sink: &'a mut (dyn FnMut(usize, usize, Response) -> Control + 'b),
}

impl Listener for Collecting<'_, '_> {
    fn done(&mut self, at: usize, generated: Generated, _: Work) -> Control {
        let (model, index, usage) = self.owners[at];
        (self.sink)(model, index, text_response(generated, usage))
    }
}

/// Continues prompts of models over one base, and counts each model's work.
pub(super) fn generate(
    models: &[&LocalModel],
    prompts: Vec<Prompt>,
    listener: &mut dyn Listener,
) -> Result<(), EngineError> {
    let Some(first) = models.first().filter(|_| !prompts.is_empty()) else { return Ok(()) };
    let mut requested = vec![0; models.len()];
    prompts.iter().for_each(|prompt| requested[prompt.model] += prompt.tokens.len() as u64);
    let together: Vec<Model<'_>> = models
        .iter()
        .map(|model| {
            let LoadedBase { tokenizer, end_tokens, .. } = &*model.base;
            Model { decoder: &model.decoder, tokenizer, end_tokens }
        })
        .collect();
    let generator = Generator {
        models: &together,
        limits: first.base.options.limits,
        pace: Pace::Throughput,
        drafting: first.base.drafting(),
        stop: &first.stop,
    };
    let work = generator.generate(&mut List::new(prompts), listener)?;
    for ((model, requested), work) in models.iter().zip(requested).zip(work) {
        model.count(requested, work);
    }
    Ok(())
}
