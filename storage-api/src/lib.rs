//! The contract between Layerpack and an object store.
//!
//! [`ObjectStore`] is small, object safe and defaults nothing, so that a decorator which forgets to forward a call
//! does not compile. What is comfortable but not essential is on [`ObjectStoreExt`]. The semantics are fixed here
//! and not by each store:
//!
//! - a put is atomic: a reader sees the whole object or none;
//! - [`PutMode::Create`] lets exactly one of many racing puts win, the others fail with
//!   [`ErrorKind::AlreadyExists`];
//! - deleting a key that does not exist succeeds;
//! - a list is in byte order of the keys, and sees every put and delete acknowledged before it began;
//! - bytes travel with the CRC32C that the caller computed, and a store refuses what does not match.
//!
//! Programs use a store below three decorators, in this order:
//!
//! ```text
//! Retrying        sends a request again; holds nothing while it waits
//!   Limited       lets so many requests run at once
//!     Metered     counts what is sent: each attempt
//!       backend
//! ```
//!
//! The conformance suite, module `conformance` of the feature `testing`, states all of it as tests, and every store
//! and decorator runs it. Module `simulated` of the same feature is a store whose faults come from a seed.

mod body;
mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod crash;
mod error;
mod ext;
mod key;
mod limited;
mod memory;
mod metered;
mod retrying;
#[cfg(feature = "testing")]
pub mod simulated;
mod store;

pub use body::{Body, Crc32c};
pub use clock::{Clock, ManualClock, SystemClock};
pub use crash::{CRASH_AT_VARIABLE, crash_point};
pub use error::{ErrorKind, Operation, Result, RetryClass, StorageError};
pub use ext::ObjectStoreExt;
pub use key::{InvalidKey, Key, KeyPrefix};
pub use limited::Limited;
pub use memory::MemoryStore;
pub use metered::{Metered, Metrics, RequestCounts};
pub use retrying::{RetryPolicy, Retrying};
pub use store::{
    ByteStream, Capabilities, DeleteOutcome, GetRange, GetResponse, ListPage, ListRequest, ObjectInfo,
    ObjectStore, PartId, PendingUpload, PutMode, PutReceipt, UploadId,
};
