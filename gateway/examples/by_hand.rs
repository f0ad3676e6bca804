//! Temporary: runs a gateway by hand.
#![allow(clippy::all, clippy::unwrap_used, clippy::print_stdout)]
use snapshot::key::Environment;
use snapshot::wire;
use wire::record::Record as R;
fn id(n: u128) -> Vec<u8> { uuid::Uuid::from_u128(n).as_bytes().to_vec() }
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let config = &args[1];
    let upstream = &args[2];
    let upgrade = args.iter().any(|a| a == "--upgrade");
    let mut settings = gateway::settings::Settings::read(std::path::Path::new(config)).unwrap();
    settings.upgrade = upgrade;
    std::fs::create_dir_all(&settings.node.data_dir).unwrap();
    let path = settings.node.data_dir.join("snapshot");
    let keyfile = settings.node.data_dir.join("key.txt");
    if !keyfile.exists() {
        let minted = snapshot::key::mint("hub", Environment::Live).unwrap();
        std::fs::write(&keyfile, minted.reveal()).unwrap();
        let ep = |i: u128, pattern: &str, target: String| wire::Endpoint { id: id(i), meter_id: i as u64, method: "*".into(), pattern: pattern.into(), target, ..Default::default() };
        let mut h2 = ep(902, "/h2/{*rest}", format!("http://{upstream}/{{*rest}}"));
        h2.upstream_http = 2;
        let product = wire::Product { id: id(1), meter_id: 1, organization_id: id(500), organization_slug: "acme".into(), slug: "p1".into(), release: 1,
            hosts: vec!["gw.test".into()],
            endpoints: vec![ep(900, "/{*rest}", format!("http://{upstream}/{{*rest}}")), h2], ..Default::default() };
        let plan = wire::Plan { id: id(10), meter_id: 10, name: "gold".into(), version: 1, policy: Some(wire::Policy { algorithm: 1, requests_per_minute: 60_000_000, burst_limit: 60_000_000, ..Default::default() }), ..Default::default() };
        let sub = wire::Subscription { id: id(11), meter_id: 11, product_id: id(1), plan_id: id(10), consumer_id: id(12), consumer_username: "carl".into(), status: 2, ..Default::default() };
        let key = wire::Key { id: id(20), meter_id: 20, digest: minted.digest.0.to_vec(), subscription_id: id(11), environment: 1, ..Default::default() };
        let records = vec![R::Product(product), R::Plan(plan), R::Subscription(sub), R::Key(key)].into_iter().map(|r| wire::Record { record: Some(r) });
        let token = snapshot::token::Token { epoch: uuid::Uuid::from_u128(1), revision: 1 };
        gateway::feed::DiskSnapshot::at(path).save(token, 1_800_000_000_000, records).unwrap();
    }
    gateway::server::run(settings).unwrap();
}
