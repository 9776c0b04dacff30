//! Copy: a state of one timeline becomes the first state of another, in the same store or in a second one.
//!
//! Bundles go as they are: inside a store the store copies them, between stores they stream through. One record of the
//! new timeline then names all of them; what was copied and is named by no record is nothing.

mod ancestors;
mod tenant;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{
    BundleEntry, BundleId, BundleWriter, LayerEntry, PayloadId, PayloadRef, Place, Seq, TenantId, TimelineId,
};
use storage_api::{Body, Crc32c, Key, PutMode};

use self::ancestors::begin_branch;
pub use self::tenant::{
    LeftOut, PlannedCopy, Standing, TenantCopyPlan, TimelineCopy, execute_tenant_copy, plan_tenant_copy,
    read_tenant,
};
use crate::object::{read_index, read_range, twice};
use crate::payload::PayloadUpload;
use crate::point::AsOf;
use crate::{
    At, Draft, Error, PackOptions, Progress, Result, Store, TakeOver, TimelineState, TimelineView,
    TimelineWriter, WriterOptions,
};

/// Copies that the store is asked for at the same time.
const COPIES_IN_FLIGHT: usize = 16;
/// How often a copy follows a timeline whose objects gc deletes while it is copied.
const STATES_FOLLOWED_MAX: usize = 4;
/// Bundles that stream from one store to the other at the same time. Each is in memory up to its size or a few parts.
const STREAMS_IN_FLIGHT: usize = 2;

/// How a copy is made.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Who writes.
    pub writer: WriterOptions,
    /// How large bundles are uploaded, between two stores.
    pub pack: PackOptions,
    /// Whether an unfinished copy, or an ancestor, that somebody holds is written to.
    pub take_over: TakeOver,
    /// The point at which the source was opened: what a branch needs of its ancestors is what they had by then, or what
    /// they have now.
    pub at: At,
    /// How far it has come.
    pub progress: Arc<Progress>,
}

/// What a copy has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// The record that was copied.
    pub from_seq: Seq,
    /// The record that names the copies.
    pub seq: Seq,
    /// Layers of the new timeline.
    pub layers: usize,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// Bundles that were copied.
    pub bundles: usize,
    /// Their bytes.
    pub stored_bytes: u64,
}

impl CopyReport {
    /// What there is to be copied, and nothing was.
    fn of(state: &TimelineState) -> Self {
        let raw_bytes = state.layers().values().map(|layer| layer.raw.size).sum();
        Self { from_seq: state.seq(), layers: state.layers().len(), raw_bytes, ..Self::default() }
    }
}

/// A timeline in a store.
#[derive(Clone, Copy, Debug)]
pub struct CopyTarget<'a> {
    /// The store; the same object as the source's where the store itself is to copy.
    pub store: &'a Store,
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The timeline, of which there must be nothing yet but what an unfinished copy has left.
    pub timeline: &'a TimelineId,
}

/// Copies the state that `from` shows, its newest or an older one.
///
/// A branch is copied to where its ancestor is, under the same id, at least as far, and with every layer that the branch
/// needs: its branch point is written there first. Branches of the source stay its own. Where the source goes on and gc
/// deletes what is to be copied, it is copied as it is by then; an older state that is given up meanwhile is an error.
pub async fn copy_timeline(
    source: &Store,
    from: &TimelineView,
    target: CopyTarget<'_>,
    options: CopyOptions,
) -> Result<CopyReport> {
    let id = (from.state.tenant(), from.state.timeline());
    let mut newer: Option<TimelineView> = None;
    for _ in 1..STATES_FOLLOWED_MAX {
        let seen = newer.as_ref().unwrap_or(from);
        let error = match copy_state(source, seen, target, options.clone()).await {
            Err(error) if found_objects_gone(&error) => error,
            copied => return copied,
        };
        if !from.is_newest() {
            TimelineView::open_at(source, id, At::Seq(from.state.seq()), None).await?;
            return Err(error);
        }
        let now = TimelineView::open_existing(source, id.0, id.1, None).await?;
        if now.state.seq() == seen.state.seq() {
            return Err(error);
        }
        newer = Some(now);
    }
    copy_state(source, newer.as_ref().unwrap_or(from), target, options).await
}

/// Whether objects of the source were not there: they are lost, or gc has deleted them because the source has moved on.
fn found_objects_gone(error: &Error) -> bool {
    match error {
        Error::Storage(error) => error.is_not_found(),
        Error::SourceDamaged { .. } => true,
        _ => false,
    }
}

/// Copies a state.
async fn copy_state(
    source: &Store,
    from: &TimelineView,
    target: CopyTarget<'_>,
    options: CopyOptions,
) -> Result<CopyReport> {
    // A number is one timeline's: of its ancestors the states of the same time are meant.
    let at = if let At::Seq(_) = options.at { At::Time(from.state.time()) } else { options.at };
    let as_of = AsOf::from(at);
    let there = TimelineView::open(target.store, target.tenant, target.timeline, None).await?;
    copy_onto(source, from, &as_of, target, there, options).await
}

/// [`copy_timeline`] of which the target is opened, and the ancestors are looked at as of these points.
async fn copy_onto(
    source: &Store,
    from: &TimelineView,
    as_of: &AsOf,
    target: CopyTarget<'_>,
    there: TimelineView,
    options: CopyOptions,
) -> Result<CopyReport> {
    let state = &from.state;
    refuse_empty(from)?;
    refuse_damaged(from)?;
    let store = target.store;
    refuse_existing(&there, options.take_over)?;
    begin_branch(source, state, as_of, target, &options).await?;
    let mut writer = TimelineWriter::claim(store, there, options.writer.clone()).await?;
    // Somebody may have written between the look and the claim.
    if let Err(error) = refuse_existing(writer.view(), TakeOver::Yes) {
        return Err(writer.release_after(error).await);
    }
    let copied = match copy_bundles(source, from, store, &mut writer, &options).await {
        Ok(copied) => copied,
        Err(error) => return Err(writer.release_after(error).await),
    };
    let stored_bytes = copied.values().map(|payload| payload.stored_bytes).sum();
    let mut report = CopyReport { bundles: copied.len(), stored_bytes, ..CopyReport::of(state) };
    let draft = Draft {
        metadata: state.metadata().cloned(),
        disk_consistent_lsn: state.disk_consistent_lsn(),
        ancestor: state.ancestor().cloned(),
        added: moved_layers(state, &copied),
        payloads: copied.into_values().collect(),
        released: true,
        ..Draft::default()
    };
    writer.append(draft, BundleWriter::new()).await?;
    report.seq = writer.view().state.seq();
    // The commit stands without it.
    if let Err(error) = writer.detach().await {
        tracing::warn!(%error, "no manifest was written: the next writer tries again");
    }
    Ok(report)
}

/// Refuses a source that has nothing: a copy of it could not be told from one that was never finished.
fn refuse_empty(from: &TimelineView) -> Result<()> {
    from.check_commits()?;
    let state = &from.state;
    if !state.is_blank() {
        return Ok(());
    }
    let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
    Err(Error::SourceEmpty { tenant, timeline })
}

fn refuse_damaged(from: &TimelineView) -> Result<()> {
    let Some(lost) = from.damage.iter().find(|finding| !finding.layers.is_empty()) else { return Ok(()) };
    Err(Error::SourceDamaged {
        tenant: from.state.tenant().clone(),
        timeline: from.state.timeline().clone(),
        object: lost.object.clone(),
        problem: lost.problem.clone(),
    })
}

/// Refuses a target that is more than what an unfinished copy leaves: claims, and a word that nobody holds it.
fn refuse_existing(there: &TimelineView, take_over: TakeOver) -> Result<()> {
    let state = &there.state;
    let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
    if state.is_deleted() {
        return Err(Error::TimelineDeleted { tenant, timeline });
    }
    if !state.is_free() {
        return Err(Error::TimelineExists { tenant, timeline });
    }
    take_over.require(there)
}

/// Copies every bundle that holds a layer to a payload object of the writer's claim.
async fn copy_bundles(
    source: &Store,
    from: &TimelineView,
    target: &Store,
    writer: &mut TimelineWriter,
    options: &CopyOptions,
) -> Result<BTreeMap<BundleId, PayloadRef>> {
    let live: BTreeSet<BundleId> = from.state.layers().values().map(|layer| layer.place.bundle).collect();
    let mut wanted = Vec::new();
    for bundle in from.state.bundles().into_iter().filter(|bundle| live.contains(&bundle.id)) {
        let key = from.keys.bundle(bundle.id)?;
        wanted.push((bundle, key, writer.next_payload()?));
    }
    options.progress.expect(wanted.iter().map(|(bundle, ..)| bundle.stored_bytes).sum());
    let inside = Arc::ptr_eq(source.objects(), target.objects()) && source.objects().capabilities().copy;
    let copies = wanted.into_iter().map(|(bundle, key, (id, to))| async move {
        if inside {
            copy_inside(source, &bundle, &key, &to).await?;
        } else {
            copy_between(source, &bundle, &key, target, id, &to, options.pack).await?;
        }
        options.progress.advance(bundle.stored_bytes);
        let BundleEntry { id: from, stored_bytes, tail_len, .. } = bundle;
        Ok::<_, Error>((from, PayloadRef { id, stored_bytes, tail_len }))
    });
    let in_flight = if inside { COPIES_IN_FLIGHT } else { STREAMS_IN_FLIGHT };
    stream::iter(copies).buffer_unordered(in_flight).try_collect().await
}

/// Lets the store copy an object, and looks whether the copy is as long as it should be.
async fn copy_inside(store: &Store, bundle: &BundleEntry, from: &Key, to: &Key) -> Result<()> {
    store.objects().copy(from, to).await?;
    let there = store.objects().head(to).await?.size;
    if there == bundle.stored_bytes {
        return Ok(());
    }
    let (needed, available) = (bundle.stored_bytes, there);
    Err(Error::damaged(from, layer_archive::FormatError::Truncated { what: "bundle", needed, available }))
}

/// Reads an object from one store and writes it to another, in parts where it is large. Its bytes must be those that
/// its index is of.
async fn copy_between(
    source: &Store,
    bundle: &BundleEntry,
    from: &Key,
    target: &Store,
    id: PayloadId,
    to: &Key,
    options: PackOptions,
) -> Result<()> {
    let objects = &**source.objects();
    let index = read_index(objects, from, u64::from(bundle.tail_len)).await?;
    let expected = Crc32c(index.object_crc32c().0);
    // What is not much more than a full bundle and its index is in memory once.
    let whole_max = options.bundle_bytes_target.saturating_add(options.bundle_bytes_target / 4);
    if bundle.stored_bytes <= whole_max || !target.objects().capabilities().multipart {
        let bytes = twice(|| async {
            let bytes = read_range(objects, from, 0..bundle.stored_bytes).await?;
            check(from, expected, Crc32c::of(&bytes)).map(|()| bytes)
        })
        .await?;
        return match target.objects().put(to, Body::with_crc32c(bytes, expected), PutMode::Create).await {
            // The key is this writer's alone: what is there already is an earlier attempt of the same bytes.
            Err(error) if !error.is_already_exists() => Err(error.into()),
            _ => Ok(()),
        };
    }
    let mut upload = PayloadUpload::begin(Arc::clone(target.objects()), to.clone(), id, options).await?;
    let part_bytes = (options.part_bytes as u64).max(target.objects().capabilities().part_bytes_min).max(1);
    let uploaded = async {
        let (mut start, mut actual) = (0, Crc32c::of(&[]));
        while start < bundle.stored_bytes {
            let end = (start + part_bytes).min(bundle.stored_bytes);
            let part = read_range(objects, from, start..end).await?;
            actual = actual.append(&part);
            upload.push(part.to_vec()).await?;
            start = end;
        }
        check(from, expected, actual)?;
        upload.complete(Vec::new(), bundle.stored_bytes, expected).await
    };
    let uploaded = uploaded.await;
    if uploaded.is_err() {
        upload.abort().await;
    }
    uploaded
}

fn check(key: &Key, expected: Crc32c, actual: Crc32c) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (layer_archive::Crc32c(expected.0), layer_archive::Crc32c(actual.0));
    let error = layer_archive::FormatError::Checksum { what: "bundle", offset: 0, expected, actual };
    Err(Error::damaged(key, error))
}

/// The layers of a state, where their bundles' copies are.
fn moved_layers(state: &TimelineState, copied: &BTreeMap<BundleId, PayloadRef>) -> Vec<LayerEntry> {
    let moved = state.layers().values().filter_map(|layer| {
        let bundle = BundleId::Payload(copied.get(&layer.place.bundle)?.id);
        Some(LayerEntry { place: Place { bundle, ..layer.place }, ..layer.clone() })
    });
    moved.collect()
}
