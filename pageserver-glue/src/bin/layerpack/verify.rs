//! `layerpack verify`.

use std::fmt::Write;

use pageserver_glue::WorkDir;
use serde::Serialize;
use sync_engine::{
    CatalogEntry, Error, Finding, Store, TimelineView, VerifyDepth, VerifyReport, verify_timeline,
};

use crate::args::Verify;
use crate::damage::DamageJson;
use crate::exit::{Exit, Failure};
use crate::output::{Outcome, counted, explain_failure, human_bytes, names_line};
use crate::repair::{self, RepairJson, WorkdirJson};
use crate::session::{Session, concerns_one_timeline};

#[derive(Debug, Default, Serialize)]
struct VerifyJson {
    deep: bool,
    stored: bool,
    layers: usize,
    bundles: usize,
    manifests: usize,
    checked_bytes: u64,
    without_checksum: usize,
    abandoned_uploads: usize,
    /// Objects that do not read and that no point in time needs.
    unneeded: usize,
    timelines: Vec<TimelineJson>,
    findings: Vec<FindingJson>,
}

#[derive(Debug, Serialize)]
struct TimelineJson {
    tenant: String,
    timeline: String,
    seq: Option<u64>,
    layers: usize,
    bundles: usize,
    manifests: usize,
    checked_bytes: u64,
    without_checksum: usize,
    abandoned_uploads: usize,
    findings: usize,
    /// Of the findings, those that cost older points in time and nothing else.
    findings_of_the_past: usize,
    unneeded: Vec<DamageJson>,
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    workdir: Option<WorkdirJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<RepairJson>,
}

#[derive(Debug, Serialize)]
struct FindingJson {
    tenant: String,
    timeline: String,
    #[serde(flatten)]
    damage: DamageJson,
}

pub(crate) async fn run(session: &Session, arguments: &Verify) -> Result<Outcome, Failure> {
    let store = session.open(&arguments.remote).await?;
    let depth = match (arguments.deep, arguments.stored) {
        (true, _) => VerifyDepth::Deep,
        (false, true) => VerifyDepth::Stored,
        (false, false) => VerifyDepth::Listing,
    };
    let mut json = VerifyJson { deep: arguments.deep, stored: arguments.stored, ..VerifyJson::default() };
    let timelines = session.select(&store, &arguments.selection).await?;
    if timelines.is_empty() {
        return Err(Failure::EmptyStore { url: store.url().to_owned() });
    }
    let workdir = arguments.workdir.as_deref().map(WorkDir::open).transpose()?;
    let mut said = Outcome::new(&json, &session.cost());
    let alone = timelines.len() == 1;
    for entry in timelines {
        let id = (entry.tenant.clone(), entry.timeline.clone());
        let id = (&id.0, &id.1);
        let repaired = if arguments.repair {
            let workdir = workdir.as_ref();
            match repair::repair(session, arguments, &store, id, depth, workdir).await {
                // The others are repaired all the same, and what is wrong with this one is found below.
                Err(failure) if !alone && concerns_one_timeline(&failure) => {
                    let (tenant, timeline) = id;
                    let why = explain_failure(&failure);
                    said.problems.push(format!("{tenant}/{timeline} was not repaired: {why}"));
                    said.exit = said.exit.or_worse(failure.exit());
                    None
                }
                repaired => Some(repaired?),
            }
        } else {
            None
        };
        // What was mended is listed, and what is left is found by looking again.
        let listing = if arguments.repair { None } else { entry.listing };
        let entry = CatalogEntry { listing, ..entry };
        json.add(&store, entry, depth, workdir.as_ref(), &mut said).await?;
        if let (Some(repaired), Some(timeline)) = (repaired, json.timelines.last_mut())
            && !(timeline.deleted && repaired.manifests.is_empty())
        {
            timeline.repair = Some(repair::report(id, &repaired, &mut said));
        }
    }
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = text(&json, session);
    (outcome.problems, outcome.exit) = (said.problems, said.exit);
    for finding in &json.findings {
        outcome.problems.push(finding.damage.line());
        outcome.exit = outcome.exit.or_worse(Exit::Damaged);
    }
    Ok(outcome)
}

impl VerifyJson {
    async fn add(
        &mut self,
        store: &Store,
        entry: CatalogEntry,
        depth: VerifyDepth,
        workdir: Option<&WorkDir>,
        said: &mut Outcome,
    ) -> Result<(), Failure> {
        let CatalogEntry { tenant, timeline, listing } = entry;
        let mut timeline_json = TimelineJson {
            tenant: tenant.to_string(),
            timeline: timeline.to_string(),
            seq: None,
            layers: 0,
            bundles: 0,
            manifests: 0,
            checked_bytes: 0,
            without_checksum: 0,
            abandoned_uploads: 0,
            findings: 0,
            findings_of_the_past: 0,
            unneeded: Vec::new(),
            deleted: false,
            workdir: None,
            repair: None,
        };
        let verified = match TimelineView::open(store, &tenant, &timeline, listing).await {
            Ok(view) => {
                timeline_json.seq = Some(view.state.seq().0);
                timeline_json.deleted = view.state.is_deleted();
                if workdir.is_some() && !view.state.is_deleted() {
                    let files = repair::local_files(workdir, &tenant, &timeline)?;
                    let compared = repair::compare(&view, &files).await;
                    compared.report((&tenant, &timeline), said);
                    timeline_json.workdir = Some(compared);
                }
                verify_timeline(store, &view, depth).await
            }
            Err(error) => Err(error),
        };
        let report = verified.or_else(unreadable)?;
        let VerifyReport {
            layers,
            bundles,
            manifests,
            checked_bytes,
            without_checksum,
            abandoned_uploads,
            findings,
            unneeded,
        } = report;
        self.layers += layers;
        self.bundles += bundles;
        self.manifests += manifests;
        self.checked_bytes += checked_bytes;
        self.without_checksum += without_checksum;
        self.abandoned_uploads += abandoned_uploads;
        self.unneeded += unneeded.len();
        let finding = |finding: &Finding| FindingJson {
            tenant: tenant.to_string(),
            timeline: timeline.to_string(),
            damage: finding.into(),
        };
        self.findings.extend(findings.iter().map(finding));
        let findings_of_the_past = findings.iter().filter(|finding| finding.is_of_the_past()).count();
        let findings = findings.len();
        self.timelines.push(TimelineJson {
            layers,
            bundles,
            manifests,
            checked_bytes,
            without_checksum,
            abandoned_uploads,
            findings,
            findings_of_the_past,
            unneeded: unneeded.iter().map(DamageJson::from).collect(),
            ..timeline_json
        });
        Ok(())
    }
}

/// A timeline that cannot be opened because it is damaged is a finding; other errors end the verification.
fn unreadable(error: Error) -> Result<VerifyReport, Failure> {
    let object = match &error {
        Error::Damaged { object, .. } => object.clone(),
        Error::Gap { key, .. } => key.clone(),
        Error::Storage(error) => error.key().to_owned(),
        _ => return Err(error.into()),
    };
    let failure = Failure::from(error);
    if failure.exit() != Exit::Damaged {
        return Err(failure);
    }
    let finding = Finding::new(object, explain_failure(&failure));
    Ok(VerifyReport { findings: vec![finding], ..VerifyReport::default() })
}

fn text(json: &VerifyJson, session: &Session) -> String {
    let mut text = String::new();
    for timeline_json in &json.timelines {
        let TimelineJson {
            tenant, timeline, layers, bundles, manifests, findings, deleted, unneeded, ..
        } = timeline_json;
        let verdict = match (findings, deleted) {
            (0, true) => "deleted",
            (0, false) => "fine",
            _ if *findings == timeline_json.findings_of_the_past => "older points in time DAMAGED",
            _ => "DAMAGED",
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{tenant}/{timeline}: {verdict}; {} in {}, {}",
            counted(*layers, "layer"),
            counted(*bundles, "bundle"),
            counted(*manifests, "manifest")
        );
        if !unneeded.is_empty() {
            let keys: Vec<String> = unneeded.iter().map(|note| note.object().to_owned()).collect();
            let objects = counted(keys.len(), "damaged object");
            let _ =
                writeln!(text, "  {objects} that no point in time needs, left alone: {}", names_line(&keys));
        }
        if let Some(repaired) = &timeline_json.repair {
            text.push_str(&repaired.line());
        }
        if let Some(compared) = &timeline_json.workdir {
            text.push_str(&compared.line());
        }
    }
    let (what, how) = match (json.deep, json.stored) {
        (true, _) => ("every byte", "read"),
        (false, true) => ("manifests, listings and the checksums that the store keeps", "compared"),
        (false, false) => ("manifests and listings", "read"),
    };
    let _ = writeln!(text, "checked {what}: {} {how}", human_bytes(json.checked_bytes));
    if json.without_checksum > 0 {
        let objects = counted(json.without_checksum, "object");
        let _ = writeln!(text, "the store keeps no checksum of {objects}: only --deep can check them");
    }
    if json.abandoned_uploads > 0 {
        let uploads = counted(json.abandoned_uploads, "unfinished upload");
        let _ = writeln!(
            text,
            "{uploads} left by killed writers: no damage, aborted by the next large upload of that timeline"
        );
    }
    text.push_str(&session.cost_line());
    text
}
