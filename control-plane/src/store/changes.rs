//! `config_changes` and `feed_state`: changes are written unnumbered with their rows, numbered by one session at a time (without
//! a gap within an epoch), and read by revision. Refuses to notify inside a writing transaction: that would make writers queue.

use tokio_postgres::Client;
use uuid::Uuid;

use super::{Store, StoreError, Transaction};

/// A new epoch begins behind all revisions of the old one, so that what was told by them (a policy to Redis, a write to its client) is
/// not mistaken for later. 1,000,000,000 of them are more than a database ever lost: at a thousand a second those of eleven days.
macro_rules! new_epoch_sql {
    () => {
        "UPDATE feed_state SET epoch = gen_random_uuid(), history = server_history(), updated_at = now(),
            revision = revision + 1000000000"
    };
}

/// Key of the advisory lock that the numbering session holds ("apihub" and a number).
const SEQUENCER_LOCK: i64 = 0x6170_6968_7562_0001;

/// What a change is about, as the database names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntityKind {
    Organization,
    Product,
    Plan,
    Subscription,
    Key,
    Fleet,
}

/// Names a change before it has a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeId(pub i64);

/// A numbered change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: i64,
    pub kind: EntityKind,
    pub entity: Uuid,
}

/// "Look": what a session listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Unnumbered changes exist.
    Changes,
    /// Newly numbered changes exist.
    Numbered,
    /// A node serves another revision than before.
    Acks,
}

impl EntityKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EntityKind::Organization => "organization",
            EntityKind::Product => "product",
            EntityKind::Plan => "plan",
            EntityKind::Subscription => "subscription",
            EntityKind::Key => "key",
            EntityKind::Fleet => "fleet",
        }
    }

    fn parse(text: &str) -> Option<EntityKind> {
        use EntityKind::{Fleet, Key, Organization, Plan, Product, Subscription};
        [Organization, Product, Plan, Subscription, Key, Fleet].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl Channel {
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Changes => "apihub_changes",
            Channel::Numbered => "apihub_numbered",
            Channel::Acks => "apihub_acks",
        }
    }

    pub fn parse(text: &str) -> Option<Channel> {
        [Channel::Changes, Channel::Numbered, Channel::Acks].into_iter().find(|channel| channel.as_str() == text)
    }
}

/// Writes an unnumbered change in the caller's transaction.
pub async fn insert_change(
    tx: &Transaction<'_>,
    kind: EntityKind,
    entity: Option<Uuid>,
) -> Result<ChangeId, StoreError> {
    let sql = "-- insert_change
        INSERT INTO config_changes (entity, entity_id) VALUES ($1, $2) RETURNING id";
    let row = tx.query_one_cached(sql, &[&kind.as_str(), &entity]).await?;
    Ok(ChangeId(row.try_get(0)?))
}

/// The change's revision, once it has one.
pub async fn find_revision(store: &Store, change: ChangeId) -> Result<Option<u64>, StoreError> {
    store
        .read("find_revision", |tx| {
            Box::pin(async move {
                let sql = "-- find_revision\nSELECT revision FROM config_changes WHERE id = $1";
                let row = tx.query_opt_cached(sql, &[&change.0]).await?;
                let revision: Option<i64> = row.map(|row| row.try_get(0)).transpose()?.flatten();
                Ok(revision.and_then(|revision| u64::try_from(revision).ok()))
            })
        })
        .await
}

/// Tells every session that listens to `channel` to look. Carries nothing.
pub async fn notify(store: &Store, channel: Channel) -> Result<(), StoreError> {
    store
        .read("notify", |tx| {
            Box::pin(async move {
                tx.execute_cached("-- notify\nSELECT pg_notify($1, '')", &[&channel.as_str()]).await.map(|_| ())
            })
        })
        .await
}

/// Changes with `after < revision <= up_to`, in order.
pub async fn list_changes(tx: &Transaction<'_>, after: i64, up_to: i64) -> Result<Vec<Change>, StoreError> {
    let sql = "-- list_changes
        SELECT revision, entity, entity_id FROM config_changes WHERE revision > $1 AND revision <= $2 ORDER BY revision";
    let rows = tx.query_cached(sql, &[&after, &up_to]).await?;
    rows.iter()
        .map(|row| {
            let kind: &str = row.try_get(1)?;
            let kind = EntityKind::parse(kind).ok_or_else(|| StoreError::BadRow(format!("an entity '{kind}'")))?;
            let entity: Option<Uuid> = row.try_get(2)?;
            Ok(Change { revision: row.try_get(0)?, kind, entity: entity.unwrap_or_default() })
        })
        .collect()
}

/// Begins a new epoch if the database, restored from a backup, has lost `revision` of this one; says whether it had to. Whatever
/// gateways hold of the old epoch is then compared with nothing any more.
pub async fn replace_lost_epoch(store: &Store, epoch: Uuid, revision: u64) -> Result<bool, StoreError> {
    let sql = concat!("-- replace_lost_epoch\n", new_epoch_sql!(), " WHERE epoch = $1 AND revision < $2");
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    store
        .read("replace_lost_epoch", |tx| {
            Box::pin(async move { Ok(tx.execute_cached(sql, &[&epoch, &revision]).await? == 1) })
        })
        .await
}

/// Begins a new epoch where another server gave out the revisions of this one: it may have given out more of them than this one
/// knows. Says whether it had to. For the session that numbers, before it does.
pub async fn replace_foreign_epoch(session: &Client) -> Result<bool, StoreError> {
    let sql = concat!("-- replace_foreign_epoch\n", new_epoch_sql!(), " WHERE history <> server_history()");
    Ok(session.execute(sql, &[]).await? == 1)
}

/// Postgres ends the session when it hears nothing for so long: a leader whose machine vanished must not keep the lock until
/// TCP gives up. A leader looks every second.
pub async fn limit_idleness(session: &Client) -> Result<(), StoreError> {
    session.batch_execute("-- limit_idleness\nSET idle_session_timeout = '5s'").await?;
    Ok(())
}

/// Takes the numbering lock for this session, or says that another session has it. Lost with the session.
pub async fn try_lead(session: &Client) -> Result<bool, StoreError> {
    let row = session.query_one("-- try_lead\nSELECT pg_try_advisory_lock($1)", &[&SEQUENCER_LOCK]).await?;
    Ok(row.try_get(0)?)
}

/// Text of [`number_changes`], prepared once per session.
pub async fn prepare_numbering(session: &Client) -> Result<tokio_postgres::Statement, StoreError> {
    let sql = "-- number_changes
        WITH batch AS (
            SELECT id, row_number() OVER (ORDER BY id) AS place
            FROM (SELECT id FROM config_changes WHERE revision IS NULL ORDER BY id LIMIT $1) AS visible
        ), moved AS (
            UPDATE feed_state SET revision = revision + (SELECT count(*) FROM batch), updated_at = now()
            WHERE EXISTS (SELECT FROM batch) RETURNING revision
        ), numbered AS (
            UPDATE config_changes AS c SET revision = moved.revision - (SELECT count(*) FROM batch) + batch.place
            FROM batch, moved WHERE c.id = batch.id RETURNING c.id
        )
        SELECT (SELECT count(*) FROM numbered), (SELECT revision FROM moved)";
    Ok(session.prepare(sql).await?)
}

/// Numbers at most `limit` visible changes in the order of their ids: one statement, so one transaction and one round trip.
/// Answers how many, and the newest revision if there were any. A change that commits later gets a later revision.
pub async fn number_changes(
    session: &Client,
    numbering: &tokio_postgres::Statement,
    limit: i64,
) -> Result<(i64, Option<i64>), StoreError> {
    let row = session.query_one(numbering, &[&limit]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// As [`notify`], from a session of its own.
pub async fn notify_from(session: &Client, channel: Channel) -> Result<(), StoreError> {
    session.execute("-- notify_from\nSELECT pg_notify($1, '')", &[&channel.as_str()]).await?;
    Ok(())
}

/// Forgets at most `limit` numbered changes older than `days`, oldest revision first, so that what stays has no gap; whoever is
/// further behind builds anew.
pub async fn prune_changes(session: &Client, days: u32, limit: i64) -> Result<u64, StoreError> {
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    let sql = "-- prune_changes
        DELETE FROM config_changes WHERE id IN (
            SELECT id FROM (
                SELECT id, bool_and(created_at < now() - make_interval(days => $1)) OVER (ORDER BY revision) AS is_old
                FROM (SELECT id, revision, created_at FROM config_changes WHERE revision IS NOT NULL
                      ORDER BY revision LIMIT $2) AS oldest
            ) AS judged WHERE is_old)";
    Ok(session.execute(sql, &[&days, &limit]).await?)
}

/// Subscribes the session to every channel.
pub async fn listen(session: &Client) -> Result<(), StoreError> {
    session.batch_execute("-- listen\nLISTEN apihub_changes; LISTEN apihub_numbered; LISTEN apihub_acks").await?;
    Ok(())
}
