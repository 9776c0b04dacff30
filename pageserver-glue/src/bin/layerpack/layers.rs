//! How layers are said in JSON, and what an outcome says of those that conflict or failed.

use layer_archive::{Ancestor, BranchPoint, RawDigest, TenantId, TimelineId};
use serde::Serialize;
use sync_engine::{Conflict, FailedLayer, KeptLayer};

use crate::exit::{Exit, exit_of};
use crate::output::{LISTED_MAX, Outcome, counted, explain, failed_lines, human_bytes};

/// A layer that differs between the disk and the store.
#[derive(Debug, Serialize)]
pub(crate) struct ConflictJson {
    tenant: String,
    timeline: String,
    name: String,
    local: DigestJson,
    stored: DigestJson,
}

/// The checksums are left out where the sizes alone tell two layers apart.
#[derive(Debug, Serialize)]
struct DigestJson {
    raw_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    crc32c: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
}

/// A layer that failed.
#[derive(Debug, Serialize)]
pub(crate) struct FailedJson {
    tenant: String,
    timeline: String,
    name: String,
    error: String,
}

/// A layer that a mirror did not remove.
#[derive(Debug, Serialize)]
pub(crate) struct KeptJson {
    name: String,
    branch: BranchJson,
}

impl From<&KeptLayer> for KeptJson {
    fn from(kept: &KeptLayer) -> Self {
        Self { name: kept.name.to_string(), branch: (&kept.branch).into() }
    }
}

/// A timeline and an LSN on it, as `backup --ancestor` takes them.
pub(crate) fn ancestor_text(ancestor: &Ancestor) -> String {
    format!("{}@{}", ancestor.timeline, ancestor.lsn)
}

/// A branch of a timeline.
#[derive(Debug, Serialize)]
pub(crate) struct BranchJson {
    pub(crate) tenant: String,
    pub(crate) timeline: String,
    pub(crate) lsn: String,
    /// What became of it, where it is known that it is no timeline that needs its past.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gone: Option<&'static str>,
}

impl From<&BranchPoint> for BranchJson {
    fn from(point: &BranchPoint) -> Self {
        let BranchPoint { tenant, timeline, lsn } = point;
        let (tenant, timeline) = (tenant.to_string(), timeline.to_string());
        Self { tenant, timeline, lsn: lsn.to_string(), gone: None }
    }
}

/// Something that was left out.
#[derive(Debug, Serialize)]
pub(crate) struct SkippedJson {
    pub(crate) path: String,
    pub(crate) reason: String,
}

pub(crate) fn conflict_json(
    (tenant, timeline): (&TenantId, &TimelineId),
    conflict: &Conflict,
) -> ConflictJson {
    let Conflict { name, local, stored } = conflict;
    let digest = |digest: &RawDigest| {
        let known = local.size == stored.size;
        DigestJson {
            raw_bytes: digest.size,
            crc32c: known.then(|| digest.crc32c.to_string()),
            blake3: known.then(|| digest.blake3.to_string()),
        }
    };
    ConflictJson {
        tenant: tenant.to_string(),
        timeline: timeline.to_string(),
        name: name.to_string(),
        local: digest(local),
        stored: digest(stored),
    }
}

pub(crate) fn failed_json((tenant, timeline): (&TenantId, &TimelineId), failed: &FailedLayer) -> FailedJson {
    FailedJson {
        tenant: tenant.to_string(),
        timeline: timeline.to_string(),
        name: failed.name.to_string(),
        error: explain(&failed.error),
    }
}

impl Outcome {
    /// Adds layers that conflict or failed while `what` was done to them.
    pub(crate) fn add_layer_problems(&mut self, what: &str, conflicts: &[Conflict], failed: &[FailedLayer]) {
        for Conflict { name, local, stored } in conflicts.iter().take(LISTED_MAX) {
            let sizes = match (local.size, stored.size) {
                (local, stored) if local == stored => "of the same size".to_owned(),
                (local, stored) => format!("{} here, {} there", human_bytes(local), human_bytes(stored)),
            };
            self.problems.push(format!(
                "layer {name} differs between the work directory and the store ({sizes}): neither was changed, \
                 move the wrong one away"
            ));
        }
        if conflicts.len() > LISTED_MAX {
            let more = counted(conflicts.len() - LISTED_MAX, "more layer");
            self.problems.push(format!("and {more}: --json lists every one that differs"));
        }
        if !conflicts.is_empty() {
            self.exit = self.exit.or_worse(Exit::Failed);
        }
        self.problems.extend(failed_lines(what, failed));
        for layer in failed {
            self.exit = self.exit.or_worse(exit_of(&layer.error));
        }
    }
}
