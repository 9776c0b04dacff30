//! `layerpack copy`.

use std::sync::Arc;

use pageserver_glue::Absent;
use serde::Serialize;
use sync_engine::{CopyOptions, CopyTarget, Progress, Store, TimelineView, copy_timeline};

use crate::args::Copy;
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
    let source = session.open(&arguments.remote).await?;
    let target = match &arguments.to_remote {
        None => source.clone(),
        Some(url) => {
            let remote = session.parse_remote(url)?;
            // The same store, so that it copies by itself.
            if remote.as_str() == source.url() {
                source.clone()
            } else {
                Store::open(session.connect(&remote, Absent::Refuse).await?, remote.as_str()).await?
            }
        }
    };
    let (tenant, timeline) = &arguments.from;
    let at = arguments.at.unwrap_or_default();
    let view = TimelineView::open_at(&source, (tenant, timeline), at, None).await?;
    let progress = Arc::new(Progress::default());
    let options = CopyOptions {
        writer: session.writer_options(),
        pack: session.pack_options()?,
        take_over: arguments.take_over.into(),
        at,
        progress: Arc::clone(&progress),
    };
    let (to_tenant, to_timeline) = &arguments.to;
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
