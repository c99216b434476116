//! A flag from outside ends generations between tokens and scores between batches; stop strings end answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use harness_core::{Control, Finish, LanguageModel, Output, Request, Sampling};
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
        let request = Request::Generate { prompt: "The river".into(), stop: vec![], sampling: sampling() };
        let found = model.stream(&request, &mut |_| {
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

#[test]
fn stop_strings_end_nothing_while_the_model_thinks() {
    let (model, _) = model();
    let say = |stop: &[&str], end: Option<&str>| {
        let sampling = Sampling { max_new_tokens: 60, think_end: end.map(str::to_owned), ..sampling() };
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let request = Request::Generate { prompt: "The river".into(), stop, sampling };
        let mut pieces = String::new();
        let on_text = &mut |text: &str| {
            pieces.push_str(text);
            Control::Continue
        };
        let response = model.stream(&request, on_text).unwrap().unwrap();
        let Output::Text { text, finish, token_ids, .. } = response.output else { panic!("no text") };
        assert_eq!(pieces, text, "what was given out is the text before the stop string");
        (text, finish, token_ids.len())
    };
    let (whole, _, all) = say(&[], None);
    // Three pieces of what it says: a stop string before the mark, the mark, a stop string after it.
    let letters: Vec<(usize, char)> = whole.char_indices().filter(|(_, c)| c.is_alphanumeric()).collect();
    let unique = |from: usize| {
        letters[from..].windows(3).map(|w| &whole[w[0].0..w[2].0]).find(|piece| whole.matches(piece).count() == 1)
    };
    let (early, mark, late) =
        (unique(0).unwrap(), unique(letters.len() / 3).unwrap(), unique(2 * letters.len() / 3).unwrap());
    let at = |piece: &str| whole.find(piece).unwrap();
    assert!(at(early) < at(mark) && at(mark) < at(late), "{whole:?}");
    let cut = |piece: &str| whole[..at(piece)].to_owned();
    let (text, finish, tokens) = say(&[early, late], Some(mark));
    assert_eq!((text, finish), (cut(late), Finish::Stop));
    assert!(tokens < all, "it ends at the stop string, not at the limit");
    let (text, finish, tokens) = say(&[early], Some("</think>"));
    assert_eq!((text, finish, tokens), (cut(early), Finish::Stop, all), "without a mark all of it is answer");
    assert_eq!(say(&[early], None).0, cut(early));
}
