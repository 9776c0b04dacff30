//! The store itself: each call is one piece of blocking work.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cap_std::fs::{Dir, Metadata};
use storage_api::{
    Body, Capabilities, Clock, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix,
    ListPage, ListRequest, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode, PutReceipt,
    StorageError, SystemClock, UploadId, crash_point,
};

use crate::fault::{BACKEND, Fault, Result};
use crate::read::{OpenObject, object_info};
use crate::root::{Root, look_up, open_file, split, sync};
use crate::stage::Stage;
use crate::{list, sweep, uploads};

const CAPABILITIES: Capabilities = Capabilities {
    delete_keys_max: 1000,
    list_keys_max: 1000,
    part_bytes_min: 0,
    put_bytes_max: 5 << 30,
    multipart: true,
    copy: true,
};

/// An object store in a directory.
///
/// Clones of an `Arc` of it, other stores opened on the same directory and other processes may all use it at once.
#[derive(Debug)]
pub struct LocalStore {
    root: Arc<Root>,
    clock: Arc<dyn Clock>,
    uploads_begun: AtomicU64,
}

impl LocalStore {
    /// Opens the store in the directory `root`.
    ///
    /// # Errors
    ///
    /// [`StoreMissing`](ErrorKind::StoreMissing) if there is no such directory, [`Invalid`](ErrorKind::Invalid) if it
    /// is a file, and what the file system says otherwise.
    pub fn open(root: &Path) -> storage_api::Result<Self> {
        let opened = Root::open(root).map_err(|fault| open_error(root, fault))?;
        Ok(Self { root: Arc::new(opened), clock: Arc::new(SystemClock), uploads_begun: AtomicU64::new(0) })
    }

    /// Makes the directory `root`, and those above it, durably where they are missing, and opens the store in it.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) if a file is in the way, and what the file system says otherwise.
    pub fn create(root: &Path) -> storage_api::Result<Self> {
        Root::create(root).map_err(|fault| open_error(root, fault))?;
        Self::open(root)
    }

    /// The same store, which judges ages by `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Removes stage files, and uploads that were begun or ended halfway, which nobody wrote to for `older_than`,
    /// and returns how many those were.
    ///
    /// Age is the only guard of a writer that is alive: `older_than` must exceed the longest pause between two
    /// writes of one put, and the time a sync takes. An hour is plenty.
    ///
    /// # Errors
    ///
    /// What the file system says of a directory or file that cannot be read or removed.
    pub async fn sweep_stale(&self, older_than: Duration) -> storage_api::Result<u64> {
        let now = self.clock.now();
        self.run(Operation::Delete, "", move |root| sweep::sweep(root, now, older_than)).await
    }

    /// Runs `work` on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
    ) -> storage_api::Result<T> {
        let root = Arc::clone(&self.root);
        blocking(operation, key, move || {
            let result = work(&root);
            match result {
                Err(fault) if fault.is_not_found() && root.is_gone() => Err(gone(&root)),
                result => result,
            }
        })
        .await
    }
}

/// Runs `work` on a thread that may block, to its end even if nobody waits any more.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: Operation,
    key: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> storage_api::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|fault| fault.into_storage_error(operation, key)),
        Err(error) if error.is_cancelled() => {
            Err(StorageError::new(ErrorKind::Cancelled, operation, key, BACKEND).with_source(error))
        }
        Err(error) => {
            Err(StorageError::new(ErrorKind::Unexpected, operation, key, BACKEND).with_source(error))
        }
    }
}

fn gone(root: &Root) -> Fault {
    let wrong = "the directory was removed while the store was open";
    Fault::new(ErrorKind::StoreMissing, "use the root", root.path().to_string_lossy(), wrong)
}

fn open_error(root: &Path, mut fault: Fault) -> StorageError {
    if fault.is_not_found() {
        fault.kind = ErrorKind::StoreMissing;
    }
    fault.into_storage_error(Operation::Open, &root.to_string_lossy())
}

/// Refuses bytes that are not what the caller meant, before anything is written.
fn check_body(key: &Key, body: &Body) -> Result<()> {
    if body.len() > CAPABILITIES.put_bytes_max {
        let wrong = format!("{} bytes are more than {} of one put", body.len(), CAPABILITIES.put_bytes_max);
        return Err(Fault::new(ErrorKind::Invalid, "write", key.as_str(), wrong));
    }
    if !body.is_intact() {
        let wrong = format!("the bytes do not have the checksum {}", body.crc32c());
        return Err(Fault::new(ErrorKind::Integrity, "write", key.as_str(), wrong));
    }
    Ok(())
}

fn put(root: &Root, key: &Key, body: &Body, mode: PutMode) -> Result<PutReceipt> {
    check_body(key, body)?;
    let (parent, name) = split(key);
    root.with_parent(parent, |dir| {
        let mut stage = Stage::create(dir, key.as_str())?;
        stage.write(body.bytes())?;
        stage.publish(name, mode)
    })?;
    Ok(PutReceipt::default())
}

fn copy(root: &Root, source: &(File, Metadata), to: &Key) -> Result<PutReceipt> {
    let (file, metadata) = source;
    let (parent, name) = split(to);
    root.with_parent(parent, |dir| {
        let mut stage = Stage::create(dir, to.as_str())?;
        let fault = |error| Fault::io("copy to", to.as_str(), error);
        // A clone shares its position, which an attempt before this one may have moved.
        let mut file = file.try_clone().map_err(fault)?;
        file.rewind().map_err(fault)?;
        let len = stage.write_from(&mut file)?;
        if len != metadata.len() {
            let wrong = format!("{len} bytes were read of a file of {}", metadata.len());
            return Err(Fault::new(ErrorKind::Integrity, "copy to", to.as_str(), wrong));
        }
        stage.publish(name, PutMode::Overwrite)
    })?;
    Ok(PutReceipt::default())
}

/// Deletes `keys`, and syncs each directory once.
fn delete(root: &Root, keys: Vec<Key>) -> Result<Vec<DeleteOutcome>> {
    let mut touched = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(keys.len());
    for key in keys {
        let (parent, name) = split(&key);
        let removed = root.descend(parent).and_then(|dir| {
            let removed = remove(&dir, name, key.as_str());
            // Synced even if the key was gone: whoever removed it may have been killed before that.
            touched.insert(parent.to_owned(), dir);
            removed
        });
        let result = match removed {
            Err(fault) if fault.is_not_found() && root.is_gone() => return Err(gone(root)),
            Err(fault) if !fault.is_not_found() => {
                Err(fault.into_storage_error(Operation::Delete, key.as_str()))
            }
            Ok(()) | Err(_) => Ok(()),
        };
        outcomes.push(DeleteOutcome { key, result });
    }
    for (path, dir) in touched {
        sync(&dir, &path)?;
    }
    Ok(outcomes)
}

fn remove(dir: &Dir, name: &str, path: &str) -> Result<()> {
    look_up(dir, name, path)?;
    crash_point();
    dir.remove_file(name).map_err(|error| Fault::io("remove", path, error))
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> storage_api::Result<PutReceipt> {
        let operation = match mode {
            PutMode::Overwrite => Operation::PutOverwrite,
            PutMode::Create => Operation::PutCreate,
        };
        let target = key.clone();
        self.run(operation, key.as_str(), move |root| put(root, &target, &body, mode)).await
    }

    async fn get(&self, key: &Key, range: GetRange) -> storage_api::Result<GetResponse> {
        let target = key.clone();
        let opened =
            self.run(Operation::Get, key.as_str(), move |root| OpenObject::open(root, &target, &range));
        let opened = opened.await?;
        Ok(GetResponse {
            info: opened.info.clone(),
            range: opened.range.clone(),
            stream: opened.into_stream(),
        })
    }

    async fn head(&self, key: &Key) -> storage_api::Result<ObjectInfo> {
        let target = key.clone();
        self.run(Operation::Head, key.as_str(), move |root| {
            let (parent, name) = split(&target);
            let metadata = look_up(&root.descend(parent)?, name, target.as_str())?;
            object_info(target, &metadata)
        })
        .await
    }

    async fn list(&self, request: &ListRequest) -> storage_api::Result<ListPage> {
        let asked = request.clone();
        self.run(Operation::List, request.prefix.as_str(), move |root| {
            let page = list::page(root, &asked, CAPABILITIES.list_keys_max)?;
            if page == ListPage::default() && root.is_gone() { Err(gone(root)) } else { Ok(page) }
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> storage_api::Result<Vec<DeleteOutcome>> {
        let keys = keys.to_vec();
        let first = keys.first().map_or("", Key::as_str).to_owned();
        self.run(Operation::Delete, &first.clone(), move |root| {
            let most = CAPABILITIES.delete_keys_max;
            if keys.len() > most {
                let wrong = format!("{} keys, at most {most} are deleted at once", keys.len());
                return Err(Fault::new(ErrorKind::Invalid, "delete", first, wrong));
            }
            delete(root, keys)
        })
        .await
    }

    async fn copy(&self, from: &Key, to: &Key) -> storage_api::Result<PutReceipt> {
        let (source, target) = (from.clone(), to.clone());
        let opened = self.run(Operation::Copy, from.as_str(), move |root| {
            let (parent, name) = split(&source);
            open_file(&root.descend(parent)?, name, source.as_str())
        });
        let opened = opened.await?;
        self.run(Operation::Copy, to.as_str(), move |root| copy(root, &opened, &target)).await
    }

    async fn multipart_create(&self, key: &Key) -> storage_api::Result<UploadId> {
        loop {
            let begun = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let count = self.uploads_begun.fetch_add(1, Ordering::Relaxed);
            let name = format!("{:x}-{:x}-{count:x}", begun.as_nanos(), std::process::id());
            let target = key.clone();
            let operation = Operation::MultipartCreate;
            let upload =
                self.run(operation, key.as_str(), move |root| uploads::begin(root, &target, name)).await?;
            if let Some(upload) = upload {
                return Ok(upload);
            }
        }
    }

    async fn multipart_put(
        &self,
        key: &Key,
        upload: &UploadId,
        number: u32,
        body: Body,
    ) -> storage_api::Result<PartId> {
        let (target, upload) = (key.clone(), upload.clone());
        self.run(Operation::MultipartPut, key.as_str(), move |root| {
            check_body(&target, &body)?;
            uploads::put_part(root, &target, &upload, number, &body)
        })
        .await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> storage_api::Result<PutReceipt> {
        let (target, upload, parts) = (key.clone(), upload.clone(), parts.to_vec());
        self.run(Operation::MultipartComplete, key.as_str(), move |root| {
            uploads::complete(root, &target, &upload, &parts, whole)?;
            Ok(PutReceipt::default())
        })
        .await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> storage_api::Result<()> {
        let (target, upload) = (key.clone(), upload.clone());
        self.run(Operation::MultipartAbort, key.as_str(), move |root| uploads::abort(root, &target, &upload))
            .await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> storage_api::Result<Vec<PendingUpload>> {
        let under = prefix.clone();
        self.run(Operation::MultipartList, prefix.as_str(), move |root| uploads::pending(root, &under)).await
    }
}
