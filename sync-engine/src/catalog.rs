//! What is in a store: tenants, timelines, and the objects of a timeline.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{PayloadId, Seq, TenantId, TimelineId};
use storage_api::{KeyPrefix, ListRequest, ObjectInfo, ObjectStore, ObjectStoreExt};

use crate::gc::points_in_time;
use crate::layout::{ObjectName, StoreLayout, TimelineKeys, timeline_of};
use crate::{Error, Result, Store};

/// The objects of a timeline, as lists found them.
#[derive(Clone, Debug, Default)]
pub struct TimelineListing {
    /// Records, by number.
    pub records: BTreeMap<Seq, ObjectInfo>,
    /// Manifests, by the number of their last record.
    pub manifests: BTreeMap<Seq, ObjectInfo>,
    /// Payload objects. Empty where [`whole`](Self::whole) does not hold.
    pub payloads: BTreeMap<PayloadId, ObjectInfo>,
    /// Objects whose keys mean nothing here.
    pub unknown: Vec<ObjectInfo>,
    /// Whether all objects were listed, and not only what opening needs.
    pub whole: bool,
}

impl TimelineListing {
    /// Lists a timeline: one request where it has no more objects than a page holds, else the manifests and the
    /// records after the newest of them.
    pub async fn read(objects: &dyn ObjectStore, keys: &TimelineKeys) -> Result<Self> {
        let request = ListRequest { prefix: keys.prefix().clone(), ..ListRequest::default() };
        let page = objects.list(&request).await?;
        let mut listing = Self::default();
        if page.next.is_none() {
            listing.add(keys, page.objects);
            listing.whole = true;
            return Ok(listing);
        }
        listing.add(keys, objects.list_all(&keys.manifests()?).await?);
        let newest = listing.manifests.keys().next_back().map(|seq| keys.record(*seq)).transpose()?;
        let after = newest.map(|key| key.as_str().to_owned());
        listing.add(keys, objects.list_after(&keys.log()?, after).await?);
        Ok(listing)
    }

    /// Lists every object of a timeline.
    pub async fn read_whole(objects: &dyn ObjectStore, keys: &TimelineKeys) -> Result<Self> {
        let mut listing = Self::default();
        listing.add(keys, objects.list_all(keys.prefix()).await?);
        listing.whole = true;
        Ok(listing)
    }

    /// Lists the manifests alone.
    pub async fn read_manifests(
        objects: &dyn ObjectStore,
        keys: &TimelineKeys,
    ) -> Result<BTreeMap<Seq, ObjectInfo>> {
        let mut listing = Self::default();
        listing.add(keys, objects.list_all(&keys.manifests()?).await?);
        Ok(listing.manifests)
    }

    fn add(&mut self, keys: &TimelineKeys, objects: Vec<ObjectInfo>) {
        for object in objects {
            match keys.parse(&object.key) {
                Some(ObjectName::Record(seq)) => drop(self.records.insert(seq, object)),
                Some(ObjectName::Manifest(seq)) => drop(self.manifests.insert(seq, object)),
                Some(ObjectName::Payload(id)) => drop(self.payloads.insert(id, object)),
                None => self.unknown.push(object),
            }
        }
    }

    /// The oldest manifest behind which the log is whole, or damaged: gc deletes manifests before the records below them.
    /// Behind one that came late the log may have been collected before.
    ///
    /// Where no record is missing behind a manifest, none was collected. Else it is the one that was there before every
    /// manifest above it, by the store's times; the times of a store that was copied are not those.
    pub(crate) fn oldest_in_time(&self) -> Option<Seq> {
        let newest = self.newest();
        let mut oldest = None;
        let mut earliest = None;
        for (seq, info) in self.manifests.iter().rev() {
            if earliest.is_none_or(|earliest| info.last_modified < earliest) {
                (oldest, earliest) = (Some(*seq), Some(info.last_modified));
            }
        }
        let whole = points_in_time(self, newest).and_then(|points| {
            let behind = self.manifests.range(points.oldest..).next();
            behind.map(|(seq, _)| *seq)
        });
        whole.filter(|whole| oldest.is_none_or(|oldest| *whole < oldest)).or(oldest)
    }

    /// The number of the newest record that is told of.
    pub(crate) fn newest(&self) -> Seq {
        let last = |numbers: Option<&Seq>| numbers.copied().unwrap_or_default();
        last(self.records.keys().next_back()).max(last(self.manifests.keys().next_back()))
    }

    /// The first of the records after `base`, up to `until`, that was not listed.
    pub(crate) fn first_gap(&self, base: Seq, until: Seq) -> Option<Seq> {
        let mut next = base.next();
        for seq in self.records.range(next..).map(|(seq, _)| *seq).take_while(|seq| *seq <= until) {
            if seq != next {
                break;
            }
            next = seq.next();
        }
        (next <= until).then_some(next)
    }

    /// Whether the timeline has neither records nor manifests.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.manifests.is_empty()
    }

    /// Stored bytes of all objects listed.
    pub fn stored_bytes(&self) -> u64 {
        let objects = self.records.values().chain(self.manifests.values()).chain(self.payloads.values());
        objects.map(|object| object.size).sum()
    }
}

/// The timelines of a store.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Sorted by tenant and timeline.
    pub timelines: Vec<CatalogEntry>,
}

/// A timeline that a store has objects of.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// The tenant.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// Its objects, where finding the timeline has shown them all.
    pub listing: Option<TimelineListing>,
}

impl Catalog {
    /// Finds the timelines of a store, or of one tenant, or one timeline: one request for a small store.
    pub async fn read(
        store: &Store,
        tenant: Option<&TenantId>,
        timeline: Option<&TimelineId>,
    ) -> Result<Self> {
        let objects = &**store.objects();
        if let (Some(tenant), Some(timeline)) = (tenant, timeline) {
            let keys = TimelineKeys::new(tenant, timeline)?;
            let listing = TimelineListing::read(objects, &keys).await?;
            if listing.is_empty() {
                let (tenant, timeline) = (tenant.clone(), timeline.clone());
                return Err(Error::TimelineNotFound { tenant, timeline });
            }
            let entry =
                CatalogEntry { tenant: tenant.clone(), timeline: timeline.clone(), listing: Some(listing) };
            return Ok(Self { timelines: vec![entry] });
        }
        let prefix = match tenant {
            Some(tenant) => format!("{}{tenant}/", StoreLayout::TENANTS),
            None => StoreLayout::TENANTS.to_owned(),
        };
        let request = ListRequest { prefix: KeyPrefix::new(prefix)?, ..ListRequest::default() };
        let page = objects.list(&request).await?;
        if page.next.is_none() {
            return Self::from_objects(page.objects);
        }
        Self::read_rolled_up(objects, tenant).await
    }

    /// Sorts the objects of a whole store by their timelines.
    fn from_objects(objects: Vec<ObjectInfo>) -> Result<Self> {
        let mut by_timeline: BTreeMap<(TenantId, TimelineId), Vec<ObjectInfo>> = BTreeMap::new();
        for object in objects {
            if let Some(id) = timeline_of(object.key.as_str()) {
                by_timeline.entry(id).or_default().push(object);
            }
        }
        let mut catalog = Self::default();
        for ((tenant, timeline), objects) in by_timeline {
            let mut listing = TimelineListing { whole: true, ..TimelineListing::default() };
            listing.add(&TimelineKeys::new(&tenant, &timeline)?, objects);
            if !listing.is_empty() {
                catalog.timelines.push(CatalogEntry { tenant, timeline, listing: Some(listing) });
            }
        }
        Ok(catalog)
    }

    /// Finds the timelines of a large store by lists of their prefixes alone.
    async fn read_rolled_up(objects: &dyn ObjectStore, tenant: Option<&TenantId>) -> Result<Self> {
        let tenants: BTreeSet<TenantId> = match tenant {
            Some(tenant) => BTreeSet::from([tenant.clone()]),
            None => children(objects, KeyPrefix::new(StoreLayout::TENANTS)?)
                .await?
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
        };
        let mut catalog = Self::default();
        for tenant in tenants {
            let prefix = KeyPrefix::new(format!("{}{tenant}/timelines/", StoreLayout::TENANTS))?;
            for name in children(objects, prefix).await? {
                if let Ok(timeline) = name.parse() {
                    let tenant = tenant.clone();
                    catalog.timelines.push(CatalogEntry { tenant, timeline, listing: None });
                }
            }
        }
        Ok(catalog)
    }
}

/// The names of what is directly below a prefix.
async fn children(objects: &dyn ObjectStore, prefix: KeyPrefix) -> Result<BTreeSet<String>> {
    let mut request = ListRequest { prefix, rolled_up: true, ..ListRequest::default() };
    let mut names = BTreeSet::new();
    loop {
        let page = objects.list(&request).await?;
        let below = page.common_prefixes.iter().filter_map(|child| {
            child.as_str().strip_prefix(request.prefix.as_str())?.strip_suffix('/').map(str::to_owned)
        });
        names.extend(below);
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return Ok(names),
        }
    }
}
