//! Removing layers by hand, and who may write to a timeline that is not released.

use std::collections::BTreeSet;

use layer_archive::{BundleWriter, LayerName, RemovalReason, Removed, Seq};

use crate::reader::find;
use crate::{Draft, Error, Result, Store, TimelineView, TimelineWriter, WriterOptions};

/// Whether a timeline that is not released is claimed all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOver {
    /// Its writer may be running: nothing is written.
    #[default]
    No,
    /// Its writer is gone, or is to be fenced.
    Yes,
}

impl TakeOver {
    /// Refuses a timeline that somebody holds.
    pub(crate) fn require(self, view: &TimelineView) -> Result<()> {
        let state = &view.state;
        if state.is_released() || self == Self::Yes {
            return Ok(());
        }
        Err(Error::Held {
            tenant: state.tenant().clone(),
            timeline: state.timeline().clone(),
            by: Box::new(state.writer().clone()),
            time: state.time(),
        })
    }
}

/// What a removal has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The record that says so.
    pub seq: Seq,
    /// Layers that are no more.
    pub removed: usize,
}

/// Removes layers of the timeline that `view` shows, with one record; their bytes stay until they are collected.
///
/// All of the names are layers of the timeline, and none is *collected* that a branch needs, or nothing is removed.
pub async fn remove_layers(
    store: &Store,
    view: TimelineView,
    names: &BTreeSet<LayerName>,
    reason: RemovalReason,
    take_over: TakeOver,
    options: WriterOptions,
) -> Result<Removal> {
    for name in names {
        find(&view.state, name)?;
    }
    if names.is_empty() {
        return Ok(Removal { seq: view.state.seq(), removed: 0 });
    }
    let asked: Vec<Removed> = names.iter().map(|name| Removed { name: name.clone(), reason }).collect();
    view.state.check_removals(&asked, &[])?;
    take_over.require(&view)?;
    let mut writer = TimelineWriter::claim(store, view, options).await?;
    // What somebody else has removed until the claim is removed.
    let there = names.iter().filter(|name| writer.view().state.layers().contains_key(*name));
    let removed: Vec<Removed> = there.map(|name| Removed { name: name.clone(), reason }).collect();
    let count = removed.len();
    let draft = Draft { removed, released: true, ..Draft::default() };
    match writer.append(draft, BundleWriter::new()).await {
        // A branch that began until the claim.
        Err(error @ Error::NeededByBranch { .. }) => return Err(writer.release_after(error).await),
        appended => drop(appended?),
    }
    let removal = Removal { seq: writer.view().state.seq(), removed: count };
    // The commit stands without it.
    if let Err(error) = writer.detach().await {
        tracing::warn!(%error, "no manifest was written: the next writer tries again");
    }
    Ok(removal)
}
