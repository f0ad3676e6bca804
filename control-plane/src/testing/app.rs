//! A control plane in process, and people who use it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use settings::Reader;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;

use super::cluster::{TestDatabase, migrated_database};
use crate::api::health::Readiness;
use crate::api::state::AppState;
use crate::changes::Revisions;
use crate::live::{Live, LiveMetrics, Pace};
use crate::metrics::Metrics;
use crate::passwords::Passwords;
use crate::router;
use crate::settings::Settings;
use crate::store::Store;
use crate::throttle::Throttles;

/// Everybody's password in the tests.
pub(crate) const PASSWORD: &str = "a long enough passphrase";
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(crate) struct App {
    pub(crate) state: AppState,
    pub(crate) database: TestDatabase,
    router: Router,
    _stop: DropGuard,
}

/// Somebody with a session, or nobody.
#[derive(Clone)]
pub(crate) struct Client {
    router: Router,
    credential: Option<(header::HeaderName, String)>,
    /// The user's id; nil for nobody.
    pub(crate) user_id: uuid::Uuid,
    /// The personal organization; nil for nobody.
    pub(crate) organization_id: uuid::Uuid,
    pub(crate) email: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl App {
    pub(crate) async fn start() -> App {
        App::start_with("").await
    }

    /// With settings of its own, as TOML.
    pub(crate) async fn start_with(toml: &str) -> App {
        let database = migrated_database().await;
        App::start_on(database, toml).await
    }

    pub(crate) async fn start_on(database: TestDatabase, toml: &str) -> App {
        App::start_at_pace(database, toml, Pace::default()).await
    }

    /// With live connections that are kept at a pace of their own.
    pub(crate) async fn start_at_pace(database: TestDatabase, toml: &str, pace: Pace) -> App {
        let url = database.url.clone();
        let environment = move |name: &str| match name {
            "DATABASE_URL" => Some(url.clone().into()),
            "APIHUB_FEED_TOKEN" => Some("feed token of the tests".into()),
            _ => None,
        };
        let reader = Reader::parse_with_env("test.toml", toml, environment).unwrap();
        let settings = Settings::from_reader(reader).unwrap();
        let metrics = Metrics::new().unwrap();
        let store = Store::connect(&settings.database, metrics.clone()).await.unwrap();
        let shutdown = CancellationToken::new();
        let live_metrics = LiveMetrics::register(metrics.registry()).unwrap();
        let live = Live::start(store.clone(), &settings.usage, live_metrics, pace, &shutdown).unwrap();
        let state = AppState {
            revisions: Revisions::start(store.clone(), settings.retention.config_change_days, &shutdown),
            settings: Arc::new(settings),
            store,
            passwords: Passwords::new().unwrap(),
            throttles: Throttles::default(),
            metrics,
            live,
            readiness: Readiness::default(),
        };
        App { router: router::build(state.clone()), state, database, _stop: shutdown.drop_guard() }
    }

    /// Over a real socket, until the app is dropped.
    pub(crate) async fn serve(&self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = self.state.live.shutdown().clone();
        tokio::spawn(crate::server::connections::serve(listener, self.state.clone(), shutdown));
        address
    }

    /// Somebody who has not signed in.
    pub(crate) fn nobody(&self) -> Client {
        Client {
            router: self.router.clone(),
            credential: None,
            user_id: uuid::Uuid::nil(),
            organization_id: uuid::Uuid::nil(),
            email: String::new(),
        }
    }

    /// Registers `<name>@example.com` and signs in.
    pub(crate) async fn user(&self, name: &str) -> Client {
        let nobody = self.nobody();
        let email = format!("{name}@example.com");
        let body = json!({"email": email, "password": PASSWORD, "display_name": name});
        let registered = nobody.post("/v1/users", body).await.expect(StatusCode::CREATED);
        let mut client = nobody.sign_in(&email, PASSWORD).await;
        client.user_id = registered.id();
        client.organization_id = registered.json["personal_organization_id"].as_str().unwrap().parse().unwrap();
        client
    }

    /// As `user`, and an operator of the installation.
    pub(crate) async fn admin(&self, name: &str) -> Client {
        let client = self.user(name).await;
        crate::bootstrap::ensure_admin(&self.state.store, &client.email, &settings::Secret::new(PASSWORD))
            .await
            .unwrap();
        client
    }
}

impl Client {
    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Client {
        let answer = self.post("/v1/sessions", json!({"email": email, "password": password})).await;
        let answer = answer.expect(StatusCode::CREATED);
        let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let credential = Some((header::COOKIE, cookie));
        Client { credential, email: email.to_owned(), ..self.clone() }
    }

    /// The same person with an access token of these scopes instead of the session.
    pub(crate) async fn with_token(&self, scopes: &[&str]) -> Client {
        let body = json!({"name": "test", "scopes": scopes});
        let answer = self.post("/v1/access-tokens", body).await.expect(StatusCode::CREATED);
        self.bearer(answer.json["token"].as_str().unwrap())
    }

    pub(crate) fn bearer(&self, token: &str) -> Client {
        Client { credential: Some((header::AUTHORIZATION, format!("Bearer {token}"))), ..self.clone() }
    }

    /// Another organization of this person.
    pub(crate) async fn organization(&self, slug: &str) -> uuid::Uuid {
        let answer = self.post("/v1/organizations", json!({"slug": slug, "name": slug})).await;
        answer.expect(StatusCode::CREATED).id()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path), None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path), Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path), Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path), Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path), None).await
    }

    /// With headers of its own: `client.with(&[("if-match", "\"1\"")], Method::PATCH, path, Some(body))`.
    pub(crate) async fn with(
        &self,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, body).await
    }

    /// Whatever bytes, whatever type.
    pub(crate) async fn raw(&self, method: Method, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
        let request = self.request(method, path).header(header::CONTENT_TYPE, kind);
        self.answer(request.body(body.into()).unwrap()).await
    }

    /// The header that says who he is.
    pub(crate) fn credential(&self) -> Option<(header::HeaderName, &str)> {
        self.credential.as_ref().map(|(name, value)| (name.clone(), value.as_str()))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "hub.test");
        let request = request.header(header::ORIGIN, "https://hub.test");
        match &self.credential {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }

    async fn send(&self, request: axum::http::request::Builder, body: Option<Value>) -> Answer {
        let request = match body {
            Some(body) => {
                request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
            }
            None => request.body(Body::empty()).unwrap(),
        };
        self.answer(request).await
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, json, text }
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Answer {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A problem with this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Answer {
        assert_eq!((self.status.as_u16(), self.json["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.json["request_id"].as_str(), Some(self.header("x-request-id")));
        self
    }

    /// The pointers of the wrong fields.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        self.json["errors"].as_array().into_iter().flatten().filter_map(|error| error["pointer"].as_str()).collect()
    }

    #[track_caller]
    pub(crate) fn id(&self) -> uuid::Uuid {
        self.json["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.text)).parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }
}
