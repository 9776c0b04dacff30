//! One record: what waits is chosen, compared, packed, uploaded and committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use layer_archive::{BundleId, BundleWriter, LayerName, TimelineId};

use super::facts;
use super::queue::{Chosen, LayerFate, LayerKey, Pending};
use super::task::TimelineTask;
use super::{Event, Stopped, Ticket};
use crate::backup::plan_backup_with;
use crate::branches::{BranchChange, refuse_circle, tell_ancestor};
use crate::budget::Room;
use crate::pack::PackInput;
use crate::upload::{LastBundle, Upload, UploadOptions, Uploaded};
use crate::{
    BackupPlan, Draft, Error, FailedLayer, LocalTimeline, Mirror, Progress, Result, TimelineState,
    TimelineView, TimelineWriter,
};

/// Raw bytes that go into one record, in targets of a bundle: what one timeline does before others have their turn, and
/// what is done again after a crash.
const RECORD_TARGETS: u64 = 8;
/// Layers that go into one record.
const RECORD_LAYERS_MAX: usize = 10_000;

/// A record that was sent, until it is known what became of it.
pub(super) struct Sent {
    /// The layers in it.
    layers: Vec<LayerKey>,
    cut: Option<Ticket>,
    payloads: usize,
    stored_bytes: u64,
    /// The room of its bytes.
    _room: Option<Room>,
}

impl TimelineTask {
    /// Waits for the answer to a record in which nothing was handed over.
    pub(super) fn expect_answer(&mut self) {
        self.sent = Some(Sent { layers: Vec::new(), cut: None, payloads: 0, stored_bytes: 0, _room: None });
    }

    /// Does what there is to do for one record. After an error nothing is lost: what was not stored waits again.
    pub(super) async fn pass(&mut self, writer: &mut TimelineWriter) -> Result<()> {
        let done = match self.sent.take() {
            Some(sent) => {
                let resumed = writer.resume().await.map(drop);
                self.settle(writer, sent, resumed).await
            }
            None => self.make_record(writer).await,
        };
        if self.sent.is_none() {
            self.shared.update(|inner| inner.queue.land());
        }
        done
    }

    async fn make_record(&mut self, writer: &mut TimelineWriter) -> Result<()> {
        let raw_bytes_max = self.core.options.pack.bundle_bytes_target.saturating_mul(RECORD_TARGETS);
        let (chosen, until) = self.shared.update(|inner| {
            let chosen = inner.queue.choose(raw_bytes_max, RECORD_LAYERS_MAX);
            for (key, _) in &chosen.layers {
                inner.queue.set(key, LayerFate::InFlight);
            }
            (chosen, inner.queue.last())
        });
        let keys: BTreeMap<LayerName, LayerKey> =
            chosen.layers.iter().map(|(key, _)| (key.1.clone(), key.clone())).collect();
        let ahead_of_removal = chosen.ahead_of_removal;
        let inputs = self.compare(writer, chosen, &keys).await?;
        if !self.claim(writer, until, &inputs).await? {
            return Ok(());
        }
        let last = if ahead_of_removal { LastBundle::InPayload } else { LastBundle::InRecord };
        let (bundle, room, packed) = self.upload(writer, inputs, &keys, last).await?;
        self.commit(writer, until, bundle, room, packed).await
    }

    /// Compares layers with those that the store has under their names, and returns those that it does not have.
    async fn compare(
        &self,
        writer: &TimelineWriter,
        chosen: Chosen,
        keys: &BTreeMap<LayerName, LayerKey>,
    ) -> Result<Vec<PackInput>> {
        let layers = chosen.layers.into_iter().map(|(_, layer)| layer).collect();
        if chosen.ahead_of_removal {
            // What the store has under these names is about to go.
            let input = |layer| PackInput { layer, digest: None };
            return Ok(Vec::into_iter(layers).map(input).collect());
        }
        let local = LocalTimeline { layers, ..LocalTimeline::default() };
        let (progress, hashes) = (Arc::new(Progress::default()), self.core.options.hashes.as_ref());
        let plan = plan_backup_with(&writer.view().state, local, Mirror::Off, &progress, hashes).await?;
        let BackupPlan { add, conflicts, mut failed, .. } = plan;
        failed.extend(conflicts.into_iter().map(|conflict| FailedLayer {
            error: Arc::new(Error::Conflict { name: conflict.name.clone() }),
            name: conflict.name,
        }));
        let missing: BTreeSet<&LayerName> = add
            .iter()
            .map(|(layer, _)| &layer.name)
            .chain(failed.iter().map(|failed| &failed.name))
            .collect();
        self.shared.update(|inner| {
            for (name, key) in keys.iter().filter(|(name, _)| !missing.contains(name)) {
                debug_assert!(writer.view().state.layers().contains_key(name));
                inner.queue.set(key, LayerFate::Stored);
            }
        });
        self.fail(&failed, keys);
        Ok(add.into_iter().map(|(layer, digest)| PackInput { layer, digest }).collect())
    }

    /// Claims the timeline, where something is about to be written to it. Returns whether to go on: not where nothing is
    /// to be written, or where the claim has found the timeline changed, so that all must be compared again.
    async fn claim(
        &mut self,
        writer: &mut TimelineWriter,
        until: Ticket,
        inputs: &[PackInput],
    ) -> Result<bool> {
        if self.is_claimed {
            self.tell_ancestor(writer).await?;
            return Ok(true);
        }
        // What was on the disk at the start, and is in the store, is no reason to write.
        let branches = self.shared.read(|inner| !inner.branches.is_empty());
        if inputs.is_empty() && until == Ticket::default() && !branches {
            let cut = self
                .shared
                .read(|inner| inner.queue.cut(until, &BTreeSet::new(), |metadata| inner.accepts(metadata)));
            let draft = self.shared.read(|inner| facts::draft(&inner.queue, &writer.view().state, cut).0);
            if facts::is_empty(&draft) {
                if let Some(cut) = cut {
                    self.shared.update(|inner| inner.queue.settle(cut));
                }
                return Ok(false);
            }
        }
        self.tell_ancestor(writer).await?;
        writer.ensure_claimed().await?;
        self.shared.update(|inner| inner.take_in(writer));
        let stood_still = writer.view().state.seq() == self.compared_at.next();
        if !stood_still {
            // The plan was made on a state that is not the one that was claimed (rule 10 of the protocol).
            self.shared.update(|inner| inner.queue.compare_again());
            self.reconcile(writer).await?;
        }
        self.is_claimed = true;
        self.local = None;
        Ok(stood_still)
    }

    /// Tells the ancestor that what waits names, if the store does not know it yet, of this branch: before its first
    /// record. An ancestor that this service looks after does so itself.
    async fn tell_ancestor(&self, writer: &TimelineWriter) -> Result<()> {
        let named = |change: &Pending| change.ancestor.clone();
        let named = self.shared.read(|inner| inner.queue.changes().filter_map(named).last());
        let state = &writer.view().state;
        let Some(ancestor) = named.filter(|named| state.ancestor() != Some(named)) else { return Ok(()) };
        // The claim would find that out when the ancestor has been told.
        let (tenant, timeline) = self.name.clone();
        if TimelineView::open(writer.store(), &tenant, &timeline, None).await?.state.is_deleted() {
            return Err(Error::TimelineDeleted { tenant, timeline });
        }
        // What is attached may be about to say another ancestor, or its first.
        let attached = |timeline: &TimelineId| self.core.attached(&self.name.0, timeline);
        let known = |timeline: &TimelineId| Some(Some(attached(timeline)?.named_ancestor()?.timeline));
        refuse_circle(writer.store(), (&self.name.0, &self.name.1), &ancestor.timeline, known).await?;
        if let Some(handle) = attached(&ancestor.timeline) {
            let failed = |why: String| Err(state.ancestor_failed(&ancestor, Error::Task(why)));
            let told = tokio::select! {
                told = handle.begin_branch(state.leaving(&ancestor)) => told,
                () = self.core.options.clock.sleep(self.core.options.retry.max) => {
                    return failed("it has not said yet that it has this branch: what keeps it is in its status".into());
                }
            };
            match told {
                Ok(()) => return Ok(()),
                // Nobody here writes to it any more.
                Err(Stopped::Detached) => {}
                // Who has taken the ancestor over has taken its branches over too.
                Err(Stopped::Stopped(error)) => return failed(error.to_string()),
            }
        }
        tell_ancestor(writer.store(), state, &ancestor, BranchChange::Begins, &self.writer_options()).await
    }

    /// Packs and uploads. Returns what goes into the record, and which layers are in it.
    async fn upload(
        &self,
        writer: &mut TimelineWriter,
        inputs: Vec<PackInput>,
        keys: &BTreeMap<LayerName, LayerKey>,
        last: LastBundle,
    ) -> Result<(BundleWriter, Option<Room>, BTreeSet<LayerKey>)> {
        if inputs.is_empty() {
            return Ok((BundleWriter::new(), None, BTreeSet::new()));
        }
        let mut packed: BTreeSet<LayerName> = inputs.iter().map(|input| input.layer.name.clone()).collect();
        let options = UploadOptions {
            pack: self.core.options.pack,
            budget: self.core.budget.clone(),
            progress: Arc::new(Progress::default()),
        };
        let upload = Upload::start(writer.store(), inputs, options).await?;
        let mut stored = Draft::default();
        let uploaded = upload.upload(writer, &mut stored, last).await;
        // What is in payload objects need not be sent again, whatever became of the rest.
        let payloads: BTreeMap<u32, _> =
            stored.payloads.iter().map(|payload| (payload.id.number, *payload)).collect();
        self.shared.update(|inner| {
            for layer in stored.added {
                packed.remove(&layer.name);
                let BundleId::Payload(id) = layer.place.bundle else { continue };
                if let (Some(key), Some(payload)) = (keys.get(&layer.name), payloads.get(&id.number)) {
                    inner.queue.set(key, LayerFate::Uploaded(Box::new((*payload, layer))));
                }
            }
        });
        let Uploaded { bundle, room, failed } = uploaded?;
        failed.iter().for_each(|failed| {
            packed.remove(&failed.name);
        });
        self.fail(&failed, keys);
        let packed = packed.iter().filter_map(|name| keys.get(name).cloned()).collect();
        Ok((bundle, room, packed))
    }

    /// Notes which layers could not be read, or may not be stored.
    fn fail(&self, failed: &[FailedLayer], keys: &BTreeMap<LayerName, LayerKey>) {
        for layer in failed {
            let Some(key) = keys.get(&layer.name) else { continue };
            let FailedLayer { name, error } = layer;
            // The layer that it equals has failed and is out of the way: it goes by itself the next time.
            if let Error::EqualLayerFailed { .. } = **error {
                self.shared.update(|inner| inner.queue.set(key, LayerFate::Waiting));
                continue;
            }
            let still_wanted = self.shared.update(|inner| {
                inner.queue.set(key, LayerFate::Failed(Arc::clone(error)));
                inner.queue.has_failed(key)
            });
            if still_wanted {
                tracing::error!(%name, %error, "a layer could not be uploaded; what may need it is held back");
                self.tell(&Event::LayerFailed(layer.clone()));
            }
        }
    }

    /// Appends the record: what was packed, the payload objects, and all up to the cut that this allows.
    async fn commit(
        &mut self,
        writer: &mut TimelineWriter,
        until: Ticket,
        bundle: BundleWriter,
        room: Option<Room>,
        packed: BTreeSet<LayerKey>,
    ) -> Result<()> {
        let (cut, (mut draft, uploaded), is_last) = self.shared.read(|inner| {
            let cut = inner.queue.cut(until, &packed, |metadata| inner.accepts(metadata));
            let is_last = inner.closing && cut == Some(inner.queue.last());
            let (mut draft, uploaded) = facts::draft(&inner.queue, &writer.view().state, cut);
            // They wait for no layers: a branch that cannot begin has layers of its own that wait.
            draft.branch_points_added = inner.branches(BranchChange::Begins);
            draft.branch_points_removed = inner.branches(BranchChange::Ends);
            keep_needed(&writer.view().state, &mut draft);
            (cut, (draft, uploaded), is_last)
        });
        self.note_held_back();
        let sent = Sent {
            layers: packed.into_iter().chain(uploaded).collect(),
            cut,
            payloads: draft.payloads.len(),
            stored_bytes: draft.payloads.iter().map(|payload| payload.stored_bytes).sum(),
            _room: room,
        };
        if facts::is_empty(&draft) && bundle.layer_count() == 0 {
            if let Some(cut) = cut {
                self.shared.update(|inner| inner.queue.settle(cut));
            }
            return Ok(());
        }
        draft.released = is_last;
        let appended = writer.append(draft, bundle).await.map(drop);
        self.settle(writer, sent, appended).await
    }

    /// Takes in what became of a record.
    async fn settle(&mut self, writer: &mut TimelineWriter, sent: Sent, appended: Result<()>) -> Result<()> {
        if let Err(error) = appended {
            // Neither acknowledged nor changed until it is known.
            if writer.is_pending() {
                self.sent = Some(sent);
            }
            return Err(error);
        }
        let state = &writer.view().state;
        let Sent { layers, cut, payloads, stored_bytes, _room } = sent;
        let seq = state.seq();
        let in_record = state.bundle(BundleId::Record(seq)).map_or(0, |bundle| bundle.stored_bytes);
        let entries = layers.iter().filter_map(|(_, name)| state.layers().get(name));
        let raw_bytes: u64 = entries.map(|layer| layer.raw.size).sum();
        self.shared.update(|inner| {
            for key in &layers {
                inner.queue.set(key, LayerFate::Stored);
            }
            if let Some(cut) = cut {
                inner.queue.settle(cut);
            }
            inner.take_in(writer);
            let written = &mut inner.written;
            written.records += 1;
            written.payloads += payloads as u64;
            written.layers += layers.len() as u64;
            written.raw_bytes += raw_bytes;
            written.stored_bytes += stored_bytes + in_record;
        });
        self.tell(&Event::Committed {
            seq,
            layers: layers.len(),
            settled: cut,
            remote_consistent_lsn: writer.view().state.disk_consistent_lsn(),
        });
        match writer.put_manifest_if_due().await {
            Ok(manifest) => {
                self.shared.update(|inner| inner.written.manifests += u64::from(manifest.is_some()));
            }
            Err(error) => {
                tracing::warn!(%error, "a manifest could not be written: the next record tries again");
                self.tell(&Event::ManifestFailed(Arc::new(error)));
            }
        }
        Ok(())
    }

    /// Notes whether metadata waits because it is older than the store's.
    fn note_held_back(&self) {
        let (tenant, timeline) = self.name.clone();
        let newly = self.shared.update(|inner| {
            let newest = inner.queue.changes().filter_map(|change| change.metadata.as_ref()).last();
            let refused = newest.filter(|metadata| !inner.accepts(metadata)).map(|(_, lsn)| *lsn);
            let before = inner.held_back.is_some();
            inner.held_back = refused
                .zip(inner.stored_lsn)
                .map(|(local, stored)| Arc::new(Error::MetadataOlder { tenant, timeline, local, stored }));
            inner.held_back.clone().filter(|_| !before)
        });
        if let Some(error) = newly {
            tracing::error!(%error, "metadata is held back");
        }
    }
}

/// Takes out of a draft what would collect layers that branches need: they stay in the store, which costs room and loses
/// nothing. Asked again when the branch has ended, they go.
fn keep_needed(state: &TimelineState, draft: &mut Draft) {
    let beginning = &draft.branch_points_added;
    draft.removed.retain(|removed| match state.check_removals(std::slice::from_ref(removed), beginning) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "a removal was left out");
            false
        }
    });
}
