//! Tests of the exit codes.

use layer_archive::{Crc32c, FormatError, Generation, LayerName, Seq, WriterInfo};

use super::*;

const ID: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26";

fn storage(kind: ErrorKind, operation: Operation) -> Failure {
    EngineError::from(StorageError::new(kind, operation, "tenants/x", "test")).into()
}

fn too_new(source: FormatError) -> Failure {
    EngineError::ObjectTooNew { object: "log/1".into(), source }.into()
}

fn damaged(source: FormatError) -> Failure {
    EngineError::Damaged { object: "log/1".into(), range: None, source }.into()
}

#[test]
fn every_kind_of_error_has_its_code() {
    let (tenant, timeline): (TenantId, layer_archive::TimelineId) =
        (ID.parse().unwrap(), ID.parse().unwrap());
    let url = || "file:///x".to_owned();
    let name = LayerName::new("layer").unwrap();
    let checksum = FormatError::Checksum { what: "frame", offset: 0, expected: Crc32c(0), actual: Crc32c(1) };
    let cases: Vec<(u8, Failure)> = vec![
        (1, WorkDirError::NotAWorkDir("x".into()).into()),
        (
            1,
            EngineError::Local { doing: "read", path: "x".into(), source: io::ErrorKind::Other.into() }
                .into(),
        ),
        (1, EngineError::LayerChanged { path: "x".into() }.into()),
        (
            1,
            EngineError::MirrorTooMuch {
                tenant: tenant.clone(),
                timeline: timeline.clone(),
                removed: 6,
                total: 10,
            }
            .into(),
        ),
        (1, EngineError::UnfinishedRestore { tenant: tenant.clone(), timeline: timeline.clone() }.into()),
        (2, Failure::Usage("no remote".into())),
        (3, damaged(checksum)),
        (3, EngineError::MarkerDamaged { url: url(), why: "torn".into() }.into()),
        (3, storage(ErrorKind::NotFound, Operation::Get)),
        (3, storage(ErrorKind::Integrity, Operation::Get)),
        (4, EngineError::TimelineNotFound { tenant: tenant.clone(), timeline: timeline.clone() }.into()),
        (4, EngineError::LayerNotFound { tenant: tenant.clone(), timeline: timeline.clone(), name }.into()),
        (4, Failure::EmptyStore { url: url() }),
        (4, Failure::TenantNotFound { url: url(), tenant: tenant.clone() }),
        (5, EngineError::Fenced { tenant, timeline, seq: Seq(2), by: Box::<WriterInfo>::default() }.into()),
        (5, EngineError::StaleGeneration { ours: Generation(1), last: Generation(2) }.into()),
        (6, EngineError::NoStore { url: url() }.into()),
        (6, EngineError::StoreTooNew { url: url(), needed: 9, supported: 1 }.into()),
        (6, too_new(FormatError::TooNew { what: "bundle", needed: 9, supported: 1 })),
        (6, storage(ErrorKind::StoreMissing, Operation::Open)),
        (6, storage(ErrorKind::PermissionDenied, Operation::Get)),
        (6, storage(ErrorKind::Connection, Operation::List)),
        (6, storage(ErrorKind::Integrity, Operation::PutCreate)),
        (6, storage(ErrorKind::StorageFull, Operation::PutCreate)),
        (6, RemoteError::NotBuiltIn { url: url(), backend: "s3" }.into()),
        (130, Failure::Interrupted),
        (143, Failure::Terminated),
    ];
    for (code, failure) in cases {
        assert_eq!(failure.exit().code(), code, "{failure:?}");
    }
}

#[test]
fn of_several_ends_the_one_that_needs_a_person_most_counts() {
    assert_eq!(Exit::Done.or_worse(Exit::Failed), Exit::Failed);
    assert_eq!(Exit::Damaged.or_worse(Exit::Failed), Exit::Damaged);
    assert_eq!(Exit::Failed.or_worse(Exit::Fenced), Exit::Fenced);
    assert_eq!(Exit::Fenced.or_worse(Exit::Damaged), Exit::Damaged);
}
