//! `layerpack copy`.

use std::sync::Arc;

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::Absent;
use serde::Serialize;
use sync_engine::{CopyOptions, CopyTarget, Progress, Store, TimelineView, copy_timeline};

use crate::args::{Copy, CopySubject};
use crate::copy_tenant;
use crate::exit::Failure;
use crate::output::{Outcome, counted, human_bytes};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct CopyJson {
    from: String,
    from_seq: u64,
    to: String,
    seq: u64,
    layers: usize,
    raw_bytes: u64,
    bundles: usize,
    stored_bytes: u64,
}

pub(crate) async fn run(session: &Session, arguments: &Copy) -> Result<Outcome, Failure> {
    match (&arguments.from, &arguments.to) {
        (CopySubject::Timeline(tenant, timeline), CopySubject::Timeline(to_tenant, to_timeline)) => {
            copy_one(session, arguments, (tenant, timeline), (to_tenant, to_timeline)).await
        }
        (CopySubject::Tenant(from), CopySubject::Tenant(to)) => {
            copy_tenant::run(session, arguments, from, to).await
        }
        _ => Err(Failure::Usage(
            "--from and --to do not go together: a timeline is copied to a timeline (TENANT/TIMELINE), a tenant to a \
             tenant (TENANT)"
                .into(),
        )),
    }
}

/// The store that is copied from, and the one that is copied to.
pub(crate) async fn open_stores(session: &Session, arguments: &Copy) -> Result<(Store, Store), Failure> {
    let source = session.open(&arguments.remote).await?;
    let Some(url) = &arguments.to_remote else { return Ok((source.clone(), source)) };
    let remote = session.parse_remote(url)?;
    // The same store, so that it copies by itself.
    if remote.as_str() == source.url() {
        return Ok((source.clone(), source));
    }
    let target = Store::open(session.connect(&remote, Absent::Refuse).await?, remote.as_str()).await?;
    Ok((source, target))
}

pub(crate) fn options(
    session: &Session,
    arguments: &Copy,
    progress: &Arc<Progress>,
) -> Result<CopyOptions, Failure> {
    Ok(CopyOptions {
        writer: session.writer_options(),
        pack: session.pack_options()?,
        take_over: arguments.take_over.into(),
        at: arguments.at.unwrap_or_default(),
        progress: Arc::clone(progress),
    })
}

async fn copy_one(
    session: &Session,
    arguments: &Copy,
    (tenant, timeline): (&TenantId, &TimelineId),
    (to_tenant, to_timeline): (&TenantId, &TimelineId),
) -> Result<Outcome, Failure> {
    let (source, target) = open_stores(session, arguments).await?;
    let progress = Arc::new(Progress::default());
    let options = options(session, arguments, &progress)?;
    let view = TimelineView::open_at(&source, (tenant, timeline), options.at, None).await?;
    let _meter = session.meter("copying", timeline, &progress);
    let target = CopyTarget { store: &target, tenant: to_tenant, timeline: to_timeline };
    let report = copy_timeline(&source, &view, target, options).await?;
    let json = CopyJson {
        from: format!("{tenant}/{timeline}"),
        from_seq: report.from_seq.0,
        to: format!("{to_tenant}/{to_timeline}"),
        seq: report.seq.0,
        layers: report.layers,
        raw_bytes: report.raw_bytes,
        bundles: report.bundles,
        stored_bytes: report.stored_bytes,
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = format!(
        "{} as of record {} is now {}: {}, {} in {}\n{}",
        json.from,
        json.from_seq,
        json.to,
        counted(json.layers, "layer"),
        human_bytes(json.stored_bytes),
        counted(json.bundles, "bundle"),
        session.cost_line()
    );
    outcome.add_damage(&view.damage);
    Ok(outcome)
}
