//! Branches: what their ancestors are told of them, which layers they keep, and the way back to those.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{
    Ancestor, BranchPoint, BundleWriter, LayerName, Level, Lsn, LsnRange, RemovalReason, Removed, TimelineId,
};
use sync_engine::{
    Ancestry, BackupReport, BranchChange, Draft, Error, KeptLayer, LocalLayer, LocalTimeline, Mirror, Store,
    TimelineView, TimelineWriter, ancestors_first, change_branch_point, execute_backup, find_layers,
    plan_backup,
};

use crate::support::{TestStore, WorkDir, contents, files, name, options, tenant, writer_options};

/// The timeline number `number`.
fn id(number: u32) -> TimelineId {
    format!("{number:032x}").parse().unwrap()
}

async fn open(store: &Store, timeline: u32) -> TimelineView {
    TimelineView::open(store, &tenant(), &id(timeline), None).await.unwrap()
}

/// A timeline whose layers are called `<first LSN>-<anything>`, or have no LSNs.
fn local(work: &WorkDir, ancestor: Option<(u32, u64)>) -> LocalTimeline {
    let layers = files(work.path()).into_iter().map(|(file, bytes)| LocalLayer {
        path: work.path().join(&file),
        raw_size: bytes.len() as u64,
        lsn_range: file.split_once('-').and_then(|(lsn, _)| LsnRange::at(Lsn(lsn.parse().ok()?))),
        level: Level::IMAGE,
        name: name(&file),
    });
    let ancestor = ancestor.map(|(timeline, lsn)| Ancestor { timeline: id(timeline), lsn: Lsn(lsn) });
    LocalTimeline { layers: layers.collect(), ancestor, ..LocalTimeline::default() }
}

fn work(names: &[&str]) -> WorkDir {
    let work = WorkDir::new();
    for (seed, name) in (1..).zip(names) {
        work.put(name, &contents(seed, 3000));
    }
    work
}

async fn backup(
    store: &Store,
    timeline: u32,
    local: LocalTimeline,
    mirror: Mirror,
) -> Result<BackupReport, Error> {
    let view = open(store, timeline).await;
    let plan = plan_backup(&view.state, local, mirror, &options().progress).await?;
    execute_backup(store, view, plan, options()).await
}

fn points(view: &TimelineView) -> Vec<(TimelineId, u64)> {
    view.state.branch_points().map(|point| (point.timeline.clone(), point.lsn.0)).collect()
}

fn point(timeline: u32, lsn: u64) -> BranchPoint {
    BranchPoint { tenant: tenant(), timeline: id(timeline), lsn: Lsn(lsn) }
}

fn names(of: &[&str]) -> BTreeSet<LayerName> {
    of.iter().map(|of| name(of)).collect()
}

#[tokio::test]
async fn an_ancestor_is_told_of_a_branch_before_the_branch_has_a_record() {
    let test = TestStore::memory();
    let store = test.create().await;
    let branch = || local(&work(&["60-b"]), Some((1, 50)));
    let told = backup(&store, 2, branch(), Mirror::Off).await.unwrap_err();
    assert!(
        matches!(&told, Error::Ancestor { ancestor, source, .. }
            if *ancestor == id(1) && matches!(**source, Error::TimelineNotFound { .. })),
        "{told}"
    );
    let keys = |objects: Vec<storage_api::ObjectInfo>| objects.len();
    let list = storage_api::ListRequest {
        prefix: storage_api::KeyPrefix::new("tenants/").unwrap(),
        ..storage_api::ListRequest::default()
    };
    assert_eq!(keys(test.objects().list(&list).await.unwrap().objects), 0, "something was written");

    backup(&store, 1, local(&work(&["10-a"]), None), Mirror::Off).await.unwrap();
    let work = work(&["60-b"]);
    backup(&store, 2, local(&work, Some((1, 50))), Mirror::Off).await.unwrap();
    let ancestor = open(&store, 1).await;
    assert_eq!(points(&ancestor), [(id(2), 50)]);
    assert!(ancestor.state.is_released());
    let branch = open(&store, 2).await;
    assert_eq!(branch.state.ancestor(), Some(&Ancestor { timeline: id(1), lsn: Lsn(50) }));
    assert!(ancestor.state.time() <= branch.state.time());
    // It is said once: then a branch costs no more than any timeline.
    let before = test.counts();
    work.put("70-b", &contents(9, 100));
    backup(&store, 2, local(&work, Some((1, 50))), Mirror::Off).await.unwrap();
    assert_eq!(open(&store, 1).await.state.seq(), ancestor.state.seq());
    assert_eq!(test.counts().put - before.put, 2, "the claim and the record");
}

#[tokio::test]
async fn a_branch_that_cannot_be_told_of_gets_no_record() {
    let test = TestStore::memory();
    let store = test.create().await;
    backup(&store, 1, local(&work(&["10-a"]), None), Mirror::Off).await.unwrap();
    // Another writer claims the ancestor while the branch point is on its way: between two branches of one store the
    // record of the ancestor is what comes first, or nothing does.
    let view = open(&store, 1).await;
    let newer = sync_engine::WriterOptions {
        generation: Some(layer_archive::Generation(7)),
        ..writer_options("newer")
    };
    TimelineWriter::claim(&store, view, newer).await.unwrap();
    let view = open(&store, 2).await;
    let mut older = options();
    older.writer.generation = Some(layer_archive::Generation(3));
    let work = work(&["60-b"]);
    let plan =
        plan_backup(&view.state, local(&work, Some((1, 50))), Mirror::Off, &older.progress).await.unwrap();
    let refused = execute_backup(&store, view, plan, older).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Ancestor { source, .. } if matches!(**source, Error::StaleGeneration { .. })),
        "{refused}"
    );
    assert_eq!(open(&store, 2).await.state.seq().0, 0);
}

#[tokio::test]
async fn who_owns_a_branch_takes_its_ancestor_over_without_asking() {
    let test = TestStore::memory();
    let store = test.create().await;
    backup(&store, 1, local(&work(&["10-a"]), None), Mirror::Off).await.unwrap();
    let mut held =
        TimelineWriter::claim(&store, open(&store, 1).await, writer_options("other")).await.unwrap();
    let branch = work(&["60-b"]);
    backup(&store, 2, local(&branch, Some((1, 50))), Mirror::Off).await.unwrap();
    assert_eq!(points(&open(&store, 1).await), [(id(2), 50)]);
    let fenced = held.append(Draft::default(), BundleWriter::new()).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
}

#[tokio::test]
async fn branches_on_the_same_disk_go_into_the_record_of_their_ancestor() {
    let test = TestStore::memory();
    let store = test.create().await;
    let ancestor = work(&["10-a"]);
    let with = |branches: Vec<BranchPoint>| LocalTimeline { branches, ..local(&ancestor, None) };
    backup(&store, 1, with(vec![point(2, 50), point(3, 20)]), Mirror::Off).await.unwrap();
    let view = open(&store, 1).await;
    assert_eq!((view.state.seq().0, points(&view)), (2, vec![(id(2), 50), (id(3), 20)]));
    let branch = work(&["60-b"]);
    backup(&store, 2, local(&branch, Some((1, 50))), Mirror::Off).await.unwrap();
    backup(&store, 1, with(vec![point(2, 50), point(3, 20)]), Mirror::Off).await.unwrap();
    assert_eq!(open(&store, 1).await.state.seq().0, 2, "it knew");
    // What the caller's gc must spare is said by the timeline that is opened anew, manifests or not.
    backup(&store, 1, with(vec![point(4, 70)]), Mirror::Off).await.unwrap();
    assert_eq!(points(&open(&store, 1).await), [(id(2), 50), (id(3), 20), (id(4), 70)]);
}

#[tokio::test]
async fn a_branch_point_goes_when_its_branch_ends_or_has_another_ancestor() {
    let test = TestStore::memory();
    let store = test.create().await;
    for timeline in [1, 3] {
        backup(&store, timeline, local(&work(&["10-a"]), None), Mirror::Off).await.unwrap();
    }
    let branch = work(&["60-b"]);
    backup(&store, 2, local(&branch, Some((1, 50))), Mirror::Off).await.unwrap();
    backup(&store, 2, local(&branch, Some((1, 55))), Mirror::Off).await.unwrap();
    assert_eq!(points(&open(&store, 1).await), [(id(2), 55)]);
    backup(&store, 2, local(&branch, Some((3, 20))), Mirror::Off).await.unwrap();
    assert_eq!((points(&open(&store, 1).await), points(&open(&store, 3).await)), (vec![], vec![(id(2), 20)]));
    let (tenant, timeline) = (tenant(), id(3));
    for expected in [true, false] {
        let ended = change_branch_point(
            &store,
            (&tenant, &timeline),
            point(2, 20),
            BranchChange::Ends,
            writer_options("delete"),
        );
        assert_eq!(ended.await.unwrap().is_some(), expected, "said once");
    }
    assert_eq!(points(&open(&store, 3).await), []);
}

#[tokio::test]
async fn a_collected_layer_that_a_branch_needs_is_refused_and_the_branch_named() {
    let test = TestStore::memory();
    let store = test.create().await;
    let ancestor = work(&["10-a", "50-a", "51-a", "opaque"]);
    let told = LocalTimeline { branches: vec![point(2, 50)], ..local(&ancestor, None) };
    backup(&store, 1, told, Mirror::Off).await.unwrap();
    let view = open(&store, 1).await;
    let needed = |of: &str| view.state.branch_needing(&view.state.layers()[&name(of)]).is_some();
    assert_eq!(["10-a", "50-a", "51-a", "opaque"].map(needed), [true, true, false, true]);

    let remove =
        |of: &str, reason| Draft { removed: vec![Removed { name: name(of), reason }], ..Draft::default() };
    let mut writer = TimelineWriter::claim(&store, view, writer_options("gc")).await.unwrap();
    for of in ["10-a", "50-a", "opaque"] {
        let refused =
            writer.append(remove(of, RemovalReason::Collected), BundleWriter::new()).await.unwrap_err();
        assert!(
            matches!(&refused, Error::NeededByBranch { name: layer, branch, .. }
                if *layer == name(of) && branch.timeline == id(2)),
            "{refused}"
        );
        assert!(refused.to_string().contains(id(2).as_str()), "{refused}");
    }
    // One that begins in the same record counts.
    let beginning =
        Draft { branch_points_added: vec![point(3, 80)], ..remove("51-a", RemovalReason::Collected) };
    writer.append(beginning, BundleWriter::new()).await.unwrap_err();
    writer.append(remove("51-a", RemovalReason::Collected), BundleWriter::new()).await.unwrap();
    writer.append(remove("50-a", RemovalReason::Compacted), BundleWriter::new()).await.unwrap();
    let left: Vec<LayerName> = open(&store, 1).await.state.layers().keys().cloned().collect();
    assert_eq!(left, [name("10-a"), name("opaque")]);
    let ended = Draft { branch_points_removed: vec![point(2, 50)], ..Draft::default() };
    writer.append(ended, BundleWriter::new()).await.unwrap();
    writer.append(remove("10-a", RemovalReason::Collected), BundleWriter::new()).await.unwrap();
}

#[tokio::test]
async fn a_mirror_keeps_what_a_branch_needs_unless_it_was_compacted() {
    let test = TestStore::memory();
    let store = test.create().await;
    let ancestor = work(&["10-a", "20-a", "30-a", "51-a", "60-a", "70-a", "80-a"]);
    let told = |work: &WorkDir| LocalTimeline { branches: vec![point(2, 50)], ..local(work, None) };
    backup(&store, 1, told(&ancestor), Mirror::Off).await.unwrap();
    for gone in ["10-a", "20-a", "51-a"] {
        ancestor.remove(gone);
    }
    let compacted = LocalTimeline { compacted: names(&["20-a"]), ..told(&ancestor) };
    let report = backup(&store, 1, compacted, Mirror::Guarded).await.unwrap();
    assert_eq!(report.removed, 2);
    assert_eq!(report.kept, [KeptLayer { name: name("10-a"), branch: point(2, 50) }]);
    let view = open(&store, 1).await;
    assert!(view.state.layers().contains_key(&name("10-a")) && view.state.layers().len() == 5);
    // It is kept again and again, and nothing is written for that.
    let report = backup(&store, 1, told(&ancestor), Mirror::Guarded).await.unwrap();
    assert_eq!((report.kept.len(), report.seq), (1, view.state.seq()));
    // When the branch has ended it goes.
    let (tenant, timeline) = (tenant(), id(1));
    let ended = (BranchChange::Ends, writer_options("delete"));
    change_branch_point(&store, (&tenant, &timeline), point(2, 50), ended.0, ended.1).await.unwrap();
    let report = backup(&store, 1, local(&ancestor, None), Mirror::Guarded).await.unwrap();
    assert_eq!((report.removed, report.kept.len()), (1, 0));
}

#[tokio::test]
async fn a_layer_is_found_in_the_nearest_ancestor_at_or_below_where_it_was_left() {
    let test = TestStore::memory();
    let store = test.create().await;
    backup(&store, 1, local(&work(&["10-x", "30-old", "45-late", "both"]), None), Mirror::Off).await.unwrap();
    backup(&store, 2, local(&work(&["42-mid", "55-late", "both"]), Some((1, 40))), Mirror::Off)
        .await
        .unwrap();
    backup(&store, 3, local(&work(&["60-own"]), Some((2, 50))), Mirror::Off).await.unwrap();
    let find = async |of: &[&str]| {
        let found = find_layers(&store, open(&store, 3).await, &names(of)).await?;
        let found = found.into_iter().map(|(view, names)| (view.state.timeline().clone(), names));
        Ok::<BTreeMap<TimelineId, BTreeSet<LayerName>>, Error>(found.collect())
    };
    let found = find(&["60-own", "42-mid", "both", "10-x"]).await.unwrap();
    let expected =
        [(id(3), names(&["60-own"])), (id(2), names(&["42-mid", "both"])), (id(1), names(&["10-x"]))];
    assert_eq!(found, BTreeMap::from(expected));
    for beyond in ["55-late", "45-late", "nowhere"] {
        let missing = find(&["60-own", beyond]).await.unwrap_err();
        assert!(
            matches!(&missing, Error::LayerNotFound { timeline, name: layer, .. }
                if *timeline == id(3) && *layer == name(beyond)),
            "{missing}"
        );
    }
    // Of an ancestor's ancestor only what the way there lets through: a branch that left below its ancestor's own
    // beginning sees no more of what is before that.
    backup(&store, 4, local(&work(&["70-own"]), Some((2, 20))), Mirror::Off).await.unwrap();
    for (from, expected) in
        [(3, [(id(2), Lsn(50)), (id(1), Lsn(40))]), (4, [(id(2), Lsn(20)), (id(1), Lsn(20))])]
    {
        let view = open(&store, from).await;
        let (mut ancestry, mut way) = (Ancestry::of(&store, &view.state), Vec::new());
        while let Some(next) = ancestry.next().await.unwrap() {
            way.push((next.view.state.timeline().clone(), next.lsn));
        }
        assert_eq!(way, expected);
    }
    // Nothing but the timeline itself is opened for its own layers.
    let before = test.counts();
    find(&["60-own"]).await.unwrap();
    assert_eq!(test.counts().requests() - before.requests(), 2, "a list and a manifest");
}

/// A timeline whose commit names an ancestor, told or not.
async fn claim_ancestor(store: &Store, timeline: u32, ancestor: (u32, u64)) {
    let mut writer =
        TimelineWriter::claim(store, open(store, timeline).await, writer_options("hand")).await.unwrap();
    let ancestor = Some(Ancestor { timeline: id(ancestor.0), lsn: Lsn(ancestor.1) });
    writer.append(Draft { ancestor, ..Draft::default() }, BundleWriter::new()).await.unwrap();
}

async fn walk(store: &Store, from: u32) -> Result<usize, Error> {
    let view = open(store, from).await;
    let mut ancestry = Ancestry::of(store, &view.state);
    let mut passed = 0;
    while ancestry.next().await?.is_some() {
        passed += 1;
    }
    Ok(passed)
}

#[tokio::test]
async fn circles_missing_ancestors_and_ways_without_end_are_errors_that_say_where() {
    let test = TestStore::memory();
    let store = test.create().await;
    claim_ancestor(&store, 1, (2, 10)).await;
    let missing = walk(&store, 1).await.unwrap_err();
    assert!(
        matches!(&missing, Error::Ancestor { timeline, ancestor, source, .. }
            if (timeline, ancestor) == (&id(1), &id(2)) && matches!(**source, Error::TimelineNotFound { .. })),
        "{missing}"
    );
    claim_ancestor(&store, 2, (3, 10)).await;
    claim_ancestor(&store, 3, (1, 10)).await;
    for from in [1, 2, 3] {
        let circle = walk(&store, from).await.unwrap_err();
        assert!(matches!(circle, Error::AncestorCycle { .. }), "{circle}");
    }
    let own = backup(&store, 9, local(&work(&["1-a"]), Some((9, 5))), Mirror::Off).await.unwrap_err();
    assert!(matches!(own, Error::AncestorCycle { .. }), "{own}");
    // Nor is one made by way of others.
    claim_ancestor(&store, 11, (12, 10)).await;
    claim_ancestor(&store, 12, (13, 10)).await;
    backup(&store, 13, local(&work(&["1-a"]), None), Mirror::Off).await.unwrap();
    let before = open(&store, 13).await.state;
    let long = backup(&store, 13, local(&work(&["1-a"]), Some((11, 5))), Mirror::Off).await.unwrap_err();
    assert!(matches!(long, Error::AncestorCycle { .. }), "{long}");
    assert_eq!((open(&store, 13).await.state, points(&open(&store, 11).await)), (before, vec![]));

    backup(&store, 100, local(&work(&["1-a"]), None), Mirror::Off).await.unwrap();
    for timeline in 101..=201 {
        claim_ancestor(&store, timeline, (timeline - 1, 1)).await;
    }
    assert_eq!(walk(&store, 200).await.unwrap(), 100);
    let deep = walk(&store, 201).await.unwrap_err();
    assert!(matches!(deep, Error::TooManyAncestors { .. }), "{deep}");
}

#[test]
fn timelines_come_after_their_ancestors_and_circles_come_to_an_end() {
    let of = |pairs: &[(u32, u32)]| pairs.iter().copied().collect::<BTreeMap<u32, u32>>();
    assert_eq!(ancestors_first(&[1, 2, 3, 4], &of(&[(1, 3), (3, 4)])), [4, 3, 1, 2]);
    assert_eq!(ancestors_first(&[1, 2], &of(&[(1, 7), (2, 1)])), [1, 2]);
    let mut circle = ancestors_first(&[1, 2, 3], &of(&[(1, 2), (2, 1), (3, 1)]));
    circle.sort_unstable();
    assert_eq!(circle, [1, 2, 3]);
}
