//! Uploads in parts, kept on disk until they are completed or aborted.
//!
//! Each is a directory with the file `key`, which says what it would publish and whose time is when it was begun,
//! and one file for each part. Without `key` it is not an upload: one is being begun, or was ended halfway.

use std::io::{self, Read};

use cap_std::fs::Dir;
use storage_api::{Body, Crc32c, ErrorKind, Key, KeyPrefix, PartId, PendingUpload, PutMode, UploadId};

use crate::fault::{Fault, Result};
use crate::root::{Root, open_dir, open_file, split, sync};
use crate::stage::Stage;

/// The directory, in the root, of all uploads. No key's component begins like this.
pub(crate) const UPLOADS_DIR: &str = ".layerpack-uploads";
/// The file that makes a directory an upload.
pub(crate) const KEY_FILE: &str = "key";
/// The highest part number, as on S3.
const PART_NUMBER_MAX: u32 = 10_000;
/// Parts are joined through a buffer of this size.
const JOIN_BYTES: usize = 1 << 20;

/// Begins an upload named `name`; `None` where that name is taken.
pub(crate) fn begin(root: &Root, key: &Key, name: String) -> Result<Option<UploadId>> {
    let path = key.as_str();
    let created = root.with_parent(UPLOADS_DIR, |uploads| {
        storage_api::crash_point();
        match uploads.create_dir(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(Fault::io("create the upload of", path, error)),
        }
        let upload = open_dir(uploads, &name, path)?;
        let mut stage = Stage::create(&upload, path)?;
        stage.write(path.as_bytes())?;
        stage.publish(KEY_FILE, PutMode::Create)?;
        sync(uploads, path)?;
        Ok(true)
    })?;
    Ok(created.then_some(UploadId(name)))
}

/// Stores part `number` of an upload, in place of one that it may have.
pub(crate) fn put_part(
    root: &Root,
    key: &Key,
    upload: &UploadId,
    number: u32,
    body: &Body,
) -> Result<PartId> {
    if !(1..=PART_NUMBER_MAX).contains(&number) {
        let wrong = format!("part number {number} is not in 1 to {PART_NUMBER_MAX}");
        return Err(Fault::new(ErrorKind::Invalid, "upload a part of", key.as_str(), wrong));
    }
    let dir = open(root, key, upload)?;
    let mut stage = Stage::create(&dir, key.as_str())?;
    stage.write(body.bytes())?;
    stage.publish(&part_name(number), PutMode::Overwrite)?;
    Ok(PartId { number, etag: part_etag(body.len(), body.crc32c()), crc32c: body.crc32c() })
}

/// Joins `parts` into the object, and ends the upload.
pub(crate) fn complete(
    root: &Root,
    key: &Key,
    upload: &UploadId,
    parts: &[PartId],
    whole: Crc32c,
) -> Result<()> {
    let invalid = |wrong: &str| Fault::new(ErrorKind::Invalid, "join the parts of", key.as_str(), wrong);
    let dir = open(root, key, upload)?;
    if parts.is_empty() {
        return Err(invalid("there are none"));
    }
    if !parts.is_sorted_by(|a, b| a.number < b.number) {
        return Err(invalid("they are not in ascending order"));
    }
    let (parent, name) = split(key);
    root.with_parent(parent, |parent| {
        let mut stage = Stage::create(parent, key.as_str())?;
        let mut joined = Crc32c::of(b"");
        for part in parts {
            append_part(&mut stage, &mut joined, &dir, part, key)?;
        }
        if joined != whole {
            let wrong = format!("together they have the checksum {joined}, not {whole}");
            return Err(Fault::new(ErrorKind::Integrity, "join the parts of", key.as_str(), wrong));
        }
        stage.publish(name, PutMode::Overwrite)
    })?;
    end(root, upload, &dir, key)
}

fn append_part(
    stage: &mut Stage<'_>,
    joined: &mut Crc32c,
    dir: &Dir,
    part: &PartId,
    key: &Key,
) -> Result<()> {
    let PartId { number, etag, crc32c } = part;
    let unknown = || {
        let wrong = format!("part {number} was not uploaded with these bytes");
        Fault::new(ErrorKind::Invalid, "join the parts of", key.as_str(), wrong)
    };
    let (mut file, _) = open_file(dir, &part_name(*number), key.as_str())
        .map_err(|fault| if fault.is_not_found() { unknown() } else { fault })?;
    let mut buffer = vec![0; JOIN_BYTES];
    let (mut len, mut crc) = (0u64, Crc32c::of(b""));
    loop {
        let read =
            file.read(&mut buffer).map_err(|error| Fault::io("read a part of", key.as_str(), error))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        stage.write(bytes)?;
        len += bytes.len() as u64;
        crc = crc.append(bytes);
        *joined = joined.append(bytes);
    }
    if part_etag(len, crc) == *etag && crc == *crc32c { Ok(()) } else { Err(unknown()) }
}

/// Ends an upload without an object. One that does not exist has ended.
pub(crate) fn abort(root: &Root, key: &Key, upload: &UploadId) -> Result<()> {
    match open(root, key, upload) {
        Ok(dir) => end(root, upload, &dir, key),
        Err(fault) if fault.is_not_found() => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// The uploads under `prefix`, in byte order of their keys.
pub(crate) fn pending(root: &Root, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
    let uploads = match root.descend(UPLOADS_DIR) {
        Ok(uploads) => uploads,
        Err(fault) if fault.is_not_found() => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let fault = |error| Fault::io("list", UPLOADS_DIR, error);
    let mut pending = Vec::new();
    for entry in uploads.entries().map_err(fault)? {
        let Ok(name) = entry.map_err(fault)?.file_name().into_string() else { continue };
        match open_dir(&uploads, &name, UPLOADS_DIR).and_then(|dir| read_key(&dir, &name)) {
            Ok((key, begun)) if key.as_str().starts_with(prefix.as_str()) => {
                pending.push(PendingUpload { key, upload: UploadId(name), begun });
            }
            Err(fault) if !fault.is_not_found() => return Err(fault),
            Ok(_) | Err(_) => {}
        }
    }
    pending.sort_by(|a, b| (&a.key, &a.upload).cmp(&(&b.key, &b.upload)));
    Ok(pending)
}

/// The directory of an upload of `key`.
fn open(root: &Root, key: &Key, upload: &UploadId) -> Result<Dir> {
    let missing = || {
        Fault::new(ErrorKind::NotFound, "find", key.as_str(), format!("there is no upload {:?}", upload.0))
    };
    // The name came from a caller and must not lead out of the directory of uploads.
    let is_name =
        !upload.0.is_empty() && upload.0.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_name {
        return Err(missing());
    }
    let found = root.descend(UPLOADS_DIR).and_then(|uploads| {
        let dir = open_dir(&uploads, &upload.0, key.as_str())?;
        let (its_key, _) = read_key(&dir, key.as_str())?;
        Ok((dir, its_key))
    });
    match found {
        Ok((dir, its_key)) if its_key == *key => Ok(dir),
        Err(fault) if !fault.is_not_found() => Err(fault),
        Ok(_) | Err(_) => Err(missing()),
    }
}

/// What an upload would publish, and when it was begun; not found where it is none.
pub(crate) fn read_key(dir: &Dir, path: &str) -> Result<(Key, std::time::SystemTime)> {
    let (file, metadata) = open_file(dir, KEY_FILE, path)?;
    let begun = metadata.modified().map_err(|error| Fault::io("look up", path, error))?.into_std();
    let mut text = String::new();
    // One byte more than a key has: what is longer is none.
    let read = file.take(Key::LEN_MAX as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| Fault::io("read the key of the upload", path, error))?;
    let key = Key::new(text).map_err(|error| {
        let wrong = format!("{error}; remove that directory of {UPLOADS_DIR}");
        Fault::new(ErrorKind::Integrity, "read the key of the upload", path, wrong)
    })?;
    Ok((key, begun))
}

/// Removes an upload, so that a crash halfway leaves none.
fn end(root: &Root, upload: &UploadId, dir: &Dir, key: &Key) -> Result<()> {
    storage_api::crash_point();
    match dir.remove_file(KEY_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Fault::io("end the upload of", key.as_str(), error));
        }
        Ok(()) | Err(_) => sync(dir, key.as_str())?,
    }
    let uploads = root.descend(UPLOADS_DIR)?;
    storage_api::crash_point();
    match uploads.remove_dir_all(&upload.0) {
        // Ended by another, or a late part is being written: the sweep removes that.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(Fault::io("remove the parts of", key.as_str(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn part_name(number: u32) -> String {
    format!("part-{number:05}")
}

fn part_etag(len: u64, crc32c: Crc32c) -> String {
    format!("{len:x}-{crc32c}")
}
