//! Payload objects: bundles that a later record names.

use std::sync::Arc;

use layer_archive::{BundleId, BundleWriter, FinishedBundle, LayerEntry, PayloadId, PayloadRef};
use storage_api::{Body, Key, ObjectStore, Operation, PendingUpload, PutMode};

use super::{TimelineWriter, body};
use crate::payload::{PayloadUpload, abandoned_uploads, payload_ref};
use crate::{Error, PackOptions, Result, TimelineView};

/// A payload object that is ready to be stored, by whoever has the time.
pub(crate) struct PreparedPayload {
    key: Key,
    body: Body,
    committed: (PayloadRef, Vec<LayerEntry>),
}

impl PreparedPayload {
    /// Stores it and returns what a record says of it.
    pub(crate) async fn put(self, objects: &dyn ObjectStore) -> Result<(PayloadRef, Vec<LayerEntry>)> {
        // The key is its writer's alone: what is there already is an earlier attempt of the same bytes.
        match objects.put(&self.key, self.body, PutMode::Create).await {
            Err(error) if !error.is_already_exists() => Err(error.into()),
            _ => Ok(self.committed),
        }
    }
}

impl TimelineWriter {
    /// Stores a bundle as a payload object, to be named by a later record.
    pub async fn put_payload(&mut self, bundle: BundleWriter) -> Result<(PayloadRef, Vec<LayerEntry>)> {
        self.prepare_payload(bundle)?.put(&**self.store.objects()).await
    }

    /// Finishes a bundle that is to be a payload object.
    pub(crate) fn prepare_payload(&mut self, bundle: BundleWriter) -> Result<PreparedPayload> {
        let (id, key) = self.next_payload()?;
        let finished = self.finish_bundle(id, &key, bundle)?;
        let committed = payload_ref(id, &finished);
        Ok(PreparedPayload { key, body: body(finished.bytes, finished.crc32c), committed })
    }

    /// Begins a payload object that is uploaded in parts. The first time, what killed writers have left is aborted.
    pub(crate) async fn begin_payload(&mut self, options: PackOptions) -> Result<PayloadUpload> {
        if !std::mem::replace(&mut self.abandoned_aborted, true) {
            self.abort_abandoned().await;
        }
        let (id, key) = self.next_payload()?;
        PayloadUpload::begin(Arc::clone(self.store.objects()), key, id, options).await
    }

    /// Uploads the rest of a payload object of which parts were uploaded, and completes it.
    pub(crate) async fn finish_payload(
        &mut self,
        upload: &mut PayloadUpload,
        bundle: BundleWriter,
    ) -> Result<(PayloadRef, Vec<LayerEntry>)> {
        let id = upload.id();
        let key = self.view.keys.bundle(BundleId::Payload(id))?;
        let mut finished = self.finish_bundle(id, &key, bundle)?;
        let rest = std::mem::take(&mut finished.bytes);
        let (len, crc32c) = (finished.index.object_len(), storage_api::Crc32c(finished.crc32c.0));
        upload.complete(rest, len, crc32c).await?;
        Ok(payload_ref(id, &finished))
    }

    pub(crate) fn next_payload(&mut self) -> Result<(PayloadId, Key)> {
        let id = PayloadId { claim: self.claim, term: self.term, number: self.next_payload };
        self.next_payload += 1;
        Ok((id, self.view.keys.bundle(BundleId::Payload(id))?))
    }

    fn finish_bundle(&mut self, id: PayloadId, key: &Key, bundle: BundleWriter) -> Result<FinishedBundle> {
        let unpackable = |error| Error::Unpackable { what: key.to_string(), source: error };
        let origin = self.origin(BundleId::Payload(id));
        bundle.finish(&origin, None, &mut self.compressor).map_err(unpackable)
    }

    /// Aborts the uploads of writers before this one. They are in nobody's way: a failure is not this writer's.
    async fn abort_abandoned(&self) {
        let objects = &**self.store.objects();
        let aborted = async {
            for PendingUpload { key, upload, begun: _ } in
                abandoned_uploads(objects, &self.view.keys, self.claim).await?
            {
                objects.multipart_abort(&key, &upload).await?;
                tracing::info!(%key, "aborted an upload that a killed writer had left");
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = aborted.await {
            tracing::warn!(%error, "uploads that killed writers have left could not be aborted");
        }
    }

    /// What the loss of an upload means: the writer that has taken over aborts those of the ones before it.
    pub(crate) async fn explain_lost_upload(&self, error: Error) -> Error {
        match &error {
            Error::Storage(error)
                if error.is_not_found()
                    && matches!(
                        error.operation(),
                        Operation::MultipartPut | Operation::MultipartComplete
                    ) => {}
            _ => return error,
        }
        let (tenant, timeline) = (self.view.state.tenant(), self.view.state.timeline());
        match TimelineView::open(&self.store, tenant, timeline, None).await {
            Ok(now) if now.state.claim() != self.claim => self.fenced(now.state.claim(), now.state.writer()),
            _ => error,
        }
    }
}
