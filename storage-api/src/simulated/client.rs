//! One process' way to the simulated store.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::damage::{damaged, delete_some};
use super::{Delay, Event, Fault, Random, Request, Simulation};
use crate::{
    Body, Capabilities, Clock, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix,
    ListPage, ListRequest, MemoryStore, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode,
    PutReceipt, Result, StorageError, UploadId,
};

pub(super) const BACKEND: &str = "simulated";

/// A client of a [`Simulation`]: a store of its own to the program that uses it.
pub struct SimulatedClient {
    simulation: Simulation,
    name: String,
    sent: AtomicU64,
    death: Mutex<Option<(u64, Moment)>>,
    dead: watch::Sender<bool>,
}

/// Where in a request a client dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the request takes effect.
    BeforeEffect,
    /// After the request took effect, before its answer comes.
    AfterEffect,
}

impl SimulatedClient {
    pub(super) fn new(simulation: Simulation, name: &str) -> Self {
        let (dead, _) = watch::channel(false);
        Self { simulation, name: name.to_owned(), sent: AtomicU64::new(0), death: Mutex::default(), dead }
    }

    /// How many requests it has sent.
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Its request `number`, counted from 1, will be its last: that and all later ones are never answered, as for a
    /// process that was killed. The program is ended by dropping it when [`killed`](Self::killed) returns.
    pub fn kill_at(&self, number: u64, moment: Moment) {
        *self.death.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, moment));
    }

    /// Waits until the request at which it dies has come so far.
    pub async fn killed(&self) {
        // The sender lives as long as this client.
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// Never returns where the client is dead, or dies here.
    async fn survive(&self, request: &Request, moment: Moment) {
        let death = *self.death.lock().unwrap_or_else(PoisonError::into_inner);
        if death == Some((request.number, moment)) {
            self.simulation.record(request, Event::Killed);
            self.dead.send_replace(true);
        }
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
    }

    fn begin(&self, operation: Operation, key: &str) -> (Request, Random, Option<Fault>) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let request = Request { client: self.name.clone(), number, operation, key: key.to_owned() };
        let mut random = Random::new(self.simulation.seed(), &self.name, number);
        let fault = self.simulation.fault(&request, &mut random);
        self.simulation.record(&request, Event::Sent(fault.as_ref().map(|fault| format!("{fault:?}"))));
        (request, random, fault)
    }

    /// Sends a request that has `effect`.
    async fn send<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (request, random, fault) = self.begin(operation, key);
        self.run(request, random, fault, effect).await
    }

    async fn run<T: Send + 'static>(
        &self,
        request: Request,
        mut random: Random,
        fault: Option<Fault>,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let latency = random.duration(&self.simulation.lock().latency.clone());
        let before =
            Duration::from_nanos(random.below(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)));
        self.wait(before).await;
        self.survive(&request, Moment::BeforeEffect).await;
        let failed = |kind| StorageError::new(kind, request.operation, request.key.as_str(), BACKEND);
        let effect = {
            let (simulation, request) = (self.simulation.clone(), request.clone());
            async move {
                let result = effect.await;
                simulation.record(&request, Event::TookEffect(outcome(&result)));
                result
            }
        };
        let answer = match fault {
            Some(Fault::RequestLost) => Err(failed(ErrorKind::Connection)),
            Some(Fault::AnswerLost) => {
                let _ = effect.await;
                Err(failed(ErrorKind::Connection))
            }
            Some(Fault::Late(delay)) => {
                self.happen_later(delay, random, effect);
                Err(failed(ErrorKind::Timeout))
            }
            Some(Fault::Slow(delay)) => {
                delay_by(&self.simulation, delay, &mut random).await;
                effect.await
            }
            Some(Fault::Throttled { lasting: _, retry_after }) => {
                Err(failed(ErrorKind::Throttled).with_retry_after(retry_after))
            }
            Some(Fault::Refused(kind)) => Err(failed(kind)),
            Some(Fault::Body(_) | Fault::KeysStay | Fault::CreateReplaces) | None => effect.await,
        };
        self.survive(&request, Moment::AfterEffect).await;
        self.wait(latency.saturating_sub(before)).await;
        self.simulation.record(&request, Event::Answered(outcome(&answer)));
        answer
    }

    async fn wait(&self, duration: Duration) {
        if !duration.is_zero() {
            self.simulation.0.clock.sleep(duration).await;
        }
    }

    /// Lets `effect` happen behind the caller's back.
    fn happen_later<T: Send + 'static>(
        &self,
        delay: Delay,
        mut random: Random,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) {
        let simulation = self.simulation.clone();
        simulation.lock().late_effects += 1;
        tokio::spawn(async move {
            delay_by(&simulation, delay, &mut random).await;
            let _ = effect.await;
            simulation.lock().late_effects -= 1;
        });
    }

    fn memory(&self) -> Arc<MemoryStore> {
        Arc::clone(self.simulation.objects())
    }
}

async fn delay_by(simulation: &Simulation, delay: Delay, random: &mut Random) {
    match delay {
        Delay::For(range) => simulation.0.clock.sleep(random.duration(&range)).await,
        Delay::Until(gate) => gate.go_through().await,
    }
}

fn outcome<T>(result: &Result<T>) -> Result<(), ErrorKind> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(error.kind()),
    }
}

impl fmt::Debug for SimulatedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedClient").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for SimulatedClient {
    fn capabilities(&self) -> Capabilities {
        self.simulation.objects().capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let operation = match mode {
            PutMode::Overwrite => Operation::PutOverwrite,
            PutMode::Create => Operation::PutCreate,
        };
        let (request, random, fault) = self.begin(operation, key.as_str());
        let mode = if matches!(fault, Some(Fault::CreateReplaces)) { PutMode::Overwrite } else { mode };
        let (memory, key) = (self.memory(), key.clone());
        self.run(request, random, fault, async move { memory.put(&key, body, mode).await }).await
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        let (request, mut random, fault) = self.begin(Operation::Get, key.as_str());
        let body_fault = if let Some(Fault::Body(fault)) = fault { Some(fault) } else { None };
        let (memory, key) = (self.memory(), key.clone());
        let effect = async move { memory.get(&key, range).await };
        let response = self.run(request, random.clone(), fault, effect).await?;
        match body_fault {
            Some(fault) => damaged(response, fault, &mut random).await,
            None => Ok(response),
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let (memory, wanted) = (self.memory(), key.clone());
        self.send(Operation::Head, key.as_str(), async move { memory.head(&wanted).await }).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let (memory, wanted) = (self.memory(), request.clone());
        let effect = async move { memory.list(&wanted).await };
        self.send(Operation::List, request.prefix.as_str(), effect).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        let first = keys.first().map_or("", Key::as_str);
        let (request, random, fault) = self.begin(Operation::Delete, first);
        let some_stay = matches!(fault, Some(Fault::KeysStay)).then(|| random.clone());
        let (memory, keys) = (self.memory(), keys.to_vec());
        let effect = async move {
            match some_stay {
                Some(random) => delete_some(&memory, &keys, random).await,
                None => memory.delete(&keys).await,
            }
        };
        self.run(request, random, fault, effect).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        let (memory, source, target) = (self.memory(), from.clone(), to.clone());
        let effect = async move { memory.copy(&source, &target).await };
        self.send(Operation::Copy, to.as_str(), effect).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        let (memory, target) = (self.memory(), key.clone());
        let effect = async move { memory.multipart_create(&target).await };
        self.send(Operation::MultipartCreate, key.as_str(), effect).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let (memory, target, upload) = (self.memory(), key.clone(), upload.clone());
        let effect = async move { memory.multipart_put(&target, &upload, number, body).await };
        self.send(Operation::MultipartPut, key.as_str(), effect).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let (memory, target, upload, parts) = (self.memory(), key.clone(), upload.clone(), parts.to_vec());
        let effect = async move { memory.multipart_complete(&target, &upload, &parts, whole).await };
        self.send(Operation::MultipartComplete, key.as_str(), effect).await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let (memory, target, upload) = (self.memory(), key.clone(), upload.clone());
        let effect = async move { memory.multipart_abort(&target, &upload).await };
        self.send(Operation::MultipartAbort, key.as_str(), effect).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        let (memory, wanted) = (self.memory(), prefix.clone());
        let effect = async move { memory.multipart_list(&wanted).await };
        self.send(Operation::MultipartList, prefix.as_str(), effect).await
    }
}
