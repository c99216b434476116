//! Reading data files and finding data sets.

#![allow(clippy::print_stdout, reason = "the speed check says its figure")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness_store::{
    DataLocator, DataQuery, FileHashes, HubCache, Row, RowFilter, StoreError, dataset::DataSource, hub::RepoKind,
    open_rows, read_rows,
};
use parquet::{
    basic::{Compression, GzipLevel, ZstdLevel},
    data_type::{ByteArray, ByteArrayType},
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Writes a file into a fresh folder and reads its rows.
fn read(name: &str, content: &[u8]) -> Result<Vec<Value>, StoreError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    Ok(read_rows(&[path], None)?.into_iter().map(Value::Object).collect())
}

fn error(name: &str, content: &[u8]) -> String {
    read(name, content).unwrap_err().to_string()
}

fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

#[test]
fn json_lines() {
    let text = "\u{feff}{\"b\": 1, \"a\": \"é\"}\r\n\n{\"b\": [1.5, null]}";
    let expected = [json!({"b": 1, "a": "é"}), json!({"b": [1.5, null]})];
    assert_eq!(read("x.jsonl", text.as_bytes()).unwrap(), expected);
    assert_eq!(read("x.ndjson.zst", &zst(text.as_bytes())).unwrap(), expected);
    let first = &read("x.jsonl", text.as_bytes()).unwrap()[0];
    assert_eq!(first.as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "a"], "column order is kept");

    let bad = error("x.jsonl", b"{\"a\": 1}\n\n{\"a\": 1,}\n");
    assert!(bad.contains("x.jsonl, line 3: found bad JSON at column 9") && bad.contains("one JSON object"), "{bad}");
    assert!(error("x.jsonl", b"{\"a\": 1}\n[1]\n").contains("line 2: found an array"));
    assert!(error("x.jsonl", b"{\"a\": 1}\n{\"a\": \"\xff\"}\n").contains("line 2: found the byte 0xFF"));
    assert!(error("x.jsonl", b"{\"a\": NaN}\n").contains("line 1"));
    let cut = &zst(text.repeat(1000).as_bytes())[..40];
    assert!(error("x.jsonl.zst", cut).contains("x.jsonl.zst: cannot read"), "{}", error("x.jsonl.zst", cut));
    assert!(error("x.jsonl.zst", b"not zstd").contains("x.jsonl.zst"));
}

#[test]
fn first_error_ends_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    fs::write(&path, "{}\nbad\n{}\n").unwrap();
    let rows: Vec<_> = open_rows(&path).unwrap().collect();
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn json_files() {
    let rows = [json!({"a": 1}), json!({"a": 2})];
    assert_eq!(read("x.json", b"[{\"a\": 1}, {\"a\": 2}]").unwrap(), rows);
    assert_eq!(read("x.json", b"{\"version\": 1, \"data\": [{\"a\": 1}, {\"a\": 2}]}").unwrap(), rows);
    assert_eq!(read("x.json", b"{\"a\": 1}\n{\"a\": 2}\n").unwrap(), rows, "lines under the name .json");
    assert!(error("x.json", b"{\"a\": 1}").contains("an object without one (its keys: a)"));
    assert!(error("x.json", b"{\"a\": [{}], \"b\": [{}]}").contains("several arrays of objects (a, b"));
    assert!(error("x.json", b"[{\"a\": 1},\n 7]").contains("item 2: found a number, expected an object"));
    assert!(error("x.json", b"[{\"a\": 1},\n {\"a\" 2}]").contains("line 2: found bad JSON at column 7"));
    assert!(error("x.json", b"[{\"a\":\n\"\xc3\"}]").contains("line 2: found the byte 0xC3"));
    assert!(error("x.json", b"3").contains("found a number"));
}

#[test]
fn delimited_files() {
    let text = "\u{feff}text,n,x,code,e\r\n\"a, \"\"b\"\"\nc\",1,0.5,007,\r\nd,,2,12,\r\n";
    let rows = read("x.csv", text.as_bytes()).unwrap();
    assert_eq!(rows[0], json!({"text": "a, \"b\"\nc", "n": 1, "x": 0.5, "code": "007", "e": ""}));
    assert_eq!(rows[1], json!({"text": "d", "n": null, "x": 2, "code": "12", "e": ""}));
    assert_eq!(read("x.tsv.zst", &zst(b"a\tb\n1\tx,y\n")).unwrap(), [json!({"a": 1, "b": "x,y"})]);
    assert_eq!(read("x.csv", b"a,b\n").unwrap(), [] as [Value; 0]);

    let short = error("x.csv", b"a,b\n\"1\n2\",2\n3\n");
    assert!(short.contains("x.csv, row 2 (line 4): found 1 cells, expected 2"), "{short}");
    let bytes = error("x.csv", b"a,b\n1,2\n\xe9,3\n");
    assert!(bytes.contains("row 2 (line 3): found in column \"a\" the byte 0xE9"), "{bytes}");
    assert!(error("x.csv", b"a,a\n1,2\n").contains("column \"a\" twice"));
    assert!(error("x.csv", b"").contains("no header line"));
}

#[test]
fn text_files() {
    assert_eq!(read("wiki.test.raw.zst", &zst("a\n é\n".as_bytes())).unwrap(), [json!({"text": "a\n é\n"})]);
    assert_eq!(read("x.txt", b"").unwrap(), [json!({"text": ""})]);
    assert!(error("x.txt", b"a\nb\n\xf0\x9f").contains("x.txt, line 3"));
    assert!(error("x.bin", b"").contains("an extension that is not known"));
    let missing = open_rows(Path::new("/nowhere/x.jsonl")).err().unwrap();
    assert!(missing.to_string().contains("/nowhere/x.jsonl: cannot open") && missing.is_usage(), "{missing}");
}

#[test]
fn parquet_files_that_are_broken_are_refused() {
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nested.parquet")).unwrap();
    let refused = |at: usize, byte: u8| {
        let mut file = whole.clone();
        file[at] = byte;
        error("x.parquet", &file)
    };
    // Bytes of a column: fewer than none, and more than the file has.
    assert!(refused(2944, 0xff).contains("column \"answer\" of row group 0 has -"), "{}", refused(2944, 0xff));
    assert!(refused(2945, 0x7f).contains("column \"answer\" of row group 0 has "));
    // A page's number of values, in the dictionary; a list's element that is one level too deep, over which the library
    // panics.
    assert!(refused(224, 0).contains("a page of column \"answer\" names"), "{}", refused(224, 0));
    let deep = refused(420, 0x7f);
    assert!(deep.contains("x.parquet, row 1: found unreadable data (Cannot extract value"), "{deep}");
}

/// A column of `rows` equal texts of 1 MiB in one page.
fn packed(compression: Compression, rows: usize) -> Vec<u8> {
    let schema = parse_message_type("message rows { required binary text (UTF8); }").unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(1 << 30)
        .build();
    let mut file = SerializedFileWriter::new(vec![], schema.into(), properties.into()).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts = vec![ByteArray::from(vec![b'a'; 1 << 20]); rows];
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.into_inner().unwrap()
}

#[test]
fn parquet_pages_do_not_grow_without_end() {
    let (gzip, zstd) = (Compression::GZIP(GzipLevel::default()), Compression::ZSTD(ZstdLevel::default()));
    for compression in [gzip, zstd, Compression::SNAPPY, Compression::UNCOMPRESSED] {
        assert_eq!(read("x.parquet", &packed(compression, 7)).unwrap().len(), 7, "{compression}");
    }
    for compression in [gzip, zstd] {
        let error = error("x.parquet", &packed(compression, 40));
        assert!(error.contains("x.parquet, row 1: found unreadable data"), "{error}");
        assert!(
            error.contains("column \"text\": the page at byte 4: a part of 8 MiB is more than 200 times"),
            "{error}"
        );
    }
    // The second field of the first header, behind 15 00 15, are the bytes of the page: now 1 MiB less than there is.
    let mut file = packed(gzip, 7);
    assert_eq!(file[4..7], [0x15, 0x00, 0x15]);
    file[10] -= 1;
    let error = error("x.parquet", &file);
    assert!(error.contains("it has more than the"), "{error}");
}

#[test]
fn parquet_files() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nested.parquet");
    let rows: Vec<Value> = read_rows(&[path], None).unwrap().into_iter().map(Value::Object).collect();
    let expected = [
        json!({
            "question": "Größe?", "choices": ["a", "b", "c", "d"], "answer": 1,
            "labelled": {"text": ["t", "u"], "label": ["A", "B"]},
            "turns": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
            "grid": [[1, 2], [3]], "score": 0.1, "weight": 0.1, "flag": true, "bytes": "plain", "large": ["p"]
        }),
        json!({
            "question": "second", "choices": ["x"], "answer": 0, "labelled": {"text": [], "label": []}, "turns": [],
            "grid": [[]], "score": 1e-8, "weight": 1e300, "flag": false, "bytes": "/wA=", "large": ["q", "r"]
        }),
        json!({
            "question": "third", "choices": [], "answer": null, "labelled": {"text": ["v"], "label": ["C"]},
            "turns": [{"role": "user", "content": null}], "grid": [], "score": null, "weight": null, "flag": null,
            "bytes": "", "large": null
        }),
        json!({
            "question": "fourth", "choices": null, "answer": 3, "labelled": null, "turns": [], "grid": null,
            "score": -2.0, "weight": 0.5, "flag": true, "bytes": null, "large": []
        }),
    ];
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
    assert!(error("x.parquet", b"PAR1 but not really PAR1").contains("x.parquet: found no readable Parquet"));
    assert!(error("x.parquet", b"").contains("x.parquet"));
}

/// A data folder with files of one row each, which says where it lies.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{}\n", json!({"from": file}))).unwrap();
    }
    folder
}

fn from(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row["from"].as_str().unwrap()).collect()
}

#[test]
fn data_folders_come_in_order_and_names_too() {
    let first = folder(&["gsm8k/test.jsonl"]);
    let second = folder(&["openai/gsm8k/main/train-00000-of-00001.jsonl", "gsm8k/test.jsonl", "school/test.jsonl"]);
    let locator = DataLocator {
        data_dirs: vec![first.path().into(), second.path().into()],
        hub_cache: Some(HubCache::new(second.path().join("hub"))),
    };
    let query = |split: &str| DataQuery::new("openai/gsm8k", split).alias("school").config("main");
    let files = locator.locate(&query("test")).unwrap();
    assert_eq!(files.files, [first.path().join("gsm8k/test.jsonl")]);
    assert_eq!((files.config.as_deref(), &files.source), (None, &DataSource::DataDir(first.path().into())));
    let train = locator.locate(&query("train")).unwrap();
    assert_eq!(
        (from(&train.rows().unwrap()), train.config.as_deref()),
        (vec!["openai/gsm8k/main/train-00000-of-00001.jsonl"], Some("main"))
    );

    let missing = locator.locate(&query("tset")).unwrap_err();
    assert!(missing.is_usage());
    let text = missing.to_string();
    let StoreError::DataNotFound(missing) = missing else { panic!("{missing}") };
    assert_eq!(missing.splits, ["main/train", "test"]);
    assert_eq!(missing.names, ["openai/gsm8k", "gsm8k", "school"]);
    let tried: Vec<(PathBuf, bool)> = vec![
        (first.path().join("openai/gsm8k"), false),
        (first.path().join("gsm8k"), true),
        (first.path().join("school"), false),
        (second.path().join("openai/gsm8k"), true),
        (second.path().join("gsm8k"), true),
        (second.path().join("school"), true),
        (second.path().join("hub/datasets--openai--gsm8k"), false),
        (second.path().join("hub/datasets--school"), false),
    ];
    assert_eq!(missing.tried, tried);
    assert!(text.contains("did you mean \"test\"?") && text.contains("(does not exist)"), "{text}");
    let nothing = DataLocator::default().locate(&DataQuery::new("x", "test")).unwrap_err().to_string();
    assert!(nothing.contains("--data-dir") && nothing.contains("no data folder was given"), "{nothing}");
}

#[test]
fn hub_cache_is_looked_in_last() {
    let home = tempfile::tempdir().unwrap();
    let cache = HubCache::new(home.path());
    let repo = cache.repo_folder(RepoKind::Dataset, "org/set");
    for (commit, n) in [("c1", 1), ("c2", 2)] {
        let file = repo.join("snapshots").join(commit).join("data/test-00000-of-00001.jsonl");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("{{\"n\": {n}}}")).unwrap();
    }
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), "c2").unwrap();
    let locator = DataLocator { data_dirs: vec![], hub_cache: Some(cache) };
    let mut query = DataQuery::new("org/set", "test");
    assert_eq!(locator.load(&query).unwrap()[0]["n"], 2);
    query.revision = Some("c1".into());
    assert_eq!(locator.load(&query).unwrap()[0]["n"], 1);
    query.revision = Some("c3".into());
    assert!(locator.load(&query).is_err());
}

#[test]
fn paths_are_names() {
    let folder = folder(&["sets/mine/rows.jsonl", "sets/mine/other.jsonl", "sets/dir/test.jsonl"]);
    let none = DataLocator::default();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let rows = none.load(&DataQuery::new(path("sets/mine/rows.jsonl"), "test")).unwrap();
    assert_eq!(from(&rows), ["sets/mine/rows.jsonl"]);
    assert_eq!(from(&none.load(&DataQuery::new(path("sets/dir"), "test")).unwrap()), ["sets/dir/test.jsonl"]);
    let below = DataLocator { data_dirs: vec![folder.path().join("sets")], hub_cache: None };
    assert_eq!(from(&below.load(&DataQuery::new("mine/rows.jsonl", "train")).unwrap()), ["sets/mine/rows.jsonl"]);
    let missing = none.load(&DataQuery::new(path("sets/mine/none.jsonl"), "test")).unwrap_err().to_string();
    assert!(missing.contains("none.jsonl (does not exist)"), "{missing}");
    let entries = none.locate(&DataQuery::new(path("sets/dir"), "test")).unwrap();
    let entries = entries.entries(&FileHashes::open(folder.path())).unwrap();
    assert_eq!(entries[0].hash, harness_store::hash_file(&folder.path().join("sets/dir/test.jsonl")).unwrap());
}

#[test]
fn rows_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("train-00000-of-00002.jsonl", "{\"a\": 1}\n\n{\"a\": 2}\n");
    write("train-00001-of-00002.jsonl", "\n{\"a\": 3}\n");
    write("c.csv", "a,b\n1,\"x\ny\"\n2,z\n");
    write("d.json", "[{\"a\": 1}, {\"a\": 2}]");
    let files = |path: &Path| DataLocator::default().locate(&DataQuery::new(path.to_string_lossy(), "train")).unwrap();
    let place = |path: &Path, row: usize| {
        let (file, place) = files(path).place_of(row).unwrap();
        (file.file_name().unwrap().to_string_lossy().into_owned(), place)
    };
    let expected = |file: &str, place: &str| (file.to_owned(), place.to_owned());
    assert_eq!(place(folder.path(), 1), expected("train-00000-of-00002.jsonl", "line 3"));
    assert_eq!(place(folder.path(), 2), expected("train-00001-of-00002.jsonl", "line 2"));
    assert_eq!(place(&folder.path().join("c.csv"), 1), expected("c.csv", "row 2 (line 4)"));
    assert_eq!(place(&folder.path().join("d.json"), 1), expected("d.json", "row 2"));
    assert!(files(folder.path()).place_of(3).is_err());
}

#[test]
fn filters_select_rows() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("mmlu/law")).unwrap();
    fs::write(dir.path().join("mmlu/test.jsonl"), "{\"subject\":\"law\",\"n\":1}\n{\"subject\":\"art\",\"n\":2}\n")
        .unwrap();
    fs::write(dir.path().join("mmlu/law/dev.jsonl"), "{\"n\":3}\n").unwrap();
    let locator = DataLocator { data_dirs: vec![dir.path().into()], hub_cache: None };
    let query = |subject: &str, split: &str| {
        DataQuery::new("cais/mmlu", split).config(subject).filter(RowFilter::new("subject", subject))
    };
    assert_eq!(
        locator.load(&query("art", "test")).unwrap(),
        read_rows(&[dir.path().join("mmlu/test.jsonl")], None).unwrap()[1..]
    );
    assert_eq!(locator.load(&query("law", "dev")).unwrap()[0]["n"], 3, "the configuration's own file needs no column");
    let unknown = locator.load(&query("lwa", "test")).unwrap_err().to_string();
    assert!(unknown.contains("no row has \"lwa\"") && unknown.contains("law, art"), "{unknown}");
    let mut bad = query("law", "test");
    bad.filter = Some(RowFilter::new("topic", "law"));
    let column = locator.load(&bad).unwrap_err().to_string();
    assert!(column.contains("no column \"topic\"") && column.contains("subject, n"), "{column}");
    fs::write(dir.path().join("mmlu/empty.jsonl"), "\n").unwrap();
    assert!(locator.load(&DataQuery::new("mmlu", "empty")).unwrap_err().to_string().contains("no rows"));
}

#[test]
fn real_data() {
    let Some(data) = harness_test_support::beside("HARNESS_SHARED_DATA", "data") else { return };
    let locator = DataLocator { data_dirs: vec![data], hub_cache: None };
    let started = std::time::Instant::now();
    let rows = locator.load(&DataQuery::new("cais/mmlu", "test")).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(rows.len(), 14_042);
    // It takes about a tenth of this on an idle machine.
    assert!(seconds < 3.0, "loading MMLU took {seconds} s");
    println!("loaded MMLU in {seconds:.3} s");
    assert_eq!(rows[0].keys().collect::<Vec<_>>(), ["question", "subject", "choices", "answer"]);
    let anatomy =
        |split| DataQuery::new("cais/mmlu", split).config("anatomy").filter(RowFilter::new("subject", "anatomy"));
    assert_eq!(locator.load(&anatomy("test")).unwrap().len(), 135);
    assert_eq!(locator.load(&anatomy("dev")).unwrap().len(), 5);
    for (query, count) in [
        (DataQuery::new("allenai/ai2_arc", "test").alias("arc_easy").config("ARC-Easy"), 2_376),
        (DataQuery::new("openai/gsm8k", "train").config("main"), 7_473),
        (DataQuery::new("databricks/dolly", "train"), 15_011),
        (DataQuery::new("wikitext-2-raw", "test"), 4_358),
        (DataQuery::new("wikitext-2-raw/wiki.test.raw.zst", "test"), 1),
        (DataQuery::new("xsum", "test_subset"), 1_000),
        (DataQuery::new("alpaca_eval", "alpaca_eval"), 805),
    ] {
        assert_eq!(locator.load(&query).unwrap().len(), count, "{query:?}");
    }
    let bad = locator.load(&DataQuery::new("openai/gsm8k", "validation")).unwrap_err().to_string();
    assert!(bad.contains("there is test, train"), "{bad}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever text is in the cells, CSV and JSON Lines give it back.
    #[test]
    fn text_survives(cells in proptest::collection::vec(("\\PC*|[\",\r\n ]{0,6}", "[a-z]\\PC{0,9}"), 1..8)) {
        let folder = tempfile::tempdir().unwrap();
        let mut csv = csv::Writer::from_path(folder.path().join("x.csv")).unwrap();
        csv.write_record(["a", "b"]).unwrap();
        let mut lines = String::new();
        let mut expected = Vec::new();
        for (a, b) in &cells {
            // A letter in front keeps the column textual.
            let a = format!("t{a}");
            csv.write_record([&a, b]).unwrap();
            let row = json!({"a": a, "b": b});
            lines.push_str(&format!("{row}\n"));
            expected.push(row);
        }
        csv.flush().unwrap();
        fs::write(folder.path().join("x.jsonl.zst"), zst(lines.as_bytes())).unwrap();
        for name in ["x.csv", "x.jsonl.zst"] {
            let rows: Vec<Value> =
                read_rows(&[folder.path().join(name)], None).unwrap().into_iter().map(Value::Object).collect();
            prop_assert_eq!(&rows, &expected);
        }
    }

    /// No content of a file makes a reader panic.
    #[test]
    fn no_content_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), csvish in "[a,\"\n]{0,40}") {
        for name in ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.txt", "x.jsonl.zst"] {
            let _ = read(name, &bytes);
            let _ = read(name, csvish.as_bytes());
        }
    }
}
