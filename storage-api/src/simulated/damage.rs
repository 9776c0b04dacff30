//! Bodies that are damaged on their way, and bulk deletes that do half of their work.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};

use super::{BodyFault, Random};
use crate::{
    DeleteOutcome, ErrorKind, GetResponse, Key, MemoryStore, ObjectStore, Operation, Result, StorageError,
};

/// The same answer with its body damaged.
pub(super) async fn damaged(
    response: GetResponse,
    fault: BodyFault,
    random: &mut Random,
) -> Result<GetResponse> {
    let GetResponse { info, range, stream } = response;
    let whole = stream.try_fold(BytesMut::new(), |mut whole, chunk| async move {
        whole.extend_from_slice(&chunk);
        Ok(whole)
    });
    let mut whole = whole.await?;
    let middle = whole.len() / 2;
    let chunks: Vec<Result<Bytes>> = match fault {
        BodyFault::CutShort => vec![Ok(whole.split_to(middle).freeze())],
        BodyFault::BrokenOff => {
            let broken = StorageError::new(
                ErrorKind::Interrupted,
                Operation::Get,
                info.key.as_str(),
                super::client::BACKEND,
            );
            vec![Ok(whole.split_to(middle).freeze()), Err(broken)]
        }
        BodyFault::TooLong => vec![Ok(whole.freeze()), Ok(Bytes::from_static(b"?"))],
        BodyFault::BitFlipped => {
            let at = usize::try_from(random.below(whole.len() as u64)).unwrap_or(0);
            let bit = random.below(8);
            if let Some(byte) = whole.get_mut(at) {
                *byte ^= 1 << bit;
            }
            vec![Ok(whole.freeze())]
        }
    };
    Ok(GetResponse { info, range, stream: futures::stream::iter(chunks).boxed() })
}

/// Deletes some of `keys` and refuses the others.
pub(super) async fn delete_some(
    memory: &MemoryStore,
    keys: &[Key],
    mut random: Random,
) -> Result<Vec<DeleteOutcome>> {
    let mut outcomes = Vec::new();
    for key in keys {
        if random.chance(0.5) {
            let stays = StorageError::new(
                ErrorKind::Unexpected,
                Operation::Delete,
                key.as_str(),
                super::client::BACKEND,
            );
            outcomes.push(DeleteOutcome { key: key.clone(), result: Err(stays) });
        } else {
            outcomes.extend(memory.delete(std::slice::from_ref(key)).await?);
        }
    }
    Ok(outcomes)
}
