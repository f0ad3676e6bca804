//! Room for a gateway before it is counted on: the fleet's size is raised, numbered, and in the snapshot that the gateway will
//! get. Until then it is told to come back. Refuses to lower anything.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;

use crate::changes::Revisions;
use crate::publish::book::Book;
use crate::store::Store;
use crate::store::fleet::make_room;

/// How long a gateway waits here for its place in the snapshot; the size is raised by then, so it is free when it comes back.
const BUILT_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn make(store: &Store, revisions: &Revisions, book: &Book) -> Result<(), Status> {
    let later = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "there is no room for a gateway yet");
        Status::unavailable("the fleet's size could not be raised yet")
    };
    let Some(change) = make_room(store).await.map_err(|error| later(&error))? else { return Ok(()) };
    let revision = revisions.numbered(change).await.map_err(|error| later(&error))?;
    let mut newest = book.subscribe();
    let built = newest.wait_for(|newest| newest.is_some_and(|token| token.revision >= revision));
    match timeout(BUILT_WITHIN, built).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(later(&"the snapshot with it is not built")),
    }
}
