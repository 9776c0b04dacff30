//! `layerpack cat`.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;
use sync_engine::{Error, TimelineReader, find_layers};

use crate::args::Cat;
use crate::exit::Failure;
use crate::output::Outcome;
use crate::session::Session;

/// Raw bytes that are in memory at once.
const WINDOW_BYTES: u64 = 32 << 20;

#[derive(Debug, Serialize)]
struct CatJson {
    tenant: String,
    timeline: String,
    layer: String,
    offset: u64,
    length: u64,
}

pub(crate) async fn run(session: &Session, arguments: &Cat) -> Result<Outcome, Failure> {
    let Cat { remote, which, layer, offset, length } = arguments;
    let (store, view) = session.open_timeline(remote, which).await?;
    let not_found = || Error::LayerNotFound {
        tenant: which.tenant.clone(),
        timeline: which.timeline.clone(),
        name: layer.clone(),
    };
    // In the timeline, or in the ancestor that has it.
    let found = find_layers(&store, view, &BTreeSet::from([layer.clone()])).await?;
    let (view, _) = found.into_iter().next().ok_or_else(not_found)?;
    let entry = view.state.layers().get(layer).ok_or_else(not_found)?;
    let end = length.map_or(u64::MAX, |length| offset.saturating_add(length)).min(entry.raw.size);
    let reader = TimelineReader::new(&store, view.clone(), Arc::default());
    let mut at = *offset;
    while at < end {
        let window = at..end.min(at.saturating_add(WINDOW_BYTES));
        let bytes = reader.read_at(layer, window.clone()).await?;
        if !write_out(&bytes)? {
            break;
        }
        at = window.end;
    }
    let json = CatJson {
        tenant: which.tenant.to_string(),
        timeline: view.state.timeline().to_string(),
        layer: layer.to_string(),
        offset: *offset,
        length: at - offset,
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.add_damage(&view.damage);
    Ok(outcome)
}

/// Writes to stdout; `false` where the reader has seen enough.
fn write_out(bytes: &[u8]) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(Failure::File { doing: "write to", path: "stdout".into(), source }),
    }
}
