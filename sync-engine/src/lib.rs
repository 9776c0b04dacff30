//! The engine of Layerpack: a timeline's log on an object store, and what is done with it.
//!
//! A [`Store`] holds timelines; a [`TimelineView`] is one of them as it is now, read without writing; a
//! [`TimelineWriter`] has claimed one and appends to its log. Backup, restore and verify are a planner, pure and
//! printable, and an executor. `docs/protocol.md` says why the log is what it is.
//!
//! The engine sees [`storage_api::ObjectStore`], never a backend; files, never what they are called; layers, never
//! what is in them.

mod backup;
mod branches;
mod budget;
mod catalog;
mod copy;
mod delete;
mod durable;
mod error;
pub mod gc;
mod hash;
pub mod inspect;
mod layout;
mod local;
mod marker;
mod object;
mod pack;
mod payload;
mod point;
mod progress;
mod reader;
mod rebuild;
mod remove;
mod repair;
mod restore;
pub mod rules;
pub mod service;
mod state;
mod upload;
mod verify;
mod view;
mod writer;

pub use backup::{
    BackupOptions, BackupPlan, BackupReport, Conflict, FailedLayer, KeptLayer, MetadataConflict, Mirror,
    execute_backup, plan_backup,
};
pub use branches::{
    AncestorView, Ancestry, BranchChange, ancestors_first, change_branch_point, find_layers, without_deleted,
};
pub use catalog::{Catalog, CatalogEntry, TimelineListing};
pub use copy::{
    CopyOptions, CopyReport, CopyTarget, LeftOut, PlannedCopy, Standing, TenantCopyPlan, TimelineCopy,
    copy_timeline, execute_tenant_copy, plan_tenant_copy, read_tenant,
};
pub use delete::{DeletePlan, Deletion, execute_delete, plan_delete};
pub use durable::{DurableDir, Published};
pub use error::{Error, Result};
pub use hash::{HashCache, hash_files};
pub use layout::{ObjectName, StoreLayout, TimelineKeys};
pub use local::{LocalLayer, LocalTimeline};
pub use marker::{Created, Store, StoreMarker};
pub use pack::PackOptions;
pub use payload::abandoned_uploads;
pub use point::{At, Point};
pub use progress::Progress;
pub use reader::{
    AncestorReader, AncestorReaders, OnDemandTimeline, ReadOptions, ReadPool, Residency, TimelineReader,
};
pub use rebuild::{Rebuild, rebuild_timeline};
pub use remove::{Removal, TakeOver, remove_layers};
pub use repair::{RepairOptions, RepairReport, repair_timeline};
pub use restore::{
    MetadataOutcome, RestorePlan, RestoreReport, WriteOutcome, execute_restore, hash_existing, plan_restore,
};
pub use service::{TimelineHandle, UploadService};
pub use state::TimelineState;
pub use verify::{Finding, VerifyDepth, VerifyReport, verify_timeline};
pub use view::{ManifestUsed, TimelineView};
pub use writer::{Draft, TimelineWriter, WriterOptions};
