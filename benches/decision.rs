//! The gateway's own decision: route, key, plan and limit of one request, and each kind of refusal; at two sizes of the
//! snapshot, which must cost the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A program for benchmarks alone.

#[path = "shared/catalog.rs"]
mod catalog;
#[path = "shared/fleet.rs"]
mod fleet;
#[path = "shared/scene.rs"]
mod scene;

use std::hint::black_box;
use std::sync::Arc;

use catalog::Size;
use criterion::{Criterion, criterion_group, criterion_main};
use fleet::Fleet;
use gateway::clock::Now;
use scene::{Kind, Scene};

const SMALL: Size = Size { keys: 10_000, products: 1_000, endpoints: 1 };
/// What a laptop's memory holds; `benches/load/run sizes` goes further.
const LARGE: Size = Size { keys: 1_000_000, products: 1_000, endpoints: 100 };

fn decisions(criterion: &mut Criterion) {
    for (name, size) in [("10k keys, 1k endpoints", SMALL), ("1M keys, 100k endpoints", LARGE)] {
        let fleet = Fleet::start();
        let scene = Scene::of(size, Arc::clone(&fleet.limiter));
        let mut group = criterion.benchmark_group(name);
        for (answer, kind) in [
            ("200", Kind::Admitted),
            ("401 unknown key", Kind::UnknownKey),
            ("401 missing key", Kind::MissingKey),
            ("404", Kind::NoRoute),
            ("429", Kind::RateLimited),
        ] {
            let (now, mut turn) = (Now::read(), 0);
            group.bench_function(answer, |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    black_box(scene.decide(kind, turn, now))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
