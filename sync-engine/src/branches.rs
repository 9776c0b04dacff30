//! Branches: the points where they leave a timeline, which of its layers they need, and the way from a branch to its
//! ancestors.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{
    Ancestor, BranchPoint, BundleWriter, LayerEntry, LayerName, Lsn, RemovalReason, Removed, Seq, TenantId,
    TimelineId,
};

use crate::point::{AsOf, spares_since};
use crate::{At, Draft, Error, Result, Store, TimelineState, TimelineView, TimelineWriter, WriterOptions};

/// How many ancestors a timeline may have. Whoever has more has a mistake in them.
const ANCESTORS_MAX: usize = 100;

impl TimelineState {
    /// The first of this timeline's branches that needs `layer`: one that left at or above the LSN where the layer
    /// begins. A layer that does not say its LSNs is needed by every branch.
    pub fn branch_needing(&self, layer: &LayerEntry) -> Option<&BranchPoint> {
        needing(self.branch_points(), layer)
    }

    /// Checks that no layer is *collected* that a branch needs, those that are `beginning` included. What is
    /// *compacted* is in other layers, which the branches find as well.
    pub fn check_removals(&self, removed: &[Removed], beginning: &[BranchPoint]) -> Result<()> {
        let collected = removed.iter().filter(|removed| removed.reason == RemovalReason::Collected);
        for name in collected.map(|removed| &removed.name) {
            let layer = self.layers().get(name);
            let points = self.branch_points().chain(beginning);
            if let Some(branch) = layer.and_then(|layer| needing(points, layer)) {
                return Err(Error::NeededByBranch {
                    tenant: self.tenant().clone(),
                    timeline: self.timeline().clone(),
                    name: name.clone(),
                    branch: Box::new(branch.clone()),
                });
            }
        }
        Ok(())
    }

    /// The branch point by which this timeline leaves `ancestor`.
    pub(crate) fn leaving(&self, ancestor: &Ancestor) -> BranchPoint {
        BranchPoint { tenant: self.tenant().clone(), timeline: self.timeline().clone(), lsn: ancestor.lsn }
    }

    /// An error about an ancestor of this timeline.
    pub(crate) fn ancestor_failed(&self, ancestor: &Ancestor, source: Error) -> Error {
        Error::Ancestor {
            tenant: self.tenant().clone(),
            timeline: self.timeline().clone(),
            ancestor: ancestor.timeline.clone(),
            source: Box::new(source),
        }
    }
}

/// The first of the branches that needs `layer`.
pub(crate) fn needing<'a>(
    mut branches: impl Iterator<Item = &'a BranchPoint>,
    layer: &LayerEntry,
) -> Option<&'a BranchPoint> {
    branches.find(|point| is_at_or_below(layer, point.lsn))
}

/// Whether a branch that left at `lsn` may need `layer`.
pub(crate) fn is_at_or_below(layer: &LayerEntry, lsn: Lsn) -> bool {
    layer.lsn_range.is_none_or(|range| range.start() <= lsn)
}

/// What becomes of a branch point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchChange {
    /// The branch begins. Said, and acknowledged, before the branch's first record.
    Begins,
    /// The branch has ended: it was deleted, or has another ancestor now. Said after that is acknowledged.
    Ends,
}

/// Tells `ancestor` of its branch, whose state is `branch`.
pub(crate) async fn tell_ancestor(
    store: &Store,
    branch: &TimelineState,
    ancestor: &Ancestor,
    change: BranchChange,
    options: &WriterOptions,
) -> Result<()> {
    if ancestor.timeline == *branch.timeline() {
        let (tenant, timeline) = (branch.tenant().clone(), branch.timeline().clone());
        return Err(Error::AncestorCycle { tenant, timeline, ancestor: ancestor.timeline.clone() });
    }
    let view = match TimelineView::open_existing(store, branch.tenant(), &ancestor.timeline, None).await {
        Ok(view) => view,
        // What is gone need not be told that a branch has ended.
        Err(Error::TimelineNotFound { .. } | Error::TimelineDeleted { .. })
            if change == BranchChange::Ends =>
        {
            return Ok(());
        }
        Err(source) => return Err(branch.ancestor_failed(ancestor, source)),
    };
    if change == BranchChange::Begins {
        let next = view.state.ancestor().map(|next| next.timeline.clone());
        let known = |timeline: &TimelineId| (*timeline == ancestor.timeline).then(|| next.clone());
        refuse_circle(store, (branch.tenant(), branch.timeline()), &ancestor.timeline, known).await?;
    }
    match change_branch_points_of(store, view, branch.leaving(ancestor), change, options.clone()).await {
        Ok(_) => Ok(()),
        Err(source) => Err(branch.ancestor_failed(ancestor, source)),
    }
}

/// Refuses an ancestor whose own way leads back to the branch. `known` is the next step from a timeline, where it need not
/// be looked up: its ancestor, or that it has none.
pub(crate) async fn refuse_circle(
    store: &Store,
    (tenant, branch): (&TenantId, &TimelineId),
    ancestor: &TimelineId,
    known: impl Fn(&TimelineId) -> Option<Option<TimelineId>>,
) -> Result<()> {
    let (mut at, mut next) = (branch.clone(), Some(ancestor.clone()));
    let mut passed = BTreeSet::new();
    while let Some(ancestor) = next {
        let (tenant, timeline) = (tenant.clone(), at);
        if !passed.insert(ancestor.clone()) || ancestor == *branch {
            return Err(Error::AncestorCycle { tenant, timeline, ancestor });
        }
        if passed.len() > ANCESTORS_MAX {
            return Err(Error::TooManyAncestors { tenant, timeline, limit: ANCESTORS_MAX });
        }
        next = match known(&ancestor) {
            Some(next) => next,
            None => match TimelineView::open(store, &tenant, &ancestor, None).await {
                Ok(view) => view.state.ancestor().map(|next| next.timeline.clone()),
                // What leads nowhere does not lead back.
                Err(_) => None,
            },
        };
        at = ancestor;
    }
    Ok(())
}

/// Says with a record of `timeline`, which must exist, that a branch of it begins or has ended. Where that is known
/// already nothing is written.
///
/// The timeline is claimed without asking: who owns a branch owns its ancestors, for a pageserver has all timelines of
/// a tenant. A writer of its own puts the point into a [`Draft`] instead.
pub async fn change_branch_point(
    store: &Store,
    (tenant, timeline): (&TenantId, &TimelineId),
    point: BranchPoint,
    change: BranchChange,
    options: WriterOptions,
) -> Result<Option<Seq>> {
    let view = TimelineView::open_existing(store, tenant, timeline, None).await?;
    change_branch_points_of(store, view, point, change, options).await
}

/// [`change_branch_point`] of the timeline that `view` shows.
async fn change_branch_points_of(
    store: &Store,
    mut view: TimelineView,
    point: BranchPoint,
    change: BranchChange,
    options: WriterOptions,
) -> Result<Option<Seq>> {
    if change == BranchChange::Begins {
        // With a branch point in it, an unfinished backup would pass for a timeline.
        view = view.require_commits()?;
    }
    let is_there = |view: &TimelineView| view.state.branch_points().any(|known| *known == point);
    if is_there(&view) == (change == BranchChange::Begins) {
        return Ok(None);
    }
    let mut writer = TimelineWriter::claim(store, view, options).await?;
    let mut draft = Draft { released: true, ..Draft::default() };
    match change {
        BranchChange::Begins => draft.branch_points_added.push(point),
        BranchChange::Ends => draft.branch_points_removed.push(point),
    }
    writer.append(draft, BundleWriter::new()).await?;
    let seq = writer.view().state.seq();
    // The commit stands without it.
    if let Err(error) = writer.detach().await {
        tracing::warn!(%error, "no manifest was written: the next writer tries again");
    }
    Ok(Some(seq))
}

/// Those of `branches`, of the timeline whose state is `ancestor`, that it is to be told of: not those that are deleted,
/// of which there may be a directory still. What it knows already is not looked up.
pub async fn without_deleted(
    store: &Store,
    ancestor: &TimelineState,
    branches: &[BranchPoint],
) -> Result<Vec<BranchPoint>> {
    let known: BTreeSet<&BranchPoint> = ancestor.branch_points().collect();
    let mut living = Vec::with_capacity(branches.len());
    for branch in branches {
        let is_deleted = !known.contains(branch)
            && TimelineView::open(store, &branch.tenant, &branch.timeline, None).await?.state.is_deleted();
        if !is_deleted {
            living.push(branch.clone());
        }
    }
    Ok(living)
}

/// An ancestor of a timeline.
#[derive(Clone, Debug)]
pub struct AncestorView {
    /// The ancestor: as it is now, where no other point was asked for.
    pub view: TimelineView,
    /// Up to which of its LSNs it is the descendant's past too.
    pub lsn: Lsn,
}

impl AncestorView {
    /// A layer of the ancestor at or below the LSN up to which it counts.
    pub fn layer(&self, name: &LayerName) -> Option<&LayerEntry> {
        self.view.state.layers().get(name).filter(|layer| is_at_or_below(layer, self.lsn))
    }
}

/// The way from a timeline to its ancestors, the nearest first. Each is opened when it is asked for.
#[derive(Debug)]
pub struct Ancestry<'a> {
    store: &'a Store,
    /// The timeline that names the next ancestor.
    at: (TenantId, TimelineId),
    next: Option<Ancestor>,
    passed: BTreeSet<TimelineId>,
    lsn: Lsn,
    as_of: AsOf,
}

impl<'a> Ancestry<'a> {
    /// Begins at a timeline.
    pub fn of(store: &'a Store, state: &TimelineState) -> Self {
        let at = (state.tenant().clone(), state.timeline().clone());
        let passed = BTreeSet::from([at.1.clone()]);
        let (next, as_of) = (state.ancestor().cloned(), AsOf::default());
        Self { store, at, next, passed, lsn: Lsn(u64::MAX), as_of }
    }

    /// The same way at other points in time than now.
    pub(crate) fn at_points(self, as_of: AsOf) -> Self {
        Self { as_of, ..self }
    }

    /// The ancestor that [`next`](Self::next) opens, if there is one.
    pub fn peek(&self) -> Option<&Ancestor> {
        self.next.as_ref()
    }

    /// Opens the next ancestor; `None` behind the last. One that is missing, or has been deleted, is an error that
    /// names it and its branch; so is a way that leads back to where it was.
    pub async fn next(&mut self) -> Result<Option<AncestorView>> {
        let at = self.peek().map_or(At::Newest, |ancestor| self.as_of.of(&ancestor.timeline));
        self.next_at(at).await
    }

    /// [`next`](Self::next) as of `at`.
    pub async fn next_at(&mut self, at: At) -> Result<Option<AncestorView>> {
        let Some(ancestor) = self.take_next()? else { return Ok(None) };
        let opened = TimelineView::open_at(self.store, (&self.at.0, &ancestor.timeline), at, None).await;
        self.step(ancestor, opened).map(Some)
    }

    /// [`next`](Self::next) for a descendant of some time ago, which may be deleted since: the newest state of the ancestor
    /// that has all that the descendant needs.
    ///
    /// While an ancestor counts a branch it collects nothing that the branch needs, so that is its newest state, or the
    /// last before the branch ended. Where no state is left that counts the branch, that is an error.
    pub async fn next_sparing(&mut self) -> Result<Option<AncestorView>> {
        let Some(ancestor) = self.take_next()? else { return Ok(None) };
        let opened = self.open_sparing(&ancestor).await;
        self.step(ancestor, opened).map(Some)
    }

    async fn open_sparing(&self, ancestor: &Ancestor) -> Result<TimelineView> {
        let (tenant, branch) = self.at.clone();
        let newest = TimelineView::open_at(self.store, (&tenant, &ancestor.timeline), At::Newest, None).await;
        let branch = BranchPoint { tenant, timeline: branch, lsn: ancestor.lsn };
        match &newest {
            Ok(newest) if newest.state.branch_points().any(|point| *point == branch) => {
                return Ok(newest.clone());
            }
            Ok(_) => {}
            Err(error) if error.is_damage() || matches!(error, Error::TimelineDeleted { .. }) => {}
            Err(_) => return newest,
        }
        let counting = TimelineView::open_counting(self.store, &branch, &ancestor.timeline).await?;
        let Ok(newest) = newest else { return Ok(counting) };
        let spares = spares_since(self.store, &counting.state, self.lsn.min(ancestor.lsn)).await?;
        Ok(if spares { newest } else { counting })
    }

    /// Takes the ancestor that is next, and looks whether the way goes on.
    fn take_next(&mut self) -> Result<Option<Ancestor>> {
        let Some(ancestor) = self.next.take() else { return Ok(None) };
        let (tenant, timeline) = self.at.clone();
        if !self.passed.insert(ancestor.timeline.clone()) {
            return Err(Error::AncestorCycle { tenant, timeline, ancestor: ancestor.timeline });
        }
        if self.passed.len() > ANCESTORS_MAX + 1 {
            return Err(Error::TooManyAncestors { tenant, timeline, limit: ANCESTORS_MAX });
        }
        Ok(Some(ancestor))
    }

    /// Goes on to the ancestor that was opened.
    fn step(&mut self, ancestor: Ancestor, opened: Result<TimelineView>) -> Result<AncestorView> {
        let view = opened.map_err(|source| {
            let ((tenant, timeline), source) = (self.at.clone(), Box::new(source));
            Error::Ancestor { tenant, timeline, ancestor: ancestor.timeline.clone(), source }
        })?;
        self.next = view.state.ancestor().cloned();
        self.at.1 = ancestor.timeline;
        self.lsn = self.lsn.min(ancestor.lsn);
        Ok(AncestorView { view, lsn: self.lsn })
    }
}

/// Finds layers of the timeline that `view` shows, or of its ancestors at or below the LSNs where it was branched off:
/// each in the nearest that has it. Returns the timelines that have some, and which those are.
///
/// Ancestors are opened only as long as layers are missing. One layer that is nowhere is an error.
pub async fn find_layers(
    store: &Store,
    view: TimelineView,
    names: &BTreeSet<LayerName>,
) -> Result<Vec<(TimelineView, BTreeSet<LayerName>)>> {
    let (tenant, timeline) = (view.state.tenant().clone(), view.state.timeline().clone());
    let mut ancestry = Ancestry::of(store, &view.state);
    let mut missing = names.clone();
    let mut take = |has: &dyn Fn(&LayerName) -> bool| -> BTreeSet<LayerName> {
        missing.extract_if(.., |name| has(name)).collect()
    };
    let own = take(&|name| view.state.layers().contains_key(name));
    let mut found = Vec::new();
    let mut left = names.len() - own.len();
    if !own.is_empty() {
        found.push((view, own));
    }
    while left > 0 {
        let Some(ancestor) = ancestry.next().await? else { break };
        let here = take(&|name| ancestor.layer(name).is_some());
        left -= here.len();
        if !here.is_empty() {
            found.push((ancestor.view, here));
        }
    }
    match missing.into_iter().next() {
        Some(name) => Err(Error::LayerNotFound { tenant, timeline, name }),
        None => Ok(found),
    }
}

/// Sorts timelines so that each comes after its ancestor, where that is among them; else they keep their order. Those of
/// a circle come where the circle is met.
pub fn ancestors_first<Id: Clone + Ord>(timelines: &[Id], ancestors: &BTreeMap<Id, Id>) -> Vec<Id> {
    let all: BTreeSet<&Id> = timelines.iter().collect();
    let mut done = BTreeSet::new();
    let mut sorted = Vec::with_capacity(timelines.len());
    for timeline in timelines {
        let mut path = Vec::new();
        let mut at = Some(timeline);
        while let Some(next) = at.filter(|next| all.contains(next) && done.insert((*next).clone())) {
            path.push(next.clone());
            at = ancestors.get(next);
        }
        sorted.extend(path.into_iter().rev());
    }
    sorted
}
