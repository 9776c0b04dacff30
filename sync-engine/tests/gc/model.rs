//! The planner against a naive model: which places any state from the floor on can reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use layer_archive::{BundleId, BundleIndex, BundleWriter, Seq};
use proptest::prelude::*;
use storage_api::{Body, GetRange, ObjectStoreExt, PutMode};
use sync_engine::gc::{collect, points_in_time};
use sync_engine::{Draft, TakeOver, TimelineState};

use crate::bench::{Bench, DAY, append, contents as read, keeping, put_payload, state_at};
use crate::support::{contents, open};

#[derive(Clone, Debug)]
enum Step {
    /// New layers in a record, and the removal of what has these names.
    Record {
        add: Vec<u8>,
        remove: Vec<u8>,
    },
    /// The same in a payload object.
    Payload {
        add: Vec<u8>,
        remove: Vec<u8>,
    },
    /// A payload object that no record names.
    Orphan,
    Manifest,
    /// Another writer takes over.
    Claim,
    /// So many days pass.
    Days(u8),
    /// Deletes what a plan with so many days of retention condemns.
    Collect(u8),
    /// The whole collection by hand, repacking included.
    Gc(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::collection::vec(0..8u8, 0..4);
    let step = prop_oneof![
        6 => (names(), names()).prop_map(|(add, remove)| Step::Record { add, remove }),
        3 => (names(), names()).prop_map(|(add, remove)| Step::Payload { add, remove }),
        1 => Just(Step::Orphan),
        5 => Just(Step::Manifest),
        2 => Just(Step::Claim),
        3 => (0..9u8).prop_map(Step::Days),
        3 => (0..9u8).prop_map(Step::Collect),
        1 => (0..9u8).prop_map(Step::Gc),
    ];
    prop::collection::vec(step, 1..40)
}

/// What the model knows: every state there was, and the times of the manifests.
#[derive(Default)]
struct Model {
    states: BTreeMap<Seq, (TimelineState, BTreeMap<String, Vec<u8>>)>,
    manifests: BTreeMap<Seq, SystemTime>,
    claims: BTreeSet<Seq>,
}

impl Model {
    fn floor(&self, now: SystemTime, days: u8) -> Option<Seq> {
        let newest = self.manifests.keys().next_back()?;
        let is_old = |at: &SystemTime| now.duration_since(*at).unwrap() >= DAY * u32::from(days);
        self.manifests.iter().filter(|(seq, at)| *seq != newest && is_old(at)).map(|(seq, _)| *seq).max()
    }

    fn reachable(&self, from: Seq) -> BTreeSet<BundleId> {
        let states = self.states.range(from..).flat_map(|(_, (state, _))| state.layers().values());
        states.map(|layer| layer.place.bundle).collect()
    }
}

async fn check_plan(bench: &Bench, model: &mut Model, days: u8) {
    let policy = keeping(DAY * u32::from(days));
    let survey = bench.survey(&policy).await;
    let plan = sync_engine::gc::plan_gc(&survey, &policy, crate::bench::TARGET);
    assert!(plan.damage.is_empty(), "{plan:?}");
    let floor = model.floor(bench.now(), days);
    assert_eq!(plan.floor, floor);
    let (listing, state) = (&survey.view.listing, &survey.view.state);
    let doomed: BTreeSet<String> =
        plan.objects.iter().chain(&plan.manifests).map(|doomed| doomed.key.to_string()).collect();
    let mut expected = BTreeSet::new();
    if let Some(floor) = floor {
        let reachable = model.reachable(floor);
        expected.extend(listing.manifests.range(..floor).map(|(_, info)| info.key.to_string()));
        for (seq, info) in listing.records.range(..=floor) {
            if !model.claims.contains(seq) && !reachable.contains(&BundleId::Record(*seq)) {
                expected.insert(info.key.to_string());
            }
        }
        for (id, info) in &listing.payloads {
            let named_at =
                model.states.iter().find(|(_, (state, _))| state.bundle(BundleId::Payload(*id)).is_some());
            let is_reachable = reachable.contains(&BundleId::Payload(*id));
            let is_over = match named_at {
                Some((seq, _)) => *seq <= floor,
                None => {
                    let is_old =
                        bench.now().duration_since(info.last_modified).unwrap() >= DAY * u32::from(days);
                    // An orphan of a reign that the floor is past was garbage when the floor became old.
                    id.claim < model.states[&floor].0.claim() || id.claim < state.claim() && is_old
                }
            };
            if is_over && !is_reachable {
                expected.insert(info.key.to_string());
            }
        }
    }
    assert_eq!(doomed, expected);
    collect(&bench.store, &plan).await.unwrap();
    if let Some(floor) = floor {
        model.manifests.retain(|seq, _| *seq >= floor);
    }
}

async fn run(steps: Vec<Step>) {
    let bench = Bench::new().await;
    let mut model = Model::default();
    let mut writer = bench.writer("first").await;
    let mut live = BTreeMap::<String, Vec<u8>>::new();
    model.claims.insert(Seq(1));
    let mut serial = 0;
    for step in steps {
        let mut change = |add: &[u8], remove: &[u8]| {
            let gone: Vec<String> = remove.iter().map(|name| format!("layer-{name}")).collect();
            let gone: BTreeSet<String> =
                gone.into_iter().filter(|name| live.remove(name).is_some()).collect();
            let mut new = BTreeMap::new();
            for name in add {
                let name = format!("layer-{name}");
                if !live.contains_key(&name) {
                    serial += 1;
                    new.insert(name, contents(serial, 200 + usize::from(remove.is_empty()) * 20_000));
                }
            }
            live.extend(new.clone());
            (new, gone)
        };
        match step {
            Step::Record { add, remove } => {
                let (new, gone) = change(&add, &remove);
                let new: Vec<(&str, &[u8])> = new.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
                let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
                append(&mut writer, &new, &gone).await.unwrap();
            }
            Step::Payload { add, remove } => {
                let (new, gone) = change(&add, &remove);
                if new.is_empty() {
                    live.extend(gone.iter().map(|name| {
                        let (_, (_, before)) = model.states.last_key_value().unwrap();
                        (name.clone(), before[name].clone())
                    }));
                    continue;
                }
                let new: Vec<(&str, &[u8])> = new.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
                let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
                let (payload, added) = put_payload(&mut writer, &new).await;
                let removed = crate::bench::removed(&gone);
                let draft = Draft { payloads: vec![payload], added, removed, ..Draft::default() };
                writer.append(draft, BundleWriter::new()).await.unwrap();
            }
            Step::Orphan => drop(put_payload(&mut writer, &[("orphan", b"orphan")]).await),
            Step::Manifest => {
                let state = &writer.view().state;
                let key = writer.view().keys.manifest(state.seq()).unwrap();
                let body = Body::new(state.to_manifest().encode().unwrap());
                if bench.objects.put(&key, body, PutMode::Create).await.is_ok() {
                    model.manifests.insert(state.seq(), bench.now());
                }
            }
            Step::Claim => {
                writer = bench.writer("next").await;
                model.claims.insert(writer.view().state.seq());
            }
            Step::Days(days) => bench.clock.advance(DAY * u32::from(days)),
            Step::Collect(days) => check_plan(&bench, &mut model, days).await,
            Step::Gc(days) => {
                bench.gc(&keeping(DAY * u32::from(days)), TakeOver::Yes).await;
                writer = bench.writer("next").await;
                let state = writer.view().state.clone();
                // What it wrote is learnt from the store: states that hold the same, at other places.
                let listing = bench.listing().await;
                let known = model.states.keys().next_back().copied().unwrap_or(Seq(1));
                let oldest = points_in_time(&listing, state.seq()).unwrap().oldest;
                for seq in (known.0 + 1..state.seq().0).map(Seq) {
                    if let Some(info) = listing.records.get(&seq) {
                        let read = bench.objects.get_bytes(&info.key, GetRange::Full, u64::MAX);
                        let record = BundleIndex::parse_object(&read.await.unwrap().1).unwrap();
                        if record.commit().unwrap().flags.claim {
                            model.claims.insert(seq);
                        }
                    }
                    if seq >= oldest {
                        model.states.insert(seq, (state_at(&bench.store, seq).await, live.clone()));
                    }
                }
                model.claims.insert(state.seq());
                model.manifests =
                    listing.manifests.iter().map(|(seq, info)| (*seq, info.last_modified)).collect();
            }
        }
        let state = writer.view().state.clone();
        model.states.entry(state.seq()).or_insert((state, live.clone()));
    }
    // Every state from the oldest point on is what it was.
    let listing = bench.listing().await;
    let points = points_in_time(&listing, open(&bench.store).await.state.seq()).unwrap();
    for (seq, (state, layers)) in model.states.range(points.oldest..) {
        let there = state_at(&bench.store, *seq).await;
        assert_eq!(there.layers(), state.layers());
        assert_eq!(read(&bench.store, &there).await, *layers);
    }
    bench_is_whole(&bench, &live).await;
}

async fn bench_is_whole(bench: &Bench, live: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(read(&bench.store, &open(&bench.store).await.state).await, *live);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_condemns_what_a_naive_model_condemns_and_nothing_else(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
