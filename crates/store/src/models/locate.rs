//! Finding models by name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{ModelSource, detect::parts_of};
use crate::{
    Result, StoreError,
    hub::{HubCache, RepoKind},
    nearest,
};

/// Deepest folder searched by [`list_models`].
const DEPTH: usize = 3;

/// Finds a model: a path, a path below one of the folders, or a hub id (`org/name`, with `@revision` if one is meant)
/// in the cache.
///
/// # Errors
/// [`StoreError::ModelNotFound`] lists every place looked in, and the nearest name; [`StoreError::NotAModel`] if the
/// place exists and holds no whole model.
pub fn locate_model(name: &str, folders: &[PathBuf], cache: Option<&HubCache>) -> Result<ModelSource> {
    let mut tried = vec![PathBuf::from(name)];
    tried.extend(folders.iter().map(|folder| folder.join(name)));
    if let Some(path) = tried.iter().find(|path| path.exists()) {
        return ModelSource::detect(path);
    }
    let mut known: Vec<String> = Vec::new();
    if let Some(cache) = cache {
        let (id, revision) = match name.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (name, None),
        };
        if let Some(path) = cache.snapshot(RepoKind::Model, id, revision) {
            return ModelSource::detect(&path);
        }
        tried.push(cache.repo_folder(RepoKind::Model, id));
        known.extend(cache.repos(RepoKind::Model));
    }
    for folder in folders {
        let names = list_models(folder).into_iter().flatten().filter_map(|source| {
            source.path().strip_prefix(folder).ok().map(|path| path.to_string_lossy().into_owned())
        });
        known.extend(names);
    }
    let suggestion = match nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => "give a folder in Hugging Face layout, a .gguf file, an adapter folder, or the id of a cached model"
            .to_owned(),
    };
    Err(StoreError::ModelNotFound { name: name.to_owned(), tried, suggestion: Some(suggestion) })
}

/// All whole models in a folder and up to three levels below it, sorted by path; folders that are models are not
/// searched further, except for adapters below them.
///
/// # Errors
/// If the folder cannot be listed. Folders below it that cannot be are passed over.
pub fn list_models(folder: &Path) -> Result<Vec<ModelSource>> {
    let mut found = Vec::new();
    let mut entries = children(folder)?;
    if let Ok(source) = ModelSource::detect(folder) {
        found.push(source);
        entries.retain(|path| path.is_dir());
    }
    for path in entries {
        collect(&path, DEPTH, &mut found);
    }
    found.sort_by(|a, b| a.path().cmp(b.path()));
    found.dedup();
    Ok(found)
}

fn collect(path: &Path, depth: usize, found: &mut Vec<ModelSource>) {
    if path.is_file() {
        // Of a model in several files the first stands for all.
        let first = parts_of(path).into_iter().find(|part| part.is_file()).is_some_and(|part| part == path);
        if path.extension().is_some_and(|extension| extension == "gguf") && first {
            found.extend(ModelSource::detect(path).ok());
        }
        return;
    }
    let Ok(entries) = children(path) else { return };
    let gguf = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "gguf");
    match ModelSource::detect(path) {
        // A folder around one GGUF file: the file is the model, found below.
        Ok(ModelSource::Gguf { .. }) | Err(_) => {}
        Ok(source) => found.push(source),
    }
    if depth > 0 {
        for entry in entries.iter().filter(|entry| entry.is_dir() || gguf(entry)) {
            collect(entry, depth - 1, found);
        }
    }
}

/// The entries of a folder that are not hidden, sorted.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
