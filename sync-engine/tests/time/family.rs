//! Timelines that are branches of each other, in several tenants and stores. A layer is called `<first LSN>-<anything>`,
//! or has no LSNs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use layer_archive::{
    Ancestor, BranchPoint, BundleWriter, FrameCompressor, Level, Lsn, LsnRange, PackedLayer, RawDigest,
    RemovalReason, Removed, TenantId, TimelineId, TimelineMetadata, member_header, padding_len,
};
use storage_api::{ManualClock, MemoryStore};
use sync_engine::{
    At, BranchChange, CopyOptions, CopyReport, CopyTarget, Draft, Error, PackOptions, Store, TakeOver,
    TimelineView, TimelineWriter, WriterOptions, change_branch_point, copy_timeline,
};

use crate::support::{TestStore, contents, name, noon, writer_options};

/// The timeline number `number`.
pub(crate) fn id(number: u32) -> TimelineId {
    format!("{number:032x}").parse().unwrap()
}

/// The tenant number `number`.
pub(crate) fn tenant(number: u32) -> TenantId {
    format!("{:032x}", 0xa0 + number).parse().unwrap()
}

/// Where a timeline is.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) store: &'a Store,
    pub(crate) tenant: u32,
}

pub(crate) struct Family {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) test: TestStore,
    pub(crate) store: Store,
}

impl Family {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(noon()));
        let memory = MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock));
        let test = TestStore::over(Arc::new(memory));
        let store = test.create().await;
        Self { clock, test, store }
    }

    /// Tenant 1: a root 1, its branch 2 at 50, and two branches of that: 3 at 60, and 4 at 40, which is below where 2
    /// begins.
    pub(crate) async fn lived() -> Self {
        let family = Self::new().await;
        let home = family.home();
        family.write(home, 1, at_lsn(70), &["10-a", "45-b", "60-late", "opaque"]).await;
        family.branch(home, 2, (1, 50), 65, &["55-c", "58-d"]).await;
        family.branch(home, 3, (2, 60), 66, &["61-e"]).await;
        family.branch(home, 4, (2, 40), 68, &["62-f"]).await;
        family
    }

    /// Tenant 1 of the first store.
    pub(crate) fn home(&self) -> Place<'_> {
        Place { store: &self.store, tenant: 1 }
    }

    pub(crate) fn writer_options(&self, program: &str) -> WriterOptions {
        WriterOptions { clock: Arc::<ManualClock>::clone(&self.clock), ..writer_options(program) }
    }

    /// Appends a record, with these layers, a second after the last one.
    pub(crate) async fn write(&self, at: Place<'_>, timeline: u32, draft: Draft, layers: &[&str]) {
        self.clock.advance(Duration::from_secs(1));
        let (view, options) = (open(at, timeline).await, self.writer_options("family"));
        let mut writer = TimelineWriter::claim(at.store, view, options).await.unwrap();
        writer.append(Draft { released: true, ..draft }, pack(layers)).await.unwrap();
        writer.detach().await.unwrap();
    }

    /// Makes a branch that is durable up to `lsn`.
    pub(crate) async fn branch(
        &self,
        at: Place<'_>,
        timeline: u32,
        (ancestor, left_at): (u32, u64),
        lsn: u64,
        layers: &[&str],
    ) {
        let ancestor = Ancestor { timeline: id(ancestor), lsn: Lsn(left_at) };
        let tenant = tenant(at.tenant);
        let point = BranchPoint { tenant: tenant.clone(), timeline: id(timeline), lsn: ancestor.lsn };
        let (of, options) = ((&tenant, &ancestor.timeline), self.writer_options("family"));
        change_branch_point(at.store, of, point, BranchChange::Begins, options).await.unwrap();
        let draft = Draft { ancestor: Some(ancestor), ..at_lsn(lsn) };
        self.write(at, timeline, draft, layers).await;
    }

    /// Copies a timeline of tenant 1 to where it has the same id.
    pub(crate) async fn copy(&self, timeline: u32, to: Place<'_>, at: At) -> Result<CopyReport, Error> {
        let from = TimelineView::open_at(&self.store, (&tenant(1), &id(timeline)), at, None).await?;
        let (tenant, timeline) = (tenant(to.tenant), id(timeline));
        let target = CopyTarget { store: to.store, tenant: &tenant, timeline: &timeline };
        copy_timeline(&self.store, &from, target, self.copy_options(at)).await
    }

    pub(crate) fn copy_options(&self, at: At) -> CopyOptions {
        let (writer, pack) = (self.writer_options("copy"), PackOptions::default());
        CopyOptions { writer, pack, take_over: TakeOver::No, at, progress: Arc::default() }
    }
}

/// Metadata at an LSN.
pub(crate) fn at_lsn(lsn: u64) -> Draft {
    let metadata = TimelineMetadata { file_name: name("metadata"), bytes: lsn.to_be_bytes().to_vec() };
    Draft { metadata: Some(metadata), disk_consistent_lsn: Some(Lsn(lsn)), ..Draft::default() }
}

pub(crate) fn without(layer: &str, reason: RemovalReason) -> Draft {
    Draft { removed: vec![Removed { name: name(layer), reason }], ..Draft::default() }
}

fn pack(layers: &[&str]) -> BundleWriter {
    let mut bundle = BundleWriter::new();
    for layer in layers {
        let bytes = contents(layer.bytes().map(u64::from).sum(), 3000);
        let mut plain = member_header(&name(layer), bytes.len() as u64).unwrap().to_vec();
        plain.extend(&bytes);
        plain.resize(plain.len() + padding_len(bytes.len() as u64), 0);
        bundle.push_frame(&FrameCompressor::new().unwrap().compress(&plain, Level::REPACK).unwrap()).unwrap();
        let lsn_range = layer.split_once('-').and_then(|(lsn, _)| LsnRange::at(Lsn(lsn.parse().ok()?)));
        bundle.push_layer(PackedLayer { name: name(layer), lsn_range, raw: RawDigest::of(&bytes) }).unwrap();
    }
    bundle
}

pub(crate) async fn open(at: Place<'_>, timeline: u32) -> TimelineView {
    TimelineView::open(at.store, &tenant(at.tenant), &id(timeline), None).await.unwrap()
}

pub(crate) async fn layers(at: Place<'_>, timeline: u32) -> BTreeSet<String> {
    open(at, timeline).await.state.layers().keys().map(ToString::to_string).collect()
}

/// The branches that a timeline knows.
pub(crate) async fn points(at: Place<'_>, timeline: u32) -> Vec<(TimelineId, u64)> {
    let view = open(at, timeline).await;
    view.state.branch_points().map(|point| (point.timeline.clone(), point.lsn.0)).collect()
}
