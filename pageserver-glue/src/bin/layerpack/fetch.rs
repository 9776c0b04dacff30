//! `layerpack fetch`.

use std::collections::BTreeSet;
use std::sync::Arc;

use layer_archive::{LayerEntry, LayerName};
use pageserver_glue::WorkDir;
use serde::Serialize;
use sync_engine::{Conflict, Error, FailedLayer, Progress, TimelineReader, TimelineState, WriteOutcome};

use crate::args::Fetch;
use crate::exit::{Exit, Failure, exit_of};
use crate::layers::{ConflictJson, FailedJson, conflict_json, failed_json};
use crate::output::{Outcome, counted, human_bytes};
use crate::session::Session;

#[derive(Debug, Default, Serialize)]
struct FetchJson {
    tenant: String,
    timeline: String,
    layers: usize,
    raw_bytes: u64,
    stored_bytes: u64,
    present: usize,
    conflicts: Vec<ConflictJson>,
    failed: Vec<FailedJson>,
}

/// What became of the layers.
#[derive(Default)]
struct Fetched {
    layers: usize,
    raw_bytes: u64,
    stored_bytes: u64,
    present: usize,
    conflicts: Vec<Conflict>,
    failed: Vec<FailedLayer>,
}

pub(crate) async fn run(session: &Session, arguments: &Fetch) -> Result<Outcome, Failure> {
    let workdir = session.workdir(&arguments.workdir)?;
    let (tenant, timeline) = (&arguments.which.tenant, &arguments.which.timeline);
    let (store, view) = session.open_timeline(&arguments.remote, &arguments.which).await?;
    let entries = find(&view.state, &arguments.layers)?;
    let workdir = WorkDir::create(workdir)?;
    let dir = workdir.create_timeline_dir(tenant, timeline)?;
    dir.sweep()?;
    let progress = Arc::new(Progress::default());
    let meter = session.meter("fetching into", timeline, &progress);
    let reader = TimelineReader::new(&store, view.clone(), Arc::default());
    let mut fetched = Fetched::default();
    for entry in entries {
        match reader.fetch(&entry.name, &dir, &progress).await {
            Ok(outcome) => fetched.add(entry, outcome),
            Err(error) if exit_of(&error) == Exit::Unreachable => return Err(error.into()),
            Err(error) => {
                fetched.failed.push(FailedLayer { name: entry.name.clone(), error: Arc::new(error) });
            }
        }
    }
    drop(meter);
    let id = (tenant, timeline);
    let json = FetchJson {
        tenant: tenant.to_string(),
        timeline: timeline.to_string(),
        layers: fetched.layers,
        raw_bytes: fetched.raw_bytes,
        stored_bytes: fetched.stored_bytes,
        present: fetched.present,
        conflicts: fetched.conflicts.iter().map(|conflict| conflict_json(id, conflict)).collect(),
        failed: fetched.failed.iter().map(|failed| failed_json(id, failed)).collect(),
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = format!(
        "{tenant}/{timeline}: {} fetched, {}; {} there already\n{}",
        counted(fetched.layers, "layer"),
        human_bytes(fetched.raw_bytes),
        fetched.present,
        session.cost_line()
    );
    outcome.add_layer_problems("fetch", &fetched.conflicts, &fetched.failed);
    outcome.add_damage(&view.damage);
    Ok(outcome)
}

/// The entries of the layers that were named, each once. One that is not there keeps all from being fetched.
fn find<'a>(state: &'a TimelineState, names: &[LayerName]) -> Result<Vec<&'a LayerEntry>, Error> {
    let names: BTreeSet<&LayerName> = names.iter().collect();
    let entry = |name: &LayerName| {
        state.layers().get(name).ok_or_else(|| Error::LayerNotFound {
            tenant: state.tenant().clone(),
            timeline: state.timeline().clone(),
            name: name.clone(),
        })
    };
    names.into_iter().map(entry).collect()
}

impl Fetched {
    fn add(&mut self, entry: &LayerEntry, outcome: WriteOutcome) {
        let WriteOutcome { written, taken, failed, stored_bytes } = outcome;
        self.layers += written.len();
        self.raw_bytes += if written.is_empty() { 0 } else { entry.raw.size };
        self.stored_bytes += stored_bytes;
        self.failed.extend(failed);
        for (name, local) in taken {
            if local == entry.raw {
                self.present += 1;
            } else {
                self.conflicts.push(Conflict { name, local, stored: entry.raw });
            }
        }
    }
}
