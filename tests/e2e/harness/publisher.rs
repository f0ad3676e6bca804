//! A user of the REST interface, as publisher and as consumer; and the catalog that most tests need in one line.

use apihub::rest::{Answer, Rest};
use reqwest::Method;
use serde_json::{Value, json};

/// A registered user with a personal organization.
#[derive(Clone)]
pub struct Publisher {
    pub rest: Rest,
    pub organization: String,
    pub slug: String,
}

/// A published product with one plan, subscribed to, and one live key.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub product: String,
    pub subscription: String,
    pub key_id: String,
    pub key: String,
    /// `/{organization}/{product}`
    pub path: String,
}

/// What of the catalog differs from one test to the next.
pub struct CatalogDraft<'a> {
    publisher: &'a Publisher,
    slug: String,
    product: Value,
    plan: Value,
    endpoints: Vec<Value>,
}

impl Publisher {
    pub async fn register(base: &str, name: &str) -> Publisher {
        let (email, password) = (format!("{name}@example.com"), "a long enough password");
        let body = json!({ "email": email, "password": password, "display_name": name });
        let answer = reqwest::Client::new().post(format!("{base}/v1/users")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        let rest = Rest::sign_in(base, &email, password).await.unwrap();
        let organizations = rest.get("/v1/organizations").await.unwrap();
        let personal = &organizations["data"][0];
        let field = |name: &str| personal[name].as_str().unwrap().to_owned();
        Publisher { organization: field("id"), slug: field("slug"), rest }
    }

    /// Begins a product `slug`; `publish` makes it, with a plan of 60,000 a minute unless said otherwise.
    pub fn product(&self, slug: &str) -> CatalogDraft<'_> {
        CatalogDraft {
            publisher: self,
            slug: slug.to_owned(),
            product: json!({ "slug": slug, "name": slug }),
            plan: json!({ "slug": "plan", "name": "Plan", "price": "0", "currency": "USD", "rate_limit": 60_000 }),
            endpoints: Vec::new(),
        }
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.rest.post(path, body).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// A write that is answered when every gateway serves it.
    pub async fn post_served(&self, path: &str, body: Value) -> Answer {
        let request = self.rest.request(Method::POST, path).header("prefer", "wait=20").json(&body);
        let answer = self.rest.send(request).await.unwrap();
        assert!(answer.status == 200 || answer.status == 201, "POST {path}: {} {}", answer.status, answer.json);
        answer
    }

    pub async fn send(&self, method: Method, path: &str, body: Value) -> Answer {
        self.rest.send(self.rest.request(method, path).json(&body)).await.unwrap()
    }

    /// Another key of a subscription, served everywhere.
    pub async fn key(&self, subscription: &str, body: Value) -> (String, String) {
        let answer = self.post_served(&format!("/v1/subscriptions/{subscription}/keys"), body).await;
        (id(&answer.json), answer.json["key"].as_str().unwrap().to_owned())
    }
}

impl CatalogDraft<'_> {
    pub fn endpoint(self, method: &str, pattern: &str, target: &str) -> Self {
        self.endpoint_with(json!({ "method": method, "path_pattern": pattern, "target_url": target }))
    }

    pub fn endpoint_with(mut self, endpoint: Value) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Overrides fields of the plan.
    pub fn plan(mut self, fields: Value) -> Self {
        merge(&mut self.plan, fields);
        self
    }

    /// Overrides fields of the product.
    pub fn settings(mut self, fields: Value) -> Self {
        merge(&mut self.product, fields);
        self
    }

    /// Makes all of it; answers when every gateway serves the key.
    pub async fn publish(self) -> Catalog {
        let publisher = self.publisher;
        let product =
            id(&publisher.post(&format!("/v1/organizations/{}/products", publisher.organization), self.product).await);
        for endpoint in self.endpoints {
            publisher.post(&format!("/v1/products/{product}/endpoints"), endpoint).await;
        }
        let plan = id(&publisher.post(&format!("/v1/products/{product}/plans"), self.plan).await);
        publisher.post_served(&format!("/v1/products/{product}/publish"), json!({})).await;
        let path = format!("/v1/organizations/{}/subscriptions", publisher.organization);
        let subscription = id(&publisher.post(&path, json!({ "plan_id": plan })).await);
        let (key_id, key) = publisher.key(&subscription, json!({ "name": "test", "environment": "live" })).await;
        Catalog { product, subscription, key_id, key, path: format!("/{}/{}", publisher.slug, self.slug) }
    }
}

pub fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).to_owned()
}

fn merge(into: &mut Value, fields: Value) {
    for (name, value) in fields.as_object().unwrap() {
        into[name] = value.clone();
    }
}
