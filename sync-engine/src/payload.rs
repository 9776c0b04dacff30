//! A payload object that is uploaded in parts while it is made, because one layer is too large to wait in memory.

use std::sync::Arc;

use layer_archive::{FinishedBundle, LayerEntry, PayloadId, PayloadRef, Seq};
use storage_api::{Body, Crc32c, Key, ObjectStore, PartId, PendingUpload, StorageError, UploadId};
use tokio::task::JoinSet;

use crate::layout::{ObjectName, TimelineKeys};
use crate::{Error, PackOptions, Result};

/// An upload that was begun. It is to be completed or aborted; what a killed process leaves is
/// [found later](abandoned_uploads).
pub(crate) struct PayloadUpload {
    objects: Arc<dyn ObjectStore>,
    key: Key,
    id: PayloadId,
    upload: UploadId,
    options: PackOptions,
    next_number: u32,
    in_flight: JoinSet<Result<PartId, StorageError>>,
    parts: Vec<PartId>,
}

impl PayloadUpload {
    pub(crate) async fn begin(
        objects: Arc<dyn ObjectStore>,
        key: Key,
        id: PayloadId,
        options: PackOptions,
    ) -> Result<Self> {
        let upload = objects.multipart_create(&key).await?;
        let (in_flight, parts) = (JoinSet::new(), Vec::new());
        Ok(Self { objects, key, id, upload, options, next_number: 1, in_flight, parts })
    }

    pub(crate) fn id(&self) -> PayloadId {
        self.id
    }

    /// Uploads the next part, as soon as there is room for one more.
    pub(crate) async fn push(&mut self, bytes: Vec<u8>) -> Result<()> {
        while self.in_flight.len() >= self.options.parts_in_flight.max(1) {
            self.settle_one().await?;
        }
        let (objects, key, upload) = (Arc::clone(&self.objects), self.key.clone(), self.upload.clone());
        let number = self.next_number;
        self.next_number += 1;
        self.in_flight
            .spawn(async move { objects.multipart_put(&key, &upload, number, Body::new(bytes)).await });
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<()> {
        if let Some(settled) = self.in_flight.join_next().await {
            self.parts.push(settled.map_err(|error| Error::Task(error.to_string()))??);
        }
        Ok(())
    }

    /// Uploads the rest and joins the parts into the object.
    pub(crate) async fn complete(&mut self, rest: Vec<u8>, len: u64, crc32c: Crc32c) -> Result<()> {
        for part in rest.chunks(self.options.part_bytes) {
            self.push(part.to_vec()).await?;
        }
        while !self.in_flight.is_empty() {
            self.settle_one().await?;
        }
        self.parts.sort_by_key(|part| part.number);
        let joined = self.objects.multipart_complete(&self.key, &self.upload, &self.parts, crc32c).await;
        let Err(error) = joined else { return Ok(()) };
        // The key is this writer's alone: if the whole object is there, it was the answer that got lost.
        match self.objects.head(&self.key).await {
            Ok(info) if info.size == len && info.crc32c.is_none_or(|there| there == crc32c) => Ok(()),
            Ok(_) | Err(_) => Err(error.into()),
        }
    }

    /// Drops what was uploaded. Where that fails it is found later.
    pub(crate) async fn abort(mut self) {
        self.in_flight.shutdown().await;
        if let Err(error) = self.objects.multipart_abort(&self.key, &self.upload).await {
            tracing::warn!(key = %self.key, %error, "an upload could not be aborted: a later run does");
        }
    }
}

/// What a record says of a finished payload object.
pub(crate) fn payload_ref(id: PayloadId, finished: &FinishedBundle) -> (PayloadRef, Vec<LayerEntry>) {
    let tail_len = u32::try_from(finished.index.tail_len()).unwrap_or(u32::MAX);
    let payload = PayloadRef { id, stored_bytes: finished.index.object_len(), tail_len };
    (payload, finished.index.entries(finished.index.origin().bundle))
}

/// The uploads of a timeline that nobody will complete: those of claims before `claim`, the newest there is. Their
/// writers can commit nothing any more (rule 7 of the protocol).
pub async fn abandoned_uploads(
    objects: &dyn ObjectStore,
    keys: &TimelineKeys,
    claim: Seq,
) -> Result<Vec<PendingUpload>> {
    if !objects.capabilities().multipart {
        return Ok(Vec::new());
    }
    let pending = objects.multipart_list(&keys.payloads()?).await?;
    let is_abandoned = |upload: &PendingUpload| match keys.parse(&upload.key) {
        Some(ObjectName::Payload(id)) => id.claim < claim,
        _ => false,
    };
    Ok(pending.into_iter().filter(is_abandoned).collect())
}
