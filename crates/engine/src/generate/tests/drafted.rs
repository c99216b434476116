//! Models over one base that generate together, with drafts, against each of them alone and without.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use harness_core::{Control, Sampling, Seed, StreamRng};
use harness_decoder::{Adapter, AdapterConfig, Decoder, LoraPair, Projection};

use super::{Tiny, below};
use crate::{
    generate::{Draft, Drafting, Generated, Generator, List, Listener, Model, Pace, Prompt},
    schedule::{Limits, Work},
};

/// An adapter with random pairs on some linears.
fn adapted(tiny: &Tiny, seed: u64) -> Decoder {
    let mut random = Seed(seed).stream("adapter", 0);
    let config = tiny.base.model().config();
    let mut values = |n: usize| (0..n).map(|_| random.uniform() as f32 * 0.3 - 0.15).collect::<Vec<f32>>();
    let layers = (0..config.num_layers).map(|_| {
        let linears = [Projection::Q, Projection::V, Projection::O, Projection::Gate, Projection::Down];
        let pair = |linear: Projection, values: &mut dyn FnMut(usize) -> Vec<f32>| {
            let (out, inp) = linear.dims(config);
            LoraPair::new(values(2 * inp), values(2 * out), 2, 1.0)
        };
        linears.into_iter().map(|linear| (linear, pair(linear, &mut values))).collect()
    });
    let adapter = Adapter::new(AdapterConfig::default(), layers.collect(), BTreeMap::new());
    Decoder::with_adapter(Arc::clone(tiny.base.model()), &adapter).unwrap()
}

/// Prompts of all kinds for one model.
fn prompts(tiny: &Tiny, model: usize) -> Vec<Prompt> {
    let of = |i: u64| {
        let sampling = Sampling {
            max_new_tokens: 3 + 7 * i as usize,
            temperature: if i == 3 { 1.0 } else { 0.0 },
            repetition_penalty: if i == 4 { 1.3 } else { 1.0 },
            top_logprobs: (i == 5).then_some(2),
            seed: i,
            ..Sampling::default()
        };
        let text = ["Once there was a ", "The river ", "q: 2 + 3\na:", "Anna has 3 apples. Anna has "][i as usize % 4];
        let pattern = (i == 6).then(|| Arc::clone(&tiny.pattern));
        let stop = if i.is_multiple_of(2) { vec![] } else { vec!["zz".to_owned(), ". The".to_owned()] };
        Prompt { model, pattern, stop, ..tiny.prompt(text, sampling) }
    };
    (0..9).map(of).collect()
}

struct Done(Vec<Option<Generated>>);

impl Listener for Done {
    fn done(&mut self, index: usize, generated: Generated, _: Work) -> Control {
        assert!(self.0[index].replace(generated).is_none(), "{index} twice");
        Control::Continue
    }
}

fn generate(
    tiny: &Tiny,
    decoders: &[&Decoder],
    prompts: Vec<Prompt>,
    limits: Limits,
    drafting: Drafting,
) -> (Vec<Generated>, Work) {
    let (tokenizer, stop) = (tiny.base.tokenizer(), &AtomicBool::new(false));
    let end_tokens = &[tokenizer.eos().unwrap().id];
    let models: Vec<Model<'_>> = decoders.iter().map(|decoder| Model { decoder, tokenizer, end_tokens }).collect();
    let mut done = Done(vec![None; prompts.len()]);
    let generator = Generator { models: &models, limits, pace: Pace::Throughput, drafting, stop };
    let work = generator.generate(&mut List::new(prompts), &mut done).unwrap();
    assert_eq!(work.len(), models.len());
    (done.0.into_iter().map(Option::unwrap).collect(), work.into_iter().sum())
}

/// An answer with some of its tokens changed, left out or put in.
fn disturbed(answer: &Generated, random: &mut StreamRng) -> Arc<Draft> {
    let mut draft = Draft::default();
    for (&token, &logprob) in answer.token_ids.iter().zip(&answer.token_logprobs) {
        let token = match below(random, 12) {
            0 => continue,
            1 => 4 + below(random, 300) as u32,
            _ => token,
        };
        draft.tokens.push(token);
        draft.logprobs.push(logprob);
    }
    Arc::new(draft)
}

#[test]
fn drafted_answers_of_models_together_are_those_of_each_alone() {
    let tiny = Tiny::load();
    let (first, second) = (adapted(&tiny, 1), adapted(&tiny, 2));
    let decoders = [&tiny.decoder, &first, &second];
    let alone: Vec<Vec<Generated>> = decoders
        .iter()
        .map(|decoder| {
            let limits = Limits { batch_sequences: 1, ..Limits::default() };
            generate(&tiny, &[decoder], prompts(&tiny, 0), limits, Drafting::Off).0
        })
        .collect();
    let differ = (0..alone[0].len()).filter(|&i| alone[0][i].text != alone[1][i].text).count();
    assert!(differ > 3, "{differ} answers differ by the adapter");
    let (mut drafted, mut accepted) = (0, 0);
    for seed in 0..16 {
        let mut random = Seed(seed).stream("drafts", 0);
        let limits = Limits {
            batch_tokens: 1 + below(&mut random, 90),
            kv_bytes: tiny.decoder.kv_bytes(1 + below(&mut random, 1500)),
            batch_sequences: 1 + below(&mut random, 9),
        };
        let drafting = match seed % 4 {
            0 => Drafting::Measured,
            at => Drafting::Always(1 + at as usize),
        };
        let mut all: Vec<(usize, usize, Prompt)> = vec![];
        for model in 0..decoders.len() {
            all.extend(prompts(&tiny, model).into_iter().enumerate().map(|(at, prompt)| (model, at, prompt)));
        }
        all.sort_by_cached_key(|_| below(&mut random, 1000));
        for (model, at, prompt) in &mut all {
            let sources: Vec<usize> = (0..below(&mut random, 3)).collect();
            prompt.known =
                sources.iter().map(|further| disturbed(&alone[(*model + further) % 3][*at], &mut random)).collect();
        }
        let prompts = all.iter().map(|(_, _, prompt)| prompt.clone()).collect();
        let (found, work) = generate(&tiny, &decoders, prompts, limits, drafting);
        for ((model, at, _), found) in all.iter().zip(&found) {
            assert_eq!(found, &alone[*model][*at], "{seed}: prompt {at} of model {model}");
        }
        drafted += work.drafted_tokens;
        accepted += work.accepted_tokens;
    }
    assert!(accepted > 200 && drafted > accepted + 200, "{accepted} of {drafted} drafted tokens were right");
}

#[test]
fn drafts_save_passes() {
    let tiny = Tiny::load();
    let greedy = || {
        let sampling = Sampling { max_new_tokens: 40, ..Sampling::default() };
        let texts = ["Once there was a ", "The river ", "Anna has 3 apples. Anna has "];
        texts.map(|text| Prompt { stop: vec![], ..tiny.prompt(text, sampling.clone()) })
    };
    let limits = Limits { batch_sequences: 1, ..Limits::default() };
    let (found, plain) = generate(&tiny, &[&tiny.decoder], greedy().to_vec(), limits, Drafting::Off);
    let known = |(prompt, answer): (Prompt, &Generated)| {
        let draft = Draft { tokens: answer.token_ids.clone(), logprobs: answer.token_logprobs.clone() };
        Prompt { known: vec![Arc::new(draft)], ..prompt }
    };
    let with_answers = greedy().into_iter().zip(&found).map(known).collect();
    let (again, work) = generate(&tiny, &[&tiny.decoder], with_answers, limits, Drafting::Always(usize::MAX));
    assert_eq!(again, found);
    let new: usize = found.iter().map(|answer| answer.token_ids.len()).sum();
    assert_eq!(plain.drafted_tokens, 0);
    assert!(work.accepted_tokens as usize >= new * 3 / 4, "{} of {new} tokens needed no pass", work.accepted_tokens);
    assert_eq!(work.computed_tokens, plain.computed_tokens, "wrong drafts apart");
}
