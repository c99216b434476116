//! The evaluation as a library: no process, no terminal.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use harness_core::{
    Capabilities, ChatMessage, ChatOptions, Control, Digest, LanguageModel, ModelError, ModelIdentity, Output, Request,
    Response, Usage,
};
use harness_evaluation::{
    CompareOptions, EvaluationError, Session, compare, compare_subjects,
    events::{Events, StageEvents},
    experiment::Experiment,
    gather::Subject,
    import,
    import::{ImportFormat, ImportOptions},
};
use harness_test_support::workspace_root;

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Watcher(Arc<Mutex<Vec<String>>>);

impl Events for Watcher {
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }

    fn stage(&self, title: &str, steps: u64) -> Box<dyn StageEvents> {
        self.note(&format!("{title} of {steps}"));
        Box::new(self.clone())
    }
}

impl StageEvents for Watcher {
    fn finished(&self, summary: &str, _: f64) {
        self.note(summary);
    }
}

fn imported(session: &Session, name: &str, right: impl Fn(usize) -> bool) {
    let rows: String = (0..100).map(|id| format!("{{\"id\": {id}, \"score\": {}}}\n", u8::from(right(id)))).collect();
    let file = session.home.join(format!("{name}.jsonl"));
    fs::write(&file, rows).unwrap();
    let options = ImportOptions { task: Some("qa".to_owned()), ..ImportOptions::new(ImportFormat::Jsonl, &file, name) };
    import(session, &options).unwrap();
}

#[test]
fn imports_are_compared_and_what_happens_is_told() {
    let home = tempfile::tempdir().unwrap();
    let watcher = Watcher::default();
    let session = Session::new(Experiment::default(), home.path()).watched_by(Arc::new(watcher.clone()));
    imported(&session, "base", |id| id % 2 == 0);
    imported(&session, "better", |id| id % 4 != 1);
    let compared = compare(&session, ["base", "better"], &CompareOptions::of(&session)).unwrap();
    let row = &compared.stored.report.comparison.rows[0];
    assert_eq!((row.task.as_str(), row.n), ("qa", Some(100)));
    assert_eq!((row.cells[0].value, row.cells[1].value), (Some(0.5), Some(0.75)));
    let told = watcher.0.lock().unwrap().join("\n");
    assert!(told.contains("compare of 1") && told.contains("1 row"), "{told}");
    assert!(home.path().join("comparisons").is_dir(), "the comparison is kept");
}

#[test]
fn whose_fault_an_error_is_can_be_asked() {
    let home = tempfile::tempdir().unwrap();
    let session = Session::new(Experiment::default(), home.path());
    let error = |names: [&str; 2]| compare(&session, names, &CompareOptions::of(&session)).err().unwrap();
    assert!(error(["none", "nothing"]).is_usage());
    fs::create_dir_all(home.path().join("imports")).unwrap();
    fs::write(home.path().join("imports/broken.json"), "{").unwrap();
    let broken = error(["broken", "none"]);
    assert!(broken.is_usage() && broken.message().contains("import the results again"), "{}", broken.message());
}

#[test]
fn an_error_of_an_import_names_its_file() {
    let home = tempfile::tempdir().unwrap();
    let session = Session::new(Experiment::default(), home.path().join("home"));
    let sample = r#"{"doc_id": 0, "doc": {"q": "a"}, "target": "b", "arguments": [["a", "b"]], "resps": [["b"]],
        "filtered_resps": ["b"], "acc": 1.0}"#
        .replace('\n', " ");
    let folder = home.path().join("lm_eval");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("samples_qa_1.jsonl"), format!("{sample}\n{sample}\n")).unwrap();
    let error = import(&session, &ImportOptions::new(ImportFormat::LmEval, &folder, "twice")).unwrap_err();
    let text = error.message();
    assert!(error.is_usage() && text.contains("lm_eval: ") && text.contains("two scores"), "{text}");
}

/// Answers one request and then raises the flag.
struct Interrupting {
    identity: ModelIdentity,
    stop: Arc<AtomicBool>,
}

impl LanguageModel for Interrupting {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { loglikelihood: true, generation: false, chat: false, patterns: false, max_length: 512 }
    }

    fn answer(&self, requests: &[Request], sink: &mut dyn FnMut(usize, Response) -> Control) -> Result<(), ModelError> {
        for at in 0..requests.len() {
            let output = Output::LogLikelihood {
                logprob: -1.0,
                is_greedy: false,
                token_ids: vec![],
                token_logprobs: vec![-1.0],
            };
            self.stop.store(true, Ordering::SeqCst);
            if sink(at, Response { output, usage: Usage::default() }) == Control::Stop {
                break;
            }
        }
        Ok(())
    }

    fn apply_chat_template(&self, _: &[ChatMessage], _: ChatOptions) -> Result<String, ModelError> {
        Err(ModelError::ChatTemplate("none".to_owned()))
    }

    fn tokenize(&self, _: &str) -> Option<Vec<(u32, String)>> {
        None
    }
}

#[test]
fn a_flag_stops_the_work_and_answers_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let experiment = Experiment::load(Some(&workspace_root().join("harness.toml"))).unwrap();
    let session = Session::new(experiment, home.path()).stopped_by(Arc::clone(&stop));
    let identity = ModelIdentity {
        weights: Digest::of("interrupting"),
        adapter: None,
        tokenizer: Digest::of("none"),
        chat_template: None,
        dtype: "f32".to_owned(),
        extra: Default::default(),
    };
    let model = Arc::new(Interrupting { identity, stop });
    let subjects = ["one", "two"].map(|name| Subject::Given { name: name.to_owned(), model: model.clone() });
    let mut options = CompareOptions::of(&session);
    options.evaluation.tasks = vec!["tiny_mmlu".to_owned()];
    let error = compare_subjects(&session, &subjects, "one two", &options).err().unwrap();
    assert!(matches!(error, EvaluationError::Interrupted(_)) && !error.is_usage(), "{}", error.message());
    assert!(error.message().contains("1 of "), "{}", error.message());
    assert!(fs::read_dir(Path::new(&session.home).join("store")).unwrap().count() > 0, "the answer is stored");
}
