//! Whole conversations over real sockets: what a gateway is sent, when, and what becomes of its word.

mod failover;
mod rate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use prometheus::Registry;
use settings::Secret;
use snapshot::record::{EntityKind, EntityRef};
use snapshot::token::Token;
use snapshot::wire::feed_client::FeedClient;
use snapshot::wire::{FromGateway, ToGateway, from_gateway, to_gateway};
use tokio_util::sync::DropGuard;
use tonic::Code;
use tonic::transport::Endpoint;
use uuid::Uuid;

use super::*;
use crate::changes::{Revisions, Served};
use crate::publish::book::Pages;
use crate::publish::builder::testing_rows::Rows;
use crate::publish::builder::{Builder, BuilderMetrics};
use crate::settings::{Feed as FeedSettings, FeedListen, FeedTls};

const SECRET: &str = "the feed's secret";
/// Beyond it a test has hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane's feed with all that drives it.
struct Plane {
    rows: Rows,
    book: Arc<Book>,
    revisions: Revisions,
    url: String,
    feed: Feed,
    metrics: FeedMetrics,
    stop: CancellationToken,
    _stop: DropGuard,
}

fn tcp() -> FeedSettings {
    FeedSettings {
        listen: FeedListen::Tcp("127.0.0.1:0".parse().unwrap()),
        token: Some(Secret::new(SECRET)),
        tls: None,
    }
}

impl Plane {
    async fn start() -> Plane {
        Plane::start_on(Rows::start().await, tcp()).await
    }

    async fn start_on(rows: Rows, settings: FeedSettings) -> Plane {
        let plane = Plane::start_without_builder(rows, settings).await;
        let metrics = BuilderMetrics::register(&Registry::new()).unwrap();
        let builder = Builder::new(plane.rows.store.clone(), Arc::clone(&plane.book), metrics);
        tokio::spawn(builder.run(plane.revisions.signals().clone(), plane.stop.clone()));
        plane
    }

    async fn start_without_builder(rows: Rows, settings: FeedSettings) -> Plane {
        let stop = CancellationToken::new();
        let revisions = Revisions::start(rows.store.clone(), 7, &stop);
        let book = Arc::new(Book::default());
        let listener = Listener::bind(&settings).await.unwrap();
        let url = match (&settings.listen, listener.address()) {
            (FeedListen::Unix(path), _) => format!("unix://{}", path.display()),
            (_, address) => format!("http://{}", address.unwrap()),
        };
        let bearer = settings.token.as_ref().map(|token| Bearer::new(token.expose()));
        let metrics = FeedMetrics::register(&Registry::new(), &book).unwrap();
        let feed = Feed::start(rows.store.clone(), Arc::clone(&book), &revisions, bearer, metrics.clone(), &stop);
        tokio::spawn(listener.serve(feed.clone(), stop.clone()));
        Plane { rows, book, revisions, url, feed, metrics, _stop: stop.clone().drop_guard(), stop }
    }

    async fn gateway(&self, name: &str) -> Gateway {
        Gateway::connect(&self.url, Some(SECRET), hello(name)).await.unwrap()
    }

    /// As a handler does after its commit.
    async fn newest(&self) -> u64 {
        let sql = "SELECT max(id) FROM config_changes";
        let id = self.rows.client.query_one(sql, &[]).await.unwrap().get(0);
        self.revisions.numbered(crate::changes::ChangeId(id)).await.unwrap()
    }
}

/// What a gateway does, without a proxy.
struct Gateway {
    outbox: mpsc::Sender<FromGateway>,
    inbox: Streaming<ToGateway>,
    token: Option<Token>,
    records: BTreeMap<EntityRef, wire::Record>,
    heartbeats: usize,
    full_snapshots: usize,
}

fn hello(name: &str) -> wire::Hello {
    wire::Hello {
        node_id: Uuid::now_v7().as_bytes().to_vec(),
        node_name: name.into(),
        boot_id: Uuid::now_v7().as_bytes().to_vec(),
        version: "1".into(),
        protocol: wire::PROTOCOL,
        features: vec![],
        have: None,
    }
}

fn entity_of(record: &wire::Record) -> EntityRef {
    let (kind, id) = match record.record.as_ref().unwrap() {
        wire::record::Record::Fleet(_) => (EntityKind::Fleet, vec![0; 16]),
        wire::record::Record::Product(product) => (EntityKind::Product, product.id.clone()),
        wire::record::Record::Plan(plan) => (EntityKind::Plan, plan.id.clone()),
        wire::record::Record::Subscription(subscription) => (EntityKind::Subscription, subscription.id.clone()),
        wire::record::Record::Key(key) => (EntityKind::Key, key.id.clone()),
    };
    EntityRef { kind, id: Uuid::from_slice(&id).unwrap() }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    <sha2::Sha256 as sha2::Digest>::digest(bytes).to_vec()
}

impl Gateway {
    async fn connect(url: &str, secret: Option<&str>, hello: wire::Hello) -> Result<Gateway, Status> {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        Gateway::follow(channel, secret, hello).await
    }

    async fn follow(
        channel: tonic::transport::Channel,
        secret: Option<&str>,
        hello: wire::Hello,
    ) -> Result<Gateway, Status> {
        let mut client = FeedClient::new(channel).max_decoding_message_size(wire::FEED_MESSAGE_BYTES_MAX);
        let (outbox, messages) = mpsc::channel(64);
        let token = hello.have.as_ref().map(|token| Token::try_from(token).unwrap());
        outbox.send(FromGateway { message: Some(from_gateway::Message::Hello(hello)) }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(secret) = secret {
            request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
        }
        let inbox = client.follow(request).await?.into_inner();
        Ok(Gateway { outbox, inbox, token, records: BTreeMap::new(), heartbeats: 0, full_snapshots: 0 })
    }

    /// The next message that is not a heartbeat, or the error that ends the stream.
    async fn next(&mut self) -> Result<to_gateway::Message, Status> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.inbox.message()).await.expect("a message comes")?;
            match message.ok_or_else(|| Status::ok("ended"))?.message.unwrap() {
                to_gateway::Message::Heartbeat(_) => self.heartbeats += 1,
                other => return Ok(other),
            }
        }
    }

    async fn take(&mut self) -> Result<(), Status> {
        match self.next().await? {
            to_gateway::Message::Manifest(manifest) => {
                self.records.clear();
                self.full_snapshots += 1;
                let mut digests: Vec<Vec<u8>> = Vec::new();
                for index in 0.. {
                    let chunk = match self.next().await? {
                        to_gateway::Message::Chunk(chunk) => chunk,
                        to_gateway::Message::Seal(seal) => {
                            assert_eq!((seal.chunks, seal.digest), (index, sha256(&digests.concat())));
                            break;
                        }
                        other => panic!("{other:?} amid a full snapshot"),
                    };
                    assert_eq!(chunk.index, index);
                    assert_eq!(chunk.digest, sha256(&chunk.records));
                    digests.push(chunk.digest);
                    let records = <wire::Records as prost::Message>::decode(chunk.records).unwrap().records;
                    self.records.extend(records.into_iter().map(|record| (entity_of(&record), record)));
                }
                self.token = Some(Token::try_from(&manifest.token.unwrap()).unwrap());
            }
            to_gateway::Message::Delta(delta) => {
                let token = self.token.unwrap();
                assert_eq!((delta.epoch.as_slice(), delta.from), (token.epoch.as_bytes().as_slice(), token.revision));
                for change in delta.changes {
                    match change.change.unwrap() {
                        wire::change::Change::Put(record) => drop(self.records.insert(entity_of(&record), record)),
                        wire::change::Change::Remove(entity) => {
                            self.records.remove(&EntityRef::try_from(&entity).unwrap());
                        }
                    }
                }
                self.token = Some(Token { revision: delta.to, ..token });
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    async fn ack(&self) {
        let ack = wire::Ack { served: self.token.map(wire::Token::from), refusals: vec![] };
        self.outbox.send(FromGateway { message: Some(from_gateway::Message::Ack(ack)) }).await.unwrap();
    }

    async fn take_up_to(&mut self, revision: u64) {
        while self.token.is_none_or(|token| token.revision < revision) {
            self.take().await.unwrap();
        }
    }

    fn assert_equals(&self, book: &Book) {
        let (token, records) = book.records();
        assert_eq!(self.token, token);
        assert_eq!(self.records, records);
    }
}

async fn refusal(url: &str, secret: Option<&str>, hello: wire::Hello) -> Status {
    match Gateway::connect(url, secret, hello).await {
        Err(status) => status,
        Ok(mut gateway) => gateway.next().await.expect_err("a refusal"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_everything_then_each_change_and_its_word_counts() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let shop = plane.rows.product(acme, "shop").await;
    let revision = plane.newest().await;
    let mut gateway = plane.gateway("one").await;
    gateway.take_up_to(revision).await;
    assert_eq!(gateway.full_snapshots, 1);
    gateway.assert_equals(&plane.book);

    let missing = plane.revisions.served(revision, Duration::ZERO).await.unwrap();
    assert_eq!(missing.missing.len(), 1, "sent is not served");
    gateway.ack().await;
    let served = plane.revisions.served(revision, PATIENCE).await.unwrap();
    assert_eq!(served, Served::default());

    let plan = plane.rows.plan(shop, "basic").await;
    let bought = plane.rows.subscription(shop, plan, acme).await;
    let key = plane.rows.key(bought).await;
    let sold = plane.newest().await;
    gateway.take_up_to(sold).await;
    assert!(gateway.records.contains_key(&EntityRef { kind: EntityKind::Key, id: key }));
    plane.rows.change("key", key, "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1").await;
    let revoked = plane.newest().await;
    gateway.take_up_to(revoked).await;
    assert!(!gateway.records.contains_key(&EntityRef { kind: EntityKind::Key, id: key }));
    assert_eq!(gateway.full_snapshots, 1, "changes come as deltas");
    gateway.assert_equals(&plane.book);
}

fn fleet_max(gateway: &Gateway) -> u32 {
    let fleet = EntityRef { kind: EntityKind::Fleet, id: Uuid::nil() };
    match gateway.records[&fleet].record.as_ref().unwrap() {
        wire::record::Record::Fleet(fleet) => fleet.fleet_max,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_more_than_there_was_room_for_is_counted_in_the_first_snapshot_that_it_gets() {
    let plane = Plane::start().await;
    plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let mut one = plane.gateway("one").await;
    one.take_up_to(revision).await;
    assert_eq!(fleet_max(&one), 1, "one gateway needs no more room than there is");
    let mut two = plane.gateway("two").await;
    two.take().await.unwrap();
    assert_eq!(fleet_max(&two), 2);
    assert_eq!(two.token.unwrap().revision, revision + 1, "by one numbered change");
    one.take().await.unwrap();
    assert_eq!(fleet_max(&one), 2, "the others learn it");

    drop(two);
    plane.rows.organization("later").await;
    let later = plane.newest().await;
    one.take_up_to(later).await;
    assert_eq!((fleet_max(&one), later), (2, revision + 2), "never lowered unasked");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_made_for_connected_nodes_also_when_no_hello_says_so() {
    let plane = Plane::start().await;
    plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let mut gateways = [plane.gateway("one").await, plane.gateway("two").await];
    for gateway in &mut gateways {
        gateway.take_up_to(revision).await;
    }
    plane.rows.sql("UPDATE feed_state SET fleet_max = 1", &[]).await;
    let raised = async {
        let sql = "SELECT fleet_max FROM feed_state";
        while plane.rows.client.query_one(sql, &[]).await.unwrap().get::<_, i32>(0) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, raised).await.expect("the next touch makes room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_resumes_where_it_was_at_this_and_at_another_control_plane() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let first = plane.newest().await;
    let mut introduction = hello("one");
    let mut gateway = Gateway::connect(&plane.url, Some(SECRET), introduction.clone()).await.unwrap();
    gateway.take_up_to(first).await;
    let (token, records) = (gateway.token, std::mem::take(&mut gateway.records));
    drop(gateway);

    let shop = plane.rows.product(acme, "shop").await;
    let second = plane.newest().await;
    introduction.have = token.map(wire::Token::from);
    let other = Plane::start_on(Rows::of(plane.rows.url.clone(), plane.rows.store.clone()).await, tcp()).await;
    for url in [&plane.url, &other.url] {
        let mut resumed = Gateway::connect(url, Some(SECRET), introduction.clone()).await.unwrap();
        resumed.records.clone_from(&records);
        resumed.take_up_to(second).await;
        assert_eq!(resumed.full_snapshots, 0);
        assert!(resumed.records.contains_key(&EntityRef { kind: EntityKind::Product, id: shop }));
        resumed.assert_equals(&plane.book);
    }

    let stranger = Token { epoch: Uuid::now_v7(), revision: second };
    introduction.have = Some(stranger.into());
    let mut anew = Gateway::connect(&plane.url, Some(SECRET), introduction).await.unwrap();
    anew.token = None;
    anew.take_up_to(second).await;
    assert_eq!(anew.full_snapshots, 1, "another epoch gets everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_away_for_longer_than_the_past_is_kept_gets_everything() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let shop = plane.rows.product(acme, "shop").await;
    let plan = plane.rows.plan(shop, "basic").await;
    let bought = plane.rows.subscription(shop, plan, acme).await;
    let key = plane.rows.key(bought).await;
    let first = plane.newest().await;
    let mut introduction = hello("one");
    let mut gateway = Gateway::connect(&plane.url, Some(SECRET), introduction.clone()).await.unwrap();
    gateway.take_up_to(first).await;
    introduction.have = gateway.token.map(wire::Token::from);
    drop(gateway);
    plane.rows.change("key", key, "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1").await;
    let second = plane.newest().await;

    // One control plane remembers; one that starts after the changes were forgotten cannot.
    plane.book.subscribe().wait_for(|newest| newest.is_some_and(|newest| newest.revision >= second)).await.unwrap();
    plane.rows.sql("DELETE FROM config_changes WHERE revision IS NOT NULL", &[]).await;
    let later = Plane::start_on(Rows::of(plane.rows.url.clone(), plane.rows.store.clone()).await, tcp()).await;
    for (url, full_snapshots) in [(&plane.url, 0), (&later.url, 1)] {
        let mut back = Gateway::connect(url, Some(SECRET), introduction.clone()).await.unwrap();
        back.take_up_to(second).await;
        assert_eq!(back.full_snapshots, full_snapshots);
        assert!(!back.records.contains_key(&EntityRef { kind: EntityKind::Key, id: key }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_gateway_gets_fewer_and_larger_deltas_and_ends_up_equal() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let shop = plane.rows.product(acme, "shop").await;
    let first = plane.newest().await;
    let mut gateway = plane.gateway("slow").await;
    gateway.take_up_to(first).await;
    for index in 0..200 {
        plane.rows.release(shop, &format!("/{}/{index}", "long".repeat(60))).await;
        if index % 10 == 0 {
            plane.newest().await;
        }
    }
    let last = plane.newest().await;
    gateway.take_up_to(last).await;
    gateway.assert_equals(&plane.book);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_where_nothing_changes() {
    let plane = Plane::start().await;
    plane.rows.organization("acme").await;
    let first = plane.newest().await;
    let mut gateway = plane.gateway("one").await;
    gateway.take_up_to(first).await;
    for _ in 0..2 {
        let message = tokio::time::timeout(PATIENCE, gateway.inbox.message()).await.unwrap().unwrap().unwrap();
        let Some(to_gateway::Message::Heartbeat(heartbeat)) = message.message else { panic!("{message:?}") };
        assert_eq!(heartbeat.newest, plane.book.newest().map(wire::Token::from));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_bad_manners_are_refused() {
    let plane = Plane::start().await;
    for secret in [None, Some("wrong")] {
        assert_eq!(refusal(&plane.url, secret, hello("one")).await.code(), Code::Unauthenticated);
    }
    let other_protocol = wire::Hello { protocol: 99, ..hello("one") };
    assert_eq!(refusal(&plane.url, Some(SECRET), other_protocol).await.code(), Code::FailedPrecondition);
    let nameless = wire::Hello { node_name: String::new(), ..hello("one") };
    assert_eq!(refusal(&plane.url, Some(SECRET), nameless).await.code(), Code::InvalidArgument);
    // The name is taken once the first has been registered, which its first message shows. The only one, so that no change of
    // the fleet's size comes in between.
    let mut first = plane.gateway("one").await;
    plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    first.take_up_to(revision).await;
    assert_eq!(refusal(&plane.url, Some(SECRET), hello("one")).await.code(), Code::AlreadyExists);

    let second_hello = from_gateway::Message::Hello(hello("one"));
    first.outbox.send(FromGateway { message: Some(second_hello) }).await.unwrap();
    assert_eq!(first.next().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_gateway_are_stored_with_its_reasons() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let mut gateway = plane.gateway("partial").await;
    gateway.take_up_to(revision).await;
    let entity = EntityRef { kind: EntityKind::Product, id: acme };
    let refusals = vec![wire::Refusal { entity: Some(entity.into()), reason: "lacks\0 cors.v9".into() }];
    let ack = wire::Ack { served: gateway.token.map(wire::Token::from), refusals };
    gateway.outbox.send(FromGateway { message: Some(from_gateway::Message::Ack(ack)) }).await.unwrap();
    assert_eq!(plane.revisions.served(revision, PATIENCE).await.unwrap(), Served::default());
    let stored = plane.rows.client.query_one("SELECT refusals::text FROM node_processes", &[]).await.unwrap();
    let stored: serde_json::Value = serde_json::from_str(stored.get(0)).unwrap();
    assert_eq!(stored, serde_json::json!([{ "entity": format!("product {acme}"), "reason": "lacks cors.v9" }]));
}

#[test]
fn what_a_gateway_refuses_is_told_once_until_it_changes() {
    let refusal = |reason: &str| wire::Refusal { entity: None, reason: reason.to_owned() };
    let mut told = Vec::new();
    let mut is_news = |reasons: &[&str]| session::is_news(&mut told, reasons.iter().copied().map(refusal).collect());
    assert!(!is_news(&[]), "all is served, as before");
    assert!(is_news(&["one"]));
    assert!(!is_news(&["one"]));
    assert!(is_news(&["one", "two"]));
    assert!(is_news(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_stream_that_ends_late_takes_nothing_from_the_new_one_of_the_same_process() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let introduction = hello("one");
    let mut old = Gateway::connect(&plane.url, Some(SECRET), introduction.clone()).await.unwrap();
    old.take_up_to(revision).await;
    // One stream more at this control plane, and one at another.
    let other = Plane::start_on(Rows::of(plane.rows.url.clone(), plane.rows.store.clone()).await, tcp()).await;
    for (url, slug) in [(&plane.url, "here"), (&other.url, "there")] {
        let mut new = Gateway::connect(url, Some(SECRET), introduction.clone()).await.unwrap();
        new.take_up_to(revision).await;
        drop(old);
        let ended = async {
            let sessions = || plane.metrics.sessions.get() + other.metrics.sessions.get();
            while sessions() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the old stream ends");
        plane.rows.product(acme, slug).await;
        let changed = plane.newest().await;
        new.take_up_to(changed).await;
        new.ack().await;
        assert_eq!(plane.revisions.served(changed, PATIENCE).await.unwrap(), Served::default());
        // What another control plane noted of the old stream is mended by the next touch, at the latest.
        let connected = async {
            let sql = "SELECT is_connected FROM node_processes";
            while !plane.rows.client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.expect("its name is taken");
        old = new;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_ahead_of_a_slow_control_plane_is_sent_to_another_and_never_back() {
    let rows = Rows::start().await;
    rows.organization("acme").await;
    rows.organization("second").await;
    rows.number().await;
    let epoch = rows.epoch().await;
    let slow = Plane::start_without_builder(rows, tcp()).await;
    slow.book.replace(Token { epoch, revision: 1 }, Pages::default(), vec![], 0);
    let introduction = wire::Hello { have: Some(Token { epoch, revision: 2 }.into()), ..hello("one") };
    let status = refusal(&slow.url, Some(SECRET), introduction).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(slow.rows.epoch().await, epoch, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lost_a_revision_begins_a_new_epoch() {
    let plane = Plane::start().await;
    plane.rows.organization("acme").await;
    let newest = plane.newest().await;
    let epoch = plane.rows.epoch().await;
    let lost = Token { epoch, revision: newest + 1 };
    let introduction = wire::Hello { have: Some(lost.into()), ..hello("one") };
    let mut gateway = Gateway::connect(&plane.url, Some(SECRET), introduction).await.unwrap();
    gateway.take().await.unwrap();
    assert_eq!(gateway.full_snapshots, 1);
    let token = gateway.token.unwrap();
    assert_ne!(token.epoch, epoch);
    assert!(token.revision > lost.revision, "Redis follows the policy of the highest revision");
    gateway.assert_equals(&plane.book);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_hears_heartbeats_while_others_have_the_turns_of_full_snapshots() {
    let plane = Plane::start().await;
    plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let turns = plane.feed.shared.full_sends.acquire_many(u32::try_from(FULL_SENDS_MAX).unwrap()).await.unwrap();
    let mut gateway = plane.gateway("one").await;
    for _ in 0..2 {
        let message = tokio::time::timeout(PATIENCE, gateway.inbox.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(message.message, Some(to_gateway::Message::Heartbeat(_))), "{message:?}");
    }
    drop(turns);
    gateway.take_up_to(revision).await;
    gateway.assert_equals(&plane.book);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_its_owners_alone_and_replaces_a_dead_one() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("feed.sock");
    drop(tokio::net::UnixListener::bind(&path).unwrap());
    let settings = FeedSettings { listen: FeedListen::Unix(path.clone()), token: None, tls: None };
    let plane = Plane::start_on(Rows::start().await, settings.clone()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Listener::bind(&settings).await, Err(FeedError::InUse(_))));
    plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let mut gateway = Gateway::connect(&plane.url, None, hello("one")).await.unwrap();
    gateway.take_up_to(revision).await;
    gateway.assert_equals(&plane.book);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_follows_over_tls_and_plain_text_gets_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = FeedTls { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let plane = Plane::start_on(Rows::start().await, FeedSettings { tls: Some(tls), ..tcp() }).await;
    plane.rows.organization("acme").await;
    let revision = plane.newest().await;
    let ca = tonic::transport::Certificate::from_pem(made.cert.pem());
    let config = tonic::transport::ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
    let url = plane.url.replace("http:", "https:");
    let channel = Endpoint::from_shared(url).unwrap().tls_config(config).unwrap().connect().await.unwrap();
    let mut gateway = Gateway::follow(channel, Some(SECRET), hello("one")).await.unwrap();
    gateway.take_up_to(revision).await;
    gateway.assert_equals(&plane.book);
    let plain = Endpoint::from_shared(plane.url.clone()).unwrap().connect().await;
    if let Ok(channel) = plain {
        assert!(Gateway::follow(channel, Some(SECRET), hello("two")).await.is_err());
    }
}

#[tokio::test]
async fn an_open_address_needs_tls_and_tcp_needs_a_token() {
    let open = FeedSettings { listen: FeedListen::Tcp("0.0.0.0:0".parse().unwrap()), ..tcp() };
    assert!(matches!(Listener::bind(&open).await, Err(FeedError::NeedsTls(_))));
    let no_token = FeedSettings { token: None, ..tcp() };
    assert!(matches!(Listener::bind(&no_token).await, Err(FeedError::NeedsToken)));
    let tls = FeedTls { certificate: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into() };
    let no_file = FeedSettings { tls: Some(tls), ..tcp() };
    assert!(matches!(Listener::bind(&no_file).await, Err(FeedError::File { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_usually_served_within_a_tenth_of_a_second() {
    let plane = Plane::start().await;
    let acme = plane.rows.organization("acme").await;
    let shop = plane.rows.product(acme, "shop").await;
    let plan = plane.rows.plan(shop, "basic").await;
    let bought = plane.rows.subscription(shop, plan, acme).await;
    let first = plane.newest().await;
    let mut gateway = plane.gateway("one").await;
    gateway.take_up_to(first).await;
    gateway.ack().await;
    let mut times = Vec::new();
    for _ in 0..31 {
        plane.rows.key(bought).await;
        let started = std::time::Instant::now();
        let revision = plane.newest().await;
        let follow = async {
            gateway.take_up_to(revision).await;
            gateway.ack().await;
        };
        let (served, ()) = tokio::join!(plane.revisions.served(revision, PATIENCE), follow);
        assert_eq!(served.unwrap(), Served::default());
        times.push(started.elapsed());
    }
    times.sort();
    assert!(times[15] < Duration::from_millis(100), "half of the changes took {:?} and more", times[15]);
}
