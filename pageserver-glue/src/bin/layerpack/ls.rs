//! `layerpack ls`.

use std::fmt::Write;

use layer_archive::LayerEntry;
use serde::Serialize;

use crate::args::Ls;
use crate::exit::Failure;
use crate::layers::{BranchJson, ancestor_text};
use crate::output::{Outcome, printable};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct LsJson {
    tenant: String,
    timeline: String,
    seq: u64,
    ancestor: Option<String>,
    branches: Vec<BranchJson>,
    layers: Vec<LayerJson>,
}

#[derive(Debug, Serialize)]
struct LayerJson {
    name: String,
    raw_bytes: u64,
    stored_bytes: u64,
    bundle: String,
    crc32c: String,
    blake3: String,
}

pub(crate) async fn run(session: &Session, arguments: &Ls) -> Result<Outcome, Failure> {
    let (_, view) = session.open_timeline(&arguments.remote, &arguments.which).await?;
    let state = &view.state;
    let json = LsJson {
        tenant: state.tenant().to_string(),
        timeline: state.timeline().to_string(),
        seq: state.seq().0,
        ancestor: state.ancestor().map(ancestor_text),
        branches: state.branch_points().map(BranchJson::from).collect(),
        layers: state.layers().values().map(LayerJson::new).collect(),
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = text(&json.layers);
    // Writing to a String does not fail.
    if let Some(ancestor) = &json.ancestor {
        let _ = writeln!(outcome.text, "its past is in its ancestor {ancestor}");
    }
    for BranchJson { tenant: _, timeline, lsn, .. } in &json.branches {
        let _ = writeln!(outcome.text, "{timeline} branches off at LSN {lsn}");
    }
    outcome.add_damage(&view.damage);
    Ok(outcome)
}

impl LayerJson {
    fn new(layer: &LayerEntry) -> Self {
        Self {
            name: layer.name.to_string(),
            raw_bytes: layer.raw.size,
            stored_bytes: layer.stored_bytes,
            bundle: layer.place.bundle.to_string(),
            crc32c: layer.raw.crc32c.to_string(),
            blake3: layer.raw.blake3.to_string(),
        }
    }
}

/// A line a layer, the sizes in bytes so that they can be summed.
fn text(layers: &[LayerJson]) -> String {
    let bundle_width = layers.iter().map(|layer| layer.bundle.len()).max().unwrap_or(0).max("bundle".len());
    let mut text =
        format!("{:>12} {:>12}  {:<8}  {:<bundle_width$}  layer\n", "raw", "stored", "crc32c", "bundle");
    for LayerJson { name, raw_bytes, stored_bytes, bundle, crc32c, blake3: _ } in layers {
        let name = printable(name);
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{raw_bytes:>12} {stored_bytes:>12}  {crc32c:<8}  {bundle:<bundle_width$}  {name}"
        );
    }
    text
}
