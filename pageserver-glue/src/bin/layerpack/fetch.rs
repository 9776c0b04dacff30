//! `layerpack fetch`.

use std::fmt::Write;
use std::sync::Arc;

use layer_archive::{LayerEntry, LayerName, TimelineId};
use pageserver_glue::WorkDir;
use serde::Serialize;
use sync_engine::{Conflict, FailedLayer, Progress, TimelineReader, WriteOutcome, find_layers};

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
    /// Those that are in the directories of the timeline's ancestors, because they are theirs.
    from_ancestors: Vec<FromAncestorJson>,
    conflicts: Vec<ConflictJson>,
    failed: Vec<FailedJson>,
}

#[derive(Debug, Serialize)]
struct FromAncestorJson {
    timeline: String,
    name: String,
}

/// What became of the layers.
#[derive(Default)]
struct Fetched {
    layers: usize,
    raw_bytes: u64,
    stored_bytes: u64,
    present: usize,
    from_ancestors: Vec<(TimelineId, LayerName)>,
    conflicts: Vec<Conflict>,
    failed: Vec<FailedLayer>,
}

pub(crate) async fn run(session: &Session, arguments: &Fetch) -> Result<Outcome, Failure> {
    let workdir = session.workdir(&arguments.workdir)?;
    let (tenant, timeline) = (&arguments.which.tenant, &arguments.which.timeline);
    let (store, view) = session.open_timeline(&arguments.remote, &arguments.which).await?;
    // One that is nowhere keeps all from being fetched.
    let found = find_layers(&store, view, &arguments.layers.iter().cloned().collect()).await?;
    let workdir = WorkDir::create(workdir)?;
    let progress = Arc::new(Progress::default());
    let meter = session.meter("fetching into", timeline, &progress);
    let (mut fetched, mut damage) = (Fetched::default(), Vec::new());
    for (view, names) in found {
        // An ancestor's layer belongs among the ancestor's: in the branch's directory it would be the branch's own.
        let at = view.state.timeline().clone();
        let dir = workdir.create_timeline_dir(tenant, &at)?;
        dir.sweep()?;
        damage.extend(view.damage.iter().cloned());
        if at != *timeline {
            fetched.from_ancestors.extend(names.iter().map(|name| (at.clone(), name.clone())));
        }
        let reader = TimelineReader::new(&store, view.clone(), Arc::default());
        for name in names {
            match reader.fetch(&name, &dir, &progress).await {
                Ok(outcome) => fetched.add(view.state.layers().get(&name), outcome),
                Err(error) if exit_of(&error) == Exit::Unreachable => return Err(error.into()),
                Err(error) => fetched.failed.push(FailedLayer { name, error: Arc::new(error) }),
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
        from_ancestors: fetched
            .from_ancestors
            .iter()
            .map(|(at, name)| FromAncestorJson { timeline: at.to_string(), name: name.to_string() })
            .collect(),
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
    for (at, name) in &fetched.from_ancestors {
        // Writing to a String does not fail.
        let _ = writeln!(outcome.text, "{name} is of the ancestor {at}, in whose directory it is now");
    }
    outcome.add_layer_problems("fetch", &fetched.conflicts, &fetched.failed);
    outcome.add_damage(&damage);
    Ok(outcome)
}

impl Fetched {
    fn add(&mut self, entry: Option<&LayerEntry>, outcome: WriteOutcome) {
        let raw = entry.map(|entry| entry.raw).unwrap_or_default();
        let WriteOutcome { written, taken, failed, stored_bytes } = outcome;
        self.layers += written.len();
        self.raw_bytes += if written.is_empty() { 0 } else { raw.size };
        self.stored_bytes += stored_bytes;
        self.failed.extend(failed);
        for (name, local) in taken {
            if local == raw {
                self.present += 1;
            } else {
                self.conflicts.push(Conflict { name, local, stored: raw });
            }
        }
    }
}
