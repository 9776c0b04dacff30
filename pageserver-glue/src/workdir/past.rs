//! The mark of a directory that was restored to an older point in time.
//!
//! Such a directory looks like the timeline some time ago; backed up, it would turn the store back. The mark is a file
//! outside of `tenants/`, where no pageserver looks, and is there before the first layer is.
//!
//! ```text
//! <work directory>/.layerpack/past/<tenant>/<timeline>       "record 12 of store 5f2c..."
//! ```

use std::io;
use std::path::PathBuf;

use layer_archive::{Seq, TenantId, TimelineId};
use sync_engine::{DurableDir, Published, Store};

use super::{WorkDir, WorkDirError};
use crate::TimelineError;

impl WorkDir {
    /// What Layerpack keeps in a work directory for itself.
    pub const OWN: &'static str = ".layerpack";
    /// The longest mark that is read.
    const MARK_BYTES_MAX: u64 = 4096;

    /// Where Layerpack keeps what is not the pageserver's.
    pub fn own_dir(&self) -> PathBuf {
        self.root.join(Self::OWN)
    }

    fn mark_path(&self, tenant: &TenantId, timeline: &TimelineId) -> PathBuf {
        self.own_dir().join("past").join(tenant.as_str()).join(timeline.as_str())
    }

    /// What the mark of a timeline's directory says, where it was restored to an older point.
    pub fn restored_past(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
    ) -> Result<Option<String>, WorkDirError> {
        use io::Read;
        let path = self.mark_path(tenant, timeline);
        let read = || -> io::Result<String> {
            let mut text = String::new();
            std::fs::File::open(&path)?.take(Self::MARK_BYTES_MAX).read_to_string(&mut text)?;
            Ok(text.trim().to_owned())
        };
        match read() {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(WorkDirError::Io { action: "read", path, source }),
        }
    }

    /// Refuses a directory that was restored to an older point: it must not be backed up.
    pub fn require_newest(&self, tenant: &TenantId, timeline: &TimelineId) -> Result<(), WorkDirError> {
        match self.restored_past(tenant, timeline)? {
            None => Ok(()),
            Some(what) => Err(WorkDirError::RestoredPast {
                dir: self.timeline_dir(tenant, timeline),
                what,
                mark: self.mark_path(tenant, timeline),
            }),
        }
    }

    /// Before the newest state is restored: a mark of a directory that has nothing in it any more goes.
    pub(crate) fn enter_newest(&self, tenant: &TenantId, timeline: &TimelineId) -> Result<(), WorkDirError> {
        if self.restored_past(tenant, timeline)?.is_some() && self.has_nothing_of(tenant, timeline)? {
            let path = self.mark_path(tenant, timeline);
            return std::fs::remove_file(&path).map_err(|source| WorkDirError::Io {
                action: "remove",
                path,
                source,
            });
        }
        self.require_newest(tenant, timeline)
    }

    /// Before an older state is restored: marks the directory, which must be empty, or be what an unfinished restore of
    /// the same point has left.
    pub(crate) fn enter_past(
        &self,
        store: &Store,
        (tenant, timeline): (&TenantId, &TimelineId),
        seq: Seq,
    ) -> Result<(), TimelineError> {
        let what = format!("record {seq} of store {}", store.marker().id);
        let marked = self.restored_past(tenant, timeline)?;
        if marked.as_ref() == Some(&what) {
            return Ok(());
        }
        if !self.has_nothing_of(tenant, timeline)? {
            return Err(WorkDirError::PastNotEmpty(self.timeline_dir(tenant, timeline)).into());
        }
        self.enter_newest(tenant, timeline)?;
        let path = self.mark_path(tenant, timeline);
        let dir = DurableDir::create(path.parent().unwrap_or(&self.root))?;
        match dir.publish(timeline.as_str(), format!("{what}\n").as_bytes())? {
            Published::Yes => Ok(()),
            // Another restore was faster.
            Published::NameTaken => Ok(self.require_newest(tenant, timeline)?),
        }
    }

    fn has_nothing_of(&self, tenant: &TenantId, timeline: &TimelineId) -> Result<bool, WorkDirError> {
        match self.entries(tenant, timeline) {
            Ok(entries) => Ok(entries.files.is_empty() && entries.others.is_empty()),
            Err(WorkDirError::NotADirectory(path)) if super::is_absent(&path)? => Ok(true),
            Err(error) => Err(error),
        }
    }
}
