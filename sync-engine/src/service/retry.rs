//! What is done about an error: try again, wait for a person, or stop.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use storage_api::{ErrorKind, StorageError};

use crate::Error;

/// How long to wait before what failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryTimes {
    /// After the first failure. It doubles with each further one.
    pub first: Duration,
    /// At most, where trying again can help by itself.
    pub max: Duration,
    /// Where a person has to do something first: credentials, permissions, a missing bucket, a full store, damage, a
    /// layer that cannot be read.
    pub person: Duration,
}

impl Default for RetryTimes {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60), person: Duration::from_secs(300) }
    }
}

/// What an error calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// It may be over by itself.
    Again,
    /// Somebody has to do something.
    Person,
    /// The timeline is not this writer's any more.
    Stop,
}

/// What `error` calls for.
pub(super) fn remedy(error: &Error) -> Remedy {
    match error {
        Error::Storage(source) | Error::UnknownOutcome { source, .. } => storage_remedy(source),
        Error::Fenced { .. }
        | Error::Held { .. }
        | Error::StaleGeneration { .. }
        | Error::TimelineDeleted { .. } => Remedy::Stop,
        // It may yet be backed up; whoever has taken it over has not taken this timeline over.
        Error::Ancestor { source, .. } => match (&**source, remedy(source)) {
            (Error::TimelineNotFound { .. } | Error::NothingCommitted { .. }, _) => Remedy::Again,
            (_, Remedy::Stop) => Remedy::Person,
            (_, remedy) => remedy,
        },
        Error::Unstable { .. }
        | Error::Task(_)
        | Error::EqualLayerFailed { .. }
        | Error::RecordPending { .. } => Remedy::Again,
        Error::Key(_)
        | Error::NoStore { .. }
        | Error::MarkerDamaged { .. }
        | Error::StoreTooNew { .. }
        | Error::StoreCannotFence { .. }
        | Error::Damaged { .. }
        | Error::ObjectTooNew { .. }
        | Error::Gap { .. }
        | Error::TimelineNotFound { .. }
        | Error::AncestorCycle { .. }
        | Error::TooManyAncestors { .. }
        | Error::NeededByBranch { .. }
        | Error::PointNotFound { .. }
        | Error::TimelineExists { .. }
        | Error::HasBranches { .. }
        | Error::AncestorMissing { .. }
        | Error::AncestorLacks { .. }
        | Error::SourceDamaged { .. }
        | Error::SiblingDamaged { .. }
        | Error::SourceEmpty { .. }
        | Error::LayerNotFound { .. }
        | Error::LayerRemoved { .. }
        | Error::NameTaken { .. }
        | Error::Conflict { .. }
        | Error::MetadataOlder { .. }
        | Error::Local { .. }
        | Error::LayerChanged { .. }
        | Error::Unpackable { .. }
        | Error::MirrorTooMuch { .. }
        | Error::UnfinishedRestore { .. }
        | Error::NothingCommitted { .. } => Remedy::Person,
    }
}

fn storage_remedy(error: &StorageError) -> Remedy {
    match error.kind() {
        ErrorKind::StoreMissing
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::StorageFull
        | ErrorKind::Unsupported
        | ErrorKind::Invalid => Remedy::Person,
        // What this program does not know yet may be over by itself; the wait grows either way.
        _ => Remedy::Again,
    }
}

impl RetryTimes {
    /// How long to wait after the `failures`th failure in a row. Timelines that fail together do not come back together.
    pub(super) fn wait(&self, error: &Error, failures: u32, who: &impl Hash) -> Duration {
        let asked = match error {
            Error::Storage(error) | Error::UnknownOutcome { source: error, .. } => error.retry_after(),
            _ => None,
        };
        let full = match remedy(error) {
            Remedy::Person | Remedy::Stop => return self.person,
            Remedy::Again => {
                let doublings = failures.saturating_sub(1).min(16);
                self.first.saturating_mul(1 << doublings).min(self.max)
            }
        };
        let mut hasher = DefaultHasher::new();
        (who, failures).hash(&mut hasher);
        // Between half of it and all of it.
        let share = (hasher.finish() % 1000) as u32;
        let jittered = full / 2 + full / 2 * share / 1000;
        jittered.max(asked.unwrap_or_default().min(self.person))
    }
}

#[cfg(test)]
mod tests {
    use storage_api::Operation;

    use super::*;

    fn storage(kind: ErrorKind) -> Error {
        StorageError::new(kind, Operation::PutCreate, "k", "test").into()
    }

    #[test]
    fn waits_double_up_to_a_bound_with_jitter_and_what_needs_a_person_waits_long() {
        let times = RetryTimes::default();
        let timeout = storage(ErrorKind::Timeout);
        let mut last = Duration::ZERO;
        for failures in 1..=6 {
            let wait = times.wait(&timeout, failures, &"a");
            let full = Duration::from_secs(1 << (failures - 1));
            assert!(wait >= full / 2 && wait <= full && wait >= last, "{failures}: {wait:?}");
            last = wait;
        }
        assert!(times.wait(&timeout, u32::MAX, &"a") <= times.max);
        assert_ne!(times.wait(&timeout, 3, &"a"), times.wait(&timeout, 3, &"b"));
        for kind in [ErrorKind::PermissionDenied, ErrorKind::StorageFull, ErrorKind::StoreMissing] {
            assert_eq!(times.wait(&storage(kind), 1, &"a"), times.person);
        }
        let throttled = StorageError::new(ErrorKind::Throttled, Operation::PutCreate, "k", "test")
            .with_retry_after(Duration::from_secs(20));
        assert_eq!(times.wait(&throttled.into(), 1, &"a"), Duration::from_secs(20));
    }
}
