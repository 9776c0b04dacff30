//! The ancestors of a branch, read for the layers that the branch does not have.

use std::sync::Arc;

use layer_archive::{LayerName, Lsn};

use super::{ReadPool, TimelineReader};
use crate::branches::is_at_or_below;
use crate::{AncestorView, Ancestry, Error, Result, Store, TimelineState};

/// The ancestors of a branch, the nearest first.
#[derive(Debug)]
pub struct AncestorReaders {
    readers: Vec<Arc<AncestorReader>>,
    /// Why the way to the others is broken, where it is.
    broken: Option<Arc<Error>>,
}

/// An ancestor, and how much of it is the branch's past.
#[derive(Debug)]
pub struct AncestorReader {
    /// What reads it.
    pub reader: TimelineReader,
    /// Up to which of its LSNs it is the branch's past too.
    pub lsn: Lsn,
}

impl AncestorReader {
    fn has(&self, layer: &LayerName) -> bool {
        let view = self.reader.view();
        view.state.layers().get(layer).is_some_and(|layer| is_at_or_below(layer, self.lsn))
    }
}

impl AncestorReaders {
    /// Opens the ancestors of `branch`. Where one is missing or damaged those before it can be read.
    pub async fn open(store: &Store, branch: &TimelineState, pool: &Arc<ReadPool>) -> Self {
        let mut ancestry = Ancestry::of(store, branch);
        let mut readers = Vec::new();
        let broken = loop {
            match ancestry.next().await {
                Ok(Some(AncestorView { view, lsn })) => {
                    readers.push(Arc::new(AncestorReader {
                        reader: TimelineReader::new(store, view, Arc::clone(pool)),
                        lsn,
                    }));
                }
                Ok(None) => break None,
                Err(error) => break Some(Arc::new(error)),
            }
        };
        Self { readers, broken }
    }

    /// The ancestors that could be opened, the nearest first, and why the way to the others is broken, where it is.
    pub fn ancestors(&self) -> (&[Arc<AncestorReader>], Option<&Arc<Error>>) {
        (&self.readers, self.broken.as_ref())
    }

    /// Finds the nearest ancestor that has a layer at or below the LSN up to which it counts. Where none has, they are
    /// looked at anew: it may have been compacted since.
    ///
    /// # Errors
    /// What broke the way to an ancestor that may have it.
    pub async fn find(&self, layer: &LayerName) -> Result<Option<Arc<AncestorReader>>, Arc<Error>> {
        if let Some(found) = self.readers.iter().find(|ancestor| ancestor.has(layer)) {
            return Ok(Some(Arc::clone(found)));
        }
        for ancestor in &self.readers {
            ancestor.reader.reopen(&ancestor.reader.view()).await.map_err(Arc::new)?;
            if ancestor.has(layer) {
                return Ok(Some(Arc::clone(ancestor)));
            }
        }
        self.broken.as_ref().map_or(Ok(None), |error| Err(Arc::clone(error)))
    }
}
