//! The packer on its own thread, within a budget: paused where there is no room for the next bundle.

use std::sync::Arc;

use layer_archive::BundleWriter;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::UploadOptions;
use crate::budget::Room;
use crate::pack::{Keep, PackInput, PackOptions, Packed, pack};
use crate::{Error, FailedLayer, Result};

/// What can be uploaded.
pub(super) enum Ready {
    /// A bundle, and the room that it has.
    Bundle(Box<BundleWriter>, Option<Room>),
    /// The next part of a large layer.
    Part(Vec<u8>),
    /// The parts so far are of no use.
    PartsVoid,
    /// There is no room for the next bundle: whoever asks for it waits, and should hold none.
    Paused,
}

/// Layers, some of which are being packed.
pub(super) struct Packing {
    options: UploadOptions,
    /// What the next packer begins with.
    todo: Vec<PackInput>,
    packer: Option<Packer>,
    failed: Vec<FailedLayer>,
}

/// A packer at work.
struct Packer {
    inputs: Arc<Vec<PackInput>>,
    /// Which of them were handed on, or failed.
    done: Vec<bool>,
    ready: mpsc::Receiver<(Packed, Option<Room>)>,
    /// Whether it stopped for lack of room.
    task: JoinHandle<Result<bool>>,
}

impl Packing {
    pub(super) fn new(inputs: Vec<PackInput>, options: UploadOptions) -> Self {
        Self { options, todo: inputs, packer: None, failed: Vec::new() }
    }

    pub(super) fn options(&self) -> PackOptions {
        self.options.pack
    }

    /// The layers that could not be packed so far.
    pub(super) fn failed(&self) -> &[FailedLayer] {
        &self.failed
    }

    pub(super) fn into_failed(self) -> Vec<FailedLayer> {
        self.failed
    }

    /// What comes next; nothing where all is packed.
    pub(super) async fn next(&mut self) -> Result<Option<Ready>> {
        loop {
            let packer = match &mut self.packer {
                Some(packer) => packer,
                None if self.todo.is_empty() => return Ok(None),
                None => {
                    let inputs = std::mem::take(&mut self.todo);
                    let packer = Packer::start(inputs, &self.options).await?;
                    self.packer.insert(packer)
                }
            };
            match packer.ready.recv().await {
                Some((Packed::Bundle { bundle, inputs, more: _ }, room)) => {
                    inputs.into_iter().for_each(|input| packer.done[input] = true);
                    return Ok(Some(Ready::Bundle(bundle, room)));
                }
                Some((Packed::Part(bytes), _)) => return Ok(Some(Ready::Part(bytes))),
                Some((Packed::PartsVoid, _)) => return Ok(Some(Ready::PartsVoid)),
                Some((Packed::Failed { input, error }, _)) => {
                    packer.done[input] = true;
                    let name = packer.inputs[input].layer.name.clone();
                    self.failed.push(FailedLayer { name, error: Arc::new(error) });
                }
                None => {
                    let Some(packer) = self.packer.take() else { continue };
                    let stopped = packer.task.await.map_err(|error| Error::Task(error.to_string()))??;
                    if stopped {
                        let open = packer.inputs.iter().zip(&packer.done).filter(|(_, done)| !**done);
                        self.todo = open.map(|(input, _)| input.clone()).collect();
                        return Ok(Some(Ready::Paused));
                    }
                }
            }
        }
    }
}

impl Packer {
    /// Waits for room and begins.
    async fn start(inputs: Vec<PackInput>, options: &UploadOptions) -> Result<Self> {
        let wanted = room_bytes(&inputs, options.pack);
        let mut room = options.budget.take(wanted).await?;
        let inputs = Arc::new(inputs);
        let (packing, options) = (Arc::clone(&inputs), options.clone());
        // One bundle may wait while another is uploaded and a third is filled.
        let (packed, ready) = mpsc::channel(1);
        let task = tokio::task::spawn_blocking(move || {
            let (mut in_parts, mut stopped) = (false, false);
            pack(&packing, options.pack, &options.progress, |next| {
                let (mut carried, mut keep) = (None, Keep::Going);
                match &next {
                    Packed::Bundle { bundle, more, .. } => {
                        // The parts of a large layer may be on their way yet: the room stays with them.
                        let bytes = if in_parts { u64::MAX } else { bundle.stored_len() };
                        in_parts = false;
                        carried = room.split(bytes);
                        if *more && !room.top_up(&options.budget, wanted) {
                            (stopped, keep) = (true, Keep::Stopped);
                        }
                    }
                    Packed::Part(_) => in_parts = true,
                    Packed::PartsVoid => in_parts = false,
                    Packed::Failed { .. } => {}
                }
                match packed.blocking_send((next, carried)) {
                    Ok(()) => keep,
                    Err(_) => Keep::Stopped,
                }
            })?;
            Ok(stopped)
        });
        let done = vec![false; inputs.len()];
        Ok(Self { inputs, done, ready, task })
    }
}

/// The bytes that packing these layers may hold at a time: a bundle, and the parts of a large layer besides.
fn room_bytes(inputs: &[PackInput], options: PackOptions) -> u64 {
    /// Headers, padding and index of a layer.
    const LAYER_OVERHEAD_BYTES: u64 = 2 << 10;
    let bytes = |input: &PackInput| input.layer.raw_size.saturating_add(LAYER_OVERHEAD_BYTES);
    let all = inputs.iter().map(bytes).fold(0, u64::saturating_add);
    let target = options.bundle_bytes_target;
    let is_large = |input: &PackInput| input.layer.raw_size > target;
    let parts = if inputs.iter().any(is_large) && options.part_bytes != usize::MAX {
        (options.part_bytes as u64).saturating_mul(options.parts_in_flight as u64)
    } else {
        0
    };
    all.min(target.saturating_add(1 << 20)).saturating_add(parts)
}
