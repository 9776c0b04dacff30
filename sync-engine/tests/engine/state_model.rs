//! The state of a timeline compared with a plain map, after random programs of commits, removals and reopenings.

use std::collections::BTreeMap;

use crate::support::{TestStore, WorkDir, assert_restores, backup_with, contents, open, options};
use layer_archive::Manifest;
use proptest::prelude::*;
use sync_engine::{Mirror, TimelineState};

#[derive(Clone, Debug)]
enum Step {
    /// Freeze a layer with these contents.
    Put { name: u8, seed: u64, len: usize },
    /// Let go of a layer.
    Remove { name: u8 },
    /// Back up, mirroring or not, into bundles of at most so many bytes.
    Backup { mirror: Mirror, target: u64 },
    /// Replace the newest manifest by garbage.
    DamageManifest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![Just(0), 1usize..5_000, Just(262_144), 262_145usize..400_000];
    let put = (0..12u8, 0..6u64, len).prop_map(|(name, seed, len)| Step::Put { name, seed, len });
    let mirror = prop_oneof![Just(Mirror::Off), Just(Mirror::Forced)];
    let target = prop_oneof![Just(1u64), Just(20_000), Just(32 << 20)];
    let step = prop_oneof![
        4 => put,
        1 => (0..12u8).prop_map(|name| Step::Remove { name }),
        3 => (mirror, target).prop_map(|(mirror, target)| Step::Backup { mirror, target }),
        1 => Just(Step::DamageManifest),
    ];
    prop::collection::vec(step, 1..25)
}

async fn run(steps: Vec<Step>) {
    let test = TestStore::memory();
    let store = test.create().await;
    let work = WorkDir::new();
    // What is on the disk, and what the store must hold.
    let (mut local, mut stored) = (BTreeMap::new(), BTreeMap::<String, Vec<u8>>::new());
    for step in steps {
        match step {
            Step::Put { name, seed, len } => {
                // A layer never changes: a name is taken again only once the store has let go of it.
                let name = format!("layer-{name}");
                if !local.contains_key(&name) && !stored.contains_key(&name) {
                    work.put(&name, &contents(seed, len));
                    local.insert(name, contents(seed, len));
                }
            }
            Step::Remove { name } => {
                if local.remove(&format!("layer-{name}")).is_some() {
                    work.remove(&format!("layer-{name}"));
                }
            }
            Step::Backup { mirror, target } => {
                let mut options = options();
                options.pack.bundle_bytes_target = target;
                backup_with(&store, work.local(), mirror, options).await.unwrap();
                match mirror {
                    Mirror::Off => stored.extend(local.clone()),
                    Mirror::Guarded | Mirror::Forced => stored = local.clone(),
                }
            }
            Step::DamageManifest => {
                if let Some((_, info)) = open(&store).await.listing.manifests.last_key_value() {
                    let garbage = storage_api::Body::new("not a manifest");
                    let put = store.objects().put(&info.key, garbage, storage_api::PutMode::Overwrite);
                    put.await.unwrap();
                }
            }
        }
        let state = open(&store).await.state;
        let names: Vec<&str> = state.layers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, stored.keys().map(String::as_str).collect::<Vec<_>>());
        // Through a manifest and back the state is the same.
        let manifest = Manifest::decode(&state.to_manifest().encode().unwrap()).unwrap();
        assert_eq!(TimelineState::from_manifest(manifest).unwrap(), state);
    }
    if open(&store).await.state.seq().0 > 0 {
        assert_restores(&store, &stored).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_timeline_holds_what_a_plain_map_holds(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
