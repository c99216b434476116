//! Results of other tools.

use harness_evaluation::{
    Session,
    experiment::Experiment,
    import,
    import::{ImportFormat, ImportOptions, imported_tables},
};

use crate::folder::{files, with_folder, write};

/// Name of what is imported.
const NAME: &str = "imported";

/// A folder of lm-eval's results, or a file of another tool where the first file has the name of one.
pub(crate) fn results(bytes: &[u8]) {
    with_folder(|folder| {
        let files = files(bytes, "results_1.json");
        let Some((first, _)) = files.first() else { return };
        let format = match *first {
            "annotations.json" => ImportFormat::AlpacaEval,
            "judgment.jsonl" => ImportFormat::Fastchat,
            "rows.csv" => ImportFormat::Csv,
            "rows.jsonl" => ImportFormat::Jsonl,
            _ => ImportFormat::LmEval,
        };
        for (name, bytes) in &files {
            write(&folder.join("results"), name, bytes);
        }
        let session = Session::new(Experiment::default(), folder.join("home"));
        let path = folder.join("results");
        let path = if format == ImportFormat::LmEval { path } else { path.join(first) };
        let options = ImportOptions::new(format, path, NAME);
        match import(&session, &options) {
            Ok(imported) => {
                assert!(!imported_tables(&[&imported.record], &[]).is_empty(), "nothing to compare");
                let again = ImportOptions { force: true, ..options };
                let again = import(&session, &again).expect("what was imported once").record;
                assert_eq!(again, imported.record, "imported again, the results are others");
            }
            Err(error) => {
                let text = error.to_string();
                let named = text.contains(&folder.display().to_string()) || text.starts_with(NAME);
                assert!(named && error.is_usage(), "the error does not blame its file: {text}");
            }
        }
    });
}
