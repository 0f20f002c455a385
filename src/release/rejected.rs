//! The releases whose rollout failed: a small file that the watcher's verdict depends on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::durable::{StoreError, write_whole};
use crate::units::Digest;

/// Old rejections are forgotten beyond this; the file stays below 100 KiB with ordinary reasons.
const MOST: usize = 100;
const FILE: &str = "rejected.json";

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Rejected(Vec<Rejection>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rejection {
    digest: Digest,
    why: String,
}

impl Rejected {
    /// A file that is damaged counts as empty: the worst is that a bad release is tried once more, and rejected again.
    pub(super) fn load(dir: &Path) -> Self {
        let read = std::fs::read(dir.join(FILE)).ok();
        Self(read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    pub(super) fn add(&mut self, dir: &Path, digest: Digest, why: &str) -> Result<(), StoreError> {
        let mut next = self.without(&digest);
        next.push(Rejection { digest, why: why.to_owned() });
        let surplus = next.len().saturating_sub(MOST);
        next.drain(..surplus);
        self.replace(dir, next)
    }

    pub(super) fn remove(&mut self, dir: &Path, digest: &Digest) -> Result<(), StoreError> {
        let next = self.without(digest);
        if next.len() == self.0.len() { Ok(()) } else { self.replace(dir, next) }
    }

    pub(super) fn why(&self, digest: &Digest) -> Option<String> {
        self.0.iter().find(|rejection| rejection.digest == *digest).map(|rejection| rejection.why.clone())
    }

    fn without(&self, digest: &Digest) -> Vec<Rejection> {
        self.0.iter().filter(|rejection| rejection.digest != *digest).cloned().collect()
    }

    fn replace(&mut self, dir: &Path, next: Vec<Rejection>) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(&next).map_err(|cause| StoreError {
            doing: "write",
            path: dir.join(FILE),
            source: cause.into(),
        })?;
        write_whole(dir, FILE, &text)?;
        self.0 = next;
        Ok(())
    }
}
