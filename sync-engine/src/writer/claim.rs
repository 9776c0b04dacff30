//! Taking a timeline over: the claim, and what the list after it says of it.

use layer_archive::{BundleWriter, Epoch, Seq, Term};

use super::pending::Created;
use super::{Draft, TimelineWriter, random};
use crate::catalog::TimelineListing;
use crate::rules::{self, Claimed, Reopened};
use crate::view::TimelineView;
use crate::{Error, Result};

/// How often a claim is tried on a timeline whose log moves on before it is settled.
const CLAIM_ATTEMPTS_MAX: usize = 8;

/// How far a writer has come with its claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reign {
    /// It has claimed nothing, or what it claimed is void.
    #[default]
    Unclaimed,
    /// The claim is stored; whether it stands is not known.
    Unsettled,
    /// The claim stands.
    Claimed,
}

impl TimelineWriter {
    /// Claims the timeline, if that is not done. After an error it may be called again and goes on where it was: a claim
    /// of which it is not known whether it was stored is sent again unchanged, so that this writer never takes its own
    /// lost claim for another's.
    pub(crate) async fn ensure_claimed(&mut self) -> Result<()> {
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            match self.reign {
                Reign::Claimed => return Ok(()),
                Reign::Unclaimed => self.put_claim().await?,
                Reign::Unsettled => {}
            }
            if self.settle_claim().await? {
                self.reign = Reign::Claimed;
            } else {
                self.give_claim_up().await?;
            }
        }
        if self.is_claimed() {
            return Ok(());
        }
        let (tenant, timeline) = (self.view.state.tenant().clone(), self.view.state.timeline().clone());
        Err(Error::Unstable { tenant, timeline, attempts: CLAIM_ATTEMPTS_MAX })
    }

    /// Whether the claim stands.
    pub(crate) fn is_claimed(&self) -> bool {
        self.reign == Reign::Claimed
    }

    /// The claim is history that nobody will read, or there is a manifest of it already. What is there now decides.
    async fn give_claim_up(&mut self) -> Result<()> {
        let (tenant, timeline) = (self.view.state.tenant().clone(), self.view.state.timeline().clone());
        self.view = TimelineView::open(&self.store, &tenant, &timeline, None).await?;
        let newest = (self.view.state.claim(), self.view.state.term());
        match rules::judge_reopened((self.claim, self.term), self.known_claim, newest) {
            Reopened::Stands => self.reign = Reign::Claimed,
            Reopened::ClaimAgain => {
                self.term = Term(random()?);
                self.reign = Reign::Unclaimed;
            }
            Reopened::Fenced => return Err(self.fenced(newest.0, self.view.state.writer())),
        }
        Ok(())
    }

    /// Creates the claim behind the log's end, past records that appeared since the view was read.
    async fn put_claim(&mut self) -> Result<()> {
        loop {
            if !self.is_pending() {
                self.freeze_claim()?;
            }
            match self.settle_pending().await? {
                Created::Ours(record) => {
                    self.view.apply(&record)?;
                    self.claim = self.view.state.seq();
                    self.reign = Reign::Unsettled;
                    return Ok(());
                }
                Created::Another(record) => {
                    self.view.apply(&record)?;
                    if !rules::may_claim(self.known_claim, self.view.state.claim()) {
                        return Err(self.fenced(self.view.state.seq(), self.view.state.writer()));
                    }
                }
            }
        }
    }

    fn freeze_claim(&mut self) -> Result<()> {
        let state = &self.view.state;
        if state.is_deleted() {
            let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
            return Err(Error::TimelineDeleted { tenant, timeline });
        }
        let generation = match (self.options.generation, state.generation()) {
            (Some(ours), Some(last)) if ours < last => return Err(Error::StaleGeneration { ours, last }),
            (ours, last) => ours.or(last),
        };
        let mut commit = self.commit(Draft::default());
        commit.flags.claim = true;
        commit.epoch = Epoch(state.epoch().0.saturating_add(1));
        commit.generation = generation;
        self.freeze(commit, BundleWriter::new())
    }

    /// Rule 2 of the protocol: lists the manifests again, until none is newer than what this writer has seen. Whether
    /// the claim stands.
    async fn settle_claim(&mut self) -> Result<bool> {
        let mut seen: Seq = self.view.listing.manifests.keys().next_back().copied().unwrap_or_default();
        loop {
            let manifests = TimelineListing::read_manifests(&**self.store.objects(), &self.view.keys).await?;
            let newest = manifests.keys().next_back().copied().unwrap_or_default();
            match rules::judge_claim(self.claim, seen, newest) {
                Claimed::Void => return Ok(false),
                Claimed::Stands => return Ok(true),
                Claimed::Unsure => {}
            }
            let (tenant, timeline) = (self.view.state.tenant().clone(), self.view.state.timeline().clone());
            self.view = TimelineView::open(&self.store, &tenant, &timeline, None).await?;
            if self.view.state.claim() != self.claim || self.view.state.term() != self.term {
                return Err(self.fenced(self.view.state.claim(), self.view.state.writer()));
            }
            seen = newest;
        }
    }
}
