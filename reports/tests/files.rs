//! Reports and plots as files.

mod support;

use std::{fs, path::Path};

use harness_reports::{
    Format, Meta, RadarSeries, ReportError, Series, forest_plot, line_chart, radar_chart, write_all,
};
use support::{TEN, THREE, comparison, meta};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn all_formats_are_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/folder");
    let written = write_all(&out, &comparison(&THREE), &meta(), &Format::ALL).unwrap();
    assert_eq!(written.len(), 7);
    let expected =
        ["comparison.png", "comparison.svg", "report.csv", "report.html", "report.json", "report.md", "report.tex"];
    assert_eq!(names(&out), expected);
    // Written again, the bytes are the same and nothing is left over.
    let before: Vec<Vec<u8>> = written.iter().map(|path| fs::read(path).unwrap()).collect();
    write_all(&out, &comparison(&THREE), &meta(), &Format::ALL).unwrap();
    assert_eq!(names(&out), expected);
    assert!(written.iter().zip(&before).all(|(path, bytes)| &fs::read(path).unwrap() == bytes));
    forest_plot(&out.join("ten.svg"), &comparison(&TEN)).unwrap();
    let plot = fs::read_to_string(out.join("ten.svg")).unwrap();
    assert!(TEN[1..].iter().all(|model| plot.contains(model)) && plot.contains("undecided"));
    assert!(before[5].starts_with(b"<svg") && before[6].starts_with(b"\x89PNG"));
}

#[test]
fn one_model_has_no_plot_of_differences() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_all(dir.path(), &comparison(&THREE[..1]), &Meta::default(), &Format::ALL).unwrap();
    assert_eq!(written.len(), 5);
    let error = forest_plot(&dir.path().join("c.svg"), &comparison(&THREE[..1])).unwrap_err();
    assert!(matches!(error, ReportError::Empty { .. }));
}

#[test]
fn an_unwritable_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let error = write_all(&file, &comparison(&THREE), &meta(), &[Format::Markdown]).unwrap_err();
    assert!(error.to_string().starts_with(&file.display().to_string()), "{error}");
    // A folder where the report should be cannot be replaced; the temporary file is removed again.
    for format in Format::ALL {
        let out = dir.path().join(format!("{format:?}"));
        fs::create_dir_all(out.join(format.file_name()).join("full")).unwrap();
        let error = write_all(&out, &comparison(&THREE), &meta(), &[format]).unwrap_err();
        assert!(matches!(error, ReportError::Write { .. }), "{error}");
        assert!(error.to_string().contains(format.file_name()), "{error}");
        assert_eq!(names(&out), [format.file_name()]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_report() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("report.md"), "the old one").unwrap();
    // Every write to /dev/full fails as on a full disk; all temporary files that there may be are made to lead there.
    let temporary = |number: usize| dir.path().join(format!(".report.md.{}-{number}.tmp", std::process::id()));
    (0..256).for_each(|number| std::os::unix::fs::symlink("/dev/full", temporary(number)).unwrap());
    let error = write_all(dir.path(), &comparison(&THREE), &meta(), &[Format::Markdown]).unwrap_err().to_string();
    assert!(error.contains("report.md") && error.contains("No space left"), "{error}");
    let (left, reports): (Vec<String>, Vec<String>) =
        names(dir.path()).into_iter().partition(|name| name.ends_with(".tmp"));
    assert_eq!((left.len(), reports), (255, vec!["report.md".to_owned()]), "the one that was tried is removed");
    assert_eq!(fs::read_to_string(dir.path().join("report.md")).unwrap(), "the old one");
}

#[test]
fn line_charts_of_anything_finite() {
    let dir = tempfile::tempdir().unwrap();
    let series = |name: &str, points: Vec<(f64, f64)>| Series { name: name.into(), points };
    let loss = series("loss <&>", (0..50).map(|i| (f64::from(i), 3.0 / f64::from(i + 1))).collect());
    let broken = series("eval", vec![(0.0, 2.0), (10.0, f64::NAN), (20.0, 1.5), (30.0, f64::INFINITY), (40.0, 1.0)]);
    let flat = series("rate", vec![(0.0, 1e-4), (1.0, 1e-4)]);
    let one = series("one", vec![(3.0, 0.0)]);
    for (i, lines) in [vec![loss, broken], vec![flat], vec![one]].iter().enumerate() {
        for extension in ["svg", "png"] {
            let path = dir.path().join(format!("{i}.{extension}"));
            line_chart(&path, "Loss", "step", "nats per token", lines).unwrap();
            assert!(fs::metadata(&path).unwrap().len() > 500);
        }
    }
    let svg = fs::read_to_string(dir.path().join("0.svg")).unwrap();
    assert!(svg.contains("loss &lt;&amp;&gt;") && svg.contains("nats per token"));
    let nothing = [series("none", vec![(f64::NAN, 1.0)])];
    let error = line_chart(&dir.path().join("n.svg"), "t", "x", "y", &nothing).unwrap_err();
    assert!(matches!(error, ReportError::Empty { .. }));
    let error = line_chart(&dir.path().join("n.gif"), "t", "x", "y", &[series("a", vec![(0.0, 1.0)])]).unwrap_err();
    assert!(error.to_string().contains(".svg or .png"), "{error}");
}

#[test]
fn radar_charts_show_every_category_and_model() {
    let dir = tempfile::tempdir().unwrap();
    let spokes: Vec<String> = ["writing", "math", "coding", "stem"].map(str::to_owned).into();
    let series = |name: &str, values: [Option<f64>; 4]| RadarSeries { name: name.into(), values: values.into() };
    let models = [
        series("base", [Some(4.0), Some(2.5), None, Some(8.0)]),
        series("<r8>", [Some(5.0), Some(f64::NAN), Some(12.0), None]),
    ];
    for extension in ["svg", "png"] {
        let path = dir.path().join(format!("radar.{extension}"));
        radar_chart(&path, "MT-Bench", &spokes, &models, (0.0, 10.0)).unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 1000);
    }
    let svg = fs::read_to_string(dir.path().join("radar.svg")).unwrap();
    assert!(spokes.iter().all(|spoke| svg.contains(spoke.as_str())) && svg.contains("&lt;r8&gt;"), "{svg}");
    // Of the first model's polygon two edges end in the gap; of the second nothing is connected.
    assert_eq!(svg.matches("<circle").count(), 5);
    let error = radar_chart(&dir.path().join("r.svg"), "t", &spokes[..2], &models, (0.0, 10.0)).unwrap_err();
    assert!(error.to_string().contains("fewer than three categories"), "{error}");
}

#[test]
fn formats_are_known_by_name() {
    assert_eq!("latex".parse::<Format>().unwrap(), Format::Latex);
    assert!("docx".parse::<Format>().unwrap_err().to_string().contains("md, latex, csv"));
}
