//! Downloading from the hub.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use harness_core::atomic_replace;
use reqwest::{StatusCode, blocking::Client};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{HubCache, Progress, RepoKind};
use crate::{Result, StoreError, atomic_write};

/// A client of the Hugging Face hub, or of a mirror of it.
#[derive(Clone, Debug)]
pub struct HubClient {
    endpoint: String,
    token: Option<String>,
    cache: HubCache,
    http: Client,
}

/// The part of the answer of `/api/<kind>/<id>/revision/<revision>` that is used.
#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl HubClient {
    /// A client of a server, with an access token for private repositories, that downloads into a cache.
    ///
    /// # Errors
    /// If the HTTP client cannot be set up.
    pub fn new(endpoint: impl Into<String>, token: Option<String>, cache: HubCache) -> Result<Self> {
        let endpoint = endpoint.into().trim_end_matches('/').to_owned();
        let failed = |reason: String| StoreError::Hub { url: endpoint.clone(), reason };
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(Duration::from_secs(30))
            .timeout(None)
            .user_agent(concat!("harness/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(chain(&error)))?;
        Ok(Self { endpoint, token, cache, http })
    }

    /// A client of `HF_ENDPOINT` (default `https://huggingface.co`) with the token `HF_TOKEN`.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn from_env(cache: HubCache) -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self::new(endpoint, variable("HF_TOKEN"), cache)
    }

    /// Downloads the wanted files of a repository at a revision (default `main`) and returns the snapshot's folder.
    /// Files that are there with the right size are kept; each file appears under its name only when it is whole and
    /// its size and SHA-256 (where the hub states them) are right.
    ///
    /// # Errors
    /// [`StoreError::Hub`] if the hub cannot be reached, refuses, or sends something else than it announced;
    /// [`StoreError::Io`] if the cache cannot be written.
    pub fn download(
        &self,
        kind: RepoKind,
        id: &str,
        revision: Option<&str>,
        wanted: &dyn Fn(&str) -> bool,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf> {
        let revision = revision.unwrap_or("main");
        let (api, prefix) = match kind {
            RepoKind::Model => ("models", ""),
            RepoKind::Dataset => ("datasets", "datasets/"),
        };
        let url = format!("{}/api/{api}/{id}/revision/{}?blobs=true", self.endpoint, encode(revision, false));
        let mut bytes = Vec::new();
        self.get(&url)?.read_to_end(&mut bytes).map_err(|error| hub_error(&url, chain(&error)))?;
        let info: RepoInfo = serde_json::from_slice(&bytes)
            .map_err(|error| hub_error(&url, format!("not the description of a repository ({error})")))?;
        let files: Vec<&Sibling> = info.siblings.iter().filter(|file| wanted(&file.rfilename)).collect();
        if files.is_empty() {
            return Err(hub_error(&url, "the repository has no file that this program reads".to_owned()));
        }
        let repo = self.cache.repo_folder(kind, id);
        let snapshot = repo.join("snapshots").join(safe(&url, &info.sha)?);
        for (index, file) in files.iter().enumerate() {
            let name = file.rfilename.as_str();
            let target = snapshot.join(safe(&url, name)?);
            let mut report = |bytes, total| progress(Progress { file: name, index, files: files.len(), bytes, total });
            let present = fs::metadata(&target).ok().map(|metadata| metadata.len());
            if let Some(size) = present
                && file.size.is_none_or(|expected| expected == size)
            {
                report(size, Some(size));
                continue;
            }
            let url = format!("{}/{prefix}{id}/resolve/{}/{}", self.endpoint, info.sha, encode(name, true));
            self.fetch(&url, file, &target, &mut report)?;
        }
        if revision != info.sha {
            atomic_write(&repo.join("refs").join(safe(&url, revision)?), &info.sha)?;
        }
        Ok(snapshot)
    }

    fn fetch(&self, url: &str, file: &Sibling, target: &Path, report: &mut dyn FnMut(u64, Option<u64>)) -> Result<()> {
        let mut response = self.get(url)?;
        let total = file.size.or_else(|| response.content_length());
        let folder = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(StoreError::io("make the folder", folder))?;
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(format!(".{}.incomplete", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let result = self
            .receive(url, file, &mut response, &temporary, total, report)
            .and_then(|()| atomic_replace(&temporary, target).map_err(StoreError::io("write", target)));
        if result.is_err() {
            // Whether this succeeds does not matter: the first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn receive(
        &self,
        url: &str,
        file: &Sibling,
        response: &mut impl Read,
        temporary: &Path,
        total: Option<u64>,
        report: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<()> {
        let mut out = File::create(temporary).map_err(StoreError::io("write", temporary))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut received = 0;
        report(0, total);
        loop {
            let n = response.read(&mut buffer).map_err(|error| hub_error(url, chain(&error)))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n]).map_err(StoreError::io("write", temporary))?;
            hasher.update(&buffer[..n]);
            received += n as u64;
            report(received, total);
        }
        if let Some(total) = total
            && total != received
        {
            return Err(hub_error(url, format!("{received} bytes arrived of {total}: try again")));
        }
        if let Some(expected) = file.lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref()) {
            let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if found != expected {
                return Err(hub_error(url, format!("SHA-256 is {found}, the hub says {expected}: try again")));
            }
        }
        out.sync_all().map_err(StoreError::io("write", temporary))
    }

    fn get(&self, url: &str) -> Result<reqwest::blocking::Response> {
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().map_err(|error| hub_error(url, chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "it is private or gated (accept its terms on the hub and set HF_TOKEN), or does not exist"
            }
            StatusCode::NOT_FOUND => "there is no such repository, revision or file: check the spelling",
            StatusCode::TOO_MANY_REQUESTS => "too many requests: try again later",
            _ => "try again later",
        };
        Err(hub_error(url, format!("the server answers {status}; {advice}")))
    }
}

fn hub_error(url: &str, reason: String) -> StoreError {
    StoreError::Hub { url: url.to_owned(), reason }
}

/// An error with all of its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// A name that stays inside the folder it is joined to.
fn safe<'a>(url: &str, name: &'a str) -> Result<&'a Path> {
    let path = Path::new(name);
    let inside = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    if inside { Ok(path) } else { Err(hub_error(url, format!("the file name {name:?} leads out of its folder"))) }
}

/// Percent-encoding of a path (slashes kept) or of one part of it.
fn encode(text: &str, keep_slashes: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            b'/' if keep_slashes => "/".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
