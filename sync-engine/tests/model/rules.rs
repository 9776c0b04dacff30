//! The rules of the protocol, each with a switch.

use std::collections::BTreeSet;

/// A rule that can be taken out. The numbers are those of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// 1: claims are never deleted.
    ClaimsStay,
    /// 2: a claim at or below the newest manifest is void.
    ClaimsAreJudged,
    /// 2: a manifest newer than what the writer has seen is taken, and the rest replayed.
    NewerManifestIsTaken,
    /// 2: behind a void claim a later claim of another fences.
    ForeignClaimFences,
    /// 2: a claim of which somebody has written a manifest already stands.
    OwnClaimStands,
    /// 2: before its claim stands a writer writes no manifest.
    SnapshotsWaitForTheClaim,
    /// 2: before its claim stands a writer uploads nothing.
    UploadsWaitForTheClaim,
    /// 3: the floor is not the newest manifest.
    FloorIsNotNewest,
    /// 3: the floor is read back.
    FloorIsReadBack,
    /// 3: the newest manifest is read back.
    NewestIsReadBack,
    /// 3: what is above the floor stays.
    AboveTheFloorStays,
    /// 3: what is live at the floor, or later, stays.
    LiveSinceTheFloorStays,
    /// 3: liveness is by place, not by name.
    LivenessIsByPlace,
    /// 3: manifests go before records.
    ManifestsGoFirst,
    /// 4: a manifest is of records that are known to exist.
    ManifestsOfAcknowledged,
    /// 5: a gap is damage and not the end.
    GapsAreDamage,
    /// 6: a move is ignored where the layer is not at the place that it names.
    MovesNameTheirPlace,
    /// 6: a payload object that has died is never named again.
    DeadStaysDead,
    /// 7: only what belongs to older claims is an orphan.
    OrphansAreOfOlderClaims,
    /// Open: who replayed anything, met a gap or got a 404 lists the manifests again.
    ReadersLookAgain,
    /// Open: a record of another history may only mean that the log was collected.
    MismatchesLookAgain,
    /// Append: one record in flight.
    OneInFlight,
    /// Append: an unknown outcome is not a success.
    UnknownIsNotSuccess,
    /// Append: the bytes of a number stay as they are, and ids, not writers, are compared.
    BytesAreFrozen,
    /// Hand-over: who has released writes no more.
    ReleasedIsTheEnd,
}

impl Rule {
    pub(crate) const ALL: [Self; 25] = [
        Self::ClaimsStay,
        Self::ClaimsAreJudged,
        Self::NewerManifestIsTaken,
        Self::ForeignClaimFences,
        Self::OwnClaimStands,
        Self::SnapshotsWaitForTheClaim,
        Self::UploadsWaitForTheClaim,
        Self::FloorIsNotNewest,
        Self::FloorIsReadBack,
        Self::NewestIsReadBack,
        Self::AboveTheFloorStays,
        Self::LiveSinceTheFloorStays,
        Self::LivenessIsByPlace,
        Self::ManifestsGoFirst,
        Self::ManifestsOfAcknowledged,
        Self::GapsAreDamage,
        Self::MovesNameTheirPlace,
        Self::DeadStaysDead,
        Self::OrphansAreOfOlderClaims,
        Self::ReadersLookAgain,
        Self::MismatchesLookAgain,
        Self::OneInFlight,
        Self::UnknownIsNotSuccess,
        Self::BytesAreFrozen,
        Self::ReleasedIsTheEnd,
    ];
}

/// Which rules hold.
#[derive(Clone, Debug)]
pub(crate) struct Rules(BTreeSet<Rule>);

impl Rules {
    pub(crate) fn all() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn without(rule: Rule) -> Self {
        Self([rule].into())
    }

    pub(crate) fn off(&self, rule: Rule) -> bool {
        self.0.contains(&rule)
    }

    pub(crate) fn on(&self, rule: Rule) -> bool {
        !self.off(rule)
    }
}
