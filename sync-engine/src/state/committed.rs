//! Whether anything was ever committed to a timeline, or whether there are claims and releases alone.

use layer_archive::{BundleIndex, Commit, Seq};

use super::TimelineState;

/// Whether records have committed something, as far as is known. No part of the state: a manifest does not say it, so who
/// began at one may know less than who replayed the log. So any two are equal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Committed {
    #[default]
    Nothing,
    Perhaps,
    Something,
}

impl PartialEq for Committed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Committed {}

impl Committed {
    /// Takes in a record.
    pub(super) fn take(&mut self, record: &BundleIndex, commit: &Commit) {
        if commits_something(record, commit) {
            *self = Self::Something;
        }
    }

    /// Takes in that records are missing.
    pub(super) fn or_perhaps(&mut self) {
        if matches!(self, Self::Nothing) {
            *self = Self::Perhaps;
        }
    }
}

/// Whether a record does more than to claim or to release a timeline.
fn commits_something(record: &BundleIndex, commit: &Commit) -> bool {
    let Commit {
        metadata, disk_consistent_lsn, ancestor, branch_points_added, branch_points_removed, ..
    } = commit;
    let Commit { payloads, added, moved, removed, .. } = commit;
    let layers = !(record.layers().is_empty() && payloads.is_empty() && added.is_empty());
    let branches = !(branch_points_added.is_empty() && branch_points_removed.is_empty());
    let changes = !(moved.is_empty() && removed.is_empty());
    let facts = metadata.is_some() || disk_consistent_lsn.is_some() || ancestor.is_some();
    layers || changes || facts || branches || commit.flags.deleted
}

impl TimelineState {
    /// Whether there are records, and none of them has committed anything: claims and releases alone, which is what an
    /// unfinished backup or copy leaves. A timeline whose layers were all removed is not meant: it has a history.
    ///
    /// Of an empty state that was read from a manifest behind more than one record that is no claim it is not known, and
    /// then not said.
    pub fn nothing_committed(&self) -> bool {
        self.seq > Seq(0) && self.is_blank() && matches!(self.committed, Committed::Nothing)
    }

    /// Whether there is no timeline yet, as far as is known: a copy may become it.
    pub(crate) fn is_free(&self) -> bool {
        self.is_blank() && !matches!(self.committed, Committed::Something)
    }

    /// Whether there is nothing in it, and was perhaps never.
    pub(crate) fn is_blank(&self) -> bool {
        let is_empty =
            self.layers.is_empty() && self.metadata.is_none() && self.disk_consistent_lsn.is_none();
        is_empty && self.ancestor.is_none() && self.branch_points.is_empty() && !self.deleted
    }

    /// What the numbers say of a state that was read from a manifest. What is empty was emptied by a record after the one
    /// that filled it: where there are no two beside the claims, which epochs count, nothing was ever committed.
    pub(super) fn committed_by_numbers(&self) -> Committed {
        match (self.is_blank(), self.seq.0.saturating_sub(self.epoch.0)) {
            (false, _) => Committed::Something,
            (true, ..=1) => Committed::Nothing,
            (true, _) => Committed::Perhaps,
        }
    }
}
