//! Deleting a timeline that the service may look after, and whose ancestor it may look after.

use std::time::Duration;

use layer_archive::{TenantId, TimelineId};
use tokio::select;

use super::UploadService;
use crate::delete::{Deletion, execute_delete, plan_delete};
use crate::{Result, TakeOver, TimelineView, WriterOptions};

impl UploadService {
    /// Detaches a timeline and deletes it from the store, for ever: its id is never used again. What was handed over is
    /// stored before, within `deadline`, because states before the deletion can be restored until gc has let go of them.
    ///
    /// One that has branches is refused before anything is done, and so is one that another writer holds. An ancestor that
    /// this service looks after says itself that the branch has ended.
    pub async fn delete(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
        deadline: Duration,
    ) -> Result<Deletion> {
        let store = self.store().await?;
        plan_delete(store, TimelineView::open(store, tenant, timeline, None).await?).await?;
        self.detach(tenant, timeline, deadline).await;
        let view = TimelineView::open(store, tenant, timeline, None).await?;
        let ended = view.state.ancestor().map(|ancestor| (ancestor.clone(), view.state.leaving(ancestor)));
        let plan = plan_delete(store, view).await?;
        let options = &self.core.options;
        let (writer, clock) = (options.writer.clone(), options.clock.clone());
        let writer = WriterOptions { writer, generation: None, clock };
        let mut deletion = execute_delete(store, plan, TakeOver::No, writer).await?;
        if deletion.branch_point_left.is_some()
            && let Some((ancestor, point)) = ended
            && let Some(handle) = self.timeline(tenant, &ancestor.timeline)
        {
            let told = select! {
                told = handle.end_branch(point) => told.is_ok(),
                () = options.clock.sleep(deadline) => false,
            };
            // Where it was not told, the next collection finds out.
            deletion.branch_point_left = deletion.branch_point_left.filter(|_| !told);
        }
        Ok(deletion)
    }
}
