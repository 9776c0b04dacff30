//! The contract as tests, which every store and every decorator runs.
//!
//! A case is a function with a name. It gets a store (a fresh one, or one that it shares with other cases) and keeps
//! to keys under its own name. A store that cannot do what a case asks opts out of it by an [`Exemption`] with a
//! reason, which is printed; nothing is skipped in silence.
//!
//! ```
//! use std::sync::Arc;
//! use storage_api::MemoryStore;
//! use storage_api::conformance::{Subject, run_all};
//!
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() {
//! run_all(async || Subject::new(Arc::new(MemoryStore::new())), &[]).await;
//! # }
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a case fails by panicking, and its runner reports by it"
)]

mod copies;
mod deletes;
mod keys;
mod lists;
mod pages;
mod puts;
mod races;
mod ranges;
mod reads;
mod skips;
mod subject;
mod uploads;

use std::any::Any;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::time::Duration;

pub use self::skips::{SKIPS_VARIABLE, skip};
use self::subject::Case;
pub use self::subject::Subject;

/// A case that waits longer than this has failed.
const CASE_TIME_MAX: Duration = Duration::from_secs(120);

type CaseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct NamedCase {
    name: &'static str,
    start: fn(Case) -> CaseFuture,
}

macro_rules! cases {
    ($($topic:ident { $($case:ident,)* })*) => {
        &[$($(NamedCase { name: stringify!($case), start: |case| Box::pin($topic::$case(case)) },)*)*]
    };
}

/// Every case, in the order in which they run: what a store must refuse comes first.
const CASES: &[NamedCase] = cases! {
    puts {
        a_second_create_fails_and_changes_nothing,
        a_create_over_an_overwrite_fails,
        a_create_after_a_delete_succeeds,
        a_wrong_checksum_stores_nothing,
        a_wrong_checksum_keeps_the_old_object,
        an_overwrite_replaces_the_whole_object,
        an_empty_object_is_an_object,
        a_large_object_makes_the_round_trip,
    }
    races {
        of_racing_creates_exactly_one_wins,
        readers_of_an_overwritten_key_see_whole_objects,
        a_read_that_is_overwritten_is_not_mixed,
        creates_survive_deletes_of_their_neighbours,
    }
    reads {
        a_missing_key_is_not_found,
        errors_name_the_operation_and_the_key,
        a_key_is_not_found_by_its_beginning,
        get_head_and_list_agree,
        a_kept_checksum_is_the_objects,
    }
    ranges {
        a_range_past_the_end_is_refused,
        an_empty_or_backward_range_is_refused,
        an_empty_object_has_no_ranges,
        a_range_is_cut_at_the_end,
        a_suffix_longer_than_the_object_is_all_of_it,
        a_range_inside_is_exact,
        a_large_range_is_streamed,
    }
    deletes {
        deleting_a_missing_key_succeeds,
        a_delete_answers_for_every_key,
        a_delete_takes_as_many_keys_as_announced,
        a_delete_leaves_its_neighbours,
    }
    lists {
        a_list_of_nothing_is_empty,
        a_page_of_no_keys_is_refused,
        a_list_is_in_byte_order,
        a_prefix_ends_at_a_separator,
        a_list_sees_every_put_and_delete,
        the_root_lists_everything,
        keys_below_a_separator_are_rolled_up,
    }
    pages {
        pages_of_any_size_join_to_the_whole_list,
        rolled_up_pages_of_any_size_join_to_the_whole_list,
        a_list_starts_after_a_key_that_need_not_exist,
        a_rolled_up_list_starts_after_a_prefix,
        a_list_longer_than_the_longest_page_is_whole,
    }
    copies {
        a_copy_of_a_missing_key_is_not_found,
        a_copy_replaces_or_creates,
        a_copy_is_independent_of_its_source,
    }
    uploads {
        an_upload_is_invisible_until_completed,
        an_upload_that_does_not_exist_is_refused,
        a_part_with_a_wrong_checksum_is_refused,
        an_upload_with_wrong_parts_publishes_nothing,
        an_upload_with_a_wrong_whole_checksum_publishes_nothing,
        a_part_that_is_too_small_is_refused,
        an_aborted_upload_is_gone_and_aborts_again,
        a_part_put_twice_counts_once,
        a_completed_upload_is_the_joined_parts,
        a_completed_upload_replaces_the_object,
        uploads_to_one_key_are_independent,
        pending_uploads_are_listed_by_prefix,
    }
    keys {
        odd_characters_make_the_round_trip,
        keys_that_look_alike_are_different,
        a_backslash_is_no_separator,
        long_keys_make_the_round_trip,
    }
};

/// A case that a store does not run, and why.
#[derive(Clone, Copy, Debug)]
pub struct Exemption {
    /// The name of the case.
    pub case: &'static str,
    /// Why this store cannot pass it.
    pub reason: &'static str,
}

/// A case that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The name of the case.
    pub case: &'static str,
    /// The message it panicked with.
    pub message: String,
}

/// Runs every case that is not exempt, each on a store of its own from `factory`.
///
/// # Panics
///
/// If any case fails (all of them run, and the message names each that failed) or if an exemption names no case.
pub async fn run_all(factory: impl AsyncFn() -> Subject, exemptions: &[Exemption]) {
    let failures = failures(factory, exemptions).await;
    let texts: Vec<_> =
        failures.iter().map(|Failure { case, message }| format!("{case}: {message}")).collect();
    assert!(
        texts.is_empty(),
        "{} of {} conformance cases failed:\n{}",
        texts.len(),
        CASES.len(),
        texts.join("\n")
    );
}

/// Runs every case that is not exempt, each on a store of its own from `factory`, and returns those that failed.
///
/// # Panics
///
/// If an exemption names no case.
pub async fn failures(factory: impl AsyncFn() -> Subject, exemptions: &[Exemption]) -> Vec<Failure> {
    for Exemption { case, .. } in exemptions {
        assert!(CASES.iter().any(|known| known.name == *case), "there is no case {case:?} to be exempt from");
    }
    let mut failures = Vec::new();
    for NamedCase { name, start } in CASES {
        if let Some(Exemption { reason, .. }) = exemptions.iter().find(|exemption| exemption.case == *name) {
            skip(name, reason);
            continue;
        }
        let subject = factory().await;
        if let Err(message) = outcome(start(Case::new(&subject, name))).await {
            failures.push(Failure { case: name, message });
        }
    }
    failures
}

/// Runs a case in a task of its own, so that its panic is its result.
async fn outcome(case: CaseFuture) -> Result<(), String> {
    let mut task = tokio::spawn(case);
    match tokio::time::timeout(CASE_TIME_MAX, &mut task).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(match error.try_into_panic() {
            Ok(panic) => panic_message(panic),
            Err(error) => error.to_string(),
        }),
        Err(_) => {
            task.abort();
            Err(format!("not done after {CASE_TIME_MAX:?}"))
        }
    }
}

fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(message) => (*message).to_owned(),
            Err(panic) => resume_unwind(panic),
        },
    }
}
