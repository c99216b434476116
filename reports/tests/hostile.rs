//! Names that would act as markup, formulas or commands to a terminal, in every format.

mod support;

use harness_core::is_hidden;
use harness_metrics::comparison::{Caveat, Comparison, Share};
use harness_reports::{
    Format, Meta, RadarSeries, Report, Series, csv, html, json, latex_document, line_chart, markdown, radar_chart,
    write_all,
};
use support::comparison;

/// The base, and candidates that are a tag in backticks, a formula, and a link.
const NAMES: [&str; 4] = ["-7\u{1b}[8m", "`<i>`|<svg/onload=x>", "@A1\u{202e}", "[go](ftp://x)\u{9d}"];

/// A comparison in which all that can come from outside is hostile.
fn hostile() -> (Comparison, Meta) {
    let mut comparison = comparison(&NAMES);
    for row in &mut comparison.rows {
        row.label = format!("+{}<b>\u{2067}</b>", row.label);
        row.group = row.group.as_ref().map(|group| format!("={group}"));
    }
    let share = |task: &str, model: &str| Share { task: task.into(), key: None, model: model.into(), count: 1, of: 24 };
    comparison
        .caveats
        .push(Caveat::UnparsedAnswers { shares: vec![share("t`<u>", NAMES[1]), share("<!-- *x* -->\u{7}", NAMES[0])] });
    let meta = Meta { title: String::new(), manifest: vec![("<k>".into(), "~~v~~ &lt;\u{85}".into())] };
    (comparison, meta)
}

/// Markdown without code spans and without escaped characters.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let fence = rest.len() - rest.trim_start_matches('`').len();
            if c == '\\' {
                let escaped = rest.chars().nth(1).map_or(0, char::len_utf8);
                rest = &rest[1 + escaped..];
            } else if fence > 0 {
                let inside = &rest[fence..];
                let end = inside
                    .match_indices(&rest[..fence])
                    .map(|(at, _)| at)
                    .find(|&at| !inside[at + fence..].starts_with('`') && !inside[..at].ends_with('`'));
                rest = &inside[end.unwrap_or_else(|| panic!("an open code span: {line}")) + fence..];
            } else {
                bare.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        bare.push('\n');
    }
    bare
}

#[test]
fn markdown_shows_names_as_they_are() {
    let (comparison, meta) = hostile();
    let text = markdown(&comparison, &meta);
    assert!(!text.chars().any(is_hidden));
    assert!(text.contains("\\[U+001B\\]") && text.contains("-7[U+001B][8m"), "outside and inside of code spans");
    assert!(text.contains("`` `<i>`|<svg/onload=x> ``"), "the fence is longer than the runs in the name");
    let bare = bare(&text);
    // A number that is less than another is no tag.
    let bare = bare.replace("<0.001", "");
    for markup in ["<", "](", "~~", "&lt;", "`"] {
        assert_eq!(bare.lines().find(|line| line.contains(markup)), None, "{markup}");
    }
    // Cells are cells: as many as the header has.
    for pair in text.lines().collect::<Vec<_>>().windows(2).filter(|pair| pair.iter().all(|l| l.starts_with('|'))) {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        assert_eq!(cells(pair[0]), cells(pair[1]), "{pair:?}");
    }
}

#[test]
fn html_and_latex_show_names_as_they_are() {
    let (comparison, meta) = hostile();
    let page = html(&comparison, &meta).unwrap();
    assert!(!page.chars().any(is_hidden));
    for markup in ["<i>", "<svg/", "<b>", "<u>", "<!--", "<k>"] {
        assert!(!page.contains(markup), "{markup}");
    }
    assert!(page.contains("-7[U+001B][8m") && page.contains("&lt;svg/onload=x&gt;"));
    let latex = latex_document(&comparison, &meta);
    assert!(latex.contains("-7[U+001B][8m") && latex.contains("[U+202E]") && latex.is_ascii());
}

#[test]
fn cells_of_csv_are_text_or_numbers() {
    let (comparison, _) = hostile();
    let text = csv(&comparison).unwrap();
    assert!(!text.chars().any(is_hidden));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut negative = 0;
    let (mut models, mut labels, mut groups) = (vec![], vec![], vec![]);
    for record in reader.records() {
        let record = record.unwrap();
        for cell in record.iter().filter(|cell| cell.starts_with(['=', '+', '-', '@', '\t', '\r'])) {
            assert!(cell.parse::<f64>().is_ok(), "{cell}");
            negative += 1;
        }
        labels.push(record[1].to_owned());
        groups.push(record[2].to_owned());
        models.push(record[13].to_owned());
    }
    assert!(negative > 0, "negative differences stay numbers");
    assert_eq!(models[..4], ["'-7[U+001B][8m", NAMES[1], "'@A1[U+202E]", "[go](ftp://x)[U+009D]"]);
    assert!(labels.iter().all(|label| label.starts_with("'+")));
    assert!(groups.iter().any(|group| group == "'=mmlu") && groups.iter().any(String::is_empty));
}

#[test]
fn json_escapes_and_keeps_every_character() {
    let (comparison, meta) = hostile();
    let text = json(&comparison, &meta).unwrap();
    assert!(!text.chars().any(is_hidden) && text.contains("\\u202e"));
    let back: Report = serde_json::from_str(&text).unwrap();
    assert_eq!((back.comparison, back.meta), (comparison, meta));
}

#[test]
fn plots_are_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    let (comparison, meta) = hostile();
    write_all(dir.path(), &comparison, &meta, &[Format::Svg]).unwrap();
    let names: Vec<String> = NAMES.map(str::to_owned).to_vec();
    let radar = dir.path().join("radar.svg");
    let series = [RadarSeries { name: NAMES[2].into(), values: vec![Some(1.0), Some(2.0), Some(3.0), None] }];
    radar_chart(&radar, NAMES[0], &names, &series, (0.0, 4.0)).unwrap();
    let lines = dir.path().join("lines.svg");
    let line = |name: &str, y: f64| Series { name: name.into(), points: vec![(0.0, y), (1.0, 2.0 * y)] };
    line_chart(&lines, NAMES[3], "x", "y", &[line(NAMES[0], 1.0), line(NAMES[2], 2.0)]).unwrap();
    for file in ["comparison.svg", "radar.svg", "lines.svg"] {
        let svg = std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(!svg.chars().any(is_hidden) && svg.contains("[U+"), "{file}");
        assert!(!svg.contains("<i>") && !svg.contains("<svg/"), "{file}");
    }
}
