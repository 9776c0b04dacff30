//! `layerpack delete`.

use serde::Serialize;
use sync_engine::{TimelineView, execute_delete, plan_delete};

use crate::args::{Delete, OneTimeline};
use crate::exit::Failure;
use crate::output::{Outcome, counted, human_bytes};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct DeleteJson {
    tenant: String,
    timeline: String,
    executed: bool,
    /// Whether it was deleted before.
    deleted_before: bool,
    /// The tombstone.
    seq: Option<u64>,
    layers: usize,
    raw_bytes: u64,
    objects: usize,
    stored_bytes: u64,
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
        seq: None,
        layers: plan.layers,
        raw_bytes: plan.raw_bytes,
        objects: plan.objects,
        stored_bytes: plan.stored_bytes,
        branch_point_left: None,
    };
    let what = format!(
        "{tenant}/{timeline}: {}, {} raw; {} stored in {}",
        counted(json.layers, "layer"),
        human_bytes(json.raw_bytes),
        human_bytes(json.stored_bytes),
        counted(json.objects, "object")
    );
    let said = if arguments.execute {
        let (take_over, writer) = (arguments.take_over.into(), session.writer_options());
        let deletion = execute_delete(&store, plan, take_over, writer).await?;
        (json.seq, json.branch_point_left) = (Some(deletion.seq.0), deletion.branch_point_left);
        format!(
            "deleted {what}; the bytes go with `layerpack gc` after retention, the id is never used again\n"
        )
    } else {
        format!("would delete {what}; --execute does it, for ever\n")
    };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = format!("{said}{}", session.cost_line());
    let left = json.branch_point_left.iter();
    outcome
        .warnings
        .extend(left.map(|why| format!("the ancestor still counts the branch, which does no harm: {why}")));
    outcome.add_damage(&damage);
    Ok(outcome)
}
