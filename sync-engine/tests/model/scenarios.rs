//! What is checked: each scenario lets some things go wrong and keeps the others out, so that all of its states can be
//! visited. Bounds are small for every run of the tests and larger for a proof.

use crate::system::{Bounds, Kind};
use crate::writer::Intent;

/// The variable that asks for the larger bounds; `cargo xtask prove` sets it.
const PROVE_VARIABLE: &str = "LAYERPACK_PROVE";

/// Whether there is time for the larger bounds.
pub(crate) fn proving() -> bool {
    std::env::var(PROVE_VARIABLE).is_ok()
}

/// `usual`, or `larger` when proving.
fn bound<T>(usual: T, larger: T) -> T {
    if proving() { larger } else { usual }
}

/// Two writers that sleep anywhere and whose answers get lost; manifests by either; gc.
pub(crate) fn writers() -> Bounds {
    Bounds {
        writers: vec![Kind::Pageserver; 2],
        runs: 1,
        records: bound(4, 5),
        late: 1,
        snapshots: bound(2, 3),
        collections: 1,
        reader: false,
        bystander: false,
        intents: vec![Intent::Note],
        uploads: false,
        damage: 0,
        lost_record: false,
        symmetric: true,
    }
}

/// The same writers, and somebody else who writes manifests.
pub(crate) fn bystander() -> Bounds {
    Bounds { records: 4, bystander: true, ..writers() }
}

/// The same writers, which also die and start again.
pub(crate) fn restarts() -> Bounds {
    Bounds { runs: 2, records: bound(3, 4), snapshots: 2, ..writers() }
}

/// A reader beside them, a request at a time.
pub(crate) fn reading() -> Bounds {
    Bounds { records: 4, late: bound(0, 1), snapshots: 2, reader: true, ..writers() }
}

/// Layers in records and payload objects, copied, moved, removed and added again.
pub(crate) fn layers() -> Bounds {
    let mut intents = vec![Intent::Add, Intent::Remove, Intent::NameUploaded];
    intents.extend(proving().then_some(Intent::Note));
    Bounds { records: 5, late: 0, snapshots: 2, intents, uploads: true, ..writers() }
}

/// A writer alone, longer.
pub(crate) fn alone() -> Bounds {
    let intents = vec![Intent::Add, Intent::Remove, Intent::NameUploaded, Intent::Note];
    Bounds {
        writers: vec![Kind::Pageserver],
        records: bound(6, 7),
        snapshots: 3,
        collections: 1,
        intents,
        ..layers()
    }
}

/// What writers upload whose claims are void, and two collections.
pub(crate) fn orphans() -> Bounds {
    let intents = vec![Intent::Note, Intent::NameUploaded];
    Bounds { records: bound(5, 6), collections: 2, intents, ..layers() }
}

/// Two collections, the second of which deletes void claims.
pub(crate) fn collections() -> Bounds {
    Bounds { late: 0, collections: 2, snapshots: 3, ..writers() }
}

/// Manifests that break, at most one between two readings of gc.
pub(crate) fn damage() -> Bounds {
    Bounds { records: bound(4, 5), late: 0, snapshots: 3, collections: bound(1, 2), damage: 2, ..writers() }
}

/// A record between others that vanishes under a reader.
pub(crate) fn lost_record() -> Bounds {
    Bounds {
        writers: vec![Kind::Pageserver],
        late: 0,
        snapshots: 1,
        collections: 0,
        reader: true,
        lost_record: true,
        ..writers()
    }
}

/// A pageserver that detaches, and a tool that appends only to what is released.
pub(crate) fn hand_over() -> Bounds {
    let writers = vec![Kind::Pageserver, Kind::Tool];
    let intents = vec![Intent::Note, Intent::Release];
    Bounds {
        writers,
        runs: bound(1, 2),
        records: 4,
        snapshots: 0,
        collections: 0,
        intents,
        symmetric: false,
        ..restarts()
    }
}

/// For random walks: longer than what can be visited as a whole.
pub(crate) fn walks() -> Bounds {
    let intents = vec![Intent::Note, Intent::Add, Intent::Remove, Intent::Release];
    Bounds {
        runs: 3,
        records: 12,
        late: 3,
        snapshots: 5,
        collections: 3,
        bystander: true,
        intents,
        symmetric: false,
        ..writers()
    }
}
