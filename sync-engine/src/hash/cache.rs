//! The digests of local files that were hashed before, in a file of their own.
//!
//! ```text
//! "LPHASH1\n"  u32 crc32c of all that follows
//! entries:     u16 length of the path, path, u64 inode, u64 length,
//!              i64 x 4 modified and changed (seconds, nanoseconds), u32 crc32c, 16 bytes blake3
//! ```
//!
//! Numbers are little-endian. The file is a cache: what does not read is as good as empty, and is written anew.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{Crc32c, Digest, RawDigest};
use storage_api::Clock;

use super::{Stamp, open_regular};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"LPHASH1\n";
const FILE_BYTES_MAX: u64 = 512 << 20;
const ENTRIES_MAX: usize = 1 << 20;
/// The clock of a file system is coarse: a file that changed less than this ago may change again under the same times.
const SETTLED: Duration = Duration::from_secs(2);

/// Digests by path, each with what the file was when it was hashed: inode, size and times. A file of which one of these
/// has changed is hashed again.
///
/// The file of the cache is kept outside of the directories that are backed up.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    entries: Mutex<Entries>,
    hits: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    known: BTreeMap<PathBuf, Entry>,
    is_saved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    stamp: Stamp,
    digest: RawDigest,
    /// Whether it was asked for since the cache was opened.
    used: bool,
}

impl HashCache {
    /// Reads the cache at `path`. One that is not there, or is damaged, is empty.
    pub fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        let path = path.into();
        let known = match read(&path) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "the cache of digests is damaged and made anew");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the cache of digests cannot be read");
                BTreeMap::new()
            }
        };
        Self { path, clock, entries: Mutex::new(Entries { known, is_saved: true }), hits: AtomicU64::new(0) }
    }

    /// How many files need not have been read, since the cache was opened.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The digest of a file: the known one, if the file is what it was then.
    pub(super) fn hash_file(&self, path: &Path) -> Result<RawDigest> {
        let file = open_regular(path)?;
        let stamp_of = |file: &File| Stamp::of(file).map_err(|error| Error::local("look up", path, error));
        let stamp = stamp_of(&file)?;
        if let Some(known) = self.lock().known.get_mut(path)
            && known.stamp == stamp
        {
            known.used = true;
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(known.digest);
        }
        let digest = RawDigest::of_reader(&file).map_err(|error| Error::local("read", path, error))?;
        if stamp_of(&file)? == stamp && digest.size == stamp.len && self.is_settled(stamp) {
            let mut entries = self.lock();
            entries.is_saved = false;
            entries.known.insert(path.to_owned(), Entry { stamp, digest, used: true });
        }
        Ok(digest)
    }

    /// Whether a file has been left alone for long enough that a further change would show.
    fn is_settled(&self, stamp: Stamp) -> bool {
        let since = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = stamp.changed.max(stamp.modified).0;
        u64::try_from(last).is_ok_and(|last| Duration::from_secs(last.saturating_add(1)) + SETTLED < since)
    }

    /// Writes the cache, if something was learnt: to a temporary file that then takes its place.
    pub(crate) async fn save(self: &Arc<Self>) -> Result<()> {
        let cache = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || cache.save_now()).await;
        saved.unwrap_or_else(|error| Err(Error::Task(error.to_string())))
    }

    fn save_now(&self) -> Result<()> {
        let bytes = {
            let mut entries = self.lock();
            if std::mem::replace(&mut entries.is_saved, true) {
                return Ok(());
            }
            if entries.known.len() > ENTRIES_MAX {
                entries.known.retain(|_, entry| entry.used);
            }
            encode(&entries.known)
        };
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".temp");
        let failed = |error| Error::local("write", &self.path, error);
        let written = File::create(&temporary).and_then(|mut file| file.write_all(&bytes));
        written.and_then(|()| fs::rename(&temporary, &self.path)).map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(known: &BTreeMap<PathBuf, Entry>) -> Vec<u8> {
    let mut body = Vec::new();
    for (path, Entry { stamp, digest, used: _ }) in known.iter().take(ENTRIES_MAX) {
        let path = path.as_os_str().as_bytes();
        let Ok(path_len) = u16::try_from(path.len()) else { continue };
        body.extend(path_len.to_le_bytes());
        body.extend(path);
        let Stamp { len, modified, changed, inode } = stamp;
        body.extend(inode.to_le_bytes());
        body.extend(len.to_le_bytes());
        for time in [modified.0, modified.1, changed.0, changed.1] {
            body.extend(time.to_le_bytes());
        }
        body.extend(digest.crc32c.0.to_le_bytes());
        body.extend(digest.blake3.0);
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(Crc32c::of(&body).0.to_le_bytes());
    bytes.append(&mut body);
    bytes
}

/// The entries; `None` where the bytes are not those of a whole cache.
fn decode(bytes: &[u8]) -> Option<BTreeMap<PathBuf, Entry>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let crc32c = u32::from_le_bytes(take(&mut rest)?);
    if bytes.len() as u64 > FILE_BYTES_MAX || Crc32c::of(rest).0 != crc32c {
        return None;
    }
    let mut known = BTreeMap::new();
    while !rest.is_empty() {
        let path_len = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (path, after) = rest.split_at_checked(path_len)?;
        rest = after;
        let inode = u64::from_le_bytes(take(&mut rest)?);
        let len = u64::from_le_bytes(take(&mut rest)?);
        let mut time = || take(&mut rest).map(i64::from_le_bytes);
        let (modified, changed) = ((time()?, time()?), (time()?, time()?));
        let crc32c = Crc32c(u32::from_le_bytes(take(&mut rest)?));
        let digest = RawDigest { size: len, crc32c, blake3: Digest(take(&mut rest)?) };
        let entry = Entry { stamp: Stamp { len, modified, changed, inode }, digest, used: false };
        known.insert(PathBuf::from(OsStr::from_bytes(path)), entry);
    }
    Some(known)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use storage_api::ManualClock;

    use super::*;

    fn clock() -> Arc<dyn Clock> {
        // In the far future: every file has been left alone for long.
        Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(8_000_000_000)))
    }

    fn put(path: &Path, bytes: &[u8]) {
        File::create(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_digest_is_taken_from_the_cache_as_long_as_the_file_is_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, file) = (dir.path().join("layer"), dir.path().join("cache"));
        put(&layer, b"contents");
        let cache = HashCache::open(&file, clock());
        assert_eq!(cache.hash_file(&layer).unwrap(), RawDigest::of(b"contents"));
        cache.save_now().unwrap();
        // What is remembered is taken without reading the file: a lie in the cache is believed.
        let lie = RawDigest { crc32c: Crc32c(1), ..RawDigest::of(b"contents") };
        let cache = HashCache::open(&file, clock());
        cache.lock().known.get_mut(&layer).unwrap().digest = lie;
        cache.lock().is_saved = false;
        cache.save_now().unwrap();
        let cache = HashCache::open(&file, clock());
        assert_eq!(cache.hash_file(&layer).unwrap(), lie);
        // Of the same length, and with its old time of modification: the time of the change tells.
        let modified = layer.metadata().unwrap().modified().unwrap();
        put(&layer, b"CONTENTS");
        File::options().write(true).open(&layer).unwrap().set_modified(modified).unwrap();
        assert_eq!(cache.hash_file(&layer).unwrap(), RawDigest::of(b"CONTENTS"));
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        put(&layer, b"contents");
        let now = layer.metadata().unwrap().modified().unwrap();
        let cache = HashCache::open(dir.path().join("cache"), Arc::new(ManualClock::new(now)));
        cache.hash_file(&layer).unwrap();
        assert!(cache.lock().known.is_empty());
    }

    #[test]
    fn a_damaged_cache_is_empty_and_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, file) = (dir.path().join("layer"), dir.path().join("cache"));
        put(&layer, b"contents");
        let cache = HashCache::open(&file, clock());
        cache.hash_file(&layer).unwrap();
        cache.save_now().unwrap();
        let whole = fs::read(&file).unwrap();
        assert_eq!(decode(&whole).unwrap().len(), 1);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_none(), "bit flip at {at}");
            assert!(decode(&whole[..at]).is_none(), "cut at {at}");
        }
        put(&file, &whole[..whole.len() - 1]);
        let cache = HashCache::open(&file, clock());
        assert!(cache.lock().known.is_empty());
        cache.hash_file(&layer).unwrap();
        cache.save_now().unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
}
