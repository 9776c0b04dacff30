//! Layers on their way into bundles, and those into the store: what a backup and the service have in common.

mod packing;

use std::sync::Arc;

use layer_archive::{BundleWriter, LayerEntry, PayloadRef};
use tokio::task::JoinSet;

use self::packing::{Packing, Ready};
use crate::budget::{Budget, Room};
use crate::pack::{PackInput, PackOptions};
use crate::payload::PayloadUpload;
use crate::{Draft, Error, FailedLayer, Progress, Result, Store, TimelineWriter};

/// How layers are packed and uploaded.
#[derive(Clone, Debug)]
pub(crate) struct UploadOptions {
    pub(crate) pack: PackOptions,
    pub(crate) budget: Budget,
    pub(crate) progress: Arc<Progress>,
}

/// Where the last bundle goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastBundle {
    /// Into the record, if it was not uploaded in parts.
    InRecord,
    /// Into a payload object like the others.
    InPayload,
}

/// Layers that are being packed.
pub(crate) struct Upload {
    packing: Packing,
    /// What came first; it has been waited for.
    first: Option<Ready>,
    objects_in_flight_max: usize,
}

/// What came of it.
pub(crate) struct Uploaded {
    /// What goes into the record.
    pub(crate) bundle: BundleWriter,
    /// The room that it has.
    pub(crate) room: Option<Room>,
    /// The layers that could not be packed.
    pub(crate) failed: Vec<FailedLayer>,
}

/// What is on its way into the store, and what has arrived.
#[derive(Default)]
struct Flights {
    puts: JoinSet<Result<(PayloadRef, Vec<LayerEntry>)>>,
    in_parts: Option<PayloadUpload>,
    stored: Vec<(PayloadRef, Vec<LayerEntry>)>,
}

impl Upload {
    /// Begins to pack, and waits for the first bytes.
    pub(crate) async fn start(store: &Store, inputs: Vec<PackInput>, options: UploadOptions) -> Result<Self> {
        options.progress.expect(inputs.iter().map(|input| input.layer.raw_size).sum());
        let options = UploadOptions { pack: fit(options.pack, store), ..options };
        let objects_in_flight_max = options.pack.parts_in_flight.max(1);
        let mut packing = Packing::new(inputs, options);
        let first = packing.next().await?;
        Ok(Self { packing, first, objects_in_flight_max })
    }

    /// Whether nothing could be packed.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The layers that could not be packed so far.
    pub(crate) fn failed(&self) -> &[FailedLayer] {
        self.packing.failed()
    }

    /// Uploads what comes, several bundles at a time, but for the last one where that goes into the record. `draft` gets
    /// what was stored, also where not everything could be.
    pub(crate) async fn upload(
        mut self,
        writer: &mut TimelineWriter,
        draft: &mut Draft,
        last: LastBundle,
    ) -> Result<Uploaded> {
        let mut flights = Flights::default();
        let packed = self.upload_all(writer, &mut flights, last).await;
        // What is on its way comes to its end, so that it need not be sent again.
        let landed = flights.land(0).await;
        flights.stored.sort_by_key(|(payload, _)| payload.id.number);
        for (payload, layers) in flights.stored {
            draft.payloads.push(payload);
            draft.added.extend(layers);
        }
        match (packed, landed) {
            (Ok((bundle, room)), Ok(())) => Ok(Uploaded { bundle, room, failed: self.packing.into_failed() }),
            (Err(error), _) | (_, Err(error)) => {
                let Some(upload) = flights.in_parts else { return Err(error) };
                upload.abort().await;
                Err(writer.explain_lost_upload(error).await)
            }
        }
    }

    async fn upload_all(
        &mut self,
        writer: &mut TimelineWriter,
        flights: &mut Flights,
        last_goes: LastBundle,
    ) -> Result<(BundleWriter, Option<Room>)> {
        let mut last: Option<(Box<BundleWriter>, Option<Room>)> = None;
        let mut next = self.first.take();
        while let Some(ready) = next {
            match ready {
                Ready::Part(bytes) => {
                    let upload = match &mut flights.in_parts {
                        Some(upload) => upload,
                        None => {
                            let begun = writer.begin_payload(self.packing.options()).await?;
                            flights.in_parts.insert(begun)
                        }
                    };
                    upload.push(bytes).await?;
                }
                Ready::PartsVoid => {
                    if let Some(upload) = flights.in_parts.take() {
                        upload.abort().await;
                    }
                }
                Ready::Bundle(bundle, _room) if flights.in_parts.is_some() => {
                    if let Some(upload) = &mut flights.in_parts {
                        let stored = writer.finish_payload(upload, *bundle).await?;
                        flights.stored.push(stored);
                    }
                    flights.in_parts = None;
                }
                Ready::Bundle(bundle, room) => {
                    if let Some(full) = last.replace((bundle, room)) {
                        self.take_off(writer, flights, full).await?;
                    }
                }
                // Who waits for room holds none.
                Ready::Paused => {
                    if let Some(full) = last.take() {
                        self.take_off(writer, flights, full).await?;
                    }
                }
            }
            next = self.packing.next().await?;
        }
        match last {
            Some(full) if last_goes == LastBundle::InPayload => {
                self.take_off(writer, flights, full).await?;
                Ok((BundleWriter::new(), None))
            }
            Some((bundle, room)) => Ok((*bundle, room)),
            None => Ok((BundleWriter::new(), None)),
        }
    }

    /// Sends a bundle on its way as a payload object, as soon as not too many are.
    async fn take_off(
        &self,
        writer: &mut TimelineWriter,
        flights: &mut Flights,
        (bundle, room): (Box<BundleWriter>, Option<Room>),
    ) -> Result<()> {
        flights.land(self.objects_in_flight_max - 1).await?;
        let payload = writer.prepare_payload(*bundle)?;
        let objects = Arc::clone(writer.store().objects());
        flights.puts.spawn(async move {
            let stored = payload.put(&*objects).await;
            drop(room);
            stored
        });
        Ok(())
    }
}

impl Flights {
    /// Waits until no more than `left` objects are on their way. All that land are counted, also after one has failed.
    async fn land(&mut self, left: usize) -> Result<()> {
        let mut failed = None;
        while self.puts.len() > left || failed.is_some() {
            let Some(landed) = self.puts.join_next().await else { break };
            match landed.unwrap_or_else(|error| Err(Error::Task(error.to_string()))) {
                Ok(stored) => self.stored.push(stored),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// The options, as far as the store can follow them.
fn fit(options: PackOptions, store: &Store) -> PackOptions {
    let capabilities = store.objects().capabilities();
    let least = usize::try_from(capabilities.part_bytes_min).unwrap_or(usize::MAX);
    let part_bytes = if capabilities.multipart { options.part_bytes.max(least).max(1) } else { usize::MAX };
    PackOptions { part_bytes, ..options }
}
