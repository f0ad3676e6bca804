//! Prints how many bytes a key keeps resident, and how long a snapshot of many takes to build, to save and to load:
//! `key_memory KEYS [SUBSCRIPTIONS]`. Each figure is of a process of its own, so that nothing that was freed is counted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)] // A program for benchmarks alone.

#[path = "world.rs"]
#[allow(dead_code)] // The benchmarks use the rest.
mod world;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::feed::disk::DiskSnapshot;

#[global_allocator]
static ALLOCATOR: apihub::allocator::Allocator = apihub::allocator::Allocator;

fn resident_bytes() -> u64 {
    // What was freed goes back to the kernel a moment later.
    std::thread::sleep(Duration::from_millis(200));
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

/// Builds and saves; in a process of its own.
fn save(directory: &Path, keys: u64, subscriptions: u64) {
    let began = Instant::now();
    let snapshot = world::snapshot(keys, subscriptions);
    println!("built in {:.2} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    DiskSnapshot::at(directory.join("snapshot")).save(&snapshot, 0, || true).unwrap();
    println!("saved without a pace in {:.2} s", began.elapsed().as_secs_f64());
}

/// Loads and prints the resident bytes; in a process of its own.
fn load(directory: &Path) {
    let before = resident_bytes();
    let began = Instant::now();
    let loaded = DiskSnapshot::at(directory.join("snapshot")).load().unwrap();
    let took = began.elapsed().as_secs_f64();
    let counts = loaded.snapshot.counts();
    println!("{} {took:.3} {}", resident_bytes() - before, counts.keys);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    match arguments[1].as_str() {
        "save" => save(Path::new(&arguments[2]), number(3).unwrap(), number(4).unwrap()),
        "load" => load(Path::new(&arguments[2])),
        _ => {
            let keys = number(1).unwrap();
            report(keys, number(2).unwrap_or(keys / world::KEYS_PER_SUBSCRIPTION));
        }
    }
}

/// What the keys add to the same subscriptions without any.
fn report(keys: u64, subscriptions: u64) {
    let with = measured(keys, subscriptions);
    let without = measured(0, subscriptions);
    println!(
        "{keys} keys of {subscriptions} subscriptions: {:.1} bytes resident a key",
        (with - without) / keys as f64
    );
}

fn measured(keys: u64, subscriptions: u64) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(std::env::current_exe().unwrap()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let path = directory.path().to_str().unwrap();
    print!("{}", run(&["save", path, &keys.to_string(), &subscriptions.to_string()]));
    let loaded = run(&["load", path]);
    let figures: Vec<f64> = loaded.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    println!("{} keys: loaded in {} s, {:.0} MB resident", figures[2], figures[1], figures[0] / 1e6);
    figures[0]
}
