//! Layers on their way into bundles, and those into the store.

use std::sync::Arc;

use layer_archive::{BundleWriter, LayerEntry, PayloadRef, RawDigest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BackupOptions, BackupPlan, BackupReport, FailedLayer};
use crate::pack::{Keep, PackInput, PackOptions, Packed, pack};
use crate::payload::PayloadUpload;
use crate::{Draft, Error, LocalLayer, Result, Store, TimelineWriter};

/// Layers that are being packed.
pub(super) struct Packing {
    ready: mpsc::Receiver<Packed>,
    task: JoinHandle<Result<()>>,
    options: PackOptions,
    /// What came first; it has been waited for.
    first: Option<Ready>,
    /// The layers that could not be packed so far.
    pub(super) failed: Vec<FailedLayer>,
}

/// What can be uploaded.
enum Ready {
    Bundle(Box<BundleWriter>),
    Part(Vec<u8>),
    PartsVoid,
}

impl Packing {
    /// Begins to pack what a plan adds, and waits for the first bytes.
    pub(super) async fn start(store: &Store, plan: &BackupPlan, options: &BackupOptions) -> Self {
        options.progress.expect(plan.add.iter().map(|(layer, _)| layer.raw_size).sum());
        let input = |(layer, digest): &(LocalLayer, Option<RawDigest>)| PackInput {
            layer: layer.clone(),
            digest: *digest,
        };
        let inputs: Vec<PackInput> = plan.add.iter().map(input).collect();
        let options = (fit(options.pack, store), Arc::clone(&options.progress));
        let (pack_options, progress) = options;
        // One bundle may wait while another is uploaded and a third is filled.
        let (packed, ready) = mpsc::channel(1);
        let task = tokio::task::spawn_blocking(move || {
            pack(&inputs, pack_options, &progress, |next| match packed.blocking_send(next) {
                Ok(()) => Keep::Going,
                Err(_) => Keep::Stopped,
            })
        });
        let mut packing = Self { ready, task, options: pack_options, first: None, failed: Vec::new() };
        packing.first = packing.next().await;
        packing
    }

    /// Whether nothing could be packed.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    async fn next(&mut self) -> Option<Ready> {
        loop {
            return Some(match self.ready.recv().await? {
                Packed::Bundle(bundle) => Ready::Bundle(bundle),
                Packed::Part(bytes) => Ready::Part(bytes),
                Packed::PartsVoid => Ready::PartsVoid,
                Packed::Failed { input, error } => {
                    self.failed.push(FailedLayer { name: input.layer.name, error: Arc::new(error) });
                    continue;
                }
            });
        }
    }

    /// Uploads what comes, but for the last bundle, which goes into the record if it was not uploaded in parts.
    /// Returns that, and the layers that failed.
    pub(super) async fn upload(
        mut self,
        writer: &mut TimelineWriter,
        draft: &mut Draft,
        report: &mut BackupReport,
    ) -> Result<(BundleWriter, Vec<FailedLayer>)> {
        let mut in_parts = None;
        match self.upload_all(writer, draft, report, &mut in_parts).await {
            Ok(last) => Ok((last, self.finish().await?)),
            Err(error) => {
                let Some(upload) = in_parts else { return Err(error) };
                upload.abort().await;
                Err(writer.explain_lost_upload(error).await)
            }
        }
    }

    async fn upload_all(
        &mut self,
        writer: &mut TimelineWriter,
        draft: &mut Draft,
        report: &mut BackupReport,
        in_parts: &mut Option<PayloadUpload>,
    ) -> Result<BundleWriter> {
        let mut commit = |(payload, layers): (PayloadRef, Vec<LayerEntry>)| {
            report.count(payload.stored_bytes, &layers);
            draft.payloads.push(payload);
            draft.added.extend(layers);
        };
        let mut last: Option<Box<BundleWriter>> = None;
        let mut next = self.first.take();
        while let Some(ready) = next {
            match ready {
                Ready::Part(bytes) => {
                    let upload = match in_parts {
                        Some(upload) => upload,
                        None => in_parts.insert(writer.begin_payload(self.options).await?),
                    };
                    upload.push(bytes).await?;
                }
                Ready::PartsVoid => {
                    if let Some(upload) = in_parts.take() {
                        upload.abort().await;
                    }
                }
                Ready::Bundle(bundle) => match in_parts.as_mut() {
                    Some(upload) => {
                        commit(writer.finish_payload(upload, *bundle).await?);
                        *in_parts = None;
                    }
                    None => {
                        if let Some(full) = last.replace(bundle) {
                            commit(writer.put_payload(*full).await?);
                        }
                    }
                },
            }
            next = self.next().await;
        }
        Ok(last.map(|last| *last).unwrap_or_default())
    }

    /// Waits for the end and returns the layers that failed.
    pub(super) async fn finish(self) -> Result<Vec<FailedLayer>> {
        self.task.await.map_err(|error| Error::Task(error.to_string()))??;
        Ok(self.failed)
    }
}

/// The options, as far as the store can follow them.
fn fit(options: PackOptions, store: &Store) -> PackOptions {
    let capabilities = store.objects().capabilities();
    let least = usize::try_from(capabilities.part_bytes_min).unwrap_or(usize::MAX);
    let part_bytes = if capabilities.multipart { options.part_bytes.max(least).max(1) } else { usize::MAX };
    PackOptions { part_bytes, ..options }
}
