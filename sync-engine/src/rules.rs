//! The decisions of the log protocol, as pure functions of what was seen.
//!
//! [`TimelineWriter`](crate::TimelineWriter) and [`TimelineView`](crate::TimelineView) make the requests and ask here
//! what their answers mean; the model that is checked exhaustively (`tests/model`) asks the same functions.
//! `docs/protocol.md` says why each is as it is.

use layer_archive::Seq;

/// What a writer finds at the key of a record whose create was refused, or whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its own record: the answer was lost.
    Ours,
    /// Somebody else's record.
    Another,
    /// Nothing, which is no answer: the create may still take effect, and the same bytes are sent again.
    Nothing,
}

/// Compares the record that is there with the one that was to be created, by their ids.
pub fn found<Id: PartialEq>(there: Option<&Id>, ours: &Id) -> Found {
    match there {
        None => Found::Nothing,
        Some(there) if there == ours => Found::Ours,
        Some(_) => Found::Another,
    }
}

/// Whether a writer may claim, or claim again, a timeline whose newest claim is `newest`, when it began on a state whose
/// claim was `known`. Where it may not it is fenced: two writers do not take over from each other for ever.
pub fn may_claim(known: Seq, newest: Seq) -> bool {
    known == newest
}

/// What a writer does that was told that its claim is void, and has opened the timeline again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// Its claim is the newest there is: somebody had written a manifest of it already. It stands.
    Stands,
    /// Nobody has claimed in between: it claims again, behind the end.
    ClaimAgain,
    /// Somebody else has.
    Fenced,
}

/// Judges by the claim that was taken for void, the newest when the writer began, and the newest there is now. Claims are
/// told apart by number and term.
pub fn judge_reopened<Term: PartialEq>(ours: (Seq, Term), known: Seq, newest: (Seq, Term)) -> Reopened {
    if newest == ours {
        Reopened::Stands
    } else if may_claim(known, newest.0) {
        Reopened::ClaimAgain
    } else {
        Reopened::Fenced
    }
}

/// What the list of manifests after a claim says of it (rule 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It stands, and the writer's state is that of the log.
    Stands,
    /// The log had moved on: the claim lies in a past that nobody reads, unless the newest manifest tells of it.
    Void,
    /// There is a manifest that the writer has not seen: what it replayed may have been collected in part.
    Unsure,
}

/// Judges the claim at `claim` by the newest manifest that was seen before it and the newest there is now.
pub fn judge_claim(claim: Seq, seen: Seq, newest: Seq) -> Claimed {
    if newest >= claim {
        Claimed::Void
    } else if newest <= seen {
        Claimed::Stands
    } else {
        Claimed::Unsure
    }
}

/// The records to replay behind the state at `base`: of those that are `listed`, all after it, in order.
///
/// # Errors
/// The first record that must exist and was not listed: one before a listed record or at or below the newest of all
/// `manifests`, readable or not (rule 5).
pub fn to_replay(
    base: Seq,
    listed: impl IntoIterator<Item = Seq>,
    newest_manifest: Option<Seq>,
) -> Result<Vec<Seq>, Seq> {
    let mut next = base.next();
    let mut wanted = Vec::new();
    for seq in listed.into_iter().filter(|seq| *seq > base) {
        if seq != next {
            return Err(next);
        }
        wanted.push(seq);
        next = seq.next();
    }
    if newest_manifest.is_some_and(|newest| next <= newest) {
        return Err(next);
    }
    Ok(wanted)
}
