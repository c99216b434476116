//! Prompts that come while others are decoded, and some that nobody waits for.

mod drafted;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::AtomicBool},
};

use harness_core::{Control, Sampling, Seed, StreamRng};
use harness_decoder::Decoder;
use harness_test_support::workspace_root;

use super::{Drafting, Fresh, Generated, Generator, List, Listener, Model, Pace, Pattern, Prompt, Source, Vocabulary};
use crate::{LoadedBase, ModelOptions, schedule::Limits, schedule::Work, tokenizer::TokenBytes};

/// What was heard of a prompt.
#[derive(Default)]
struct Heard {
    text: String,
    ids: Vec<u32>,
    pieces: usize,
    done: Option<Generated>,
}

#[derive(Default)]
struct Script {
    /// Prompts and the look at the source from which on they are there.
    coming: RefCell<VecDeque<(usize, usize, Prompt)>>,
    looks: RefCell<usize>,
    /// After how many pieces of text a prompt is wanted no more.
    leaves: BTreeMap<usize, usize>,
    heard: RefCell<BTreeMap<usize, Heard>>,
    /// Of which prompt each piece was, in order.
    order: RefCell<Vec<usize>>,
}

impl Script {
    fn pieces(&self, index: usize) -> usize {
        self.heard.borrow().get(&index).map_or(0, |heard| heard.pieces)
    }
}

impl Source for &Script {
    fn next(&mut self, fits: &dyn Fn(&Prompt) -> bool) -> Option<(usize, Prompt)> {
        *self.looks.borrow_mut() += 1;
        let mut coming = self.coming.borrow_mut();
        let is_there = |(from, _, prompt): &(usize, usize, Prompt)| *from <= *self.looks.borrow() && fits(prompt);
        coming.front().filter(|next| is_there(next))?;
        coming.pop_front().map(|(_, index, prompt)| (index, prompt))
    }
    fn wait(&mut self) -> bool {
        !self.coming.borrow().is_empty()
    }
    fn wants(&self, index: usize) -> bool {
        self.leaves.get(&index).is_none_or(|&pieces| self.pieces(index) < pieces)
    }
}

impl Listener for &Script {
    fn text(&mut self, index: usize, fresh: Fresh<'_>) -> Control {
        let mut all = self.heard.borrow_mut();
        let heard = all.entry(index).or_default();
        assert_eq!((fresh.first, fresh.ids.len()), (heard.ids.len(), fresh.logprobs.len()));
        assert!(fresh.starts.iter().all(|&start| start >= heard.text.len() || start == 0));
        heard.text.push_str(fresh.text);
        heard.ids.extend(fresh.ids);
        heard.pieces += 1;
        self.order.borrow_mut().push(index);
        Control::Continue
    }
    fn done(&mut self, index: usize, generated: Generated, _: Work) -> Control {
        self.heard.borrow_mut().entry(index).or_default().done = Some(generated);
        Control::Continue
    }
}

struct Tiny {
    base: LoadedBase,
    decoder: Decoder,
    pattern: Arc<Pattern>,
}

impl Tiny {
    fn load() -> Self {
        let base = LoadedBase::load(&workspace_root().join("models/tiny"), ModelOptions::default()).unwrap();
        let vocabulary = Vocabulary::new(TokenBytes::new(base.tokenizer()), &[]);
        let pattern = Arc::new(Pattern::new("[a-z ]{5,40}[.]", &vocabulary).unwrap());
        Self { decoder: Decoder::new(Arc::clone(base.model())), base, pattern }
    }

    fn prompt(&self, text: &str, sampling: Sampling) -> Prompt {
        let tokens = self.base.tokenizer().encode(text, true).unwrap();
        Prompt {
            model: 0,
            tokens,
            stop: vec!["z".to_owned(), " the".to_owned()],
            sampling,
            pattern: None,
            thinking: None,
            scored: None,
            known: vec![],
        }
    }

    fn generate(&self, limits: Limits, pace: Pace, source: &mut dyn Source, listener: &mut dyn Listener) -> Work {
        let (tokenizer, stop) = (self.base.tokenizer(), &AtomicBool::new(false));
        let end_tokens = &[tokenizer.eos().unwrap().id];
        let models = &[Model { decoder: &self.decoder, tokenizer, end_tokens }];
        let generator = Generator { models, limits, pace, drafting: Drafting::Off, stop };
        generator.generate(source, listener).unwrap()[0]
    }

    /// Prompts of all kinds, several of which begin alike.
    fn prompts(&self) -> Vec<Prompt> {
        let header = "The river runs to the sea, and the old mill turns by the bridge. ".repeat(2);
        (0..14u64)
            .map(|i| {
                let sampling = Sampling {
                    max_new_tokens: 4 + 3 * i as usize,
                    temperature: [0.0, 1.0, 3.0][i as usize % 3],
                    repetition_penalty: if i == 4 { 1.3 } else { 1.0 },
                    top_logprobs: (i == 6).then_some(2),
                    seed: i,
                    ..Sampling::default()
                };
                let text = if i % 2 == 0 { format!("{header}A{i}") } else { format!("{i} birds").repeat(i as usize) };
                let mut prompt = self.prompt(&text, sampling);
                prompt.pattern = (i == 9).then(|| Arc::clone(&self.pattern));
                prompt
            })
            .collect()
    }
}

fn below(random: &mut StreamRng, n: usize) -> usize {
    (random.uniform() * n as f64) as usize
}

#[test]
fn a_text_does_not_depend_on_when_it_is_asked_for_and_who_leaves() {
    let tiny = Tiny::load();
    let prompts = tiny.prompts();
    let alone = Script::default();
    tiny.generate(Limits::default(), Pace::Throughput, &mut List::new(prompts.clone()), &mut &alone);
    let alone = alone.heard.into_inner();
    assert!(alone.values().any(|heard| heard.text.len() < 3) && alone.values().any(|heard| heard.pieces > 10));
    for seed in 0..12 {
        let mut random = Seed(seed).stream("arrivals", 0);
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|_| below(&mut random, 1000));
        let mut from = 0;
        let coming = order.iter().map(|&index| {
            from += below(&mut random, 12);
            (from, index, prompts[index].clone())
        });
        let coming = RefCell::new(coming.collect());
        let leaves = order[..5].iter().map(|&index| (index, 1 + below(&mut random, 4))).collect();
        let script = Script { coming, leaves, ..Script::default() };
        let limits = Limits {
            batch_tokens: 1 + below(&mut random, 90),
            kv_bytes: tiny.decoder.kv_bytes(1 + below(&mut random, 900)),
            batch_sequences: 1 + below(&mut random, 8),
        };
        let pace = match seed % 4 {
            0 => Pace::Throughput,
            _ => Pace::Latency { tokens: 1 + below(&mut random, 30) },
        };
        tiny.generate(limits, pace, &mut &script, &mut &script);
        for (index, expected) in &alone {
            let pieces = script.pieces(*index);
            if script.leaves.get(index).is_some_and(|&leaves| pieces == leaves) {
                let heard = script.heard.borrow();
                let Some(heard) = heard.get(index) else { continue };
                assert!(expected.text.starts_with(&heard.text), "{seed} {index}");
                continue;
            }
            let heard = &script.heard.borrow()[index];
            assert_eq!((&heard.done, &heard.text), (&expected.done, &expected.text), "{seed} {index}");
            let generated = heard.done.as_ref().unwrap();
            assert_eq!(heard.text, generated.text, "the pieces are the text");
            assert_eq!(heard.ids, generated.token_ids[..heard.ids.len()]);
        }
        assert!(script.coming.borrow().is_empty());
    }
}

#[test]
fn a_long_prompt_does_not_hold_up_the_others() {
    let tiny = Tiny::load();
    let sampling = |max_new_tokens| Sampling { max_new_tokens, temperature: 50.0, seed: 3, ..Sampling::default() };
    let free = |text: &str, n| Prompt { stop: vec![], ..tiny.prompt(text, sampling(n)) };
    let long = free(&"a long story of the river ".repeat(12), 3);
    let length = long.tokens.len();
    assert!(length > 70, "{length}");
    let prompts = [(0, 0, free("A", 60)), (4, 1, long), (6, 2, free("B", 10))];
    let script = Script { coming: RefCell::new(prompts.into()), ..Script::default() };
    tiny.generate(Limits::default(), Pace::Latency { tokens: 4 }, &mut &script, &mut &script);
    let order = script.order.borrow();
    let first = |index: usize| order.iter().position(|&of| of == index).unwrap();
    let before = |index: usize, of: usize| order[..first(index)].iter().filter(|&&found| found == of).count();
    assert!(before(1, 0) > length / 4 - 8, "{} texts while {length} tokens are computed", before(1, 0));
    assert!(first(2) < first(1), "the short one that came later does not wait for the long one");
}

#[test]
fn who_leaves_frees_the_place_at_once() {
    let tiny = Tiny::load();
    let sampling = Sampling { max_new_tokens: 200, temperature: 50.0, seed: 5, ..Sampling::default() };
    let free = |text: &str| Prompt { stop: vec![], ..tiny.prompt(text, sampling.clone()) };
    let coming = RefCell::new([(0, 0, free("A")), (0, 1, free("B")), (0, 2, free("C"))].into());
    let script = Script { coming, leaves: [(0, 3), (1, 2)].into(), ..Script::default() };
    let limits = Limits { batch_sequences: 1, ..Limits::default() };
    tiny.generate(limits, Pace::Latency { tokens: 8 }, &mut &script, &mut &script);
    let order = script.order.borrow();
    assert_eq!(order[..5], [0, 0, 0, 1, 1]);
    assert!(order[5..].iter().all(|&index| index == 2));
    assert!(script.heard.borrow()[&2].done.is_some() && script.heard.borrow()[&0].done.is_none());
}

/// What prompts begin with is computed once, although only a few of them are admitted at a time.
#[test]
fn a_shared_beginning_is_computed_once() {
    let tiny = Tiny::load();
    let header = "The river runs to the sea, and the old mill turns by the bridge. ".repeat(3);
    let prompt = |i: u64| {
        let sampling =
            Sampling { max_new_tokens: 6 + i as usize % 5, temperature: 50.0, seed: i, ..Sampling::default() };
        Prompt { stop: vec![], ..tiny.prompt(&format!("{header}{i} birds"), sampling) }
    };
    let prompts: Vec<Prompt> = (0..24).map(prompt).collect();
    let shared = tiny.base.tokenizer().encode(&header, true).unwrap().len() - 1;
    let run = |batch_sequences| {
        let script = Script::default();
        let limits = Limits { batch_sequences, ..Limits::default() };
        let work = tiny.generate(limits, Pace::Throughput, &mut List::new(prompts.clone()), &mut &script);
        (work.computed_tokens as usize, script.heard.into_inner())
    };
    let ((all, expected), (few, heard)) = (run(24), run(4));
    assert!(few < all + shared, "{few} tokens computed, {all} where all are admitted at once, {shared} begin alike");
    for (index, heard) in heard {
        assert_eq!(heard.done, expected[&index].done, "{index}");
    }
}
