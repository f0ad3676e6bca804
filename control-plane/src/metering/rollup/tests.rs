//! Two roll-ups that run at once, as when a lease was lost: each takes in what the other has made.

use uuid::Uuid;

use super::*;
use crate::ingest::testing::{AT_MS, World, batch, event};
use crate::testing::until_blocked;

const HOUR_MS: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn two_roll_ups_of_one_day_at_once_leave_the_hours_of_both_in_it() {
    let world = World::start().await;
    let (store, epoch) = (&world.rows.store, Uuid::now_v7());
    let hours = [AT_MS, AT_MS + HOUR_MS];
    let count = async |sequence: u64, at_ms: i64| {
        let mut made = batch(epoch, sequence, 0);
        made.events = vec![snapshot::wire::UsageEvent { at_ms, ..event() }];
        world.send(&made).await;
        world.take_all().await;
    };
    count(0, hours[0]).await;
    count(1, hours[1]).await;
    roll_up(store, Timestamp::UNIX_EPOCH).await.unwrap();
    // Whoever has added the day up waits here before it is written.
    let holding = store.connection().await.unwrap();
    holding.batch_execute("BEGIN; SELECT FROM usage_days FOR UPDATE").await.unwrap();
    let mut running = Vec::new();
    for (place, at_ms) in [(1, hours[0]), (2, hours[1])] {
        count(place + 1, at_ms).await;
        let of_the_hour = |mark: &MarkRow| mark.hour.as_millisecond() / HOUR_MS == at_ms / HOUR_MS;
        let mut marks = list_marks(store, MARKS_MAX).await.unwrap();
        marks.retain(of_the_hour);
        let (work, store) = (pieces(&marks, Timestamp::UNIX_EPOCH).remove(0), store.clone());
        running.push(tokio::spawn(async move {
            let work = &work;
            store.run_tx("roll_up", |tx| Box::pin(async move { work.run(tx).await })).await
        }));
        until_blocked(&world.rows.store, i64::try_from(place).unwrap()).await;
    }
    holding.batch_execute("COMMIT").await.unwrap();
    for one in running {
        one.await.unwrap().unwrap();
    }
    assert_eq!(world.number("SELECT sum(request_count)::bigint FROM usage_hours").await, 4);
    assert_eq!(world.number("SELECT request_count FROM usage_days").await, 4);
    assert_eq!(world.number("SELECT request_count FROM usage_product_days").await, 4);
}
