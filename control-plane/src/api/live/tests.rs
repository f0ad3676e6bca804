//! Live usage end to end: a batch written to a real Redis, WebSockets over real connections, and people who may or may not
//! watch.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};
use servers::PrivateRedis;
use snapshot::usage::LIVE_STREAM;
use snapshot::wire;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use uuid::Uuid;

use crate::api::fixture::{Shop, ask_database, draft_product};
use crate::live::Pace;
use crate::testing::{App, Client, migrated_database};

/// Beyond it a test has hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// Quick enough for tests.
const PACE: Pace = Pace {
    heartbeat: Duration::from_millis(200),
    idle_max: Duration::from_secs(60),
    recheck: Duration::from_millis(100),
    unchecked_max: Duration::from_secs(30),
    send_wait_max: Duration::from_secs(5),
};

struct World {
    app: App,
    shop: Shop,
    address: std::net::SocketAddr,
    redis: PrivateRedis,
    boot: Uuid,
    sequence: u64,
    meters: Meters,
    _dir: TempDir,
}

struct Meters {
    product: u64,
    subscription: u64,
    endpoint: u64,
    plan: u64,
    key: u64,
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl World {
    async fn start() -> World {
        World::start_at(PACE).await
    }

    async fn start_at(pace: Pace) -> World {
        let dir = tempfile::Builder::new().prefix("lv").tempdir_in("/tmp").unwrap();
        let redis = PrivateRedis::start(&dir.path().join("r"), false).unwrap();
        let toml = format!("[usage]\nplain_redis_url = \"{}\"\n", redis.url());
        let app = App::start_at_pace(migrated_database().await, &toml, pace).await;
        let shop = Shop::open(&app).await;
        let meter = async |table: &str, id: Uuid| {
            let sql = format!("SELECT meter_id FROM {table} WHERE id = '{id}'");
            u64::try_from(ask_database(&app, &sql).await).unwrap()
        };
        let meters = Meters {
            product: meter("api_products", shop.product).await,
            subscription: meter("subscriptions", shop.subscription).await,
            endpoint: meter("endpoints", shop.endpoint).await,
            plan: meter("plans", shop.plan).await,
            key: meter("api_keys", shop.key).await,
        };
        let address = app.serve().await;
        World { app, shop, address, redis, boot: Uuid::now_v7(), sequence: 0, meters, _dir: dir }
    }

    fn event(&self, status: u32, verdict: wire::Verdict) -> wire::UsageEvent {
        wire::UsageEvent {
            at_ms: Timestamp::now().as_millisecond(),
            request_id: Uuid::now_v7().as_bytes().to_vec(),
            kind: Some(wire::UsageKind {
                key: self.meters.key,
                subscription: self.meters.subscription,
                product: self.meters.product,
                endpoint: self.meters.endpoint,
                plan: self.meters.plan,
                status,
                verdict: verdict.into(),
                failed_by: wire::FailedBy::Nobody.into(),
                upstream_contacted: status < 400,
                test_key: false,
            }),
            method: "GET".into(),
            request_bytes: 10,
            response_bytes: 100,
            latency_us: 1_500,
            upstream_latency_us: 1_200,
        }
    }

    /// As a gateway does: these requests, and `unlisted` more that are counted only.
    fn batch(&mut self, events: Vec<wire::UsageEvent>, unlisted: u64) -> wire::LiveBatch {
        let of = |event: &wire::UsageEvent, count: u64| wire::LiveCount {
            subscription: event.kind.unwrap().subscription,
            product: event.kind.unwrap().product,
            endpoint: event.kind.unwrap().endpoint,
            status: event.kind.unwrap().status,
            verdict: event.kind.unwrap().verdict,
            count,
            request_bytes: event.request_bytes * count,
            response_bytes: event.response_bytes * count,
            latency_us_sum: u64::from(event.latency_us) * count,
        };
        let mut counts: Vec<_> = events.iter().map(|event| of(event, 1)).collect();
        counts.extend((unlisted > 0).then(|| of(&events[0], unlisted)));
        self.sequence += 1;
        wire::LiveBatch {
            node_id: Uuid::from_u128(9).as_bytes().to_vec(),
            boot_id: self.boot.as_bytes().to_vec(),
            sequence: self.sequence,
            at_ms: Timestamp::now().as_millisecond(),
            events,
            counts,
        }
    }

    async fn append(&self, batch: &wire::LiveBatch) {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd("XADD");
        command.arg(LIVE_STREAM).arg("MAXLEN").arg("~").arg(20_000).arg("*").arg("v").arg("1");
        let _id: String = command.arg("b").arg(batch.encode_to_vec()).query_async(&mut connection).await.unwrap();
    }

    /// One request that went well; answers its id.
    async fn one_request(&mut self) -> String {
        let event = self.event(200, wire::Verdict::Proxied);
        let id = Uuid::from_slice(&event.request_id).unwrap().to_string();
        let batch = self.batch(vec![event], 0);
        self.append(&batch).await;
        id
    }

    async fn try_open(&self, client: &Client, query: &str, origin: Option<&str>) -> Result<Socket, Box<Error>> {
        let mut request = format!("ws://{}/v1/live{query}", self.address).into_client_request().unwrap();
        let own = format!("https://{}", self.address);
        if let Some((name, value)) = client.credential() {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request.headers_mut().insert("origin", origin.unwrap_or(&own).parse().unwrap());
        connect_async(request).await.map(|(socket, _)| Socket(socket)).map_err(Box::new)
    }

    /// Open, and told that the stream is followed.
    async fn open(&self, client: &Client) -> Socket {
        let mut socket = self.try_open(client, "", None).await.unwrap();
        let hello = socket.next().await;
        assert_eq!((hello["type"].as_str(), hello["topics_max"].as_u64()), (Some("hello"), Some(20)));
        socket.until(|message| message["type"] == "state" && message["state"] == "live").await;
        socket
    }

    fn topic(&self, kind: &str) -> String {
        format!("product:{}:{kind}", self.shop.product)
    }
}

impl Socket {
    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn subscribe(&mut self, topic: &str) {
        self.say(json!({"type": "subscribe", "topic": topic})).await;
    }

    /// The next JSON, or the frame that closed the connection.
    async fn hear(&mut self) -> Result<Value, Option<CloseFrame>> {
        let heard = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(frame))) => return Err(frame),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(None),
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("the other side says something")
    }

    async fn next(&mut self) -> Value {
        self.hear().await.unwrap_or_else(|frame| panic!("closed: {frame:?}"))
    }

    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.next().await;
            if wanted(&message) {
                return message;
            }
        }
    }

    /// The close code.
    async fn until_closed(&mut self) -> Option<u16> {
        loop {
            if let Err(frame) = self.hear().await {
                return frame.map(|frame| frame.code.into());
            }
        }
    }

    async fn watch(&mut self, topic: &str) -> Value {
        self.subscribe(topic).await;
        self.until(|message| message["type"] == "snapshot" && message["topic"] == topic).await
    }

    /// Rows up to the one of this request.
    async fn until_row(&mut self, request_id: &str) -> Value {
        let has = |message: &Value| {
            assert_ne!(message["type"], "closed", "{message}");
            message["rows"].as_array().into_iter().flatten().any(|row| row["request_id"] == request_id)
        };
        self.until(|message| message["type"] == "delta" && has(message)).await
    }
}

fn status_of(result: Result<Socket, Box<Error>>) -> (u16, String) {
    match result.map_err(|error| *error) {
        Err(Error::Http(response)) => {
            let body: Value = serde_json::from_slice(response.body().as_deref().unwrap_or(b"{}")).unwrap_or_default();
            (response.status().as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
        }
        Err(other) => panic!("{other}"),
        Ok(_) => (101, String::new()),
    }
}

#[tokio::test]
async fn a_row_appears_within_a_second_and_only_its_consumer_sees_the_key() {
    let mut world = World::start().await;
    let (product, consumer) =
        (world.topic("requests"), format!("organization:{}:consumer:requests", world.shop.consumer_organization));
    let mut publishers = world.open(&world.shop.publisher).await;
    let mut consumers = world.open(&world.shop.consumer).await;
    assert_eq!(publishers.watch(&product).await["rows"], json!([]));
    consumers.watch(&consumer).await;
    // The first asks Postgres what the meter ids stand for.
    let first = world.one_request().await;
    publishers.until_row(&first).await;
    consumers.until_row(&first).await;
    let mut times = Vec::new();
    for round in 2..=41_u64 {
        let started = Instant::now();
        let id = world.one_request().await;
        let delta = publishers.until_row(&id).await;
        times.push(started.elapsed());
        assert_eq!(delta["sequence"].as_u64(), Some(round), "no sequence is left out");
        let row = &delta["rows"][0];
        assert_eq!((row["verdict"].as_str(), row["endpoint"].as_str()), (Some("proxied"), Some("/forecast/{city}")));
        assert_eq!((row["product"].as_str(), row["consumer"].as_str()), (Some("weather"), Some("carl")));
        assert_eq!(row["latency_us"].as_u64(), Some(1_500));
        assert!(row.get("key_id").is_none(), "a publisher sees no key: {row}");
        let delta = consumers.until_row(&id).await;
        assert_eq!(delta["rows"][0]["key_id"], json!(world.shop.key));
    }
    times.sort();
    eprintln!("live row after XADD: median {:?}, slowest of {} {:?}", times[20], times.len(), times[39]);
    assert!(times[39] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn counters_add_up_and_a_snapshot_takes_the_place_of_what_was_before() {
    let mut world = World::start().await;
    let topic = world.topic("counters");
    let mut socket = world.open(&world.shop.publisher).await;
    socket.watch(&topic).await;
    let events = vec![
        world.event(200, wire::Verdict::Proxied),
        world.event(429, wire::Verdict::RateLimited),
        world.event(402, wire::Verdict::Unpaid),
        world.event(502, wire::Verdict::UpstreamError),
    ];
    let batch = world.batch(events, 6);
    world.append(&batch).await;
    let delta = socket.until(|message| message["type"] == "delta").await;
    let second = &delta["seconds"][0];
    let counted = ["requests", "admitted", "errors", "rate_limited", "payment_required", "forbidden", "response_bytes"]
        .map(|name| second[name].as_u64().unwrap());
    assert_eq!(counted, [10, 8, 1, 1, 1, 0, 1_000]);
    assert_eq!(delta["approximate"], json!(true));
    // Another, who comes later, gets the same as a snapshot; so does whoever asks again.
    let mut late = world.open(&world.shop.publisher).await;
    assert_eq!(late.watch(&topic).await["seconds"], delta["seconds"]);
    socket.say(json!({"type": "resnapshot", "topic": topic})).await;
    let again = socket.until(|message| message["type"] == "snapshot").await;
    assert_eq!((&again["seconds"], again["sequence"].as_u64()), (&delta["seconds"], delta["sequence"].as_u64()));
    // Rows beyond the gateway's cap are counted, and told.
    let snapshot = late.watch(&world.topic("requests")).await;
    assert_eq!(snapshot["rows"].as_array().unwrap().len(), 4);
    let event = world.event(200, wire::Verdict::Proxied);
    let batch = world.batch(vec![event], 41);
    world.append(&batch).await;
    let delta = late.until(|message| message["type"] == "delta" && message.get("rows").is_some()).await;
    assert_eq!(delta["unlisted"].as_u64(), Some(41));
}

#[tokio::test]
async fn a_topic_is_for_those_who_may_see_it() {
    let world = World::start().await;
    let shop = &world.shop;
    let (stranger, operator) = (world.app.user("stranger").await, world.app.admin("root").await);
    let product = world.topic("requests");
    let subscription = format!("subscription:{}:requests", shop.subscription);
    let publishers = format!("organization:{}:publisher:counters", shop.publisher_organization);
    let consumers = format!("organization:{}:consumer:counters", shop.consumer_organization);
    let platform = "platform:requests".to_owned();
    let nothing = format!("product:{}:requests", Uuid::now_v7());
    let all = [&product, &subscription, &publishers, &consumers, &platform];
    let allowed = [
        (&shop.publisher, vec![&product, &subscription, &publishers]),
        (&shop.consumer, vec![&subscription, &consumers]),
        (&stranger, vec![]),
        (&operator, all.to_vec()),
    ];
    for (client, may_see) in allowed {
        let mut socket = world.open(client).await;
        for topic in all.iter().copied().chain([&nothing]) {
            socket.subscribe(topic).await;
            let answer = socket.until(|message| message["topic"] == *topic).await;
            let wanted = if may_see.contains(&topic) {
                ("snapshot", None)
            } else if topic == &platform {
                ("error", Some("forbidden"))
            } else {
                ("error", Some("not_found"))
            };
            assert_eq!((answer["type"].as_str().unwrap(), answer["code"].as_str()), wanted, "{} {topic}", client.email);
        }
    }
    // A token that is bound to another organization reaches nothing here.
    let elsewhere = shop.publisher.organization("elsewhere").await;
    let body = json!({"name": "bound", "scopes": ["admin"], "organization_id": elsewhere});
    let token = shop.publisher.post("/v1/access-tokens", body).await.expect(StatusCode::CREATED);
    let mut socket = world.open(&shop.publisher.bearer(token.json["token"].as_str().unwrap())).await;
    socket.subscribe(&product).await;
    assert_eq!(socket.until(|message| message["topic"] == product).await["code"], "not_found");
}

#[tokio::test]
async fn who_loses_his_membership_or_session_sees_no_more() {
    let mut world = World::start().await;
    let member = world.app.user("mia").await;
    let members = format!("/v1/organizations/{}/members", world.shop.publisher_organization);
    let body = json!({"email": member.email, "role": "viewer"});
    world.shop.publisher.post(&members, body).await.expect(StatusCode::CREATED);
    let topic = world.topic("requests");
    let mut socket = world.open(&member).await;
    socket.watch(&topic).await;
    let seen = world.one_request().await;
    socket.until_row(&seen).await;
    world.shop.publisher.delete(&format!("{members}/{}", member.user_id)).await.expect(StatusCode::NO_CONTENT);
    let closed = socket.until(|message| message["type"] == "closed").await;
    assert_eq!((closed["topic"].as_str(), closed["code"].as_str()), (Some(topic.as_str()), Some("not_found")));
    world.one_request().await;
    socket.subscribe(&topic).await;
    let next = socket.next().await;
    assert_eq!((next["type"].as_str(), next["code"].as_str()), (Some("error"), Some("not_found")), "{next}");
    // And the session itself.
    member.delete("/v1/sessions/current").await.expect(StatusCode::NO_CONTENT);
    assert_eq!(socket.until_closed().await, Some(4401));
}

#[tokio::test]
async fn a_connection_needs_a_credential_that_no_other_page_can_use() {
    let world = World::start().await;
    let (publisher, nobody) = (&world.shop.publisher, world.app.nobody());
    assert_eq!(status_of(world.try_open(&nobody, "", None).await), (401, "unauthenticated".into()));
    let foreign = world.try_open(publisher, "", Some("https://evil.example")).await;
    assert_eq!(status_of(foreign), (403, "origin_refused".into()));
    let token = publisher.with_token(&["read"]).await;
    assert_eq!(status_of(world.try_open(&token, "", Some("https://evil.example")).await).0, 101);
    let (_, bearer) = token.credential().unwrap();
    let in_query = format!("?access_token={}", bearer.trim_start_matches("Bearer "));
    assert_eq!(status_of(world.try_open(&nobody, &in_query, None).await), (422, "validation_failed".into()));
    nobody.get("/v1/live").await.expect_problem(401, "unauthenticated");
    token.get("/v1/live").await.expect_problem(400, "malformed_request");
}

#[tokio::test]
async fn a_ticket_is_good_once_and_as_long_as_what_it_was_made_with() {
    let world = World::start().await;
    let (publisher, nobody) = (&world.shop.publisher, world.app.nobody());
    let make = async |client: &Client| {
        let answer = client.post("/v1/live/tickets", json!({})).await.expect(StatusCode::CREATED);
        answer.json["ticket"].as_str().unwrap().to_owned()
    };
    let ticket = make(publisher).await;
    let query = format!("?ticket={ticket}");
    let mut socket = world.try_open(&nobody, &query, Some("https://elsewhere.example")).await.unwrap();
    socket.watch(&world.topic("requests")).await;
    assert_eq!(status_of(world.try_open(&nobody, &query, None).await).0, 401, "a second time");
    assert_eq!(status_of(world.try_open(&nobody, "?ticket=apihub_live_x", None).await).0, 401);
    let stale = make(publisher).await;
    let digest = "UPDATE live_tickets SET expires_at = now() RETURNING 1::bigint";
    ask_database(&world.app, digest).await;
    assert_eq!(status_of(world.try_open(&nobody, &format!("?ticket={stale}"), None).await).0, 401, "an old one");
    let orphan = make(publisher).await;
    for _ in 1..20 {
        make(publisher).await;
    }
    publisher.post("/v1/live/tickets", json!({})).await.expect_problem(429, "too_many_requests");
    publisher.delete("/v1/sessions/current").await.expect(StatusCode::NO_CONTENT);
    assert_eq!(
        status_of(world.try_open(&nobody, &format!("?ticket={orphan}"), None).await).0,
        401,
        "its session ended"
    );
    assert_eq!(socket.until_closed().await, Some(4401));
}

#[tokio::test]
async fn connections_topics_and_messages_are_bounded() {
    let world = World::start().await;
    let publisher = &world.shop.publisher;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(world.open(publisher).await);
    }
    assert_eq!(status_of(world.try_open(publisher, "", None).await), (429, "too_many_requests".into()));
    world.open(&world.shop.consumer).await;
    // A place is given back when its connection ends.
    sockets.pop().unwrap().0.close(None).await.unwrap();
    let reopened = async {
        while world.try_open(publisher, "", None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.unwrap();
    let socket = &mut sockets[0];
    for text in ["{", "[]", "{\"type\":\"shout\"}", "{\"type\":\"subscribe\",\"topic\":\"x\",\"more\":1}"] {
        socket.0.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.until(|message| message["type"] == "error").await["code"], "malformed_json", "{text}");
    }
    socket.subscribe("everything").await;
    let refused = socket.until(|message| message["topic"] == "everything").await;
    assert_eq!(refused["code"], "validation_failed");
    assert!(refused["mend"].as_str().unwrap().contains("platform"), "{refused}");
    for n in 0..10 {
        let product = draft_product(publisher, &format!("product-{n}"), json!({})).await;
        for kind in ["counters", "requests"] {
            socket.watch(&format!("product:{product}:{kind}")).await;
        }
    }
    socket.subscribe(&world.topic("requests")).await;
    assert_eq!(socket.until(|message| message["type"] == "error").await["code"], "too_many_requests");
    // Too long, and too many: the connection ends.
    sockets[1].0.send(Message::text("x".repeat(5_000))).await.unwrap();
    sockets[1].until_closed().await;
    for _ in 0..100 {
        if sockets[2].0.send(Message::text("{}")).await.is_err() {
            break;
        }
    }
    assert_eq!(sockets[2].until_closed().await, Some(1008));
}

#[tokio::test]
async fn watchers_are_told_when_redis_is_away_and_when_it_is_back() {
    let mut world = World::start().await;
    let topic = world.topic("requests");
    let mut socket = world.open(&world.shop.publisher).await;
    socket.watch(&topic).await;
    let before = world.one_request().await;
    socket.until_row(&before).await;
    world.redis.stop();
    let stale = socket.until(|message| message["type"] == "state").await;
    assert_eq!(stale["state"], "stale");
    world.redis.restart().unwrap();
    let live = socket.until(|message| message["type"] == "state").await;
    assert_eq!(live["state"], "live");
    world.sequence += 3;
    let after = world.one_request().await;
    socket.until_row(&after).await;
    // What gateways sent and what did not come is told, and counted.
    let mut late = world.try_open(&world.shop.publisher, "", None).await.unwrap();
    let told = late.until(|message| message["type"] == "state").await;
    assert_eq!((told["state"].as_str(), told["lost_batches"].as_u64()), (Some("live"), Some(3)));
    assert!(world.app.state.metrics.render().unwrap().contains("control_plane_live_lost_batches_total 3"));
}

#[tokio::test]
async fn a_client_that_gives_no_sign_of_life_is_cut() {
    let pace = Pace { heartbeat: Duration::from_millis(50), idle_max: Duration::from_millis(400), ..PACE };
    let world = World::start_at(pace).await;
    let mut deaf = world.open(&world.shop.publisher).await;
    let mut alive = world.open(&world.shop.publisher).await;
    let watching = async {
        // Hearing is what answers the pings.
        let silence = tokio::time::timeout(Duration::from_millis(1_500), alive.hear()).await;
        assert!(silence.is_err(), "who answers pings stays: {silence:?}");
    };
    watching.await;
    // Its answers to the pings that waited may meet a closed socket before it reads the farewell.
    let code = deaf.until_closed().await;
    assert!(matches!(code, Some(4408) | None), "{code:?}");
}

#[tokio::test]
async fn a_stop_says_farewell() {
    let world = World::start().await;
    let mut socket = world.open(&world.shop.publisher).await;
    world.app.state.live.shutdown().cancel();
    assert_eq!(socket.until_closed().await, Some(1001));
    drop(socket);
    world.app.state.live.ended().await;
    let metrics = world.app.state.metrics.render().unwrap();
    assert!(metrics.contains("control_plane_live_connections 0"), "every place is given back");
}
