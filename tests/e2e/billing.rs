//! Money from end to end: months that an operator ends, an unpaid invoice that a real gateway answers with 402, and the command that
//! computes every invoice again.

use std::process::{Command, Output};

use apihub::rest::Rest;
use serde_json::{Value, json};

use crate::harness::{Catalog, World, eventually};

struct Shop {
    world: World,
    admin: Rest,
    ann: Rest,
    organization: String,
    catalog: Catalog,
}

impl Shop {
    async fn open() -> Shop {
        let world = World::start().await;
        let ann = world.publisher("ann").await;
        let draft = ann.product("api").endpoint("GET", "/x", &world.upstream.url());
        let catalog = draft.plan(json!({ "price": "1000" })).publish().await;
        let admin = world.operator().await;
        Shop { admin, ann: ann.rest.clone(), organization: ann.organization.clone(), catalog, world }
    }

    async fn end_month(&self) {
        let path = format!("/v1/billing-clocks/{}/advance", self.organization);
        let answer = self.admin.post(&path, json!({})).await.unwrap();
        assert_eq!(answer["issued"], 1, "{answer}");
    }

    async fn invoices(&self) -> Vec<Value> {
        let list = self.ann.get(&format!("/v1/organizations/{}/invoices", self.organization)).await.unwrap();
        list["data"].as_array().unwrap().clone()
    }

    async fn status_of_a_call(&self) -> u16 {
        let url = format!("{}{}/x", self.world.gateway().url, self.catalog.path);
        self.world.client.get(url).bearer_auth(&self.catalog.key).send().await.unwrap().status().as_u16()
    }

    /// The command on the control plane's own settings.
    fn verify(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apihub"));
        command.args(["billing", "verify", "--config"]).arg(self.world.dir().join("control-plane0.toml")).args(more);
        command.env("DATABASE_URL", &self.world.database_url).env("APIHUB_FEED_TOKEN", "not needed").output().unwrap()
    }
}

#[tokio::test]
async fn an_unpaid_invoice_ends_in_402_and_paying_it_opens_the_gateway_again() {
    let shop = Shop::open().await;
    shop.end_month().await;
    assert_eq!(shop.status_of_a_call().await, 200);
    // A month later the first one is long due.
    shop.end_month().await;
    eventually("402", || async { (shop.status_of_a_call().await == 402).then_some(()) }).await;
    for invoice in shop.invoices().await {
        let path = format!("/v1/invoices/{}/pay", invoice["id"].as_str().unwrap());
        shop.ann.post(&path, json!({})).await.unwrap();
    }
    eventually("200", || async { (shop.status_of_a_call().await == 200).then_some(()) }).await;
}

#[tokio::test]
async fn the_command_ends_with_1_where_an_issued_invoice_was_changed() {
    let shop = Shop::open().await;
    shop.end_month().await;
    let clean = shop.verify(&[]);
    let said = String::from_utf8_lossy(&clean.stdout).into_owned();
    assert!(clean.status.success() && said.contains("1 invoices verified, 0 differences"), "{said} {clean:?}");
    let change = "BEGIN; SET LOCAL session_replication_role = replica; UPDATE invoice_lines SET amount = amount + 0.01; \
                  UPDATE invoices SET total = total + 0.01; COMMIT";
    shop.world.query(change).await;
    let invoice = shop.invoices().await.remove(0);
    for more in
        [&[][..], &["--invoice", invoice["id"].as_str().unwrap()], &["--month", invoice["month"].as_str().unwrap()]]
    {
        let changed = shop.verify(more);
        let said = String::from_utf8_lossy(&changed.stdout).into_owned();
        assert_eq!(changed.status.code(), Some(1), "{more:?}: {said} {changed:?}");
        assert!(said.contains("INV-000001: "), "{said}");
    }
    let other = shop.verify(&["--month", "2020-01"]);
    assert!(other.status.success(), "{other:?}");
}
