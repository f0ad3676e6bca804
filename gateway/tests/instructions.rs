//! What the gateway's own part of a request costs, counted in instructions: machines differ in time, hardly in counts. A change
//! that costs more than the tolerance has to say so, by committing the new figure. Needs valgrind, and fails without it.
//!
//! After a change that is meant: `APIHUB_REGENERATE=1 cargo test -p apihub-gateway --test instructions`. What an optimised build needs is
//! told by the same command with `--release -- --nocapture`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test crate.

#[path = "../../benches/shared/catalog.rs"]
mod catalog;
#[path = "../../benches/shared/scene.rs"]
mod scene;
#[path = "shared/usage_record.rs"]
mod usage_record;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use gateway::clock::Now;
use gateway::limiter::Limiter;
use gateway::metrics::Metrics;
use gateway::usage::{UsageRecorder, open};

use catalog::Size;
use scene::{Kind, Scene};

/// Under the counter everything is fifty times slower; the depth of the tables is that of 10,000 keys.
const SIZE: Size = Size { keys: 2_000, products: 100, endpoints: 4 };
/// Requests of each kind: what happens once is lost among them.
const REQUESTS: usize = 500;
/// Part of a figure by which it may be missed. Compilers and processors' variants of libc move counts by a part of that.
const TOLERANCE: f64 = 0.05;
/// Set in the process that is counted.
const COUNTED: &str = "APIHUB_COUNTED";
/// The functions that are counted, each with all that it calls.
const WORK: [&str; 6] =
    ["work_admitted", "work_unknown_key", "work_missing_key", "work_no_route", "work_rate_limited", "work_recorded"];

#[inline(never)]
fn work_admitted(scene: &Scene, now: Now) {
    (0..REQUESTS).for_each(|turn| drop(black_box(scene.decide(Kind::Admitted, turn, now))));
}

#[inline(never)]
fn work_unknown_key(scene: &Scene, now: Now) {
    refuse(scene, Kind::UnknownKey, now);
}

#[inline(never)]
fn work_missing_key(scene: &Scene, now: Now) {
    refuse(scene, Kind::MissingKey, now);
}

#[inline(never)]
fn work_no_route(scene: &Scene, now: Now) {
    refuse(scene, Kind::NoRoute, now);
}

#[inline(never)]
fn work_rate_limited(scene: &Scene, now: Now) {
    refuse(scene, Kind::RateLimited, now);
}

/// A refusal with what it is answered: its headers and its body.
fn refuse(scene: &Scene, kind: Kind, now: Now) {
    for turn in 0..REQUESTS {
        if let Err(rejected) = scene.decide(kind, turn, now) {
            let id = "019aa9a4-7f00-7000-8000-000000000000";
            drop(black_box((rejected.rejection.headers(), rejected.rejection.body(catalog::PATH, id))));
        }
    }
}

#[inline(never)]
fn work_recorded(recorder: &UsageRecorder) {
    let record = usage_record::record(1);
    (0..REQUESTS).for_each(|_| recorder.record(black_box(&record)));
}

fn recorder(dir: &Path) -> UsageRecorder {
    // Nobody empties the ring; it holds far more than is written here.
    open(usage_record::usage_settings(dir), Arc::new(Metrics::new("test").unwrap())).unwrap().0
}

#[test]
#[ignore = "the other test runs it under the counter"]
fn counted_work() {
    assert!(std::env::var_os(COUNTED).is_some(), "this is no test of its own");
    let dir = tempfile::tempdir().unwrap();
    // Counted in memory: no answer of a Redis, which is late under the counter, changes what is decided.
    let alone = Arc::new(Limiter::alone());
    let (scene, now, recorder) = (Scene::of(SIZE, alone), Now::read(), recorder(dir.path()));
    recorder.record(&usage_record::record(1));
    work_admitted(&scene, now);
    work_unknown_key(&scene, now);
    work_missing_key(&scene, now);
    work_no_route(&scene, now);
    work_rate_limited(&scene, now);
    work_recorded(&recorder);
}

/// Instructions of each piece of work for one request, in the order of `WORK`.
fn count() -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "counted_work", "--ignored", "--test-threads=1"])
        .env(COUNTED, "1")
        .output()
        .unwrap_or_else(|error| panic!("valgrind cannot be run ({error}); .ci/install test installs it"));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let table = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--show-percs=no"])
        .arg(&out)
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    WORK.map(|name| inclusive(&table, name) / REQUESTS as f64).into()
}

/// The largest line of a function: its sum over all callers.
fn inclusive(table: &str, name: &str) -> f64 {
    let lines = table.lines().filter(|line| line.split([':', ' ', '\'', '[']).any(|word| word == name));
    let count = |line: &str| line.split_whitespace().next()?.replace(',', "").parse::<f64>().ok();
    lines.filter_map(count).reduce(f64::max).unwrap_or_else(|| panic!("{name} is not among what was counted"))
}

fn committed() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.txt")
}

#[test]
fn the_gateways_own_part_of_a_request_costs_what_it_did() {
    let counted = count();
    let mut told = String::new();
    for (name, count) in WORK.iter().zip(&counted) {
        writeln!(told, "{name} {count:.0}").unwrap();
    }
    println!("{told}");
    if !cfg!(debug_assertions) {
        // What is held is the build that the tests run in; an optimised one is told.
        return;
    }
    if std::env::var_os("APIHUB_REGENERATE").is_some() {
        std::fs::write(committed(), &told).unwrap();
    }
    let expected = std::fs::read_to_string(committed()).unwrap();
    let expected: Vec<(&str, f64)> = expected
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    assert_eq!(expected.len(), WORK.len());
    for ((name, expected), count) in expected.into_iter().zip(counted) {
        let ratio = count / expected;
        assert!(
            (ratio - 1.0).abs() <= TOLERANCE,
            "{name}: {count:.0} instructions, {ratio:.3} × what {} says; see the top of this file",
            committed().display()
        );
    }
}
