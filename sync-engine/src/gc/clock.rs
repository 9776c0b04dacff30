//! What time it is by the store's clock.

use std::time::SystemTime;

use storage_api::{Body, ErrorKind, Key, PutMode};

use crate::{Result, Store, StoreLayout, TimelineListing};

/// Asks the store what time it is: an object without meaning is put, and looked up. `None` where this program may not
/// put it, or the store is full.
///
/// The age of an object is the difference of two times of the same clock. This machine's clock has no say in it.
pub async fn store_time(store: &Store) -> Result<Option<SystemTime>> {
    let key = Key::new(StoreLayout::CLOCK)?;
    let body = Body::new("The time of this object is what the store's clock said when it was last asked.\n");
    match store.objects().put(&key, body, PutMode::Overwrite).await {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::StorageFull) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Some(store.objects().head(&key).await?.last_modified))
}

/// What the store's clock said last, by the list alone: when the newest record was stored. It is never too late.
pub(super) fn last_seen(listing: &TimelineListing) -> SystemTime {
    listing.records.last_key_value().map_or(SystemTime::UNIX_EPOCH, |(_, record)| record.last_modified)
}
