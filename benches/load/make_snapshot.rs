//! Writes a gateway's data directory with N keys, each with a subscription of its own, so that a gateway can be measured
//! without a control plane. Prints keys and the path to call, as JSON.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)] // A program for benchmarks alone.

#[path = "../shared/catalog.rs"]
mod catalog;

use std::collections::BTreeMap;

use catalog::{Opens, PATH, Size, records};
use snapshot::key::{Environment, mint};
use snapshot::token::Token;
use uuid::Uuid;

/// Products, the one that is called among them, so that routing has something to choose from.
const PRODUCTS: u64 = 1_000;
/// Keys that are printed, spread over all: as many as a load generator sends in turn.
const PRINTED_MAX: u64 = 10_000;

/// `make_snapshot DATA_DIR KEYS UPSTREAM_URL [ENDPOINTS_OF_EACH_PRODUCT [UPSTREAM_URL_OF_THE_NEIGHBOUR]]`
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (keys, upstream): (u64, &str) = (arguments[2].parse().unwrap(), &arguments[3]);
    let endpoints = arguments.get(4).map_or(1, |count| count.parse().unwrap());
    let size = Size { keys, products: PRODUCTS, endpoints };
    let mut told: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let stride = (keys / PRINTED_MAX).max(1);
    let keep = |number, opens, key| {
        let name = match opens {
            Opens::Called if number % stride > 0 => return,
            Opens::Called => "keys",
            Opens::CalledOnce => "limited_keys",
            Opens::Neighbour => "neighbour_keys",
            Opens::NeighbourOnce => "limited_neighbour_keys",
        };
        told.entry(name).or_default().push(key);
    };
    let dir = std::path::Path::new(&arguments[1]);
    std::fs::create_dir_all(dir).unwrap();
    let disk = gateway::feed::disk::DiskSnapshot::at(dir.join(gateway::feed::SNAPSHOT_FILE));
    let records = records(size, upstream, arguments.get(5).map_or(upstream, String::as_str), keep);
    let unknown = mint("hub", Environment::Live).unwrap();
    let (snapshot, refusals) = gateway::live::Snapshot::build(Token { epoch: Uuid::now_v7(), revision: 1 }, records);
    assert!(refusals.is_empty(), "{refusals:?}");
    disk.save(&snapshot, 0, || true).unwrap();
    told.insert("unknown_keys", vec![unknown.reveal().to_owned()]);
    println!("{}", serde_json::json!({ "path": PATH, "keys_by_what_they_open": told }));
}
