//! Real names, names that are almost real, and names that are not.

use layer_archive::{Generation, Lsn, LsnRange};
use proptest::prelude::*;

use super::*;

/// Names as pageservers of several versions have written them.
const REAL: &[&str] = &[
    "000000067F000000050000400C0000000400-000000067F000000050000400C0000000472__0000000003103079-00000000066AFE41-v1-00000002",
    "000000067F000000050000403C0000000340-000000067F000000050000403C0000000380__00000000077F0B61-v1-00000002",
    "000000000000000000000000000000000000-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF__0000000008028AA9-00000000080B7539-v1-00000002",
    "010000000000000001000000000000000000-030000000000000000000000000000000002__0000000001500709-0000000003103079-v1-00000001",
    "000000067F00000005000040550000000040-0000000680000000000000095C0100000003__00000000066AFE41-v1-00000002",
    "000000067F00000005000040790100000000-0000000680000000000000095D0100000000__00000000077F0B61-00000002",
    "000000067F00000005000040530000000051-000000067F00000005000040530000000065__0000000003103079-00000000066AFE41-00000002",
    "000000000000000000000000000000000000-000000067F00000001000004DF0000000006__00000000014FED58",
    "000000000000000000000000000000000000-000000067F00000001000004DF0000000006__00000000014FED58-000000000154C481",
    "rel_1663_13990_2609_0_10_000000000169C348",
    "rel_1664_0_1260_0_0_000000000169C348_0000000001A00000",
    "rel_1663_13990_16384_2_0_000000000169C348_0000000001A00000_DROPPED",
    "pg_xact_0000_0_000000000169C348",
    "pg_xact_10000_0_000000000169C348",
    "pg_multixact_members_0000_0_000000000169C348_0000000001A00000",
    "pg_multixact_offsets_00FF_0_000000000169C348",
    "pg_filenodemap_1663_13990_0_000000000169C348",
    "pg_twophase_571_0_000000000169C348_0000000001A00000_DROPPED",
    "pg_control_checkpoint_0_000000000169C348",
    "pg_control_0_000000000169C348",
];

fn keyed(name: &str) -> KeyedName {
    match name.parse() {
        Ok(ParsedLayerName::Keyed(name)) => name,
        other => panic!("{name}: {other:?}"),
    }
}

fn relish(name: &str) -> RelishName {
    match name.parse() {
        Ok(ParsedLayerName::Relish(name)) => name,
        other => panic!("{name}: {other:?}"),
    }
}

fn lsns(start: u64, end: u64) -> LsnRange {
    LsnRange::new(Lsn(start), Lsn(end)).unwrap()
}

#[test]
fn real_names_give_themselves_back() {
    for name in REAL {
        let parsed: Result<ParsedLayerName, _> = name.parse();
        assert_eq!(parsed.map(|parsed| parsed.to_string()).as_deref(), Ok(*name), "{name}");
    }
}

#[test]
fn an_image_and_a_delta_by_key_range() {
    let image = keyed(REAL[1]);
    assert_eq!((image.kind(), image.lsn_range()), (LayerKind::Image, lsns(0x77F_0B61, 0x77F_0B62)));
    assert_eq!((image.generation(), image.layout()), (Some(Generation(2)), Some(Layout::WorkDirectory)));
    let mut key = [0, 0, 0, 0x06, 0x7F, 0, 0, 0, 0x05, 0, 0, 0x40, 0x3C, 0, 0, 0, 0x03, 0x40];
    assert_eq!(image.key_range().start(), LayerKey(key));
    key[17] = 0x7F;
    assert!(image.key_range().contains(LayerKey(key)));
    key[17] = 0x80;
    assert_eq!(image.key_range().end(), LayerKey(key));
    assert!(!image.key_range().contains(LayerKey(key)));

    let delta = keyed(REAL[2]);
    assert_eq!((delta.kind(), delta.lsn_range()), (LayerKind::Delta, lsns(0x802_8AA9, 0x80B_7539)));
    assert_eq!((delta.key_range().start(), delta.key_range().end()), (LayerKey::MIN, LayerKey::MAX));
    assert_eq!(keyed(REAL[5]).layout(), Some(Layout::Remote));
    assert_eq!((keyed(REAL[8]).generation(), keyed(REAL[8]).layout()), (None, None));
}

#[test]
fn names_by_relation() {
    let image = relish("rel_1663_13990_2609_0_10_000000000169C348");
    let fork = Relish::Relation { tablespace: 1663, database: 13990, relation: 2609, fork: 0 };
    assert_eq!((image.relish(), image.segment(), image.kind()), (fork, 10, LayerKind::Image));
    assert_eq!(image.lsn_range(), lsns(0x169_C348, 0x169_C349));
    assert!(!image.is_dropped());

    let dropped = relish("rel_1663_13990_16384_2_0_000000000169C348_0000000001A00000_DROPPED");
    assert_eq!((dropped.kind(), dropped.lsn_range()), (LayerKind::Delta, lsns(0x169_C348, 0x1A0_0000)));
    assert!(dropped.is_dropped());

    let cases = [
        ("pg_xact_00FF_3_000000000169C348", Relish::Slru { kind: SlruKind::Xact, file: 255 }),
        (
            "pg_multixact_members_0001_3_000000000169C348",
            Relish::Slru { kind: SlruKind::MultixactMembers, file: 1 },
        ),
        (
            "pg_multixact_offsets_0002_3_000000000169C348",
            Relish::Slru { kind: SlruKind::MultixactOffsets, file: 2 },
        ),
        ("pg_filenodemap_1664_0_3_000000000169C348", Relish::FileNodeMap { tablespace: 1664, database: 0 }),
        ("pg_twophase_571_3_000000000169C348", Relish::TwoPhase { xid: 571 }),
        ("pg_control_checkpoint_3_000000000169C348", Relish::Checkpoint),
        ("pg_control_3_000000000169C348", Relish::ControlFile),
    ];
    for (name, expected) in cases {
        assert_eq!((relish(name).relish(), relish(name).segment()), (expected, 3), "{name}");
    }
}

#[test]
fn almost_names_are_opaque() {
    const LOW: &str = "000000067F00000001000004DF0000000006";
    const HIGH: &str = "000000067F00000001000004DF0000000007";
    const LSN: &str = "00000000014FED58";
    let keyed = [
        (format!("{HIGH}-{LOW}__{LSN}"), OpaqueName::EmptyKeyRange),
        (format!("{LOW}-{LOW}__{LSN}"), OpaqueName::EmptyKeyRange),
        (format!("{LOW}-{HIGH}__{LSN}-{LSN}"), OpaqueName::EmptyLsnRange),
        (format!("{LOW}-{HIGH}__{LSN}-00000000014FED57-v1-00000001"), OpaqueName::EmptyLsnRange),
        (format!("{LOW}-{HIGH}__FFFFFFFFFFFFFFFF"), OpaqueName::EmptyLsnRange),
        (format!("{LOW}-{HIGH}__00000000014fed58"), OpaqueName::Lsn),
        (format!("{LOW}-{HIGH}__000000000014FED58"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}__0000000014FED58"), OpaqueName::Lsn),
        (format!("{LOW}-{HIGH}__+0000000014FED58"), OpaqueName::Lsn),
        (format!("{LOW}-{HIGH}__{LSN}-"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}__{LSN}-0000000A"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}__{LSN}-000000001"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}__{LSN}-v1-0000001"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}__{LSN}-v2-00000001"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}__{LSN}-v1-00000001-00000001"), OpaqueName::Lsn),
        (format!("{LOW}-{HIGH}__{LSN}\u{e4}"), OpaqueName::Suffix),
        (format!("{LOW}-{HIGH}_{LSN}"), OpaqueName::Shape),
        (format!("{}-{HIGH}__{LSN}", LOW.to_lowercase()), OpaqueName::Shape),
        (format!("{}\u{e4}-{HIGH}__{LSN}", &LOW[1..]), OpaqueName::Shape),
    ];
    let relish = [
        ("rel_1663_13990_2609_0_000000000169C348", OpaqueName::Number),
        ("rel_01663_13990_2609_0_10_000000000169C348", OpaqueName::Number),
        ("rel_+1663_13990_2609_0_10_000000000169C348", OpaqueName::Number),
        ("rel_1663_4294967296_2609_0_10_000000000169C348", OpaqueName::Number),
        ("rel_1663_13990_2609_256_10_000000000169C348", OpaqueName::Number),
        ("rel_1663_13990_2609_0__000000000169C348", OpaqueName::Number),
        ("rel_1663_13990_2609_0_10_169C348", OpaqueName::Lsn),
        ("rel_1663_13990_2609_0_10_000000000169C348_", OpaqueName::Lsn),
        ("rel_1663_13990_2609_0_10_000000000169C348_000000000169C348", OpaqueName::EmptyLsnRange),
        ("rel_1663_13990_2609_0_10_000000000169C348_DROPPED", OpaqueName::Lsn),
        ("rel_1663_13990_2609_0_10_000000000169C348_000000000169C349_dropped", OpaqueName::Suffix),
        ("rel_1663_13990_2609_0_10_000000000169C348_000000000169C349_DROPPED_", OpaqueName::Suffix),
        ("pg_xact_0_0_000000000169C348", OpaqueName::Number),
        ("pg_xact_00000_0_000000000169C348", OpaqueName::Number),
        ("pg_xact_00ff_0_000000000169C348", OpaqueName::Number),
        ("pg_control_checkpoint_000000000169C348", OpaqueName::Number),
        ("pg_wal_0_000000000169C348", OpaqueName::Shape),
        ("metadata", OpaqueName::Shape),
        ("", OpaqueName::Shape),
    ];
    let all = keyed.into_iter().chain(relish.map(|(name, why)| (name.to_owned(), why)));
    for (name, why) in all {
        assert_eq!(name.parse::<ParsedLayerName>(), Err(why), "{name}");
    }
}

#[test]
fn the_layouts_differ_in_the_generation_only() {
    let base = "000000000000000000000000000000000000-000000067F00000001000004DF0000000006__00000000014FED58-000000000154C481";
    let (local, remote) = (format!("{base}-v1-000000fe"), format!("{base}-000000fe"));
    for name in [&local, &remote] {
        assert_eq!(in_layout(name, Layout::WorkDirectory), local);
        assert_eq!(in_layout(name, Layout::Remote), remote);
    }
    for same in [base, "rel_1663_13990_2609_0_10_000000000169C348", "unknown-v1-00000001", "unknown-00000001"]
    {
        assert_eq!(in_layout(same, Layout::WorkDirectory), same);
        assert_eq!(in_layout(same, Layout::Remote), same);
    }
}

/// Any name of the grammar.
fn spelled() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-7][0-9A-F]{35}-[89A-F][0-9A-F]{35}__0[0-9A-F]{15}(-[1-9A-F][0-9A-F]{15})?((-v1)?-[0-9a-f]{8})?",
        "rel_[1-9][0-9]{0,8}_(0|[1-9][0-9]{4})_[1-9][0-9]{0,8}_[0-3]_[0-9]_0[0-9A-F]{15}(_F[0-9A-F]{15}(_DROPPED)?)?",
        "pg_(xact|multixact_(members|offsets))_[1-9A-F]?[0-9A-F]{4}_[0-9]_0[0-9A-F]{15}(_F[0-9A-F]{15}(_DROPPED)?)?",
        "pg_(filenodemap_1663_[1-9][0-9]{0,4}|twophase_[1-9]{1,9}|control(_checkpoint)?)_0_0[0-9A-F]{15}(_F[0-9A-F]{15})?",
    ]
}

proptest! {
    #[test]
    fn every_name_of_the_grammar_gives_itself_back(name in spelled()) {
        let parsed: Result<ParsedLayerName, _> = name.parse();
        prop_assert_eq!(parsed.map(|parsed| parsed.to_string()), Ok(name));
    }

    #[test]
    fn a_changed_name_is_opaque_or_gives_itself_back(
        real in proptest::sample::select(REAL),
        at in any::<proptest::sample::Index>(),
        removed in 0..3_usize,
        inserted in "[-_0-9A-Fav\u{e4}]{0,3}",
    ) {
        let mut name: Vec<char> = real.chars().collect();
        let start = at.index(name.len());
        let end = name.len().min(start + removed);
        name.splice(start..end, inserted.chars());
        let name = String::from_iter(name);
        if let Ok(parsed) = name.parse::<ParsedLayerName>() {
            prop_assert_eq!(parsed.to_string(), name);
        }
    }

    #[test]
    fn any_string_is_answered(name in any::<String>(), tail in "\\PC{0,40}") {
        let _ = name.parse::<ParsedLayerName>();
        for real in REAL {
            for cut in (0..=real.len()).step_by(7) {
                let _ = format!("{}{tail}", &real[..cut]).parse::<ParsedLayerName>();
            }
        }
    }

    #[test]
    fn a_stored_name_survives_the_remote_layout(name in spelled()) {
        let stored = in_layout(&name, Layout::WorkDirectory);
        let remote = in_layout(&stored, Layout::Remote);
        prop_assert_eq!(in_layout(&remote, Layout::WorkDirectory), stored);
    }
}
