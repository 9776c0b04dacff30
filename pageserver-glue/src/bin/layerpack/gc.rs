//! `layerpack gc`.

mod report;

use std::time::{Duration, SystemTime};

use layer_archive::{TenantId, TimelineId};
use sync_engine::gc::{
    GcOptions, GcPlan, GcPolicy, GcReport, KnownRecords, execute_gc, plan_gc, store_time, survey_timeline,
};
use sync_engine::{CatalogEntry, Store};

use crate::args::Gc;
use crate::exit::Failure;
use crate::output::Outcome;
use crate::session::{Session, concerns_one_timeline};

pub(crate) use self::report::{PointsJson, SpaceJson};

/// A timeline, what was planned for it, and what was done, if anything was to be.
type Done = ((TenantId, TimelineId), Result<(GcPlan, Option<GcReport>), Failure>);

pub(crate) async fn run(session: &Session, arguments: &Gc) -> Result<Outcome, Failure> {
    let policy = GcPolicy { retention: session.retention(arguments.retention)?, ..GcPolicy::default() };
    let options = GcOptions {
        policy,
        bundle_bytes_target: session.pack_options()?.bundle_bytes_target,
        writer: session.writer_options(),
        take_over: arguments.take_over.into(),
    };
    let store = session.open(&arguments.remote).await?;
    let timelines = session.select(&store, &arguments.selection).await?;
    let alone = timelines.len() == 1;
    let now = match (arguments.execute, timelines.is_empty()) {
        (true, false) => execution_time(&store, policy.retention).await?,
        // What is only shown may go by this machine's clock.
        _ => Some(session.now()),
    };
    let sweep_failed = match arguments.execute {
        true => session.sweep_stale(&arguments.remote).await,
        false => None,
    };
    let mut done: Vec<Done> = Vec::new();
    for entry in timelines {
        let id = (entry.tenant.clone(), entry.timeline.clone());
        match collect_one(&store, entry, now, &options, arguments.execute).await {
            Err(failure) if alone || !concerns_one_timeline(&failure) => return Err(failure),
            collected => done.push((id, collected)),
        }
    }
    let delete_keys_max = store.objects().capabilities().delete_keys_max;
    let mut outcome = report::report(session, policy.retention, arguments.execute, delete_keys_max, &done);
    outcome.warnings.extend(sweep_failed);
    Ok(outcome)
}

/// What the store's clock says. It need not be asked where everything is old enough.
async fn execution_time(store: &Store, retention: Duration) -> Result<Option<SystemTime>, Failure> {
    if retention.is_zero() { Ok(None) } else { Ok(store_time(store).await?) }
}

async fn collect_one(
    store: &Store,
    entry: CatalogEntry,
    now: Option<SystemTime>,
    options: &GcOptions,
    execute: bool,
) -> Result<(GcPlan, Option<GcReport>), Failure> {
    let CatalogEntry { tenant, timeline, listing } = entry;
    let id = (&tenant, &timeline);
    let survey = survey_timeline(store, id, listing, &options.policy, now, KnownRecords::default()).await?;
    let plan = plan_gc(&survey, &options.policy, options.bundle_bytes_target);
    let report = if execute { Some(execute_gc(store, survey, plan.clone(), options).await?) } else { None };
    Ok((plan, report))
}
