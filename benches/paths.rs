//! Bringing a path into its one normal form: paths that are in it already, and those that have to be rewritten.
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use snapshot::path::normalize;

const PATHS: [(&str, &str); 4] = [
    ("plain", "/acme/weather/cities/berlin/forecast"),
    ("percent-encoded", "/acme/weather/cities/K%C3%B6ln/%66orecast"),
    ("dot segments", "/acme/./weather/x/../cities//berlin/./forecast"),
    ("refused", "/acme/weather/cities%2Fberlin"),
];

fn paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normal form");
    for (name, path) in PATHS {
        group.bench_function(name, |bencher| bencher.iter(|| normalize(black_box(path)).is_ok()));
    }
    group.finish();
}

criterion_group!(benches, paths);
criterion_main!(benches);
