//! What the decorators do about a store that fails: by a script, and by a clock that nobody waits for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod deletes;
mod limits;
mod lost_answers;
mod reads;
mod script;
mod sent_again;
