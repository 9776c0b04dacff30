//! The branches of a work directory: which timeline was branched off which, by their metadata, and what a mirror may
//! remove beside them.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{Ancestor, BranchPoint, LayerName, TenantId, TimelineId};
use sync_engine::{Error, LocalTimeline, TimelineState, TimelineView, ancestors_first};

use crate::{LayerMap, WorkDir, WorkDirError};

/// Where the timelines of a work directory were branched off.
#[derive(Clone, Debug, Default)]
pub struct WorkDirBranches {
    ancestors: BTreeMap<(TenantId, TimelineId), Ancestor>,
}

impl WorkDirBranches {
    /// What the metadata files of `timelines` say. `named` is where one was branched off that has no such file.
    ///
    /// A file that cannot be read says nothing here: the backup of its timeline says what is wrong with it.
    pub fn read(
        workdir: &WorkDir,
        timelines: &[(TenantId, TimelineId)],
        named: Option<(&(TenantId, TimelineId), &Ancestor)>,
    ) -> Self {
        let mut ancestors: BTreeMap<_, _> =
            named.into_iter().map(|(id, ancestor)| (id.clone(), ancestor.clone())).collect();
        for id in timelines {
            let metadata = workdir.metadata(&id.0, &id.1).ok().flatten();
            let parsed = metadata.and_then(|file| file.parsed.ok());
            if let Some((timeline, lsn)) = parsed.and_then(|metadata| metadata.ancestor) {
                ancestors.insert(id.clone(), Ancestor { timeline, lsn });
            }
        }
        Self { ancestors }
    }

    /// The branches of a timeline.
    pub fn of(&self, (tenant, timeline): (&TenantId, &TimelineId)) -> Vec<BranchPoint> {
        let of_it = self.ancestors.iter().filter(|((of, branch), ancestor)| {
            of == tenant && ancestor.timeline == *timeline && branch != timeline
        });
        let point = |((tenant, branch), ancestor): (&(TenantId, TimelineId), &Ancestor)| BranchPoint {
            tenant: tenant.clone(),
            timeline: branch.clone(),
            lsn: ancestor.lsn,
        };
        of_it.map(point).collect()
    }

    /// Refuses a timeline whose way to its ancestors leads in a circle: its ancestor could never be backed up before it.
    pub fn refuse_circle(&self, id: &(TenantId, TimelineId)) -> Result<(), Error> {
        let (tenant, mut timeline) = id.clone();
        let mut passed = BTreeSet::from([timeline.clone()]);
        while let Some(next) = self.ancestors.get(&(tenant.clone(), timeline.clone())) {
            if !passed.insert(next.timeline.clone()) {
                return Err(Error::AncestorCycle { tenant, timeline, ancestor: next.timeline.clone() });
            }
            timeline = next.timeline.clone();
        }
        Ok(())
    }

    /// The timelines, each after its ancestor.
    pub fn ancestors_first(&self, timelines: &[(TenantId, TimelineId)]) -> Vec<(TenantId, TimelineId)> {
        let ancestor = |(id, ancestor): (&(TenantId, TimelineId), &Ancestor)| {
            (id.clone(), (id.0.clone(), ancestor.timeline.clone()))
        };
        ancestors_first(timelines, &self.ancestors.iter().map(ancestor).collect())
    }
}

/// The layers of `state` that are gone from the work directory because they were compacted: what they hold is in layers
/// that are there, as far as names tell. The others were collected. Without branches too: one that was deleted may be
/// brought back where its ancestor has collected nothing of it since.
pub(crate) fn compacted(state: &TimelineState, local: &LocalTimeline) -> BTreeSet<LayerName> {
    let here: BTreeSet<&LayerName> = local.layers.iter().map(|layer| &layer.name).collect();
    let gone = state.layers().keys().filter(|name| !here.contains(name) && !local.present.contains(*name));
    let gone: Vec<&LayerName> = gone.collect();
    if gone.is_empty() {
        return BTreeSet::new();
    }
    let map = LayerMap::new(here.iter().copied());
    gone.into_iter().filter(|name| map.holds(name)).cloned().collect()
}

/// Whether the work directory has a newer state of a timeline than the store, by its metadata. It is no place to restore
/// that timeline to; as an ancestor of another it is as good.
pub fn is_newer_in(workdir: &WorkDir, view: &TimelineView) -> Result<bool, WorkDirError> {
    let metadata = match workdir.metadata(view.state.tenant(), view.state.timeline()) {
        Err(WorkDirError::NotADirectory(_)) => return Ok(false),
        metadata => metadata?,
    };
    let here = metadata.and_then(|file| file.parsed.ok()).map(|parsed| parsed.disk_consistent_lsn);
    Ok(here.zip(view.state.disk_consistent_lsn()).is_some_and(|(here, stored)| here > stored))
}
