//! Manifests that do not read, made again.
//!
//! The state at a record is a pure function of the records up to it (rule 4 of the protocol): who knows it from an older
//! manifest and the log writes the same manifest, byte for byte. So it is the one object of a timeline that may be put
//! over itself. The newest of a timeline that is not deleted is left to a new record and its manifest.

use layer_archive::Seq;
use storage_api::{Body, Key, PutMode};

use crate::point::state_by_log;
use crate::view::load_manifest;
use crate::{Error, Finding, ObjectName, Result, Store, TimelineState, TimelineView, VerifyReport};

/// Makes the manifests that `verified` says do not read, as far as the log still tells their states; there are good ones up
/// to `followed_to`. Returns which.
pub(super) async fn remake(
    store: &Store,
    view: &TimelineView,
    verified: &VerifyReport,
    followed_to: Seq,
) -> Result<Vec<Seq>> {
    let newest = view.listing.manifests.keys().next_back().copied().filter(|seq| *seq >= followed_to);
    let mut remade = Vec::new();
    for Finding { object, .. } in verified.findings.iter().chain(&verified.unneeded) {
        let Ok(key) = Key::new(object.clone()) else { continue };
        let Some(ObjectName::Manifest(seq)) = view.keys.parse(&key) else { continue };
        let is_left = Some(seq) == newest && !view.state.is_deleted();
        if !is_left && remake_one(store, view, seq, &key).await? {
            remade.push(seq);
        }
    }
    Ok(remade)
}

/// Makes the manifest of a tombstone that opens no more without it: what went before is collected. The record says that the
/// timeline is deleted, and nothing can come behind it; the rest of the state is what is left to be known. Returns it, if
/// there was none that reads.
pub(super) async fn make_tombstone(store: &Store, view: &TimelineView) -> Result<Option<Seq>> {
    let seq = view.state.seq();
    let id = (view.state.tenant(), view.state.timeline());
    match TimelineView::open(store, id.0, id.1, None).await {
        Err(error) if error.is_damage() => {}
        opened => return opened.map(|_| None),
    }
    let key = view.keys.manifest(seq)?;
    put(store, &key, &view.state).await?;
    Ok(Some(seq))
}

async fn remake_one(store: &Store, view: &TimelineView, seq: Seq, key: &Key) -> Result<bool> {
    let objects = &**store.objects();
    let Some(info) = view.listing.manifests.get(&seq) else { return Ok(false) };
    // What was damaged on the way only is not.
    if !matches!(load_manifest(objects, &view.state, seq, info).await, Err(Error::Damaged { .. })) {
        return Ok(false);
    }
    let id = (view.state.tenant(), view.state.timeline());
    let Some(state) = state_by_log(store, id, seq).await? else { return Ok(false) };
    put(store, key, &state).await?;
    Ok(true)
}

async fn put(store: &Store, key: &Key, state: &TimelineState) -> Result<()> {
    let unpackable = |source| Error::Unpackable { what: key.to_string(), source };
    let bytes = state.to_manifest().encode().map_err(unpackable)?;
    store.objects().put(key, Body::new(bytes), PutMode::Overwrite).await?;
    Ok(())
}
