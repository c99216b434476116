//! A flag from outside ends generations between tokens and scores between batches.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use harness_core::{Control, LanguageModel, Request, Sampling};
use harness_engine::{Limits, LoadedBase, LocalModel, ModelOptions};
use harness_test_support::workspace_root;

/// The embedded model, a batch of which is one text, with its flag.
fn model() -> (LocalModel, Arc<AtomicBool>) {
    let limits = Limits { batch_sequences: 1, batch_tokens: 1, ..Limits::default() };
    let options = ModelOptions { limits, ..ModelOptions::default() };
    let base = LoadedBase::load(&workspace_root().join("models/tiny"), options).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    (LocalModel::new(Arc::new(base)).with_stop(Arc::clone(&stop)), stop)
}

fn sampling() -> Sampling {
    // Any token may come, so that the text does not end by itself soon.
    Sampling { max_new_tokens: 100, temperature: 50.0, seed: 1, ..Sampling::default() }
}

#[test]
fn a_text_ends_at_the_next_token() {
    let (model, stop) = model();
    let mut pieces = 0;
    let mut text = |end: &dyn Fn() -> Control| {
        pieces = 0;
        let found = model.stream("The river", &[], &sampling(), &mut |_| {
            pieces += 1;
            if pieces == 3 { end() } else { Control::Continue }
        });
        (found.unwrap(), pieces)
    };
    let (whole, all) = text(&|| Control::Continue);
    assert!(whole.is_some() && all > 10, "{all} pieces");
    assert_eq!(text(&|| Control::Stop), (None, 3), "the listener wants no more");
    let raise = || {
        stop.store(true, Ordering::SeqCst);
        Control::Continue
    };
    assert_eq!(text(&raise), (None, 3), "the flag");
}

#[test]
fn what_was_answered_before_the_flag_is_all_that_is_answered() {
    let score = |text: &str| Request::LogLikelihood { context: "The river runs".into(), continuation: text.into() };
    let generate = |text: &str| Request::Generate { prompt: text.into(), stop: vec![], sampling: sampling() };
    let requests =
        [score(" to the sea."), score(" into a lake."), generate("A"), generate("B"), score(" away from here.")];
    let (model, stop) = model();
    let answered = |raise_after: usize| {
        stop.store(raise_after == 0, Ordering::SeqCst);
        let mut answered = 0;
        let sink = &mut |_, _| {
            answered += 1;
            stop.store(answered == raise_after, Ordering::SeqCst);
            Control::Continue
        };
        model.answer(&requests, sink).unwrap();
        answered
    };
    assert_eq!([0, 1, 2, 3, 4, 5].map(answered), [0, 1, 2, 3, 4, 5]);
}
