//! A metric of one's own over answers that the harness gathers: how many words an answer has.
//!
//! `cargo run --release -p harness-evaluation --example custom_metric` compares the embedded model with itself at another
//! temperature, so that the metric has something to tell apart. A metric that task files can name is a file of
//! `harness_metrics` instead (docs/howto/new-metric.md).

use std::error::Error;

use harness_core::{MetricKey, Output, SampleScore};
use harness_evaluation::{
    EvaluationOptions, Session, Suite,
    evaluate::{Evaluated, evaluate},
    experiment::Experiment,
    models::{Loader, Missing},
    training::ensure_trained,
};
use harness_metrics::{
    comparison::{Column, Comparison, Scale, Settings, Table},
    mean_stats,
};
use harness_reports::{Meta, markdown};

/// A score for every document: the words of its answers.
fn words(name: &str, evaluated: &Evaluated, task: usize, key: &MetricKey) -> Column {
    let documents = evaluated.prepared[task].documents.iter().zip(&evaluated.responses[task]);
    let scores = documents.map(|(document, responses)| {
        let words = responses.iter().map(|response| match &response.output {
            Output::Text { text, .. } => text.split_whitespace().count(),
            _ => 0,
        });
        let stats = mean_stats(words.sum::<usize>() as f64);
        SampleScore { doc: document.doc.id, key: key.clone(), stats, parsed: true }
    });
    Column::new(name, scores.collect())
}

#[allow(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../harness.toml");
    let session = Session::new(Experiment::load(Some(root.as_ref()))?, home.path());
    let key = MetricKey { metric: "words".to_owned(), filter: "none".to_owned() };
    let mut loader = Loader::new(&session, session.device.limits(), ensure_trained);
    let ready = loader.load(&session.experiment.model("base")?, Missing::Refuse)?;
    let mut columns = vec![];
    for (name, temperature) in [("greedy", 0.0), ("sampled", 1.0)] {
        let mut options = EvaluationOptions { tasks: vec!["tiny_gsm8k".to_owned()], ..EvaluationOptions::default() };
        options.build.generation_kwargs.insert("do_sample".to_owned(), (temperature > 0.0).into());
        options.build.generation_kwargs.insert("temperature".to_owned(), temperature.into());
        let evaluated = evaluate(&session, &Suite::load(&session, &options)?, &ready, false)?;
        columns.push(words(name, &evaluated, 0, &key));
    }
    let table = Table { scale: Scale::Raw, primary: true, ..Table::new("tiny_gsm8k", key, columns) };
    let comparison = Comparison::compute(&[table], &[], &Settings::default())?;
    println!("{}", markdown(&comparison, &Meta::default()));
    Ok(())
}
