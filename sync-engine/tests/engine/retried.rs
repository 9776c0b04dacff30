//! The engine over the retry layer, as programs run it: what is lost in between, and how long a dead store is tried.

use std::sync::Arc;
use std::time::Duration;

use layer_archive::{BundleWriter, Seq};
use storage_api::{Clock, ManualClock, MemoryStore, ObjectStore, RetryPolicy, Retrying};
use sync_engine::{Created, Draft, Error, Store, TimelineWriter};

use crate::support::faulty::{FaultyStore, PutFault};
use crate::support::{noon, open, writer_options};

/// A store that fails as it is told, below a retry layer, with the clock of both.
struct Scene {
    faulty: Arc<FaultyStore>,
    objects: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn set() -> Self {
        let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        let clock = Arc::new(ManualClock::new(noon()));
        let retrying = Retrying::new(Arc::clone(&faulty), RetryPolicy::default(), clock.clone());
        Self { faulty, objects: Arc::new(retrying), clock }
    }

    async fn create(&self) -> Result<(Store, Created), Error> {
        Store::open_or_create(Arc::clone(&self.objects), "test").await
    }

    /// A timeline that is claimed.
    async fn claimed(&self) -> (Store, TimelineWriter) {
        let (store, _) = self.create().await.unwrap();
        let mut options = writer_options("only");
        options.clock = self.clock.clone();
        let writer = TimelineWriter::claim(&store, open(&store).await, options).await.unwrap();
        (store, writer)
    }

    /// For how long the clock has run.
    fn ran(&self) -> Duration {
        self.clock.now().duration_since(noon()).unwrap()
    }
}

#[tokio::test]
async fn a_store_is_created_whichever_answer_is_lost() {
    // The probe, the probe that must be refused, the marker.
    for put in 0..3 {
        let scene = Scene::set();
        scene.faulty.lose_a_put_after(put);
        let (store, created) = scene.create().await.unwrap();
        assert_eq!(created, Created::Yes, "put {put}");
        assert_eq!(scene.create().await.unwrap().0.marker(), store.marker());
    }
}

#[tokio::test]
async fn a_store_that_cannot_fence_is_refused_whichever_answer_is_lost() {
    for put in 0..2 {
        let scene = Scene::set();
        scene.faulty.ignore_create();
        scene.faulty.lose_a_put_after(put);
        let refused = scene.create().await.unwrap_err();
        assert!(matches!(refused, Error::StoreCannotFence { .. }), "put {put}: {refused}");
    }
}

#[tokio::test]
async fn a_record_whose_answer_is_lost_is_ours() {
    for fault in [PutFault::AnswerLost, PutFault::RequestLost] {
        let scene = Scene::set();
        let (store, mut writer) = scene.claimed().await;
        scene.faulty.script([fault; 3]);
        writer.append(Draft::default(), BundleWriter::new()).await.unwrap();
        let view = open(&store).await;
        assert_eq!((view.state.seq(), view.listing.records.len()), (Seq(2), 2), "{fault:?}");
    }
}

#[tokio::test]
async fn a_store_that_falls_silent_is_waited_for_once() {
    // With it the reads fail, or they say that there is no record.
    for fault in [PutFault::StoreGone, PutFault::RequestLost] {
        let scene = Scene::set();
        let (_store, mut writer) = scene.claimed().await;
        scene.faulty.script([fault; 10_000]);
        let unknown = writer.append(Draft::default(), BundleWriter::new()).await.unwrap_err();
        assert!(matches!(unknown, Error::UnknownOutcome { .. }), "{fault:?}: {unknown}");
        let bounds = Duration::from_secs(280)..Duration::from_secs(300);
        assert!(bounds.contains(&scene.ran()), "{fault:?}: {:?}", scene.ran());
    }
}
