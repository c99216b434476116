//! Finding the files of a data set.

use std::path::{Path, PathBuf};

use super::{
    DataFormat, DataSource, Row, RowFilter,
    layout::{Found, Layout},
    load::{open_rows, place_of, read_rows},
};
use crate::{
    DataEntry, FileHashes, Result, StoreError,
    error::DataNotFound,
    hub::{HubCache, RepoKind},
};

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataQuery {
    /// Names of the data set, tried in this order: a hub id (`org/name`; its last part is tried too), an alias, or a
    /// path to a file or folder (absolute, starting with `.`, or relative to a data folder).
    pub names: Vec<String>,
    /// Configuration (lm-eval's `dataset_name`).
    pub config: Option<String>,
    /// Split, e.g. `test`.
    pub split: String,
    /// Revision in the hub cache; default `main`.
    pub revision: Option<String>,
    /// Selects rows where one file holds all configurations. Where the configuration has files of its own that lack
    /// the column, all of their rows are meant.
    pub filter: Option<RowFilter>,
}

impl DataQuery {
    /// A split of a data set by name.
    pub fn new(name: impl Into<String>, split: impl Into<String>) -> Self {
        Self { names: vec![name.into()], config: None, split: split.into(), revision: None, filter: None }
    }

    /// Adds a name to try after the others.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Asks for a configuration.
    pub fn config(mut self, config: impl Into<String>) -> Self {
        self.config = Some(config.into());
        self
    }

    /// Selects rows.
    pub fn filter(mut self, filter: RowFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// All names, hub ids followed by their last part, without repetition.
    fn all_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        let parts =
            self.names.iter().flat_map(|name| [Some(name.as_str()), name.rsplit_once('/').map(|(_, last)| last)]);
        for name in parts.flatten().filter(|name| !name.is_empty()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// The files of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFiles {
    /// The files (shards), in order; never empty.
    pub files: Vec<PathBuf>,
    /// Where they were found.
    pub source: DataSource,
    /// The configuration whose own files these are, if the layout has one.
    pub config: Option<String>,
    /// The split as the files spell it (`dev` for `validation`).
    pub split: String,
    /// Selects rows.
    pub filter: Option<RowFilter>,
}

impl DataFiles {
    /// All rows that are meant.
    ///
    /// # Errors
    /// At the first bad row, naming file and line; if the filter's column does not exist or selects nothing; if there
    /// is no row at all.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let rows = read_rows(&self.files, self.effective_filter()?)?;
        if rows.is_empty() {
            return Err(StoreError::bad_file(&self.files[0], "no rows", "at least one"));
        }
        Ok(rows)
    }

    /// Where a row lies, by its number in [`Self::rows`]: the file, and the line or row in it.
    ///
    /// # Errors
    /// As [`Self::rows`]; if there is no such row.
    pub fn place_of(&self, row: usize) -> Result<(PathBuf, String)> {
        let place = place_of(&self.files, self.effective_filter()?, row)?;
        place.ok_or_else(|| StoreError::bad_file(&self.files[0], format!("no row {}", row + 1), "as many as before"))
    }

    /// Path and hash of every file, for a manifest.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn entries(&self, hashes: &FileHashes) -> Result<Vec<DataEntry>> {
        self.files.iter().map(|path| Ok(DataEntry { path: path.clone(), hash: hashes.hash(path)? })).collect()
    }

    /// The filter, unless the files are the configuration's own and lack its column.
    fn effective_filter(&self) -> Result<Option<&RowFilter>> {
        let Some(filter) = &self.filter else { return Ok(None) };
        if self.config.is_none() {
            return Ok(Some(filter));
        }
        let first = open_rows(&self.files[0])?.next().transpose()?;
        Ok(first.is_some_and(|row| row.contains_key(&filter.column)).then_some(filter))
    }
}

/// Where data sets are looked for; never on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataLocator {
    /// Folders that hold data sets, the first one that has the split wins.
    pub data_dirs: Vec<PathBuf>,
    /// The hub cache, looked in last.
    pub hub_cache: Option<HubCache>,
}

impl DataLocator {
    /// The given folders first (from `--data-dir`), then those in `HARNESS_DATA_DIR` (separated like `PATH`), then the
    /// hub cache ([`HubCache::from_env`]).
    pub fn from_env(mut data_dirs: Vec<PathBuf>) -> Self {
        if let Some(variable) = std::env::var_os("HARNESS_DATA_DIR") {
            data_dirs.extend(std::env::split_paths(&variable).filter(|path| !path.as_os_str().is_empty()));
        }
        Self { data_dirs, hub_cache: HubCache::from_env() }
    }

    /// Finds the files of a split.
    ///
    /// Understood below a data folder, for each name: a file of that name; `<split>.<ext>`, `<config>/<split>.<ext>`,
    /// `<config>-<split>.<ext>`, `<split>/<config>.<ext>`, `<config>/<split>/*`, each also below `data/` and each also
    /// in shards `-00000-of-0000N`. A hub snapshot is read in the same way.
    ///
    /// # Errors
    /// [`StoreError::DataNotFound`] lists every place looked in and the splits that exist; an incomplete set of shards
    /// is an error too.
    pub fn locate(&self, query: &DataQuery) -> Result<DataFiles> {
        let mut search = Search { query, tried: Vec::new(), splits: Vec::new() };
        for name in &query.names {
            let path = Path::new(name);
            let is_path = path.is_absolute() || name.starts_with('.') || DataFormat::of(path).is_some();
            if is_path && let Some(files) = search.look(path, DataSource::Path)? {
                return Ok(files);
            }
        }
        for folder in &self.data_dirs {
            for name in query.all_names() {
                if let Some(files) = search.look(&folder.join(name), DataSource::DataDir(folder.clone()))? {
                    return Ok(files);
                }
            }
        }
        if let Some(cache) = &self.hub_cache {
            for name in &query.names {
                match cache.snapshot(RepoKind::Dataset, name, query.revision.as_deref()) {
                    Some(path) => {
                        if let Some(files) = search.look(&path, DataSource::HubCache(path.clone()))? {
                            return Ok(files);
                        }
                    }
                    None => search.tried.push((cache.repo_folder(RepoKind::Dataset, name), false)),
                }
            }
        }
        Err(StoreError::DataNotFound(Box::new(search.not_found())))
    }

    /// Finds and reads a split.
    ///
    /// # Errors
    /// See [`Self::locate`] and [`DataFiles::rows`].
    pub fn load(&self, query: &DataQuery) -> Result<Vec<Row>> {
        self.locate(query)?.rows()
    }
}

struct Search<'a> {
    query: &'a DataQuery,
    tried: Vec<(PathBuf, bool)>,
    splits: Vec<String>,
}

impl Search<'_> {
    /// Looks at one path: a file is the split itself, a folder is searched.
    fn look(&mut self, path: &Path, source: DataSource) -> Result<Option<DataFiles>> {
        let query = self.query;
        if self.tried.iter().any(|(tried, _)| tried == path) {
            return Ok(None);
        }
        self.tried.push((path.to_owned(), path.exists()));
        let found = if path.is_file() {
            DataFormat::require(path)?;
            Some(Found { files: vec![path.to_owned()], config: None, split: query.split.clone() })
        } else if path.is_dir() {
            let layout = Layout::read(path)?;
            let found = layout.find(query.config.as_deref(), &query.split)?;
            if found.is_none() {
                self.splits.extend(layout.splits());
            }
            found
        } else {
            None
        };
        Ok(found.map(|Found { files, config, split }| DataFiles {
            files,
            source,
            config,
            split,
            filter: query.filter.clone(),
        }))
    }

    fn not_found(mut self) -> DataNotFound {
        self.splits.sort();
        self.splits.dedup();
        let advice = if self.splits.is_empty() {
            "put the data set's files in a folder of its name below one given by --data-dir or HARNESS_DATA_DIR"
        } else {
            "ask for a split that exists, or add the file"
        };
        DataNotFound {
            names: self.query.all_names().into_iter().map(str::to_owned).collect(),
            config: self.query.config.clone(),
            split: self.query.split.clone(),
            tried: self.tried,
            splits: self.splits,
            advice: advice.to_owned(),
        }
    }
}
