//! Garbage collection: what of a timeline's objects nobody needs any more, and making room.
//!
//! A [`Survey`] reads what the judgement needs, [`plan_gc`] judges, purely, and [`execute_gc`] does what the plan says.
//! Nothing is deleted but by the *floor*: the newest manifest that is older than the retention period and is not the
//! newest of all, read back and replayed to the newest state (rule 3 of `docs/protocol.md`). What is half dead is
//! [repacked](plan_repack) by a writer that holds the claim; [`Upkeep`] does both beside a writer that goes on.

mod clock;
mod collect;
mod execute;
mod floor;
mod plan;
mod policy;
mod reframe;
mod repack;
mod sources;
mod survey;
mod upkeep;

pub use clock::store_time;
pub use collect::{Collected, Undeleted, collect};
pub use execute::{GcOptions, GcReport, execute_gc};
pub use floor::{Points, choose_floor, points_in_time};
pub use plan::{Checkpoint, Doomed, GcPlan, Space, Why, plan_gc};
pub use policy::GcPolicy;
pub use repack::Repacked;
use sources::repack_bytes_max;
pub use sources::{RepackPlan, RepackSource, plan_repack};
pub use survey::{KnownRecords, Survey, survey_timeline};
pub use upkeep::{Repacker, Upkeep};
