//! Which object has which key.

use layer_archive::{BundleId, PayloadId, Seq, TenantId, TimelineId};
use storage_api::{InvalidKey, Key, KeyPrefix};

const BUNDLE_SUFFIX: &str = ".tar.zst";

/// The keys of a store that belong to no timeline.
#[derive(Clone, Copy, Debug)]
pub struct StoreLayout;

impl StoreLayout {
    /// The store marker.
    pub const MARKER: &'static str = "layerpack.store";
    /// The object that proved create-only puts.
    pub const PROBE: &'static str = "layerpack.probe";
    /// The object that tells the time of the store's clock.
    pub const CLOCK: &'static str = "layerpack.clock";
    /// Above all tenants.
    pub const TENANTS: &'static str = "tenants/";
}

/// The keys of one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineKeys {
    prefix: KeyPrefix,
}

/// What a key below a timeline is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// A record.
    Record(Seq),
    /// A manifest.
    Manifest(Seq),
    /// A payload object.
    Payload(PayloadId),
}

impl TimelineKeys {
    /// The keys of `tenant`/`timeline`.
    pub fn new(tenant: &TenantId, timeline: &TimelineId) -> Result<Self, InvalidKey> {
        let prefix = format!("{}{tenant}/timelines/{timeline}/", StoreLayout::TENANTS);
        Ok(Self { prefix: KeyPrefix::new(prefix)? })
    }

    /// Above everything of the timeline.
    pub fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// Above the records.
    pub fn log(&self) -> Result<KeyPrefix, InvalidKey> {
        self.prefix.child("log")
    }

    /// Above the manifests.
    pub fn manifests(&self) -> Result<KeyPrefix, InvalidKey> {
        self.prefix.child("manifest")
    }

    /// Above the payload objects.
    pub fn payloads(&self) -> Result<KeyPrefix, InvalidKey> {
        self.prefix.child("payload")
    }

    /// The record `seq`.
    pub fn record(&self, seq: Seq) -> Result<Key, InvalidKey> {
        self.bundle(BundleId::Record(seq))
    }

    /// The manifest after record `seq`.
    pub fn manifest(&self, seq: Seq) -> Result<Key, InvalidKey> {
        self.prefix.key(&format!("manifest/{:016x}", seq.0))
    }

    /// The object that holds a bundle.
    pub fn bundle(&self, bundle: BundleId) -> Result<Key, InvalidKey> {
        self.prefix.key(&format!("{bundle}{BUNDLE_SUFFIX}"))
    }

    /// What `key` is of, if it is one of this timeline's.
    pub fn parse(&self, key: &Key) -> Option<ObjectName> {
        let rest = key.as_str().strip_prefix(self.prefix.as_str())?;
        if let Some(seq) = rest.strip_prefix("manifest/") {
            // A manifest's number is written like a record's.
            return match format!("log/{seq}").parse() {
                Ok(BundleId::Record(seq)) if seq > Seq(0) => Some(ObjectName::Manifest(seq)),
                _ => None,
            };
        }
        match rest.strip_suffix(BUNDLE_SUFFIX)?.parse() {
            // The first record is number 1.
            Ok(BundleId::Record(Seq(0))) => None,
            Ok(BundleId::Record(seq)) => Some(ObjectName::Record(seq)),
            Ok(BundleId::Payload(payload)) => Some(ObjectName::Payload(payload)),
            Err(_) => None,
        }
    }
}

/// Splits `tenants/<tenant>/timelines/<timeline>/...` off a key.
pub(crate) fn timeline_of(key: &str) -> Option<(TenantId, TimelineId)> {
    let (tenant, rest) = key.strip_prefix(StoreLayout::TENANTS)?.split_once('/')?;
    let (timeline, _) = rest.strip_prefix("timelines/")?.split_once('/')?;
    Some((tenant.parse().ok()?, timeline.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use layer_archive::Term;

    use super::*;

    #[test]
    fn keys_are_what_the_format_says_and_parse_back() {
        let id = "1f8ae1ef8989d5601e73fd13ae3dcd26";
        let keys = TimelineKeys::new(&id.parse().unwrap(), &id.parse().unwrap()).unwrap();
        let prefix = format!("tenants/{id}/timelines/{id}/");
        let payload = PayloadId { claim: Seq(0x11), term: Term(0xabc), number: 5 };
        let record = keys.record(Seq(255)).unwrap();
        let manifest = keys.manifest(Seq(255)).unwrap();
        let bundle = keys.bundle(BundleId::Payload(payload)).unwrap();
        assert_eq!(record.as_str(), format!("{prefix}log/00000000000000ff.tar.zst"));
        assert_eq!(manifest.as_str(), format!("{prefix}manifest/00000000000000ff"));
        let name = "0000000000000011-0000000000000abc-00000005";
        assert_eq!(bundle.as_str(), format!("{prefix}payload/{name}.tar.zst"));
        assert_eq!(keys.parse(&record), Some(ObjectName::Record(Seq(255))));
        assert_eq!(keys.parse(&manifest), Some(ObjectName::Manifest(Seq(255))));
        assert_eq!(keys.parse(&bundle), Some(ObjectName::Payload(payload)));
        let zero = [format!("log/{:016}.tar.zst", 0), format!("manifest/{:016}", 0)];
        let others =
            ["log/ff.tar.zst", "log/00000000000000ff", "manifest/00000000000000FF", "x", "payload/1.tar.zst"];
        for other in zero.iter().map(String::as_str).chain(others) {
            assert_eq!(keys.parse(&Key::new(format!("{prefix}{other}")).unwrap()), None, "{other}");
        }
    }
}
