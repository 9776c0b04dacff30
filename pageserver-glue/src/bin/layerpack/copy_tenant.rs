//! `layerpack copy` of a whole tenant.

use std::fmt::Write;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId};
use serde::Serialize;
use sync_engine::{
    At, CopyReport, LeftOut, Progress, TimelineCopy, execute_tenant_copy, plan_tenant_copy, read_tenant,
};

use crate::args::Copy;
use crate::copy::{open_stores, options};
use crate::exit::{Exit, Failure, exit_of};
use crate::output::{Outcome, counted, explain, human_bytes};
use crate::session::Session;

#[derive(Debug, Default, Serialize)]
struct TenantCopyJson {
    from: String,
    to: String,
    /// Timelines, by what has become of them.
    copied: usize,
    present: usize,
    failed: usize,
    left_out: usize,
    /// What was copied by this run.
    layers: usize,
    raw_bytes: u64,
    bundles: usize,
    stored_bytes: u64,
    timelines: Vec<TimelineJson>,
}

#[derive(Debug, Default, Serialize)]
struct TimelineJson {
    timeline: String,
    /// `copied`, `present` since an earlier run, `failed`, or `left out`.
    outcome: &'static str,
    from_seq: Option<u64>,
    seq: Option<u64>,
    layers: usize,
    raw_bytes: u64,
    bundles: usize,
    stored_bytes: u64,
    /// Why it was not copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(crate) async fn run(
    session: &Session,
    arguments: &Copy,
    from: &TenantId,
    to: &TenantId,
) -> Result<Outcome, Failure> {
    if let Some(At::Seq(_)) = arguments.at {
        let why = "records are numbered by timeline: --at seq:N needs --from TENANT/TIMELINE";
        return Err(Failure::Usage(why.into()));
    }
    let (source, target) = open_stores(session, arguments).await?;
    if from == to && source.url() == target.url() {
        let why =
            "a tenant is not copied onto itself: name another tenant, or another store with --to-remote";
        return Err(Failure::Usage(why.into()));
    }
    let progress = Arc::new(Progress::default());
    let options = options(session, arguments, &progress)?;
    let Some(found) = read_tenant(&source, from, options.at).await? else {
        return Err(Failure::TenantNotFound { url: source.url().to_owned(), tenant: from.clone() });
    };
    let _meter = session.meter("copying", from, &progress);
    let plan = plan_tenant_copy(found);
    let done = execute_tenant_copy((&source, from), plan, (&target, to), options).await;
    Ok(report(session, (from, to), &done))
}

fn report(
    session: &Session,
    (from, to): (&TenantId, &TenantId),
    done: &[(TimelineId, TimelineCopy)],
) -> Outcome {
    let mut json = TenantCopyJson { from: from.to_string(), to: to.to_string(), ..TenantCopyJson::default() };
    let mut text = String::new();
    let (mut warnings, mut problems, mut exit) = (Vec::new(), Vec::new(), Exit::Done);
    for (timeline, copy) in done {
        let line = TimelineJson::new((to, timeline), copy);
        let reason = || line.reason.as_deref().unwrap_or_default();
        match copy {
            TimelineCopy::Copied(report) => {
                json.add(report);
                let (layers, bundles) = (counted(report.layers, "layer"), counted(report.bundles, "bundle"));
                let (seq, stored) = (report.from_seq, human_bytes(report.stored_bytes));
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "{from}/{timeline} as of record {seq} is now {to}/{timeline}: {layers}, {stored} in {bundles}"
                );
            }
            TimelineCopy::Present(report) => {
                json.present += 1;
                let layers = counted(report.layers, "layer");
                let _ = writeln!(text, "{to}/{timeline} was copied before: {layers}");
            }
            TimelineCopy::LeftOut(_) => {
                json.left_out += 1;
                warnings.push(format!("{from}/{timeline} was left out: {}", reason()));
            }
            TimelineCopy::Failed(_) | TimelineCopy::Differs | TimelineCopy::Blocked { .. } => {
                json.failed += 1;
                problems.push(format!("{from}/{timeline} was not copied: {}", reason()));
                let of_it =
                    if let TimelineCopy::Failed(error) = copy { exit_of(error) } else { Exit::Failed };
                exit = exit.or_worse(of_it);
            }
        }
        json.timelines.push(line);
    }
    let is_early =
        |(_, copy): &(_, TimelineCopy)| matches!(copy, TimelineCopy::LeftOut(LeftOut::NotThereYet));
    if json.copied + json.present + json.failed == 0 && done.iter().any(is_early) {
        problems.push(format!("nothing was copied: there is no timeline of {from} to be copied"));
        exit = Exit::NotFound;
    }
    let (copied, present) = (counted(json.copied, "timeline"), json.present);
    let (stored, cost) = (human_bytes(json.stored_bytes), session.cost_line());
    let _ = write!(text, "{copied} copied, {stored}; {present} there already\n{cost}");
    Outcome { text, warnings, problems, exit, ..Outcome::new(&json, &session.cost()) }
}

impl TenantCopyJson {
    fn add(&mut self, report: &CopyReport) {
        self.copied += 1;
        self.layers += report.layers;
        self.raw_bytes += report.raw_bytes;
        self.bundles += report.bundles;
        self.stored_bytes += report.stored_bytes;
    }
}

impl TimelineJson {
    fn new((to, timeline): (&TenantId, &TimelineId), copy: &TimelineCopy) -> Self {
        let named = |outcome| Self { timeline: timeline.to_string(), outcome, ..Self::default() };
        let because = |outcome, reason| Self { reason: Some(reason), ..named(outcome) };
        match copy {
            TimelineCopy::Copied(report) => named("copied").with(report),
            TimelineCopy::Present(report) => named("present").with(report),
            TimelineCopy::Failed(error) => because("failed", explain(error)),
            TimelineCopy::Differs => because(
                "failed",
                format!(
                    "{to}/{timeline} exists with other contents and was left alone: copy to another tenant, or as of \
                     when that copy was made"
                ),
            ),
            TimelineCopy::Blocked { ancestor } => {
                because("failed", format!("its ancestor {ancestor} was not copied"))
            }
            TimelineCopy::LeftOut(why) => because("left out", left_out(*why).into()),
        }
    }

    fn with(self, report: &CopyReport) -> Self {
        let CopyReport { from_seq, seq, layers, raw_bytes, bundles, stored_bytes } = *report;
        let (from_seq, seq) = (Some(from_seq.0), Some(seq.0));
        Self { from_seq, seq, layers, raw_bytes, bundles, stored_bytes, ..self }
    }
}

fn left_out(why: LeftOut) -> &'static str {
    match why {
        LeftOut::NotThereYet => "it had no state by then",
        LeftOut::NothingCommitted => "nothing was committed to it yet, its backup or copy was not finished",
        LeftOut::Empty => "it has neither layers nor metadata",
    }
}
