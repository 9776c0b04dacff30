//! `layerpack delete`.

use serde::Serialize;
use sync_engine::{TimelineView, execute_delete, plan_delete};

use crate::args::{Delete, OneTimeline};
use crate::exit::Failure;
use crate::layers::ancestor_text;
use crate::output::{Outcome, counted, human_bytes};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct DeleteJson {
    tenant: String,
    timeline: String,
    executed: bool,
    /// Whether it was deleted before.
    deleted_before: bool,
    /// Whether there was nothing of it but a branch point in its ancestor.
    never_begun: bool,
    /// The tombstone.
    seq: Option<u64>,
    layers: usize,
    raw_bytes: u64,
    objects: usize,
    stored_bytes: u64,
    /// Where its branch point is ended.
    ancestors: Vec<String>,
    branch_point_left: Option<String>,
}

pub(crate) async fn run(session: &Session, arguments: &Delete) -> Result<Outcome, Failure> {
    let store = session.open(&arguments.remote).await?;
    let OneTimeline { tenant, timeline } = &arguments.which;
    let view = TimelineView::open(&store, tenant, timeline, None).await?;
    let damage = view.damage.clone();
    let plan = plan_delete(&store, view).await?;
    let mut json = DeleteJson {
        tenant: tenant.to_string(),
        timeline: timeline.to_string(),
        executed: arguments.execute,
        deleted_before: plan.is_deleted,
        never_begun: plan.never_began(),
        seq: None,
        layers: plan.layers,
        raw_bytes: plan.raw_bytes,
        objects: plan.objects,
        stored_bytes: plan.stored_bytes,
        ancestors: plan.ancestors.iter().map(ancestor_text).collect(),
        branch_point_left: None,
    };
    let what = what(&json);
    let said = if arguments.execute {
        let (take_over, writer) = (arguments.take_over.into(), session.writer_options());
        let deletion = execute_delete(&store, plan, take_over, writer).await?;
        (json.seq, json.branch_point_left) = (Some(deletion.seq.0), deletion.branch_point_left);
        match json.never_begun {
            true => format!("deleted {what}; it can begin no more\n"),
            false => format!(
                "deleted {what}; the bytes go with `layerpack gc` after retention, the id is never used again\n"
            ),
        }
    } else {
        format!("would delete {what}; --execute does it, for ever\n")
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = format!("{said}{}", session.cost_line());
    let left = json.branch_point_left.iter();
    outcome.warnings.extend(
        left.map(|why| format!("the ancestor keeps layers for the branch until this is run again: {why}")),
    );
    outcome.add_damage(&damage);
    Ok(outcome)
}

/// What is deleted, in a line.
fn what(json: &DeleteJson) -> String {
    let DeleteJson { tenant, timeline, layers, objects, ancestors, .. } = json;
    if json.never_begun {
        let ancestors = ancestors.join(", ");
        return format!(
            "{tenant}/{timeline}: nothing but its branch point in {ancestors}, which is ended after a tombstone is written"
        );
    }
    format!(
        "{tenant}/{timeline}: {}, {} raw; {} stored in {}",
        counted(*layers, "layer"),
        human_bytes(json.raw_bytes),
        human_bytes(json.stored_bytes),
        counted(*objects, "object")
    )
}
