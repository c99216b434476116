//! The folder in which Hugging Face's tools keep what they downloaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a hub repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepoKind {
    /// Weights, configuration and tokenizer of a model.
    Model,
    /// Files of a data set.
    Dataset,
}

impl RepoKind {
    /// Prefix of the repository's folder in the cache.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A hub cache: `<root>/<kind>--<org>--<name>/snapshots/<commit>/…`, the layout of `huggingface_hub`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// The cache in a given folder, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache where Hugging Face's tools would look: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `~/.cache/huggingface/hub` (`XDG_CACHE_HOME` in place of `~/.cache` when set). `None` without any of them.
    pub fn from_env() -> Option<Self> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<Self> {
        let folder = |name: &str| variable(name).map(PathBuf::from);
        folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
            .or_else(|| folder("HOME").map(|home| home.join(".cache/huggingface/hub")))
            .map(Self::new)
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a repository, whether or not it exists.
    pub fn repo_folder(&self, kind: RepoKind, id: &str) -> PathBuf {
        self.root.join(format!("{}--{}", kind.prefix(), id.replace('/', "--")))
    }

    /// The folder of a repository's files: at the given revision (commit or the name of a reference), else at the
    /// commit of `refs/main`, else of the snapshot changed last (the greatest name among equals).
    pub fn snapshot(&self, kind: RepoKind, id: &str, revision: Option<&str>) -> Option<PathBuf> {
        let repo = self.repo_folder(kind, id);
        let snapshots = repo.join("snapshots");
        let named = |revision: &str| {
            let commit = fs::read_to_string(repo.join("refs").join(revision)).ok();
            let commit = commit.as_deref().map_or(revision, str::trim);
            (!commit.is_empty()).then(|| snapshots.join(commit)).filter(|path| path.is_dir())
        };
        if let Some(revision) = revision {
            return named(revision);
        }
        named("main").or_else(|| {
            let folders = fs::read_dir(&snapshots).ok()?.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
            folders
                .max_by_key(|entry| (entry.metadata().and_then(|m| m.modified()).ok(), entry.file_name()))
                .map(|entry| entry.path())
        })
    }

    /// Ids (`org/name`) of the repositories of a kind that have files here, sorted.
    pub fn repos(&self, kind: RepoKind) -> Vec<String> {
        let prefix = format!("{}--", kind.prefix());
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let mut ids: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(&prefix)?.replacen("--", "/", 1)))
            .filter(|id| self.snapshot(kind, id, None).is_some())
            .collect();
        ids.sort();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_variables_in_order() {
        let cache = |set: &[(&str, &str)]| {
            HubCache::from_variables(|name| set.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).into()))
                .map(|cache| cache.root().to_string_lossy().into_owned())
        };
        assert_eq!(cache(&[]), None);
        assert_eq!(cache(&[("HOME", "/h")]).unwrap(), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]).unwrap(), "/f/hub");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]).unwrap(), "/c");
    }

    #[test]
    fn chooses_the_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path());
        let repo = cache.repo_folder(RepoKind::Model, "org/some--model");
        assert!(repo.ends_with("models--org--some--model"));
        let snapshot = |revision| cache.snapshot(RepoKind::Model, "org/some--model", revision);
        assert_eq!(snapshot(None), None);
        for commit in ["aaa", "bbb"] {
            fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
        }
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("refs/main"), "aaa\n").unwrap();
        fs::write(repo.join("refs/v1"), "bbb").unwrap();
        assert!(snapshot(None).unwrap().ends_with("aaa"));
        assert!(snapshot(Some("v1")).unwrap().ends_with("bbb"));
        assert!(snapshot(Some("bbb")).unwrap().ends_with("bbb"));
        assert_eq!(snapshot(Some("ccc")), None);
        fs::remove_file(repo.join("refs/main")).unwrap();
        assert!(snapshot(None).is_some());
        assert_eq!(cache.repos(RepoKind::Model), ["org/some--model"]);
        assert!(cache.repos(RepoKind::Dataset).is_empty());
    }
}
