//! What `backup --dry-run` and `restore --dry-run` say: the plans, and nothing is written.

use std::fmt::Write;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::{
    BackupChoices, Skipped, TimelinePlan, WorkDir, plan_timeline_backup, plan_timeline_restore,
};
use serde::Serialize;
use sync_engine::{Error, Store, TimelineListing, TimelineState, TimelineView};

use crate::exit::Failure;
use crate::layers::{ConflictJson, FailedJson, SkippedJson, conflict_json, failed_json};
use crate::output::{Outcome, counted, explain_failure, human_bytes};
use crate::session::Session;

#[derive(Debug, Default, Serialize)]
struct PlanJson {
    dry_run: bool,
    /// Whether there is a store; `backup` creates one where there is none.
    store_exists: bool,
    layers: usize,
    raw_bytes: u64,
    timelines: Vec<TimelineJson>,
    skipped: Vec<SkippedJson>,
    conflicts: Vec<ConflictJson>,
    failed: Vec<FailedJson>,
}

/// What would be done to one timeline.
#[derive(Debug, Default, Serialize)]
struct TimelineJson {
    tenant: String,
    timeline: String,
    /// The newest record there is; none where the store has nothing of the timeline.
    seq: Option<u64>,
    /// Layers that would be put into the store, or into the directory.
    layers: usize,
    raw_bytes: u64,
    /// Layers that are there already.
    unchanged: usize,
    /// Layers that a mirror would remove from the timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<usize>,
    /// Stored bytes that a restore would fetch, and with how many requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<usize>,
    /// Whether the timeline's metadata would be written.
    metadata: bool,
}

/// A dry run: what it has found so far.
#[derive(Debug)]
pub(crate) struct DryRun<'a> {
    session: &'a Session,
    json: PlanJson,
    /// What goes before the counts in the text for people.
    verb: &'static str,
    outcome: Outcome,
}

impl<'a> DryRun<'a> {
    pub(crate) fn of_backup(session: &'a Session, store: Option<&Store>, skipped: &[Skipped]) -> Self {
        let mut run = Self::new(session, "would store", store.is_some());
        run.skip(skipped);
        run
    }

    pub(crate) fn of_restore(session: &'a Session) -> Self {
        Self::new(session, "would write", true)
    }

    fn new(session: &'a Session, verb: &'static str, store_exists: bool) -> Self {
        let json = PlanJson { dry_run: true, store_exists, ..PlanJson::default() };
        let outcome = Outcome::new(&serde_json::json!({}), &serde_json::json!({}));
        Self { session, json, verb, outcome }
    }

    fn skip(&mut self, skipped: &[Skipped]) {
        self.json.skipped.extend(
            skipped.iter().map(|skipped| SkippedJson {
                path: skipped.path.clone(),
                reason: skipped.reason.to_string(),
            }),
        );
    }

    /// A tenant whose timelines could not be listed.
    pub(crate) fn add_unlisted(&mut self, tenant: &TenantId, failure: &Failure) {
        let reason = explain_failure(failure);
        self.outcome.problems.push(format!("tenant {tenant} would not be backed up: {reason}"));
        self.outcome.exit = self.outcome.exit.or_worse(failure.exit());
        self.json.skipped.push(SkippedJson { path: format!("tenants/{tenant}"), reason });
    }

    /// Plans the backup of a timeline. Without a store everything is new.
    pub(crate) async fn backup(
        &mut self,
        store: Option<&Store>,
        workdir: &WorkDir,
        (tenant, timeline): (&TenantId, &TimelineId),
        listing: Option<TimelineListing>,
        how: &BackupChoices,
    ) -> Result<(), Failure> {
        let view = match store {
            Some(store) => Some(TimelineView::open(store, tenant, timeline, listing).await?),
            None => None,
        };
        let empty = TimelineState::empty(tenant.clone(), timeline.clone());
        let state = view.as_ref().map_or(&empty, |view| &view.state);
        if state.is_deleted() {
            return Err(Error::TimelineDeleted { tenant: tenant.clone(), timeline: timeline.clone() }.into());
        }
        let how = match store {
            Some(store) => how.without_deleted_branches(store, state).await?,
            None => how.clone(),
        };
        let TimelinePlan { plan, skipped, warnings } =
            plan_timeline_backup(workdir, state, &how, &Arc::default()).await?;
        self.skip(&skipped);
        self.outcome.warnings.extend(warnings);
        let id = (tenant, timeline);
        self.json.conflicts.extend(plan.conflicts.iter().map(|conflict| conflict_json(id, conflict)));
        self.json.failed.extend(plan.failed.iter().map(|failed| failed_json(id, failed)));
        self.outcome.add_layer_problems("back up", &plan.conflicts, &plan.failed);
        if let Some(conflict) = plan.metadata_conflict {
            self.outcome.problems.push(format!(
                "{tenant}/{timeline} is at LSN {} here and at {} in the store: nothing of it would be written",
                conflict.local, conflict.stored
            ));
            self.outcome.exit = self.outcome.exit.or_worse(crate::exit::Exit::Failed);
        }
        self.add(TimelineJson {
            seq: (state.seq().0 > 0).then_some(state.seq().0),
            layers: plan.add.len(),
            raw_bytes: plan.add.iter().map(|(layer, _)| layer.raw_size).sum(),
            unchanged: plan.unchanged,
            removed: Some(plan.remove.len()),
            metadata: plan.metadata.is_some(),
            ..TimelineJson::named(id)
        });
        Ok(())
    }

    /// Ancestors of a timeline that cannot be restored with it.
    pub(crate) fn add_missing_past(
        &mut self,
        (tenant, timeline): (&TenantId, &TimelineId),
        failure: &Failure,
    ) {
        let why = explain_failure(failure);
        self.outcome.problems.push(format!("{tenant}/{timeline} would be restored without its past: {why}"));
        self.outcome.exit = self.outcome.exit.or_worse(failure.exit());
    }

    /// A timeline that a restore of everything leaves out.
    pub(crate) fn leave_out(&mut self, why: &Error) {
        self.outcome.warnings.push(why.to_string());
    }

    /// Plans the restore of a timeline. Without a work directory everything is missing.
    pub(crate) async fn restore(
        &mut self,
        workdir: Option<&WorkDir>,
        view: &TimelineView,
    ) -> Result<(), Failure> {
        let (plan, extra) = match workdir {
            Some(workdir) => plan_timeline_restore(workdir, view, &Arc::default()).await?,
            None => (sync_engine::plan_restore(&view.state, Default::default()), Vec::new()),
        };
        let (tenant, timeline) = (view.state.tenant(), view.state.timeline());
        let id = (tenant, timeline);
        self.json.conflicts.extend(plan.conflicts.iter().map(|conflict| conflict_json(id, conflict)));
        self.json.failed.extend(plan.failed.iter().map(|failed| failed_json(id, failed)));
        self.outcome.add_layer_problems("restore", &plan.conflicts, &plan.failed);
        self.outcome.add_damage(&view.damage);
        self.json.skipped.extend(extra.iter().map(|name| SkippedJson {
            path: format!("tenants/{tenant}/timelines/{timeline}/{name}"),
            reason: "not in the timeline, left alone".into(),
        }));
        self.add(TimelineJson {
            seq: Some(view.state.seq().0),
            layers: plan.layers,
            raw_bytes: plan.raw_bytes,
            unchanged: plan.present,
            stored_bytes: Some(plan.stored_bytes()),
            reads: Some(plan.requests()),
            metadata: view.state.metadata().is_some(),
            ..TimelineJson::named(id)
        });
        Ok(())
    }

    fn add(&mut self, timeline: TimelineJson) {
        self.json.layers += timeline.layers;
        self.json.raw_bytes += timeline.raw_bytes;
        let TimelineJson { tenant, timeline: id, layers, raw_bytes, unchanged, removed, reads, .. } =
            &timeline;
        let (layers, raw) = (counted(*layers, "layer"), human_bytes(*raw_bytes));
        let text = &mut self.outcome.text;
        // Writing to a String does not fail.
        let _ = write!(text, "{tenant}/{id}: {} {layers}, {raw}; {unchanged} there already", self.verb);
        if let Some(removed) = removed.filter(|removed| *removed > 0) {
            let _ = write!(text, "; would remove {}", counted(removed, "layer"));
        }
        if let (Some(reads), Some(stored)) = (reads, timeline.stored_bytes) {
            let _ = write!(text, "; {}, {}", counted(*reads, "read"), human_bytes(stored));
        }
        text.push('\n');
        self.json.timelines.push(timeline);
    }

    /// What is to be said of all of it.
    pub(crate) fn finish(self) -> Outcome {
        let Self { session, json, verb: _, outcome } = self;
        let all = Outcome::new(&json, &session.cost());
        let mut text = outcome.text;
        if !json.store_exists {
            text.push_str("there is no store yet: it would be created\n");
        }
        text.push_str("dry run: nothing was written\n");
        Outcome { json: all.json, text, ..outcome }
    }
}

impl TimelineJson {
    fn named((tenant, timeline): (&TenantId, &TimelineId)) -> Self {
        Self { tenant: tenant.to_string(), timeline: timeline.to_string(), ..Self::default() }
    }
}
