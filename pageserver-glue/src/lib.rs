//! What Layerpack knows about a pageserver: how its work directory is laid out, how its layers are named and what
//! its timeline metadata says. Nothing below this crate parses a name or looks at a tenant directory.
//!
//! - [`ParsedLayerName`] is the grammar of layer names; [`in_layout`] maps names between layouts;
//! - [`LayerMap`] knows which layers a read needs;
//! - [`ParsedMetadata`] reads the `metadata` file;
//! - [`WorkDir`] lists tenants and timelines and [scans](WorkDir::scan) one timeline;
//! - [`backup_timeline`] and [`restore_timeline`] are the engine's backup and restore of a work directory;
//! - [`Service`] is the background service that a pageserver links;
//! - [`RemoteUrl`] is the way from a URL to a store.

mod branches;
mod layer_map;
mod layer_name;
mod metadata;
mod remote;
mod service;
mod timeline;
mod workdir;

pub use branches::{WorkDirBranches, is_newer_in};
pub use layer_map::{LayerMap, ReadLayers, ReadPart};
pub use layer_name::{
    KeyRange, KeyedName, LayerKey, LayerKind, Layout, OpaqueName, ParsedLayerName, Relish, RelishName,
    SlruKind, in_layout,
};
pub use metadata::{METADATA_BYTES, MetadataError, MetadataForm, ParsedMetadata};
pub use remote::{Absent, Access, InvalidRemoteUrl, RemoteError, RemoteUrl, without_secrets};
pub use service::{
    AncestorTimeline, AttachedTimeline, CheckpointError, ReadError, Service, ServiceCollector, ServiceConfig,
    ServiceError, ServiceMetrics, TimelineMetrics, WaitError,
};
pub use timeline::{
    BackupChoices, Past, TimelineBackup, TimelineError, TimelinePlan, TimelineRestore, backup_timeline,
    local_timeline, plan_timeline_backup, plan_timeline_restore, restore_branch, restore_past,
    restore_timeline,
};
pub use workdir::{
    DirEntries, Listing, LocalLayer, METADATA_FILE, METADATA_FILE_BYTES_MAX, MetadataFile, SkipReason,
    Skipped, TimelineScan, WorkDir, WorkDirError,
};
