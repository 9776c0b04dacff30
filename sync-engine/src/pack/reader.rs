//! The first two stages: files to plain frames, and those to encoded frames.

use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, PoisonError, mpsc};

use layer_archive::{
    Content, FormatError, FrameCompressor, FramePlan, Level, RawDigest, RawHasher, member_header, padding_len,
};

use super::{Job, Member, PackInput, Pending, contents_of};
use crate::hash::{Stamp, open_regular};
use crate::{Error, Progress, Result};

/// Compresses jobs until there are no more. Every worker runs this.
pub(super) fn compress_jobs(jobs: &Mutex<mpsc::Receiver<Job>>) {
    let mut compressor = FrameCompressor::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { plain, level, answer }) = job else { return };
        let frame = match &mut compressor {
            Ok(compressor) => compressor.compress(&plain, level),
            Err(error) => Err(error.clone()),
        };
        // Nobody waits any more where the packing was stopped.
        let _ = answer.send(frame);
    }
}

/// Renders the plain text of frames from files.
pub(super) struct LayerReader<'a> {
    inputs: &'a [PackInput],
    contents: &'a [Content],
    progress: &'a Progress,
    /// The large layer that is being sliced.
    open: Option<OpenLayer<'a>>,
}

/// A file that is being read, and what it was when it was opened.
struct OpenLayer<'a> {
    input: &'a PackInput,
    file: File,
    stamp: Stamp,
    hasher: RawHasher,
}

impl<'a> LayerReader<'a> {
    pub(super) fn new(inputs: &'a [PackInput], contents: &'a [Content], progress: &'a Progress) -> Self {
        Self { inputs, contents, progress, open: None }
    }

    /// Renders all frames, in order, until there are no more or nobody takes them.
    pub(super) fn run(
        &mut self,
        plans: &[FramePlan],
        jobs: &mpsc::SyncSender<Job>,
        order: &mpsc::SyncSender<Pending>,
    ) {
        let mut failed_slices = None;
        for plan in plans {
            let (plain, ends) = match plan {
                FramePlan::Shared(contents) => {
                    let (plain, members, failed) = self.render_shared(contents);
                    (plain, Some((members, failed)))
                }
                FramePlan::Slice { content, .. } if failed_slices == Some(*content) => continue,
                FramePlan::Slice { content, range } => match self.render_slice(*content, range.clone()) {
                    Ok((plain, None)) => (plain, None),
                    Ok((plain, Some(member))) => (plain, Some((vec![member], Vec::new()))),
                    Err(error) => {
                        failed_slices = Some(*content);
                        // The layer ends here, with nothing of it kept.
                        self.open = None;
                        (Vec::new(), Some((Vec::new(), self.fail(*content, error))))
                    }
                },
            };
            let (answer, encoded) = mpsc::sync_channel(1);
            let level = self.level(plan);
            if order.send(Pending { ends, answer: encoded }).is_err()
                || jobs.send(Job { plain, level, answer }).is_err()
            {
                return;
            }
        }
    }

    /// A large layer failed, and with it those that would have been links to it.
    fn fail(&self, content: usize, error: Error) -> Vec<(usize, Error)> {
        let Content { layer, links } = &self.contents[content];
        let of = self.inputs[*layer].layer.name.clone();
        let link = |link: &usize| (*link, Error::EqualLayerFailed { of: of.clone() });
        std::iter::once((*layer, error)).chain(links.iter().map(link)).collect()
    }

    /// Counts a content that was read, once for each of its layers.
    fn advance(&self, content: usize, bytes: u64) {
        self.progress.advance(bytes * (1 + self.contents[content].links.len() as u64));
    }

    fn level(&self, plan: &FramePlan) -> Level {
        let level = |content: &usize| self.inputs[self.contents[*content].layer].layer.level;
        contents_of(plan).iter().map(level).max().unwrap_or(Level::IMAGE)
    }

    /// Reads whole layers. One that cannot be read is left out, and replaced by an equal one where there is one.
    fn render_shared(&self, contents: &[usize]) -> (Vec<u8>, Vec<Member>, Vec<(usize, Error)>) {
        let (mut plain, mut members, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for &content in contents {
            let Content { layer, links } = &self.contents[content];
            for &input in std::iter::once(layer).chain(links) {
                let start = plain.len();
                match self.render_member(input, &mut plain) {
                    Ok(raw) => {
                        self.advance(content, raw.size);
                        members.push(Member { content, input, raw });
                        break;
                    }
                    Err(error) => {
                        plain.truncate(start);
                        failed.push((input, error));
                    }
                }
            }
        }
        (plain, members, failed)
    }

    fn render_member(&self, input: usize, plain: &mut Vec<u8>) -> Result<RawDigest> {
        let input = &self.inputs[input];
        let mut open = OpenLayer::new(input)?;
        let raw_size = input.layer.raw_size;
        plain.extend_from_slice(&header(input)?);
        let start = plain.len();
        open.read(plain, raw_size)?;
        open.hasher.update(&plain[start..]);
        let raw = open.finish()?;
        plain.resize(plain.len() + padding_len(raw_size), 0);
        Ok(raw)
    }

    /// Reads the next slice of a large layer; the last one comes with what the layer was.
    fn render_slice(
        &mut self,
        content: usize,
        range: std::ops::Range<u64>,
    ) -> Result<(Vec<u8>, Option<Member>)> {
        let input = self.contents[content].layer;
        let mut plain = Vec::new();
        let mut open = match self.open.take() {
            Some(open) if range.start > 0 => open,
            _ => {
                plain = header(&self.inputs[input])?;
                OpenLayer::new(&self.inputs[input])?
            }
        };
        let start = plain.len();
        open.read(&mut plain, range.end - range.start)?;
        open.hasher.update(&plain[start..]);
        self.advance(content, range.end - range.start);
        let raw_size = self.inputs[input].layer.raw_size;
        if range.end < raw_size {
            self.open = Some(open);
            return Ok((plain, None));
        }
        plain.resize(plain.len() + padding_len(raw_size), 0);
        Ok((plain, Some(Member { content, input, raw: open.finish()? })))
    }
}

fn header(input: &PackInput) -> Result<Vec<u8>> {
    let unpackable = |source: FormatError| Error::Unpackable { what: input.layer.name.to_string(), source };
    member_header(&input.layer.name, input.layer.raw_size).map_err(unpackable)
}

impl<'a> OpenLayer<'a> {
    fn new(input: &'a PackInput) -> Result<Self> {
        let path = &input.layer.path;
        let file = open_regular(path)?;
        let stamp = Stamp::of(&file).map_err(|error| Error::local("look up", path, error))?;
        if stamp.len != input.layer.raw_size {
            return Err(Error::LayerChanged { path: path.clone() });
        }
        Ok(Self { input, file, stamp, hasher: RawHasher::default() })
    }

    fn read(&mut self, plain: &mut Vec<u8>, len: u64) -> Result<()> {
        let path = &self.input.layer.path;
        let read = (&mut self.file)
            .take(len)
            .read_to_end(plain)
            .map_err(|error| Error::local("read", path, error))?;
        if read as u64 == len { Ok(()) } else { Err(Error::LayerChanged { path: path.clone() }) }
    }

    /// The digest of what was read, if the file is still what it was.
    fn finish(self) -> Result<RawDigest> {
        let path = &self.input.layer.path;
        let raw = self.hasher.finish();
        let stamp = Stamp::of(&self.file).map_err(|error| Error::local("look up", path, error))?;
        if stamp == self.stamp && self.input.digest.is_none_or(|digest| digest == raw) {
            Ok(raw)
        } else {
            Err(Error::LayerChanged { path: path.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use layer_archive::LayerName;

    use super::*;
    use crate::LocalLayer;

    /// Reads a layer of ten bytes, lets `meddle` at the file, and ends the reading.
    fn read_and(digest: Option<RawDigest>, meddle: impl FnOnce(&std::path::Path)) -> Result<RawDigest> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        File::create_new(&path).unwrap().write_all(b"ten bytes.").unwrap();
        let name = LayerName::new("layer").unwrap();
        let layer =
            LocalLayer { name, path: path.clone(), raw_size: 10, lsn_range: None, level: Level::IMAGE };
        let input = PackInput { layer, digest };
        let mut open = OpenLayer::new(&input)?;
        let mut plain = Vec::new();
        open.read(&mut plain, 10)?;
        open.hasher.update(&plain);
        meddle(&path);
        open.finish()
    }

    #[test]
    fn a_file_that_is_written_to_while_it_is_read_is_refused() {
        assert_eq!(read_and(None, |_| {}).unwrap(), RawDigest::of(b"ten bytes."));
        let hashed_before = Some(RawDigest::of(b"TEN BYTES."));
        assert!(matches!(read_and(hashed_before, |_| {}), Err(Error::LayerChanged { .. })));
        let append = |path: &std::path::Path| {
            File::options().append(true).open(path).unwrap().write_all(b"!").unwrap();
        };
        assert!(matches!(read_and(None, append), Err(Error::LayerChanged { .. })));
        let rewrite = |path: &std::path::Path| {
            let file = File::options().write(true).open(path).unwrap();
            (&file).write_all(b"TEN").unwrap();
            // Whatever the clock's step is, the file is not what it was.
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        assert!(matches!(read_and(None, rewrite), Err(Error::LayerChanged { .. })));
    }
}
