//! The log protocol, model checked: all interleavings within bounds hold, and every rule is shown to be needed.
//!
//! `docs/protocol.md` says what the model covers and what it does not.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "how much was checked is worth knowing")]

mod collector;
mod reader;
mod records;
mod replay;
mod rules;
mod scenarios;
mod store;
mod system;
mod writer;

use stateright::{Checker, HasDiscoveries, Model};

use crate::rules::{Rule, Rules};
use crate::scenarios::{
    alone, bystander, collections, damage, hand_over, layers, lost_record, orphans, proving, reading,
    restarts, writers,
};
use crate::system::{Bounds, Protocol};

/// Visits every state of a scenario.
#[track_caller]
fn holds(name: &str, bounds: Bounds) {
    // Tests run beside each other; a proof has the machine to itself.
    let threads = if proving() { 2 } else { 1 };
    let model = Protocol { bounds, rules: Rules::all() };
    let checker =
        model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} states ({} generated), at most {} steps",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth() - 1
    );
    checker.assert_properties();
}

#[test]
fn two_writers_and_gc() {
    holds("two writers and gc", writers());
}

#[test]
fn manifests_by_somebody_else() {
    holds("manifests by somebody else", bystander());
}

#[test]
fn writers_that_restart() {
    holds("writers that restart", restarts());
}

#[test]
fn a_reader_beside_them() {
    holds("a reader beside them", reading());
}

#[test]
fn layers_in_records_and_payload_objects() {
    holds("layers in records and payload objects", layers());
}

#[test]
fn one_writer_for_longer() {
    holds("one writer for longer", alone());
}

#[test]
fn uploads_and_two_collections() {
    holds("uploads and two collections", orphans());
}

#[test]
fn two_collections() {
    holds("two collections", collections());
}

#[test]
fn manifests_that_break() {
    holds("manifests that break", damage());
}

#[test]
fn a_record_that_vanishes() {
    holds("a record that vanishes", lost_record());
}

#[test]
fn a_pageserver_and_a_tool() {
    holds("a pageserver and a tool", hand_over());
}

const VISIBLE: &str = "an acknowledged commit is visible to every later reader";
const LIVE: &str = "nothing live is deleted";
const PREFIX: &str = "a reader's state is a prefix of the log";
const SOUND: &str = "whole stores are not called damaged";
const ONE: &str = "of two concurrent writers one goes on";
const COMMITTED: &str = "layers are what was committed";
const MANIFEST: &str = "a manifest is the state after its record";
const WHOLE: &str = "the log is whole behind every manifest";

/// For each rule: where the model breaks without it, and what then does not hold.
fn breaks_without(rule: Rule) -> Option<(Bounds, &'static str)> {
    Some(match rule {
        Rule::ClaimsStay => (writers(), VISIBLE),
        Rule::ClaimsAreJudged => (writers(), VISIBLE),
        // Within every bound that was tried; `docs/protocol.md` says why.
        Rule::NewerManifestIsTaken => return None,
        Rule::ForeignClaimFences => (writers(), ONE),
        Rule::OwnClaimStands => (bystander(), ONE),
        Rule::SnapshotsWaitForTheClaim => (Bounds { snapshots: 3, late: 0, ..writers() }, MANIFEST),
        Rule::UploadsWaitForTheClaim => (orphans(), LIVE),
        Rule::FloorIsNotNewest => (damage(), SOUND),
        Rule::FloorIsReadBack => (damage(), VISIBLE),
        Rule::NewestIsReadBack => (damage(), VISIBLE),
        Rule::AboveTheFloorStays => (writers(), LIVE),
        Rule::LiveSinceTheFloorStays => (layers(), LIVE),
        Rule::LivenessIsByPlace => (layers(), LIVE),
        Rule::ManifestsGoFirst => (alone(), WHOLE),
        Rule::ManifestsOfAcknowledged => (writers(), VISIBLE),
        Rule::GapsAreDamage => (lost_record(), VISIBLE),
        Rule::MovesNameTheirPlace => (layers(), COMMITTED),
        Rule::DeadStaysDead => (alone(), LIVE),
        Rule::OrphansAreOfOlderClaims => (layers(), LIVE),
        Rule::ReadersLookAgain => (reading(), PREFIX),
        Rule::MismatchesLookAgain => (reading(), SOUND),
        Rule::OneInFlight => (writers(), VISIBLE),
        Rule::UnknownIsNotSuccess => (writers(), VISIBLE),
        Rule::BytesAreFrozen => (writers(), VISIBLE),
        Rule::ReleasedIsTheEnd => (hand_over(), ONE),
    })
}

#[test]
fn every_rule_is_needed() {
    for rule in Rule::ALL {
        let Some((bounds, property)) = breaks_without(rule) else { continue };
        let model = Protocol { bounds, rules: Rules::without(rule) };
        let finish = HasDiscoveries::AnyOf([property].into());
        // On one thread the first counterexample is a shortest one.
        let checker = model.checker().finish_when(finish).spawn_bfs().join();
        let Some(path) = checker.discovery(property) else {
            panic!("without {rule:?} it still holds that {property}");
        };
        let actions = path.into_actions();
        println!("without {rule:?}, not \"{property}\" after {} steps: {actions:?}", actions.len());
    }
}

#[test]
fn the_second_half_of_rule_2_is_not_needed_within_these_bounds() {
    let without = || Rules::without(Rule::NewerManifestIsTaken);
    for bounds in [writers(), restarts(), Bounds { snapshots: 3, late: 0, ..writers() }] {
        let model = Protocol { bounds, rules: without() };
        model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join().assert_properties();
    }
}
