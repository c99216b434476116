//! Markdown, LaTeX, CSV and JSON of comparisons.

mod support;

use std::collections::BTreeMap;

use harness_metrics::comparison::{Comparison, Verdict};
use harness_reports::{Report, csv, html, json, latex_document, latex_escape, latex_fragment, markdown};
use support::{TEN, THREE, comparison, meta};

#[test]
fn markdown_of_three_models() {
    insta::assert_snapshot!(markdown(&comparison(&THREE), &meta()));
}

#[test]
fn markdown_of_ten_models() {
    let text = markdown(&comparison(&TEN), &meta());
    let tables =
        text.lines().filter(|line| line.starts_with('|') && !line.contains("command") && !line.contains("base  "));
    let widest = tables.map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 120, "{widest} characters a line");
    insta::assert_snapshot!(text);
}

#[test]
fn latex_of_three_models() {
    insta::assert_snapshot!(latex_fragment(&comparison(&THREE)));
}

#[test]
fn latex_of_ten_models() {
    insta::assert_snapshot!(latex_document(&comparison(&TEN), &meta()));
}

#[test]
fn every_line_of_a_markdown_table_has_the_same_cells() {
    for models in [&THREE[..], &TEN[..], &THREE[..1]] {
        let text = markdown(&comparison(models), &meta());
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair.iter().all(|line| line.starts_with('|'))) {
            assert_eq!(cells(pair[0]), cells(pair[1]), "{pair:?}");
            assert_eq!(pair[0].chars().count(), pair[1].chars().count(), "{pair:?}");
        }
    }
}

/// Columns that a row of a LaTeX table fills.
fn columns(row: &str) -> usize {
    let cells = row.replace("\\&", "").matches('&').count() + 1;
    cells + row.matches("\\multicolumn{2}").count()
}

/// Columns that a specification like `llr@{\,}l` declares.
fn declared(specification: &str) -> usize {
    specification.replace("@{\\,}", "").chars().filter(|c| matches!(c, 'l' | 'r' | 'c')).count()
}

#[test]
fn latex_tables_are_well_formed() {
    for models in [&THREE[..], &TEN[..], &THREE[..1]] {
        let text = latex_document(&comparison(models), &meta());
        let mut expected = 0;
        let (mut tables, mut rows) = (0, 0);
        for line in text.lines() {
            for environment in ["\\begin{tabular}{", "\\begin{longtable}{"] {
                if let Some(specification) = line.strip_prefix(environment) {
                    expected = declared(specification.strip_suffix('}').unwrap());
                    tables += 1;
                }
            }
            if line.starts_with("\\end{tabular}") || line.starts_with("\\end{longtable}") {
                expected = 0;
            }
            if expected > 0 && line.ends_with("\\\\") && !line.starts_with("\\caption") {
                assert_eq!(columns(line), expected, "{line}");
                rows += 1;
            }
        }
        assert!(tables >= 3 && rows > 2 * tables, "{tables} tables, {rows} rows");
        for name in ["toprule", "bottomrule"] {
            let count = text.matches(&format!("\\{name}")).count();
            let long = text.matches("\\begin{longtable}").count();
            assert_eq!(count, tables + if name == "toprule" { long } else { 0 }, "{name}");
        }
        let mut open: Vec<&str> = Vec::new();
        for (at, _) in text.match_indices('\\') {
            let rest = &text[at..];
            if let Some(name) = rest.strip_prefix("\\begin{") {
                open.push(&name[..name.find('}').unwrap()]);
            } else if let Some(name) = rest.strip_prefix("\\end{") {
                assert_eq!(open.pop(), Some(&name[..name.find('}').unwrap()]));
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let depth = text.replace("\\{", "").replace("\\}", "").chars().fold(0i32, |depth, c| match c {
            '{' => depth + 1,
            '}' => depth - 1,
            _ => depth,
        });
        assert_eq!(depth, 0, "braces are balanced");
        assert!(text.is_ascii());
    }
}

#[test]
fn latex_names_are_escaped() {
    let text = latex_document(&comparison(&THREE), &meta());
    assert!(text.contains("r8\\_50\\%\\textbar{}x") && text.contains("STEM \\& co"));
    assert!(!text.contains("r8_50"));
    assert_eq!(latex_escape("100%_"), "100\\%\\_");
}

#[test]
fn bold_only_where_the_verdict_says_better() {
    let mut comparison = comparison(&THREE);
    let better = |comparison: &Comparison| {
        comparison.rows.iter().flat_map(|row| &row.contrasts).filter(|c| c.verdict == Verdict::Better).count()
    };
    assert!(better(&comparison) > 0);
    assert!(latex_fragment(&comparison).contains("\\textbf{"));
    for contrast in comparison.rows.iter_mut().flat_map(|row| &mut row.contrasts) {
        contrast.verdict = Verdict::Undecided;
    }
    assert!(!latex_fragment(&comparison).contains("\\textbf{"));
    // Only the summary has bold names then.
    assert!(
        markdown(&comparison, &meta()).lines().filter(|line| line.starts_with('|')).all(|line| !line.contains("**"))
    );
}

#[test]
fn csv_reads_back() {
    let comparison = comparison(&THREE);
    let text = csv(&comparison).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let records: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(records.len(), comparison.rows.len() * comparison.models.len());
    let mut records = records.iter();
    for row in &comparison.rows {
        for cell in &row.cells {
            let record = records.next().unwrap();
            assert_eq!((&record["task"], &record["model"]), (&row.task, &cell.model));
            assert_eq!((&record["metric"], &record["filter"]), (&row.key.metric, &row.key.filter));
            assert_eq!(record["value"].parse::<f64>().ok(), cell.value);
            assert_eq!(record["low"].parse::<f64>().ok(), cell.interval.map(|interval| interval.low));
            let contrast = row.contrasts.iter().find(|contrast| contrast.model == cell.model);
            assert_eq!(record["p_corrected"].parse::<f64>().ok(), contrast.and_then(|contrast| contrast.p_corrected));
            let verdict = contrast.map(|contrast| contrast.verdict.to_string()).unwrap_or_default();
            assert_eq!(record["verdict"], verdict);
        }
    }
}

#[test]
fn json_round_trips() {
    let comparison = comparison(&TEN);
    let text = json(&comparison, &meta()).unwrap();
    let back: Report = serde_json::from_str(&text).unwrap();
    assert_eq!((&back.comparison, &back.meta), (&comparison, &meta()));
    assert_eq!(back.comparison.schema, harness_metrics::comparison::SCHEMA_VERSION);
    assert_eq!(json(&back.comparison, &back.meta).unwrap(), text);
}

#[test]
fn html_is_well_formed_and_says_what_markdown_says() {
    for models in [&THREE[..], &TEN[..], &THREE[..1]] {
        let text = html(&comparison(models), &meta()).unwrap();
        let body = &text[text.find("<body>").unwrap()..];
        let mut open: Vec<&str> = Vec::new();
        for tag in body.split('<').skip(1).map(|rest| &rest[..rest.find('>').expect("a tag ends")]) {
            match tag.strip_prefix('/') {
                Some("html") => assert!(open.is_empty(), "{open:?}"),
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split_whitespace().next().unwrap()),
            }
        }
        let rows = |text: &str, mark: &str| text.matches(mark).count();
        let tables = rows(body, "<table>");
        let lines = markdown(&comparison(models), &meta()).lines().filter(|line| line.starts_with('|')).count();
        // Markdown has a line of dashes below every header.
        assert_eq!(rows(body, "<tr>") + tables, lines);
        assert_eq!(body.contains("<svg"), models.len() > 1);
        assert!(models.iter().all(|model| body.contains(&model.replace('&', "&amp;").replace('<', "&lt;"))));
    }
}

/// Compiles a document with pdflatex, where it and the packages of the document are installed, and returns its log.
#[allow(clippy::print_stderr, reason = "tests say on standard error what they skip")]
fn compile(text: &str) -> Option<(bool, String)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("report.tex"), text).unwrap();
    let mut command = std::process::Command::new("pdflatex");
    command.args(["-interaction=nonstopmode", "-halt-on-error", "report.tex"]).current_dir(folder.path());
    let Ok(output) = command.output() else {
        eprintln!("skipped: pdflatex is not installed");
        return None;
    };
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(missing) =
        log.lines().find(|line| line.starts_with("! LaTeX Error: File `") && line.ends_with("' not found."))
    {
        eprintln!("skipped: pdflatex lacks a package: {missing}");
        return None;
    }
    Some((output.status.success() && folder.path().join("report.pdf").is_file(), log))
}

#[test]
fn latex_documents_compile() {
    for models in [&THREE[..], &TEN[..], &THREE[..1]] {
        let mut meta = meta();
        // Everything that LaTeX treats specially, in a place where users' text stands.
        meta.manifest.push(("odd".into(), "~^_#$%&{}\\<>|\"`' -- ,, é Š ≤ ± 漢".into()));
        let Some((compiled, log)) = compile(&latex_document(&comparison(models), &meta)) else { return };
        assert!(compiled, "{log}");
        assert!(!log.contains("Overfull \\hbox"), "{log}");
    }
}
