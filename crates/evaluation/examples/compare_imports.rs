//! Two files of another tool's results, compared by document.
//!
//! `cargo run --release -p harness-evaluation --example compare_imports -- BASE.jsonl CANDIDATE.jsonl`; rows such as
//! `{"id": 7, "score": 1}`. Without arguments it writes two small files and compares those.

use std::{error::Error, fs, path::PathBuf};

use harness_evaluation::{
    CompareOptions, Session, compare,
    experiment::Experiment,
    import,
    import::{ImportFormat, ImportOptions},
};
use harness_reports::markdown;

#[allow(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let mut files: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        // A candidate that is right on a tenth more of 200 questions.
        for (name, every) in [("base", 2), ("candidate", 10)] {
            let right = |id: usize| usize::from(id.is_multiple_of(2) || (every == 10 && id % 10 == 1));
            let rows: String = (0..200).map(|id| format!("{{\"id\": {id}, \"score\": {}}}\n", right(id))).collect();
            files.push(home.path().join(format!("{name}.jsonl")));
            fs::write(&files[files.len() - 1], rows)?;
        }
    }
    let session = Session::new(Experiment::default(), home.path());
    let mut names = vec![];
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let task = Some("qa".to_owned());
        let options = ImportOptions { task, ..ImportOptions::new(ImportFormat::Jsonl, file, &name) };
        let imported = import(&session, &options)?;
        imported.caveats.iter().for_each(|caveat| println!("{name}: {caveat}"));
        names.push(name);
    }
    let compared = compare(&session, names.iter().map(String::as_str), &CompareOptions::of(&session))?;
    let report = &compared.stored.report;
    println!("{}", markdown(&report.comparison, &report.meta));
    Ok(())
}
