//! A record from the making of its bytes until it is known what became of them.

use std::time::Duration;

use layer_archive::{BundleId, BundleIndex, BundleWriter, Commit};
use storage_api::{Body, ErrorKind, Key, ObjectStore, Operation, PutMode, RetryClass, StorageError};

use super::{TimelineWriter, body};
use crate::object::read_record;
use crate::rules::{self, Found};
use crate::{Error, Result};

/// How often a create is sent, in one go, whose outcome is not known.
const CREATE_ATTEMPTS_MAX: u32 = 5;
/// ...and for how long. A store below that tries again by itself has taken longer: its bound is not multiplied.
const CREATE_TIME_MAX: Duration = Duration::from_secs(10);

/// A record whose bytes are made, once and for all, and of which it is not known whether they are stored.
#[derive(Debug)]
pub(super) struct PendingRecord {
    key: Key,
    bundle: BundleId,
    body: Body,
    index: Box<BundleIndex>,
    /// Whether a request was sent that may have taken effect, or may yet.
    may_be_stored: bool,
}

/// What became of a create-only put of a record.
pub(super) enum Created {
    Ours(Box<BundleIndex>),
    Another(Box<BundleIndex>),
}

/// Why it is not said what became of it.
enum Unsettled {
    /// The store refused it, and nothing that was sent before can have taken effect.
    NotStored(StorageError),
    /// It may be stored, now or later.
    Unknown(Error),
}

impl PendingRecord {
    pub(super) fn key(&self) -> String {
        self.key.to_string()
    }
}

impl TimelineWriter {
    /// Makes the bytes of the record of `commit`. They are sent unchanged until it is known what became of them.
    pub(super) fn freeze(&mut self, commit: Commit, bundle: BundleWriter) -> Result<()> {
        let bundle_id = BundleId::Record(commit.seq);
        let key = self.view.keys.record(commit.seq)?;
        let unpackable = |error| Error::Unpackable { what: key.to_string(), source: error };
        let finished = bundle
            .finish(&self.origin(bundle_id), Some(&commit), &mut self.compressor)
            .map_err(unpackable)?;
        self.pending = Some(PendingRecord {
            body: body(finished.bytes, finished.crc32c),
            index: Box::new(finished.index),
            key,
            bundle: bundle_id,
            may_be_stored: false,
        });
        Ok(())
    }

    /// Creates the pending record. Lost answers are told from lost races by reading the record back. Where it is known
    /// that the record was not stored, or whose it is, it is pending no more; else it stays so.
    pub(super) async fn settle_pending(&mut self) -> Result<Created> {
        let Some(pending) = &mut self.pending else {
            return Err(Error::Task("there is no record to be stored".into()));
        };
        // Whoever stops waiting here must not find a record that looks as if it had never been sent.
        let was_sent = std::mem::replace(&mut pending.may_be_stored, true);
        let settled = self.settle(was_sent).await;
        match settled {
            Ok(created) => {
                self.pending = None;
                Ok(created)
            }
            Err(Unsettled::NotStored(refused)) => {
                self.pending = None;
                Err(refused.into())
            }
            Err(Unsettled::Unknown(error)) => Err(error),
        }
    }

    async fn settle(&self, was_sent: bool) -> Result<Created, Unsettled> {
        let Some(PendingRecord { key, bundle, body, index, .. }) = &self.pending else {
            return Err(Unsettled::Unknown(Error::Task("there is no record to be stored".into())));
        };
        let objects = &**self.store.objects();
        let unknown = |source| Unsettled::Unknown(Error::UnknownOutcome { key: key.to_string(), source });
        let mut unsettled: Option<StorageError> = None;
        let begun = self.options.clock.now();
        for attempt in 0..CREATE_ATTEMPTS_MAX {
            if attempt > 0 {
                let elapsed = self.options.clock.now().duration_since(begun).unwrap_or_default();
                if elapsed >= CREATE_TIME_MAX {
                    break;
                }
                self.options.clock.sleep(Duration::from_millis(100 << attempt)).await;
            }
            let refused = match objects.put(key, body.clone(), PutMode::Create).await {
                Ok(_) => return Ok(Created::Ours(index.clone())),
                Err(error) => error,
            };
            let ambiguous = refused.retry_class() == RetryClass::Ambiguous;
            if !refused.is_already_exists() && !ambiguous {
                return Err(match unsettled {
                    Some(source) => unknown(source),
                    None if was_sent => unknown(refused),
                    None => Unsettled::NotStored(refused),
                });
            }
            let there = match look_up(objects, key, *bundle).await {
                Ok(there) => there,
                // How long a request is tried is for the store below to say, not to be multiplied here.
                Err(Error::Storage(source)) => return Err(unknown(source)),
                Err(error) => return Err(Unsettled::Unknown(error)),
            };
            let ids = (there.as_ref().map(BundleIndex::record_id), index.record_id());
            match (rules::found(ids.0.as_ref(), &ids.1), there) {
                (Found::Another, Some(record)) => return Ok(Created::Another(Box::new(record))),
                (Found::Nothing, _) | (_, None) => unsettled = Some(refused),
                (Found::Ours, Some(_)) => return Ok(Created::Ours(index.clone())),
            }
        }
        let never = || StorageError::new(ErrorKind::Unexpected, Operation::PutCreate, key.as_str(), "remote");
        Err(unknown(unsettled.unwrap_or_else(never)))
    }
}

/// The record at `key`, if there is one.
async fn look_up(objects: &dyn ObjectStore, key: &Key, bundle: BundleId) -> Result<Option<BundleIndex>> {
    match read_record(objects, key, bundle).await {
        Ok(record) => Ok(Some(record)),
        Err(Error::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
