//! Removing what killed writers left behind.

use std::io;
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, DirEntry};

use crate::fault::{Fault, Result};
use crate::root::{Root, entry_type, open_dir};
use crate::stage::STAGE_PREFIX;
use crate::uploads::{UPLOADS_DIR, read_key};

/// Removes stage files, and uploads that were begun or ended halfway, that were last written before `older_than` ago.
/// Returns how many.
pub(crate) fn sweep(root: &Root, now: SystemTime, older_than: Duration) -> Result<u64> {
    let Some(before) = now.checked_sub(older_than) else { return Ok(0) };
    sweep_dir(root.dir(), "", before)
}

fn sweep_dir(dir: &Dir, path: &str, before: SystemTime) -> Result<u64> {
    let fault = |error| Fault::io("sweep", path, error);
    let mut swept = 0;
    for entry in dir.entries().map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        match sweep_entry(dir, &entry, name, &format!("{path}{name}/"), before) {
            Ok(count) => swept += count,
            // Its writer was faster.
            Err(fault) if fault.is_not_found() => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(swept)
}

fn sweep_entry(parent: &Dir, entry: &DirEntry, name: &str, path: &str, before: SystemTime) -> Result<u64> {
    let fault = |error| Fault::io("sweep", path, error);
    let file_type = entry_type(parent, entry, path)?;
    if file_type.is_dir() {
        let dir = open_dir(parent, name, path)?;
        let swept = sweep_dir(&dir, path, before)?;
        let is_upload = path.strip_prefix(UPLOADS_DIR).is_some_and(|rest| rest.matches('/').count() == 2);
        if is_upload && is_dead_upload(&dir, path, before)? {
            return remove(parent.remove_dir_all(name), path).map(|count| swept + count);
        }
        return Ok(swept);
    }
    let is_stale = file_type.is_file()
        && name.starts_with(STAGE_PREFIX)
        && entry.metadata().and_then(|metadata| metadata.modified()).map_err(fault)?.into_std() < before;
    if is_stale { remove(parent.remove_file(name), path) } else { Ok(0) }
}

/// Whether an upload has no key, and nobody was at it since `before`.
fn is_dead_upload(dir: &Dir, path: &str, before: SystemTime) -> Result<bool> {
    match read_key(dir, path) {
        Err(fault) if fault.is_not_found() => {
            let changed = dir.dir_metadata().and_then(|metadata| metadata.modified());
            Ok(changed.map_err(|error| Fault::io("sweep", path, error))?.into_std() < before)
        }
        // One that cannot be read is reported by the list of uploads, not removed here.
        Ok(_) | Err(_) => Ok(false),
    }
}

fn remove(removed: io::Result<()>, path: &str) -> Result<u64> {
    removed.map(|()| 1).map_err(|error| Fault::io("remove", path, error))
}
