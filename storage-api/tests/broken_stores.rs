//! The conformance suite finds broken stores: each defect here has been in a real one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use storage_api::conformance::{Subject, failures};
use storage_api::{
    Body, Capabilities, Clock, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix,
    ListPage, ListRequest, MemoryStore, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode,
    PutReceipt, Result, StorageError, SystemClock, UploadId,
};

/// Long enough for others to come between.
const BETWEEN_STEPS: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    CreateOverwrites,
    CreateChecksThenPuts,
    ChecksumIsIgnored,
    LostCreateIsNotFound,
    OverwriteIsInTwoSteps,
    MissingDeleteFails,
    DeleteStopsAtAMissingKey,
    DeleteTakesAnyNumber,
    RangePastTheEndIsEmpty,
    RangeIsNotCut,
    LongSuffixIsRefused,
    ListIsByDirectory,
    ListIncludesItsStart,
    ListIsOnePage,
    ListIgnoresThePrefix,
    ListRollsUpTwice,
    CopyReplacesNothing,
    KeepsTheChecksumOfAnotherObject,
    CopyEmptiesItsSource,
    PartChecksumIsIgnored,
    WholeChecksumIsIgnored,
    AbortTwiceFails,
    AbortKeepsTheUpload,
    UploadIsVisibleAtOnce,
    PlusIsSpace,
}

/// A store in memory with one defect.
#[derive(Debug)]
struct Broken {
    inner: MemoryStore,
    defect: Defect,
}

impl Broken {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn mangled(&self, key: &Key) -> Key {
        if self.has(Defect::PlusIsSpace) {
            Key::new(key.as_str().replace('+', " ")).unwrap()
        } else {
            key.clone()
        }
    }
}

fn repaired(body: Body) -> Body {
    Body::new(body.bytes().clone())
}

fn error(kind: ErrorKind, operation: Operation, key: &Key) -> StorageError {
    StorageError::new(kind, operation, key.as_str(), "broken")
}

#[async_trait]
impl ObjectStore for Broken {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let key = &self.mangled(key);
        let body = if self.has(Defect::ChecksumIsIgnored) { repaired(body) } else { body };
        match (self.defect, mode) {
            (Defect::CreateOverwrites, _) => self.inner.put(key, body, PutMode::Overwrite).await,
            (Defect::CreateChecksThenPuts, PutMode::Create) => {
                if self.inner.head(key).await.is_ok() {
                    return Err(error(ErrorKind::AlreadyExists, Operation::PutCreate, key));
                }
                SystemClock.sleep(BETWEEN_STEPS).await;
                self.inner.put(key, body, PutMode::Overwrite).await
            }
            (Defect::LostCreateIsNotFound, PutMode::Create) => {
                let put = self.inner.put(key, body, mode).await;
                put.map_err(|_| error(ErrorKind::PreconditionFailed, Operation::PutCreate, key))
            }
            (Defect::OverwriteIsInTwoSteps, PutMode::Overwrite) => {
                let half = body.bytes().slice(..body.bytes().len() / 2);
                self.inner.put(key, Body::new(half), mode).await?;
                SystemClock.sleep(BETWEEN_STEPS).await;
                self.inner.put(key, body, mode).await
            }
            _ => self.inner.put(key, body, mode).await,
        }
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        let key = &self.mangled(key);
        let info = self.inner.head(key).await;
        let size = info.as_ref().map_or(0, |info| info.size);
        match (self.defect, &range) {
            (Defect::RangePastTheEndIsEmpty, GetRange::Bounded(range)) if range.start >= size => {
                Ok(GetResponse {
                    info: info?,
                    range: range.clone(),
                    stream: futures::stream::empty().boxed(),
                })
            }
            (Defect::RangeIsNotCut, GetRange::Bounded(range)) if range.end > size => {
                Err(error(ErrorKind::Range, Operation::Get, key))
            }
            (Defect::LongSuffixIsRefused, GetRange::Suffix(len)) if *len > size => {
                Err(error(ErrorKind::Range, Operation::Get, key))
            }
            _ => self.inner.get(key, range).await,
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let mut info = self.inner.head(&self.mangled(key)).await?;
        if self.has(Defect::KeepsTheChecksumOfAnotherObject) {
            info.crc32c = Some(Crc32c::of(b"another object"));
        }
        Ok(info)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let mut request = request.clone();
        let mut page = match self.defect {
            Defect::ListIgnoresThePrefix => {
                let parent = request.prefix.as_str().trim_end_matches('/').to_owned();
                request.prefix = KeyPrefix::root();
                let mut page = self.inner.list(&request).await?;
                page.objects.retain(|object| object.key.as_str().starts_with(&parent));
                page
            }
            Defect::ListIncludesItsStart => {
                if let Some(start) = &mut request.start_after {
                    // The greatest string before it, nearly.
                    let last = start.pop().unwrap_or('!');
                    start.push(char::from_u32(u32::from(last) - 1).unwrap_or('!'));
                    start.push('~');
                }
                self.inner.list(&request).await?
            }
            Defect::ListRollsUpTwice => {
                if let Some(inside) = request.start_after.as_deref().filter(|start| start.ends_with('/')) {
                    request.start_after = Some(inside.trim_end_matches('/').to_owned());
                }
                self.inner.list(&request).await?
            }
            _ => self.inner.list(&request).await?,
        };
        match self.defect {
            Defect::ListIsByDirectory => page
                .objects
                .sort_by_key(|object| object.key.as_str().split('/').map(str::to_owned).collect::<Vec<_>>()),
            Defect::ListIsOnePage => page.next = None,
            _ => {}
        }
        Ok(page)
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        let keys: Vec<_> = keys.iter().map(|key| self.mangled(key)).collect();
        let mut outcomes = Vec::new();
        for key in &keys {
            let is_missing = self.inner.head(key).await.is_err();
            match self.defect {
                Defect::MissingDeleteFails if is_missing => {
                    let result = Err(error(ErrorKind::NotFound, Operation::Delete, key));
                    outcomes.push(DeleteOutcome { key: key.clone(), result });
                }
                Defect::DeleteStopsAtAMissingKey if is_missing => {
                    outcomes.push(DeleteOutcome { key: key.clone(), result: Ok(()) });
                    return Ok(outcomes);
                }
                Defect::DeleteTakesAnyNumber
                | Defect::MissingDeleteFails
                | Defect::DeleteStopsAtAMissingKey => {
                    outcomes.extend(self.inner.delete(std::slice::from_ref(key)).await?);
                }
                _ => return self.inner.delete(&keys).await,
            }
        }
        Ok(outcomes)
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        let (from, to) = (self.mangled(from), self.mangled(to));
        match self.defect {
            Defect::CopyReplacesNothing if self.inner.head(&to).await.is_ok() => Ok(PutReceipt::default()),
            Defect::CopyEmptiesItsSource => {
                let copied = self.inner.copy(&from, &to).await?;
                self.inner.put(&from, Body::new(Bytes::new()), PutMode::Overwrite).await?;
                Ok(copied)
            }
            _ => self.inner.copy(&from, &to).await,
        }
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        if self.has(Defect::UploadIsVisibleAtOnce) {
            self.inner.put(key, Body::new(Bytes::new()), PutMode::Create).await?;
        }
        self.inner.multipart_create(key).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let body = if self.has(Defect::PartChecksumIsIgnored) { repaired(body) } else { body };
        self.inner.multipart_put(key, upload, number, body).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let completed = self.inner.multipart_complete(key, upload, parts, whole).await;
        match completed {
            Err(error)
                if self.has(Defect::WholeChecksumIsIgnored) && error.kind() == ErrorKind::Integrity =>
            {
                self.inner.put(key, Body::new("joined"), PutMode::Overwrite).await
            }
            completed => completed,
        }
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let pending = self.inner.multipart_list(&KeyPrefix::root()).await?;
        if self.has(Defect::AbortTwiceFails) && !pending.iter().any(|pending| pending.upload == *upload) {
            return Err(error(ErrorKind::NotFound, Operation::MultipartAbort, key));
        }
        if self.has(Defect::AbortKeepsTheUpload) {
            return Ok(());
        }
        self.inner.multipart_abort(key, upload).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        self.inner.multipart_list(prefix).await
    }
}

/// Asserts that the suite finds `defect`, and by the case that is there for it.
async fn assert_found(defect: Defect, case: &str) {
    let factory = async || {
        let inner = MemoryStore::new().with_list_keys_max(100).with_part_bytes_min(1000);
        Subject::new(Arc::new(Broken { inner, defect }))
    };
    let found: Vec<_> = failures(factory, &[]).await.into_iter().map(|failure| failure.case).collect();
    assert!(found.contains(&case), "{defect:?} was found by {found:?} and not by {case}");
}

macro_rules! defects {
    ($($test:ident: $defect:ident by $case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                assert_found(Defect::$defect, stringify!($case)).await;
            }
        )*
    };
}

defects! {
    create_overwrites: CreateOverwrites by a_second_create_fails_and_changes_nothing,
    create_after_overwrite: CreateOverwrites by a_create_over_an_overwrite_fails,
    create_checks_then_puts: CreateChecksThenPuts by of_racing_creates_exactly_one_wins,
    lost_create: LostCreateIsNotFound by of_racing_creates_exactly_one_wins,
    overwrite_is_in_two_steps: OverwriteIsInTwoSteps by readers_of_an_overwritten_key_see_whole_objects,
    checksum_is_ignored: ChecksumIsIgnored by a_wrong_checksum_stores_nothing,
    checksum_of_an_overwrite_is_ignored: ChecksumIsIgnored by a_wrong_checksum_keeps_the_old_object,
    missing_delete_fails: MissingDeleteFails by deleting_a_missing_key_succeeds,
    delete_stops: DeleteStopsAtAMissingKey by a_delete_answers_for_every_key,
    delete_takes_any_number: DeleteTakesAnyNumber by a_delete_takes_as_many_keys_as_announced,
    range_past_the_end_is_empty: RangePastTheEndIsEmpty by a_range_past_the_end_is_refused,
    range_of_nothing_is_empty: RangePastTheEndIsEmpty by an_empty_object_has_no_ranges,
    range_is_not_cut: RangeIsNotCut by a_range_is_cut_at_the_end,
    long_suffix_is_refused: LongSuffixIsRefused by a_suffix_longer_than_the_object_is_all_of_it,
    list_is_by_directory: ListIsByDirectory by a_list_is_in_byte_order,
    list_includes_its_start: ListIncludesItsStart by a_list_starts_after_a_key_that_need_not_exist,
    list_is_one_page: ListIsOnePage by a_list_longer_than_the_longest_page_is_whole,
    list_ends_at_the_first_page: ListIsOnePage by pages_of_any_size_join_to_the_whole_list,
    list_ignores_the_prefix: ListIgnoresThePrefix by a_prefix_ends_at_a_separator,
    list_rolls_up_twice: ListRollsUpTwice by rolled_up_pages_of_any_size_join_to_the_whole_list,
    copy_replaces_nothing: CopyReplacesNothing by a_copy_replaces_or_creates,
    keeps_the_checksum_of_another_object: KeepsTheChecksumOfAnotherObject by a_kept_checksum_is_the_objects,
    copy_empties_its_source: CopyEmptiesItsSource by a_copy_replaces_or_creates,
    part_checksum_is_ignored: PartChecksumIsIgnored by a_part_with_a_wrong_checksum_is_refused,
    whole_checksum_is_ignored: WholeChecksumIsIgnored by an_upload_with_a_wrong_whole_checksum_publishes_nothing,
    abort_twice_fails: AbortTwiceFails by an_aborted_upload_is_gone_and_aborts_again,
    abort_keeps_the_upload: AbortKeepsTheUpload by an_aborted_upload_is_gone_and_aborts_again,
    upload_is_visible_at_once: UploadIsVisibleAtOnce by an_upload_is_invisible_until_completed,
    plus_is_space: PlusIsSpace by keys_that_look_alike_are_different,
}
