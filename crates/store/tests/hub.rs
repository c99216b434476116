//! Downloading from a server on this machine.

use harness_store::hub::RepoKind;

#[cfg(not(feature = "hub"))]
#[test]
fn without_the_feature_it_is_said() {
    use harness_store::{HubCache, hub::download};
    let cache = HubCache::new("/nowhere/hub");
    let error = download(&cache, RepoKind::Model, "org/name", None, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("built without feature `hub`") && error.contains("models--org--name"), "{error}");
}

#[test]
fn only_files_that_are_read_are_wanted() {
    let model = |file| RepoKind::Model.wants(file);
    assert!(model("config.json") && model("model-00001-of-00002.safetensors") && model("chat_template.jinja"));
    assert!(!model("pytorch_model.bin") && !model("onnx/config.json") && !model("README.md"));
    let data = |file| RepoKind::Dataset.wants(file);
    assert!(data("data/test-00000-of-00001.parquet") && data("x.jsonl") && !data("README.md"));
}

#[cfg(feature = "hub")]
mod server {
    use std::{
        collections::BTreeMap,
        fs,
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        path::Path,
        sync::{Arc, Mutex},
    };

    use harness_store::{
        DataLocator, DataQuery, HubCache, StoreError,
        hub::{HubClient, Progress, RepoKind},
    };

    /// Answers by path: status, body, and the length it announces.
    type Pages = BTreeMap<String, (u16, Vec<u8>, Option<usize>)>;

    /// A server that lives as long as the test's process; gives its address and the requests it got.
    fn serve(pages: Pages) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let token = head.into_iter().find(|line| line.to_lowercase().starts_with("authorization"));
                requests.lock().unwrap().push(format!("{path} {}", token.unwrap_or_default()).trim_end().to_owned());
                let missing = (404, b"no".to_vec(), None);
                let (status, body, length) = pages.get(&path).unwrap_or(&missing);
                let length = length.unwrap_or(body.len());
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        (address, log)
    }

    fn page(body: impl Into<Vec<u8>>) -> (u16, Vec<u8>, Option<usize>) {
        (200, body.into(), None)
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names.extend(files(&path));
            } else {
                names.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        names.sort();
        names
    }

    fn nothing(_: Progress<'_>) {}

    #[test]
    fn downloads_into_the_cache() {
        let rows = b"{\"a\": 1}\n".repeat(20_000);
        let sha256 = "fdd70a6c1f2e7ec41c8ac4e6bf0bb7ab6a6f6cb0a7c3a5c0b4a3d0e8b3a7b6f5";
        let info = |sum: &str| {
            format!(
                r#"{{"sha": "abc123", "siblings": [{{"rfilename": "README.md", "size": 3}},
                {{"rfilename": "data/test set.jsonl", "size": {}}},
                {{"rfilename": "train.jsonl", "size": 9, "lfs": {{"sha256": "{sum}"}}}}]}}"#,
                rows.len()
            )
        };
        // SHA-256 of `{"b": 2}` and a line end.
        let right = include_str!("fixtures/row.sha256").trim();
        let mut pages = Pages::new();
        pages.insert("/api/datasets/org/set/revision/main?blobs=true".into(), page(info(right)));
        pages.insert("/api/datasets/org/bad/revision/v%2F1?blobs=true".into(), page(info(sha256)));
        for set in ["set", "bad"] {
            pages.insert(format!("/datasets/org/{set}/resolve/abc123/data/test%20set.jsonl"), page(rows.clone()));
            pages.insert(format!("/datasets/org/{set}/resolve/abc123/train.jsonl"), page("{\"b\": 2}\n"));
        }
        let (address, log) = serve(pages);
        let home = tempfile::tempdir().unwrap();
        let cache = HubCache::new(home.path());
        let client = HubClient::new(format!("{address}/"), Some("secret".into()), cache.clone()).unwrap();
        let mut seen = Vec::new();
        let wanted = |file: &str| RepoKind::Dataset.wants(file);
        let snapshot = client
            .download(RepoKind::Dataset, "org/set", None, &wanted, &mut |p| {
                seen.push((p.index, p.files, p.bytes, p.total));
            })
            .unwrap();
        assert_eq!(files(&snapshot), ["test set.jsonl", "train.jsonl"]);
        assert_eq!(fs::read(snapshot.join("data/test set.jsonl")).unwrap(), rows);
        assert_eq!(seen.first(), Some(&(0, 2, 0, Some(rows.len() as u64))));
        assert_eq!(seen.last(), Some(&(1, 2, 9, Some(9))));
        assert!(seen.contains(&(0, 2, rows.len() as u64, Some(rows.len() as u64))));
        assert!(log.lock().unwrap()[0].ends_with("Bearer secret"), "{log:?}");
        let locator = DataLocator { data_dirs: vec![], hub_cache: Some(cache.clone()) };
        assert_eq!(locator.load(&DataQuery::new("org/set", "train")).unwrap()[0]["b"], 2);

        // A second time only the description is fetched.
        log.lock().unwrap().clear();
        client.download(RepoKind::Dataset, "org/set", None, &wanted, &mut nothing).unwrap();
        assert_eq!(log.lock().unwrap().len(), 1);

        let bad = client.download(RepoKind::Dataset, "org/bad", Some("v/1"), &wanted, &mut nothing).unwrap_err();
        assert!(bad.to_string().contains("the hub says fdd70a6c"), "{bad}");
        assert_eq!(
            files(&cache.repo_folder(RepoKind::Dataset, "org/bad")),
            ["test set.jsonl"],
            "no part of a file is left"
        );
    }

    #[test]
    fn failures_say_what_to_do() {
        let mut pages = Pages::new();
        let info = |file: &str| page(format!(r#"{{"sha": "c", "siblings": [{{"rfilename": "{file}"}}]}}"#));
        pages.insert("/api/models/org/gated/revision/main?blobs=true".into(), (403, b"no".to_vec(), None));
        pages.insert("/api/models/org/odd/revision/main?blobs=true".into(), page("<html>"));
        pages.insert("/api/models/org/empty/revision/main?blobs=true".into(), info("README.md"));
        pages.insert("/api/models/org/evil/revision/main?blobs=true".into(), info("../../evil.json"));
        pages.insert("/api/models/org/short/revision/main?blobs=true".into(), info("config.json"));
        pages.insert("/org/short/resolve/c/config.json".into(), (200, b"{".to_vec(), Some(100)));
        let (address, _) = serve(pages);
        let home = tempfile::tempdir().unwrap();
        let client = HubClient::new(&address, None, HubCache::new(home.path())).unwrap();
        let error = |id: &str| {
            let error = client.download(RepoKind::Model, id, None, &|file| file.ends_with(".json"), &mut nothing);
            let error = error.unwrap_err();
            assert!(matches!(error, StoreError::Hub { .. }), "{error}");
            error.to_string()
        };
        assert!(error("org/gated").contains("HF_TOKEN") && error("org/gated").contains("403"));
        assert!(error("org/none").contains("check the spelling"));
        assert!(error("org/odd").contains("not the description of a repository"));
        assert!(error("org/empty").contains("no file that this program reads"));
        assert!(error("org/evil").contains("leads out of its folder"));
        assert!(error("org/short").contains("org/short/resolve/c/config.json"));
        assert_eq!(files(home.path()), [] as [&str; 0], "nothing is left behind");
        let nobody = HubClient::new("http://127.0.0.1:9", None, HubCache::new(home.path())).unwrap();
        let refused = nobody.download(RepoKind::Model, "a/b", None, &|_| true, &mut nothing).unwrap_err().to_string();
        assert!(refused.starts_with("http://127.0.0.1:9/api/models/a/b"), "{refused}");
    }
}
