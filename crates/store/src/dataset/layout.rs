//! Which files of a folder are which configuration and split.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{Compression, DataFormat};
use crate::{Result, StoreError};

/// Where the files of a data set come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// A path that was given as the data set's name.
    Path,
    /// A data folder.
    DataDir(PathBuf),
    /// The hub cache, at this snapshot.
    HubCache(PathBuf),
}

/// Spellings of one split; the hub reads them alike.
const SPELLINGS: [&[&str]; 3] =
    [&["train", "training"], &["validation", "valid", "val", "dev"], &["test", "testing", "eval", "evaluation"]];

/// Files that are data by extension only.
const NO_DATA: [&str; 9] =
    ["README", "LICENSE", "NOTICE", "MANIFEST", "dataset_info", "dataset_infos", "dataset_dict", "state", "config"];

/// Deepest folder in which files are looked for, counted from the data set's own.
const DEPTH: usize = 3;

/// One data file below a data set's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    /// Folders between the data set's and the file, without a leading `data`.
    folders: Vec<String>,
    /// The file's name without extension and shard number.
    stem: String,
    shard: Option<(usize, usize)>,
    format: DataFormat,
    compressed: bool,
}

impl Entry {
    fn new(root: &Path, path: PathBuf) -> Option<Self> {
        let (format, compression) = DataFormat::of(&path)?;
        let (stem, shard) = split_shard(&DataFormat::stem(&path)?);
        if NO_DATA.contains(&stem.as_str()) || stem.starts_with('.') {
            return None;
        }
        let relative = path.strip_prefix(root).ok()?.parent()?;
        let mut folders: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if folders.first().is_some_and(|first| first == "data") {
            folders.remove(0);
        }
        Some(Self { path, folders, stem, shard, format, compressed: compression != Compression::None })
    }

    fn is(&self, config: Option<&str>, split: &str) -> bool {
        let joined = |config: &str| ["-", "_"].iter().any(|joint| self.stem == format!("{config}{joint}{split}"));
        match (self.folders.as_slice(), config) {
            ([], None) => self.stem == split,
            ([folder], None) => folder == split,
            ([], Some(config)) => joined(config),
            ([folder], Some(config)) => {
                (folder == config && self.stem == split) || (folder == split && (self.stem == config || joined(config)))
            }
            ([first, second], Some(config)) => first == config && second == split,
            _ => false,
        }
    }

    /// The configuration under which this file would be the given split.
    fn config_for(&self, split: &str) -> Option<&str> {
        let first = self.folders.first()?;
        self.is(Some(first), split).then_some(first)
    }

    fn label(&self) -> String {
        let mut parts = self.folders.clone();
        parts.push(self.stem.clone());
        parts.join("/")
    }
}

/// The data files below one folder.
#[derive(Debug)]
pub(super) struct Layout {
    entries: Vec<Entry>,
}

/// Files found for one configuration and split.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) config: Option<String>,
    pub(super) split: String,
}

impl Layout {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut entries = Vec::new();
        walk(root, DEPTH, &mut |path| entries.extend(Entry::new(root, path)))?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { entries })
    }

    /// What there is, as `split` or `config/split`.
    pub(super) fn splits(&self) -> Vec<String> {
        self.entries.iter().map(Entry::label).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The files of a split: of the configuration if it has files of its own, else of the files without
    /// configuration; under the split's name, else under another spelling of it.
    pub(super) fn find(&self, config: Option<&str>, split: &str) -> Result<Option<Found>> {
        let spellings = SPELLINGS.iter().find(|group| group.contains(&split)).copied().unwrap_or_default();
        let names = || std::iter::once(split).chain(spellings.iter().copied().filter(|name| *name != split));
        let configs = if config.is_some() { vec![config, None] } else { vec![None] };
        for config in configs {
            for name in names() {
                if let Some(files) = self.group(config, name)? {
                    return Ok(Some(Found { files, config: config.map(str::to_owned), split: name.to_owned() }));
                }
            }
        }
        if config.is_none() {
            // The only configuration needs no naming.
            for name in names() {
                let configs: BTreeSet<&str> = self.entries.iter().filter_map(|entry| entry.config_for(name)).collect();
                if let (1, Some(only)) = (configs.len(), configs.first())
                    && let Some(files) = self.group(Some(only), name)?
                {
                    return Ok(Some(Found { files, config: Some((*only).to_owned()), split: name.to_owned() }));
                }
            }
        }
        // A single file that names no split is the training split, as on the hub.
        match self.entries.as_slice() {
            [only] if SPELLINGS[0].contains(&split) && !names_a_split(only) => {
                Ok(Some(Found { files: vec![only.path.clone()], config: None, split: split.to_owned() }))
            }
            _ => Ok(None),
        }
    }

    /// All files that are this configuration and split in one folder and one format.
    fn group(&self, config: Option<&str>, split: &str) -> Result<Option<Vec<PathBuf>>> {
        let rank = |entry: &Entry| (entry.path.components().count(), entry.format, entry.compressed);
        let mut matching: Vec<&Entry> = self.entries.iter().filter(|entry| entry.is(config, split)).collect();
        let Some(best) = matching.iter().map(|entry| rank(entry)).min() else { return Ok(None) };
        matching.retain(|entry| rank(entry) == best);
        let folder = matching[0].path.parent().map(Path::to_owned);
        matching.retain(|entry| entry.path.parent().map(Path::to_owned) == folder);
        let whole: Vec<&Entry> = matching.iter().copied().filter(|entry| entry.shard.is_none()).collect();
        if !whole.is_empty() {
            return Ok(Some(whole.into_iter().map(|entry| entry.path.clone()).collect()));
        }
        let count = matching.iter().filter_map(|entry| entry.shard).map(|(_, count)| count).max().unwrap_or(0);
        let missing: Vec<String> = (0..count)
            .filter(|index| !matching.iter().any(|entry| entry.shard == Some((*index, count))))
            .map(|index| format!("{index:05}-of-{count:05}"))
            .collect();
        if !missing.is_empty() {
            let found = format!("{} of {count} shards of split {split:?}", count - missing.len());
            return Err(StoreError::bad_file(
                folder.as_deref().unwrap_or(Path::new("")),
                found,
                format!("all of them; missing: {}", missing.join(", ")),
            ));
        }
        matching.retain(|entry| entry.shard.is_some_and(|(_, of)| of == count));
        matching.sort_by_key(|entry| entry.shard);
        Ok(Some(matching.into_iter().map(|entry| entry.path.clone()).collect()))
    }
}

fn names_a_split(entry: &Entry) -> bool {
    SPELLINGS.iter().copied().flatten().any(|name| {
        entry.folders.iter().chain([&entry.stem]).any(|part| part.split(['-', '_', '.']).any(|word| word == *name))
    })
}

/// Takes `-00000-of-00003` (and the hash that older uploads append) off the end of a name.
fn split_shard(stem: &str) -> (String, Option<(usize, usize)>) {
    let parse = |stem: &str| {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (name, index) = rest.rsplit_once('-')?;
        let number = |text: &str| {
            (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
        };
        Some((name.to_owned(), Some((number(index)?, number(count)?))))
    };
    let without_hash = stem
        .rsplit_once('-')
        .filter(|(_, hash)| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .and_then(|(rest, _)| parse(rest));
    parse(stem).or(without_hash).unwrap_or_else(|| (stem.to_owned(), None))
}

/// Calls `visit` for every file down to a depth; symbolic links (the hub cache is made of them) are followed.
fn walk(folder: &Path, depth: usize, visit: &mut impl FnMut(PathBuf)) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() {
            visit(path);
        } else if metadata.is_dir() && depth > 0 && !is_hidden(&path) {
            walk(&path, depth - 1, visit)?;
        }
    }
    Ok(())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes empty files and asks for a split; the answer is the files' paths below the root.
    fn find(files: &[&str], config: Option<&str>, split: &str) -> Option<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = Layout::read(folder.path()).unwrap().find(config, split).unwrap()?;
        let name = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        Some(found.files.iter().map(name).collect())
    }

    #[test]
    fn understands_the_usual_layouts() {
        let one = |files: &[&str], config, split| find(files, config, split).map(|found| found.join(" "));
        assert_eq!(one(&["test.jsonl.zst", "dev.jsonl.zst"], None, "test").unwrap(), "test.jsonl.zst");
        assert_eq!(
            one(&["data/test-00000-of-00001.parquet"], None, "test").unwrap(),
            "data/test-00000-of-00001.parquet"
        );
        assert_eq!(
            one(
                &["main/test-00001-of-00002.parquet", "main/test-00000-of-00002.parquet", "x/test.csv"],
                Some("main"),
                "test"
            )
            .unwrap(),
            "main/test-00000-of-00002.parquet main/test-00001-of-00002.parquet"
        );
        assert_eq!(
            one(&["main/test-00000-of-00001-a09b74b3ef9c3b56.parquet"], Some("main"), "test").unwrap(),
            "main/test-00000-of-00001-a09b74b3ef9c3b56.parquet"
        );
        assert_eq!(one(&["en-test.csv", "de-test.csv"], Some("de"), "test").unwrap(), "de-test.csv");
        assert_eq!(one(&["test/law.csv", "dev/law.csv"], Some("law"), "dev").unwrap(), "dev/law.csv");
        assert_eq!(
            one(&["law/test/0000.parquet", "law/test/0001.parquet"], Some("law"), "test").unwrap(),
            "law/test/0000.parquet law/test/0001.parquet"
        );
        assert_eq!(one(&["test/b.txt", "test/a.txt"], None, "test").unwrap(), "test/a.txt test/b.txt");
        assert_eq!(one(&["only/test.json"], None, "test").unwrap(), "only/test.json");
        assert_eq!(
            one(&["some-data.jsonl", "README.md", "dataset_info.json"], None, "train").unwrap(),
            "some-data.jsonl"
        );
    }

    #[test]
    fn prefers_what_is_meant() {
        let one = |files: &[&str], config, split| find(files, config, split).map(|found| found.join(" "));
        assert_eq!(one(&["dev.csv", "validation.csv"], None, "dev").unwrap(), "dev.csv");
        assert_eq!(one(&["dev.csv"], None, "validation").unwrap(), "dev.csv");
        assert_eq!(one(&["law/test.csv", "test.csv"], Some("law"), "test").unwrap(), "law/test.csv");
        assert_eq!(one(&["test.csv", "test.jsonl", "test.jsonl.zst"], None, "test").unwrap(), "test.jsonl");
        assert_eq!(one(&["test.csv"], Some("law"), "test").unwrap(), "test.csv");
        assert_eq!(one(&["a/test.csv", "b/test.csv"], None, "test"), None);
        assert_eq!(one(&["test.csv"], None, "train"), None);
        assert_eq!(one(&["x.csv", "y.csv"], None, "train"), None);
    }

    #[test]
    fn missing_shards_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("test-00000-of-00003.parquet"), "").unwrap();
        fs::write(folder.path().join("test-00002-of-00003.parquet"), "").unwrap();
        let error = Layout::read(folder.path()).unwrap().find(None, "test").unwrap_err().to_string();
        assert!(error.contains("2 of 3 shards") && error.contains("00001-of-00003"), "{error}");
    }
}
