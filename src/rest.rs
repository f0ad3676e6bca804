//! A small client of the control plane's REST interface, for seeding the demo and for tests. Every answer outside 2xx is
//! an error that carries the problem's words. Retries nothing.

use anyhow::Context as _;
use reqwest::header::{AUTHORIZATION, COOKIE, ORIGIN, SET_COOKIE};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// A caller with an access token of his own.
#[derive(Clone)]
pub struct Rest {
    client: reqwest::Client,
    base: String,
    token: String,
}

/// What REST answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub json: Value,
}

impl Rest {
    /// Signs in and makes an access token that may do everything its user may.
    pub async fn sign_in(base: &str, email: &str, password: &str) -> anyhow::Result<Rest> {
        let client = reqwest::Client::new();
        let body = json!({ "email": email, "password": password });
        let answer = client.post(format!("{base}/v1/sessions")).header(ORIGIN, base).json(&body).send().await?;
        let cookie = answer.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).unwrap_or_default().to_owned();
        anyhow::ensure!(answer.status().is_success(), "cannot sign in as {email}: {}", answer.text().await?);
        let body = json!({ "name": "apihub", "scopes": ["read", "write", "admin"] });
        let request = client.post(format!("{base}/v1/access-tokens")).header(ORIGIN, base).header(COOKIE, cookie);
        let made: Value = request.json(&body).send().await?.error_for_status()?.json().await?;
        let token =
            made.get("token").and_then(Value::as_str).context("the access token is missing in the answer")?.to_owned();
        Ok(Rest { client, base: base.to_owned(), token })
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.base))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
    }

    /// Sends and reads the answer, whatever its status.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let answer = request.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await?;
        let json =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        Ok(Answer { status, headers, json })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.good(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.good(self.request(Method::POST, path).json(&body)).await
    }

    /// As `post`, answered when every gateway serves the change, or after `seconds`.
    pub async fn post_and_wait(&self, path: &str, body: Value, seconds: u32) -> anyhow::Result<Value> {
        self.good(self.request(Method::POST, path).header("prefer", format!("wait={seconds}")).json(&body)).await
    }

    async fn good(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let answer = self.send(request).await?;
        anyhow::ensure!(answer.status.is_success(), "the control plane answered {}: {}", answer.status, answer.json);
        Ok(answer.json)
    }
}
