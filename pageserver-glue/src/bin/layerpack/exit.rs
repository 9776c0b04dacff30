//! Exit codes: a contract with scripts. One function maps each kind of error to its code.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use layer_archive::TenantId;
use pageserver_glue::{RemoteError, TimelineError, WorkDirError};
use storage_api::{ErrorKind, Operation, StorageError};
use sync_engine::Error as EngineError;

#[cfg(test)]
mod tests;

/// How errors of S3 name their store.
const S3_BACKEND: &str = "s3";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All of it was done.
    Done,
    /// It failed, or what was skipped is listed.
    Failed,
    /// It was called wrongly.
    Usage,
    /// Damage was found, by `verify` or on the way.
    Damaged,
    /// The tenant, timeline or layer is not in a store that answers.
    NotFound,
    /// Another writer has the timeline.
    Fenced,
    /// The store is missing, unreachable or refuses.
    Unreachable,
    /// SIGINT came.
    Interrupted,
    /// SIGTERM came.
    Terminated,
}

impl Exit {
    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Damaged => 3,
            Self::NotFound => 4,
            Self::Fenced => 5,
            Self::Unreachable => 6,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// What to end with where parts of a command ended with `self` and `other`: what needs a person most.
    pub(crate) fn or_worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Done => 0,
            Self::Failed => 1,
            Self::NotFound => 2,
            Self::Unreachable => 3,
            Self::Fenced => 4,
            Self::Damaged => 5,
            Self::Usage | Self::Interrupted | Self::Terminated => 6,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("cannot use the configuration {}: correct it, or leave --config out", path.display())]
    Config { path: PathBuf, source: Box<dyn StdError + Send + Sync> },
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    #[error(
        "the store at {url} holds no timeline of tenant {tenant}: `layerpack status` lists what it holds"
    )]
    TenantNotFound { url: String, tenant: TenantId },
    #[error("the store at {url} holds no timelines: check the URL, `layerpack backup` puts some there")]
    EmptyStore { url: String },
    #[error("cannot {doing} {path}: check the path and the room on its disk")]
    File { doing: &'static str, path: String, source: io::Error },
    #[error("interrupted: run it again, nothing half-written is visible")]
    Interrupted,
    #[error("terminated: run it again, nothing half-written is visible")]
    Terminated,
}

impl Failure {
    /// What to do about it, where its own words do not say it.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Engine(error) | Self::Timeline(TimelineError::Engine(error)) => advice(error),
            Self::WorkDir(error) | Self::Timeline(TimelineError::WorkDir(error)) => match error {
                WorkDirError::Io { .. } => Some("check the path and who may use it, then run it again"),
                _ => None,
            },
            _ => None,
        }
    }

    /// The code this ends the process with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Config { .. } => Exit::Usage,
            Self::WorkDir(_) | Self::File { .. } => Exit::Failed,
            Self::Remote(_) => Exit::Unreachable,
            Self::Engine(error) | Self::Timeline(TimelineError::Engine(error)) => exit_of(error),
            Self::Timeline(TimelineError::WorkDir(_)) => Exit::Failed,
            Self::TenantNotFound { .. } | Self::EmptyStore { .. } => Exit::NotFound,
            Self::Interrupted => Exit::Interrupted,
            Self::Terminated => Exit::Terminated,
        }
    }
}

/// What to do about an error of the engine whose own words do not say it.
pub(crate) fn advice(error: &EngineError) -> Option<&'static str> {
    match error {
        EngineError::Storage(error) => match error.kind() {
            ErrorKind::NotFound => Some("the store has lost this object, restore it from another copy"),
            ErrorKind::StorageFull => Some("make room in the store and run it again"),
            ErrorKind::Throttled => Some("run it again when the store is less busy"),
            // What S3 refuses comes with its cause and remedy.
            ErrorKind::StoreMissing | ErrorKind::Unauthenticated | ErrorKind::PermissionDenied
                if error.backend() == S3_BACKEND =>
            {
                None
            }
            ErrorKind::StoreMissing => Some("check the URL"),
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Some("check who may use the store"),
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Interrupted | ErrorKind::Unexpected => {
                Some(match error.backend() {
                    S3_BACKEND => "run it again",
                    "localfs" => "check the store and run it again",
                    // Of the decorators, which do not know where they are.
                    _ => "check the endpoint, the network and the store, then run it again",
                })
            }
            _ => None,
        },
        EngineError::Ancestor { source, .. } => match &**source {
            EngineError::TimelineNotFound { .. } => {
                Some("back the ancestor up first, a branch is not whole without it")
            }
            source => advice(source),
        },
        EngineError::Local { .. } => Some("check the path and the room on its disk, then run it again"),
        EngineError::LayerChanged { .. } => Some("run the backup again"),
        _ => None,
    }
}

/// The code for an error of the engine.
pub(crate) fn exit_of(error: &EngineError) -> Exit {
    match error {
        EngineError::Storage(error) => exit_of_storage(error),
        EngineError::NoStore { .. }
        | EngineError::StoreTooNew { .. }
        | EngineError::StoreCannotFence { .. }
        | EngineError::UnknownOutcome { .. }
        | EngineError::ObjectTooNew { .. } => Exit::Unreachable,
        EngineError::MarkerDamaged { .. }
        | EngineError::Damaged { .. }
        | EngineError::SourceDamaged { .. }
        | EngineError::SiblingDamaged { .. }
        | EngineError::Gap { .. }
        | EngineError::AncestorCycle { .. } => Exit::Damaged,
        EngineError::Ancestor { source, .. } => exit_of(source),
        EngineError::TimelineNotFound { .. }
        | EngineError::TimelineDeleted { .. }
        | EngineError::NothingCommitted { .. }
        | EngineError::PointNotFound { .. }
        | EngineError::AncestorMissing { .. }
        | EngineError::AncestorLacks { .. }
        | EngineError::SourceEmpty { .. }
        | EngineError::LayerNotFound { .. }
        | EngineError::LayerRemoved { .. } => Exit::NotFound,
        EngineError::Fenced { .. } | EngineError::Held { .. } | EngineError::StaleGeneration { .. } => {
            Exit::Fenced
        }
        EngineError::Key(_)
        | EngineError::Unstable { .. }
        | EngineError::Local { .. }
        | EngineError::LayerChanged { .. }
        | EngineError::NameTaken { .. }
        | EngineError::EqualLayerFailed { .. }
        | EngineError::Unpackable { .. }
        | EngineError::MirrorTooMuch { .. }
        | EngineError::UnfinishedRestore { .. }
        | EngineError::NeededByBranch { .. }
        | EngineError::TooManyAncestors { .. }
        | EngineError::TimelineExists { .. }
        | EngineError::HasBranches { .. }
        | EngineError::Task(_) => Exit::Failed,
        // The engine may learn new errors; until they have a code here they are failures.
        _ => Exit::Failed,
    }
}

fn exit_of_storage(error: &StorageError) -> Exit {
    let reading = matches!(error.operation(), Operation::Get | Operation::Head);
    match error.kind() {
        // A timeline, record or layer that is simply not there is an error of its own: this object was named.
        ErrorKind::NotFound | ErrorKind::Range => Exit::Damaged,
        ErrorKind::Integrity if reading => Exit::Damaged,
        ErrorKind::AlreadyExists | ErrorKind::PreconditionFailed | ErrorKind::Cancelled => Exit::Failed,
        ErrorKind::StoreMissing
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Throttled
        | ErrorKind::Connection
        | ErrorKind::Timeout
        | ErrorKind::Interrupted
        | ErrorKind::Integrity
        | ErrorKind::StorageFull
        | ErrorKind::Unsupported
        | ErrorKind::Invalid
        | ErrorKind::Unexpected => Exit::Unreachable,
        _ => Exit::Failed,
    }
}
