//! The memory that uploads may hold, all of them together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// What is counted, in bytes: permits are 32 bits wide.
const UNIT: u64 = 1 << 10;

/// Bytes that everything built and in flight may have, whoever uploads it. Whoever asks first is served first.
///
/// Nobody waits for room while holding some: that is what keeps all of them going. See [`Room::top_up`].
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

/// A part of a budget; dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        let total = units(bytes).max(1);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits for so many bytes, or for the whole budget where it is less.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Room> {
        let units = units(bytes).min(self.total);
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        Ok(Room { permit: permit.map_err(|closed| Error::Task(closed.to_string()))? })
    }
}

impl Room {
    /// Splits so many bytes off, or all where there are fewer.
    pub(crate) fn split(&mut self, bytes: u64) -> Option<Self> {
        let wanted = (units(bytes) as usize).min(self.permit.num_permits());
        self.permit.split(wanted).map(|permit| Self { permit })
    }

    /// Takes more, up to `bytes` in all, if they are free and nobody waits for them. Where they are not, whoever asks
    /// gives up what it holds and waits its turn.
    pub(crate) fn top_up(&mut self, budget: &Budget, bytes: u64) -> bool {
        let wanted = units(bytes).min(budget.total) as usize;
        let Some(missing) = wanted.checked_sub(self.permit.num_permits()) else { return true };
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        match Arc::clone(&budget.units).try_acquire_many_owned(missing) {
            Ok(more) => {
                self.permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_split_topped_up_and_given_back_and_those_who_wait_go_first() {
        let budget = Budget::new(96 * UNIT);
        let mut filling = budget.take(32 * UNIT).await.unwrap();
        let in_flight = filling.split(30 * UNIT).unwrap();
        assert!(filling.top_up(&budget, 32 * UNIT));
        assert_eq!(budget.units.available_permits(), 34);
        // More than there is at all is all there is.
        let everything = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(1 << 40).await.unwrap() }
        });
        tokio::task::yield_now().await;
        drop(filling.split(2 * UNIT));
        assert!(!filling.top_up(&budget, 32 * UNIT), "somebody waits");
        drop((filling, in_flight));
        assert_eq!(everything.await.unwrap().permit.num_permits(), 96);
    }
}
