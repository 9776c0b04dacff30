//! Thirty days of a pageserver's churn on virtual time: how much space and traffic packing costs in the long run.
//!
//! Sizes and their spread are those of a fleet of 31,106 timelines in 2023 (layer bytes: p1 36,879, p50 61,471, p90
//! 44.7 MB, p99 201 MB), scaled down together with the bounds of the policy: a layer is frozen every ten minutes or more,
//! twenty deltas are compacted into images, which replace what they cover, and a part of the old images is collected.
//! Every nine days a branch leaves, checkpoints half as often as the main timeline, keeps its ancestor's images from being
//! collected, and is deleted six days later.
//! `LAYERPACK_CHURN=full` runs all thirty days of two timelines, one of which checkpoints every ten minutes; without it
//! sixteen days of one that does every two hours.

mod line;
mod pageserver;

use layer_archive::Lsn;
use storage_api::RequestCounts;
use sync_engine::gc::GcPolicy;

use self::line::Line;
use self::pageserver::{Pageserver, SCALE};
use crate::bench::{Bench, DAY};
use crate::support::timeline;

/// Days that the past is kept.
const RETENTION_DAYS: u32 = 7;
/// A branch leaves on the third of every so many days...
const BRANCH_EVERY_DAYS: u32 = 9;
const BRANCH_LEAVES_DAY: u32 = 2;
/// ...and is deleted after so many.
const BRANCH_LIVES_DAYS: usize = 6;

/// How long it runs and how often layers are frozen.
#[derive(Clone, Copy, Debug)]
struct Pace {
    days: u32,
    checkpoints_a_day: u32,
    seed: u64,
}

/// Requests by their price: in dollars a million, PUT and LIST 5, GET and HEAD 0.4, as S3 asks in us-east-1.
#[derive(Clone, Copy, Debug, Default)]
struct Bill {
    puts: u64,
    gets: u64,
}

impl Bill {
    fn dollars(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let (puts, gets) = (self.puts as f64, self.gets as f64);
        puts * 5e-6 + gets * 0.4e-6
    }
}

/// What a run has cost.
#[derive(Debug, Default)]
struct Figures {
    worst_space: f64,
    uploaded: u64,
    uploaded_without: u64,
    ours: Bill,
    one_object_a_layer: Bill,
    repacked_layers: usize,
    deleted: usize,
    points_checked: usize,
    branches: usize,
    ended_branches: usize,
}

async fn run(pace: Pace) -> Figures {
    let bench = Bench::new().await;
    let policy = GcPolicy {
        retention: DAY * RETENTION_DAYS,
        small_bundle_bytes: (1 << 20) / SCALE,
        ..GcPolicy::default()
    };
    let mut figures = Figures::default();
    let mut lines = vec![Line::new(&bench, &timeline(), Pageserver::new(pace.seed, Lsn(0))).await];
    for day in 0..pace.days {
        figures.branch(&bench, &mut lines, pace, day).await;
        for checkpoint in 0..pace.checkpoints_a_day {
            let running = lines.iter_mut().enumerate().filter(|(_, line)| !line.is_deleted);
            for (_, line) in running.filter(|(number, _)| *number == 0 || checkpoint % 2 == 0) {
                let counts = bench.counts();
                let layers = line.commit(day).await;
                figures.uploaded_without += figures.count(&counts, &bench);
                // Each layer a PUT, and the index again with every checkpoint; each removed layer a DELETE, which is
                // free.
                figures.one_object_a_layer.puts += layers as u64 + 1;
            }
            bench.clock.advance(DAY / pace.checkpoints_a_day);
        }
        for line in &mut lines {
            let counts = bench.counts();
            let report = line.collect(&bench, &policy, day).await;
            assert!(report.damage.is_empty() && report.repacked.findings.is_empty(), "{report:?}");
            figures.count(&counts, &bench);
            figures.repacked_layers += report.repacked.layers;
            figures.deleted += report.collected.objects;
            figures.ended_branches += report.ended_branches;
            if !line.is_deleted {
                line.ends.push((line.writer.view().state.seq(), line.server.live.clone()));
            }
        }
        figures.end_day(&bench, &lines, day).await;
        figures.check_points(&bench, &lines).await;
    }
    figures
}

impl Figures {
    /// Counts the requests since `before`, which the checks between are not among. Returns the bytes that were sent.
    fn count(&mut self, before: &RequestCounts, bench: &Bench) -> u64 {
        let now = bench.counts();
        self.ours.puts += now.put + now.list + now.multipart - before.put - before.list - before.multipart;
        self.ours.gets += now.get + now.head - before.get - before.head;
        self.uploaded += now.bytes_sent - before.bytes_sent;
        now.bytes_sent - before.bytes_sent
    }

    /// Branches leave and go.
    async fn branch(&mut self, bench: &Bench, lines: &mut Vec<Line>, pace: Pace, day: u32) {
        let counts = bench.counts();
        if day % BRANCH_EVERY_DAYS == BRANCH_LEAVES_DAY {
            let id = format!("{:032x}", 0xb0 + day).parse().unwrap();
            let branch = lines[0].branch(bench, &id, pace.seed + 100 + u64::from(day)).await;
            lines.push(branch);
            self.branches += 1;
        }
        for line in lines[1..].iter_mut().filter(|line| line.ends.len() == BRANCH_LIVES_DAYS) {
            if !line.is_deleted {
                line.delete(bench, day).await;
            }
        }
        self.uploaded_without += self.count(&counts, bench);
    }

    async fn end_day(&mut self, bench: &Bench, lines: &[Line], day: u32) {
        let objects = bench.objects().await;
        let of_timelines = objects.iter().filter(|object| object.key.as_str().starts_with("tenants/"));
        let stored: u64 = of_timelines.map(|object| object.size).sum();
        let live: u64 = lines.iter().map(Line::live_bytes).sum();
        let deaths = lines.iter().flat_map(|line| &line.deaths);
        let held: u64 = deaths.filter(|(died, _)| died + RETENTION_DAYS > day).map(|(_, bytes)| bytes).sum();
        #[expect(clippy::cast_precision_loss, reason = "two digits are compared")]
        let space = stored.saturating_sub(held) as f64 / live as f64;
        self.worst_space = self.worst_space.max(space);
        assert!(
            space <= 1.5,
            "day {day}: {stored} stored, {held} dead inside retention, {live} live: {space:.2}"
        );
    }

    /// Every end of a day that is inside retention can be read, and is what it was: of each timeline the oldest and two
    /// others a day. A branch reads what its ancestor had.
    async fn check_points(&mut self, bench: &Bench, lines: &[Line]) {
        for line in lines {
            line.check_needs(bench).await;
            let days = if line.is_deleted { continue } else { RETENTION_DAYS as usize };
            let inside = &line.ends[line.ends.len().saturating_sub(days)..];
            for (seq, live) in [0, inside.len() / 2, inside.len() - 1].map(|index| &inside[index]) {
                line.check_point(bench, *seq, live).await;
                self.points_checked += 1;
            }
        }
    }
}

async fn prove(pace: Pace) -> String {
    let figures = run(pace).await;
    #[expect(clippy::cast_precision_loss, reason = "two digits are compared")]
    let uploads = figures.uploaded as f64 / figures.uploaded_without as f64;
    assert!(uploads <= 1.3, "{uploads}");
    assert!(figures.ours.dollars() < figures.one_object_a_layer.dollars(), "{figures:?}");
    assert!(figures.repacked_layers > 0 && figures.deleted > 0, "{figures:?}");
    assert!(figures.branches >= 2 && figures.ended_branches > 0, "{figures:?}");
    let Figures {
        worst_space,
        ours,
        one_object_a_layer,
        repacked_layers,
        deleted,
        points_checked,
        branches,
        ..
    } = &figures;
    format!(
        "{pace:?}, {branches} branches: stored but for what retention holds, at most {worst_space:.2} of live; \
         {uploads:.2} times the bytes uploaded; {ours:?}, {:.4} dollars; one object a layer {one_object_a_layer:?}, \
         {:.4} dollars; {repacked_layers} layers repacked, {deleted} objects deleted, {points_checked} points read back",
        ours.dollars(),
        one_object_a_layer.dollars()
    )
}

#[tokio::test]
async fn a_month_of_churn_stays_within_its_space_and_its_traffic() {
    let is_full = std::env::var_os("LAYERPACK_CHURN").is_some_and(|full| full == "full");
    let paces = match is_full {
        true => vec![
            Pace { days: 30, checkpoints_a_day: 48, seed: 1 },
            Pace { days: 30, checkpoints_a_day: 144, seed: 2 },
        ],
        false => vec![Pace { days: 16, checkpoints_a_day: 12, seed: 1 }],
    };
    for pace in paces {
        println!("{}", prove(pace).await);
    }
}
