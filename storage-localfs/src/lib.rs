//! An object store in a directory of a local file system.
//!
//! The key `a/b` is the file `a/b` below the root. What makes that an object store:
//!
//! - **Atomic.** Bytes go to a stage file beside their target (its name begins with `.layerpack-`, which no key's
//!   component does), and a rename publishes it. One of a create replaces nothing (a hard link stands in for it on
//!   file systems that know no such rename): of racing creates, by any number of processes, one wins.
//! - **Durable.** A put is acknowledged after the file, the directory that names it and every directory on the way
//!   to the root are synced; so is a delete. A create that lost is answered after the winner is durable.
//! - **Confined.** Paths are walked from the root's handle, component by component, and no symbolic link is
//!   followed: what lies behind one is refused, inside the root too. A list that meets one fails, since it may stand
//!   where an object was.
//! - **Causal.** A page of a list that shows an object shows every other in its range whose put was acknowledged
//!   before the put of that one began. To see that, a list reads what it shows twice.
//! - **Resumable.** Stage files of killed writers are never listed, and [`LocalStore::sweep_stale`] removes them.
//!
//! Two things differ from a flat map of keys. A key and another key below it (`a` and `a/b`) cannot both exist: the
//! second put is [`Invalid`](storage_api::ErrorKind::Invalid). And directories stay when their last object goes (to
//! remove one would race the next put into it); no list shows an empty one, but its name cannot become an object.

mod fault;
mod list;
mod read;
mod root;
mod stage;
mod store;
mod sweep;
mod uploads;

pub use store::LocalStore;
