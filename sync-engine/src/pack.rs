//! Layers to bundles: files are read, frames compressed on all processors, and bundles closed at their target size.
//!
//! ```text
//! reader (1 thread)  --plain frames-->  compressors (1 a processor)  --encoded-->  assembler  --bundles-->  caller
//! ```
//!
//! All stages run at once and every queue is bounded, so that memory is bounded by the target size and the number of
//! processors, whatever is packed. Where bundles are cut depends on the layers alone, so equal layers make equal
//! bundles.

mod assembler;
mod reader;

use std::sync::{Arc, mpsc};
use std::thread;

use layer_archive::{
    BundleWriter, Content, Digest, EncodedFrame, FormatError, FramePlan, Level, Packable, PackedLayer,
    RawDigest, arrange, plan_frames,
};

use self::assembler::Assembler;
use self::reader::LayerReader;
use crate::{Error, LocalLayer, Progress, Result};

/// How bundles are made and uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// A bundle is closed before it has more stored bytes than this, unless one layer alone has more.
    pub bundle_bytes_target: u64,
    /// A bundle of one layer with more than that is uploaded in parts of so many bytes while it is made. All parts but
    /// the last are of one size, as R2 asks (<https://developers.cloudflare.com/r2/objects/upload-objects/>).
    pub part_bytes: usize,
    /// Parts that are uploaded at the same time.
    pub parts_in_flight: usize,
    /// Frames that are compressed at the same time.
    pub compressors: usize,
}

impl Default for PackOptions {
    fn default() -> Self {
        let compressors = thread::available_parallelism().map_or(1, usize::from);
        Self { bundle_bytes_target: 32 << 20, part_bytes: 8 << 20, parts_in_flight: 4, compressors }
    }
}

/// A layer to be packed: the file, and its digest where it was hashed before.
#[derive(Clone, Debug)]
pub(crate) struct PackInput {
    pub(crate) layer: LocalLayer,
    pub(crate) digest: Option<RawDigest>,
}

/// What comes out of packing.
pub(crate) enum Packed {
    /// Frames and layers, links included, ready to be finished; or what is left of a bundle of which parts came.
    Bundle {
        bundle: Box<BundleWriter>,
        /// Which of the inputs are in it.
        inputs: Vec<usize>,
        /// Whether there is more to pack.
        more: bool,
    },
    /// The next bytes of a bundle that one large layer has for itself.
    Part(Vec<u8>),
    /// That layer could not be read to its end: its parts are of no use.
    PartsVoid,
    /// A layer that could not be packed; the others go on.
    Failed { input: usize, error: Error },
}

/// Frames that belong together in one bundle: a shared frame, or all slices of a large layer.
struct Unit {
    frames: Vec<EncodedFrame>,
    /// The contents in them that could be read.
    members: Vec<Member>,
    /// The inputs that could not, and why.
    failed: Vec<(usize, Error)>,
}

/// A content as it was read.
struct Member {
    content: usize,
    /// Under which of its names: an index into the inputs.
    input: usize,
    raw: RawDigest,
}

/// One frame on its way from the reader to the assembler.
struct Job {
    plain: Vec<u8>,
    level: Level,
    /// Where the encoded frame goes; answers are taken in the order of the jobs.
    answer: mpsc::SyncSender<Result<EncodedFrame, FormatError>>,
}

/// What ends with a frame: the contents that could be read, and the inputs that could not.
type Ends = (Vec<Member>, Vec<(usize, Error)>);

/// A job whose frame is being compressed.
struct Pending {
    /// `None` where a large layer goes on in the next frame.
    ends: Option<Ends>,
    answer: mpsc::Receiver<Result<EncodedFrame, FormatError>>,
}

/// Packs `inputs` and hands on what comes out, bundle by bundle. Blocks; runs on a thread of its own.
///
/// `emit` returns whether to go on.
pub(crate) fn pack(
    inputs: &[PackInput],
    options: PackOptions,
    progress: &Progress,
    mut emit: impl FnMut(Packed) -> Keep,
) -> Result<()> {
    let packables: Vec<Packable> = inputs.iter().map(packable).collect();
    let contents = arrange(&packables);
    let unpackable = |source| Error::Unpackable { what: "the layers".into(), source };
    let plans = plan_frames(&packables, &contents).map_err(unpackable)?;
    // No more threads than there are frames: most checkpoints have one.
    let compressors = options.compressors.min(plans.len()).max(1);
    let (jobs, job_queue) = mpsc::sync_channel::<Job>(compressors);
    let (order, pending) = mpsc::sync_channel::<Pending>(compressors * 2 + 2);
    let job_queue = Arc::new(std::sync::Mutex::new(job_queue));
    thread::scope(|scope| {
        for _ in 0..compressors {
            let job_queue = Arc::clone(&job_queue);
            scope.spawn(move || reader::compress_jobs(&job_queue));
        }
        // The queue ends when its last user does, so that the reader notices when all compressors are gone.
        drop(job_queue);
        let (contents, plans) = (&contents, &plans);
        scope.spawn(move || {
            let mut reader = LayerReader::new(inputs, contents, progress);
            reader.run(plans, &jobs, &order);
        });
        assemble(inputs, contents, options, pending, &mut emit)
    })
}

/// Whether to go on packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Going,
    Stopped,
}

fn packable(input: &PackInput) -> Packable {
    let blake3: Option<Digest> = input.digest.map(|digest| digest.blake3);
    Packable { name: input.layer.name.clone(), raw_size: input.layer.raw_size, blake3 }
}

/// Takes the encoded frames in order and closes bundles. Returning drops the queue, which stops the other stages.
fn assemble(
    inputs: &[PackInput],
    contents: &[Content],
    options: PackOptions,
    pending: mpsc::Receiver<Pending>,
    emit: &mut impl FnMut(Packed) -> Keep,
) -> Result<()> {
    let mut assembler = Assembler::new(inputs, contents, options);
    let mut frames = Vec::new();
    for Pending { ends, answer } in pending {
        let frame = answer.recv().map_err(|_| Error::Task("a compressor stopped".into()))?;
        let frame = frame.map_err(|source| Error::Unpackable { what: "a frame".into(), source })?;
        if frame.plain_len > 0 {
            frames.push(frame);
        }
        let Some((members, failed)) = ends else {
            let waiting: u64 = frames.iter().map(|frame| frame.stored.len() as u64).sum();
            let keep = if assembler.is_in_large() || waiting > options.bundle_bytes_target {
                assembler.push_large(std::mem::take(&mut frames), emit)?
            } else {
                assembler.make_room(waiting, emit)
            };
            if keep == Keep::Stopped {
                return Ok(());
            }
            continue;
        };
        let unit = Unit { frames: std::mem::take(&mut frames), members, failed };
        if let Keep::Stopped = assembler.push(unit, emit)? {
            return Ok(());
        }
    }
    assembler.finish(emit);
    Ok(())
}

/// The numbers of the contents that a plan holds.
fn contents_of(plan: &FramePlan) -> &[usize] {
    match plan {
        FramePlan::Shared(contents) => contents,
        FramePlan::Slice { content, range: _ } => std::slice::from_ref(content),
    }
}

fn packed_layer(input: &PackInput, raw: RawDigest) -> PackedLayer {
    PackedLayer { name: input.layer.name.clone(), lsn_range: input.layer.lsn_range, raw }
}
