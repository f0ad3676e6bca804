//! One look at the database: what changed since a revision, with the rows that follow from it, or everything. All of it is one
//! moment.

use std::collections::BTreeSet;

use snapshot::record::{EntityKind as RecordKind, EntityRef};
use snapshot::token::Token;
use snapshot::wire;
use uuid::Uuid;

use super::whole::{Whole, read_whole};
use super::{BuildError, STEP_MAX, unsigned};
use crate::changes::EntityKind;
use crate::publish::book::{Book, HISTORY_CHANGES_MAX};
use crate::publish::records::FLEET;
use crate::store::changes::{Change, list_changes};
use crate::store::snapshot_rows::{
    FeedState, SnapshotRows, Touched, add_archived_plans, add_followers, begin_moment, end_moment, list_forgotten_keys,
    load_touched, read_feed_state,
};
use crate::store::{Store, StoreError, Transaction};

/// More changes than this at once are read as a whole build: it costs less.
const CHANGES_MAX: i64 = 20_000;
/// How far back a whole build looks for what a reader may have missed. What follows from a change is remembered with it, so
/// this is less than the book can hold.
const PAST_CHANGES_MAX: i64 = 25_000;
const _: () = assert!(PAST_CHANGES_MAX.unsigned_abs() * 4 <= HISTORY_CHANGES_MAX as u64);

/// What one look at the database found.
pub(super) enum Look {
    Unchanged,
    Everything { state: FeedState, whole: Whole, history: Vec<(u64, EntityRef)>, floor: u64 },
    Changed { state: FeedState, touched: Touched, rows: SnapshotRows },
}

pub(super) async fn look(store: &Store, book: &Book, have: Option<Token>) -> Result<Look, BuildError> {
    let (tx, state) = bounded(async {
        let tx = begin_moment(store).await?;
        let state = read_feed_state(&tx).await?;
        Ok((tx, state))
    })
    .await?;
    let look = match have.filter(|have| have.epoch == state.epoch) {
        Some(have) if revision(have) == state.revision => Look::Unchanged,
        Some(have) => match bounded(look_since(&tx, book, state, revision(have))).await? {
            Some((touched, rows)) => Look::Changed { state, touched, rows },
            None => look_at_everything(&tx, state).await?,
        },
        None => look_at_everything(&tx, state).await?,
    };
    bounded(end_moment(tx)).await?;
    Ok(look)
}

/// A connection that does not answer in time is given up.
pub(super) async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, BuildError> {
    Ok(tokio::time::timeout(STEP_MAX, work).await.map_err(|_| BuildError::TooSlow)??)
}

/// `None`: too much changed, or it is not known what.
async fn look_since(
    tx: &Transaction<'_>,
    book: &Book,
    state: FeedState,
    have: i64,
) -> Result<Option<(Touched, SnapshotRows)>, StoreError> {
    let distance = state.revision - have;
    if !(1..=CHANGES_MAX).contains(&distance) {
        return Ok(None);
    }
    let changes = list_changes(tx, have, state.revision).await?;
    // Revisions are gap-free; a missing one was forgotten by age.
    if i64::try_from(changes.len()) != Ok(distance) {
        return Ok(None);
    }
    let mut touched = touch(&changes);
    touch_former_plans(book, &mut touched);
    add_followers(tx, &mut touched).await?;
    let rows = load_touched(tx, &touched).await?;
    Ok(Some((touched, rows)))
}

/// The plan that a subscription or key led to until now may have lost its last subscriber.
fn touch_former_plans(book: &Book, touched: &mut Touched) {
    let former = |kind, id: &Uuid| book.record(&EntityRef { kind, id: *id });
    let mut subscriptions: Vec<Uuid> = touched.subscriptions.iter().copied().collect();
    for key in touched.keys.iter().filter_map(|id| former(RecordKind::Key, id)) {
        if let Some(wire::record::Record::Key(key)) = &key.record {
            subscriptions.extend(Uuid::from_slice(&key.subscription_id));
        }
    }
    for subscription in subscriptions.iter().filter_map(|id| former(RecordKind::Subscription, id)) {
        if let Some(wire::record::Record::Subscription(subscription)) = &subscription.record {
            touched.plans.extend(Uuid::from_slice(&subscription.plan_id));
        }
    }
}

/// Everything, and what of the past lets a gateway that was connected before resume with a delta: all that may have changed
/// since the floor, as changes of now.
async fn look_at_everything(tx: &Transaction<'_>, state: FeedState) -> Result<Look, BuildError> {
    let (touched, floor) = bounded(async {
        let (floor, changes) = recent_past(tx, state).await?;
        let mut touched = touch(&changes);
        add_followers(tx, &mut touched).await?;
        add_archived_plans(tx, &mut touched).await?;
        // These left the snapshots that were built since, without a change of their own.
        touched.keys.extend(list_forgotten_keys(tx, floor.max(1)).await?);
        Ok((touched, floor))
    })
    .await?;
    let whole = read_whole(tx, state).await?;
    let history = touched.fleet.then_some(FLEET).into_iter().chain(entities(&touched));
    let history = history.map(|entity| (unsigned(state.revision), entity)).collect();
    Ok(Look::Everything { state, whole, history, floor: unsigned(floor) })
}

/// The changes that lead here without a gap, and the oldest revision from which a delta is possible. The change of that revision
/// itself is stored too: by its time it is known which keys have expired since. A gap is where changes were forgotten, or where
/// this epoch began.
async fn recent_past(tx: &Transaction<'_>, state: FeedState) -> Result<(i64, Vec<Change>), StoreError> {
    let mut changes = list_changes(tx, state.revision - PAST_CHANGES_MAX - 1, state.revision).await?;
    let gapless = changes.iter().rev().zip(0..).take_while(|(change, back)| change.revision == state.revision - back);
    let past = changes.split_off(changes.len() - gapless.count());
    let floor = match past.first().map(|change| change.revision) {
        // Before the first change there was nothing.
        Some(1) => 0,
        Some(oldest) => oldest,
        None => state.revision,
    };
    Ok((floor, past))
}

fn touch(changes: &[Change]) -> Touched {
    let mut touched = Touched::default();
    for change in changes {
        let set = match change.kind {
            EntityKind::Fleet => {
                touched.fleet = true;
                continue;
            }
            EntityKind::Organization => &mut touched.organizations,
            EntityKind::Product => &mut touched.products,
            EntityKind::Plan => &mut touched.plans,
            EntityKind::Subscription => &mut touched.subscriptions,
            EntityKind::Key => &mut touched.keys,
        };
        set.insert(change.entity);
    }
    touched
}

/// The records that the touched rows are about.
pub(super) fn entities(touched: &Touched) -> impl Iterator<Item = EntityRef> {
    let of = |kind, ids: &BTreeSet<Uuid>| ids.iter().map(move |id| EntityRef { kind, id: *id }).collect::<Vec<_>>();
    of(RecordKind::Product, &touched.products)
        .into_iter()
        .chain(of(RecordKind::Plan, &touched.plans))
        .chain(of(RecordKind::Subscription, &touched.subscriptions))
        .chain(of(RecordKind::Key, &touched.keys))
}

fn revision(token: Token) -> i64 {
    i64::try_from(token.revision).unwrap_or(i64::MAX)
}
