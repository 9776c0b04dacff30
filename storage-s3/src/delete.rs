//! Bulk deletes.
//!
//! GCS's XML API had none for long and answers `NotImplemented` or `MethodNotAllowed` where it is not there
//! (<https://cloud.google.com/storage/docs/xml-api/overview>); such a store is refused with that word.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use storage_api::{DeleteOutcome, ErrorKind, Key, ObjectStore, Operation, Result};

use crate::fault::Fault;
use crate::store::S3Store;

const OPERATION: Operation = Operation::Delete;

/// Deletes `keys` with one request. The SDK sends the checksum of the list that S3 demands.
pub(crate) async fn delete(store: &S3Store, keys: &[Key]) -> Result<Vec<DeleteOutcome>, Fault> {
    let most = store.capabilities().delete_keys_max;
    if keys.len() > most {
        let text = format!("{} keys are more than {most} of one delete", keys.len());
        return Err(Fault::new(ErrorKind::Invalid, text));
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let named = keys.iter().map(|key| ObjectIdentifier::builder().key(store.full(key.as_str())).build());
    let named: Result<Vec<_>, _> = named.collect();
    let list = named.and_then(|named| Delete::builder().set_objects(Some(named)).quiet(false).build());
    let list = list.map_err(|error| Fault::new(ErrorKind::Invalid, error.to_string()))?;
    let request = store.client.delete_objects().bucket(store.bucket()).delete(list);
    let answer = store.call(OPERATION, store.answer_limit(), request.send()).await?;

    let mut results: BTreeMap<String, Result<(), Fault>> = BTreeMap::new();
    results.extend(answer.deleted().iter().filter_map(|gone| Some((gone.key()?.to_owned(), Ok(())))));
    for error in answer.errors() {
        let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
        let fault = Fault::of_code(code, message, OPERATION, &store.place);
        let result = if fault.kind() == ErrorKind::NotFound { Ok(()) } else { Err(fault) };
        results.insert(error.key().unwrap_or_default().to_owned(), result);
    }
    let outcome = |key: &Key| {
        // Silence about a key is no success.
        let result = match results.get(&store.full(key.as_str())) {
            Some(Ok(())) => Ok(()),
            Some(Err(fault)) => Err(fault.clone()),
            None => Err(Fault::not_s3("an answer that does not say what became of a key", &store.place)),
        };
        let result = result.map_err(|fault| fault.into_error(OPERATION, key.as_str()));
        DeleteOutcome { key: key.clone(), result }
    };
    Ok(keys.iter().map(outcome).collect())
}
