//! Downloading, as far as it does not depend on how the program was built.

use std::path::PathBuf;

use super::{HubCache, Progress, RepoKind};
use crate::{DataFormat, Result};

impl RepoKind {
    /// Whether a file of a repository is one that this program reads: weights as safetensors, configurations and
    /// tokenizers of a model; files in a known format of a data set.
    pub fn wants(self, file: &str) -> bool {
        let path = std::path::Path::new(file);
        match self {
            Self::Model => {
                let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
                // Other precisions and frameworks lie in folders of their own.
                !file.contains('/') && matches!(extension, "json" | "safetensors" | "jinja")
            }
            Self::Dataset => DataFormat::of(path).is_some(),
        }
    }
}

/// Downloads the files of a repository that this program reads into the cache and returns the snapshot's folder.
/// Nothing in this crate calls it: the network is used only by who asks for it. The server is `HF_ENDPOINT` (default
/// `https://huggingface.co`), the access token `HF_TOKEN`.
///
/// # Errors
/// [`StoreError::NoHub`](crate::StoreError::NoHub) if the program was built without feature `hub`;
/// [`StoreError::Hub`](crate::StoreError::Hub) if the hub cannot be reached or refuses.
#[cfg(feature = "hub")]
pub fn download(
    cache: &HubCache,
    kind: RepoKind,
    id: &str,
    revision: Option<&str>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf> {
    super::HubClient::from_env(cache.clone())?.download(kind, id, revision, &|file| kind.wants(file), progress)
}

/// Stands in for the download that this program was built without.
///
/// # Errors
/// Always [`StoreError::NoHub`](crate::StoreError::NoHub).
#[cfg(not(feature = "hub"))]
pub fn download(
    cache: &HubCache,
    kind: RepoKind,
    id: &str,
    _revision: Option<&str>,
    _progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf> {
    let place = cache.repo_folder(kind, id).join("snapshots");
    Err(crate::StoreError::NoHub { what: id.to_owned(), place })
}
