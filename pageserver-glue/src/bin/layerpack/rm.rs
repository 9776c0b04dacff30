//! `layerpack rm`.

use std::collections::BTreeSet;
use std::path::Path;

use layer_archive::{LayerName, RemovalReason};
use serde::Serialize;
use sync_engine::{TakeOver, remove_layers};

use crate::args::{Rm, TakeOverArg};
use crate::exit::Failure;
use crate::output::{Outcome, counted};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct RmJson {
    tenant: String,
    timeline: String,
    seq: u64,
    removed: usize,
}

pub(crate) async fn run(session: &Session, arguments: &Rm) -> Result<Outcome, Failure> {
    let names = match &arguments.from_file {
        Some(file) => read_names(file)?,
        None => arguments.layers.iter().cloned().collect(),
    };
    let (store, view) = session.open_timeline(&arguments.remote, &arguments.which).await?;
    let damage = view.damage.clone();
    // Who removes by hand says that nobody needs the layers; only who made the replacements can say that they replace.
    let reason = RemovalReason::Collected;
    let take_over = arguments.take_over.into();
    let removal = remove_layers(&store, view, &names, reason, take_over, session.writer_options()).await?;
    let json = RmJson {
        tenant: arguments.which.tenant.to_string(),
        timeline: arguments.which.timeline.to_string(),
        seq: removal.seq.0,
        removed: removal.removed,
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    let layers = counted(removal.removed, "layer");
    outcome.text = format!(
        "removed {layers} with record {}; their bytes go with `layerpack gc` after retention\n{}",
        removal.seq.0,
        session.cost_line()
    );
    outcome.add_damage(&damage);
    Ok(outcome)
}

impl From<TakeOverArg> for TakeOver {
    fn from(argument: TakeOverArg) -> Self {
        if argument.take_over { Self::Yes } else { Self::No }
    }
}

/// One name a line; empty lines count for nothing.
fn read_names(file: &Path) -> Result<BTreeSet<LayerName>, Failure> {
    let failed = |source| Failure::File { doing: "read", path: file.display().to_string(), source };
    let text = std::fs::read_to_string(file).map_err(failed)?;
    let names = text.lines().filter(|line| !line.is_empty());
    let parsed = names.map(|line| {
        LayerName::new(line).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
    });
    parsed.collect()
}
