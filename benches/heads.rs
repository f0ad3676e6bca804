//! Writing heads: what is added to a request for its upstream and to an answer for its client, what is taken off a client's request,
//! and the head of a refusal. Beside the decision, this is the gateway's own work on each request.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A program for benchmarks alone.

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
use gateway::decide::Decision;
use gateway::filters::identity::{headers_to_send, headers_to_strip};
use gateway::filters::limit_headers::limit_headers;
use gateway::header_texts::{HeaderTexts, Piece};
use gateway::rejection::Rejection;
use gateway::settings::RateLimitHeaders;
use http::{HeaderMap, HeaderName};
use scene::{Kind, Scene};

const SIZE: Size = Size { keys: 1_000, products: 10, endpoints: 1 };
/// What the values of one head take together, at most.
const TEXT_BYTES: usize = 384;

fn head<P: IntoIterator<Item = (HeaderName, Piece)>>(write: impl FnOnce(&mut HeaderTexts) -> P) -> HeaderMap {
    let (mut headers, mut texts) = (HeaderMap::with_capacity(16), HeaderTexts::with_capacity(TEXT_BYTES));
    let pieces = write(&mut texts);
    let texts = texts.ready();
    for (name, piece) in pieces {
        headers.insert(name, texts.value(&piece));
    }
    headers
}

fn heads(criterion: &mut Criterion) {
    let fleet = Fleet::start();
    let scene = Scene::of(SIZE, Arc::clone(&fleet.limiter));
    let Ok(Decision::Admitted(admitted)) = scene.decide(Kind::Admitted, 0, Now::read()) else {
        panic!("a request of a plan with room is admitted");
    };
    let client = scene.headers_of(Kind::Admitted, 0);
    let mut group = criterion.benchmark_group("head");
    group.bench_function("identity towards the upstream", |bencher| {
        bencher.iter(|| head(|texts| headers_to_send(black_box(&admitted.known), texts)));
    });
    group.bench_function("what of the client's is taken off", |bencher| {
        bencher.iter(|| headers_to_strip(black_box(client), admitted.key_places));
    });
    for (form, name) in [(RateLimitHeaders::Structured, "structured"), (RateLimitHeaders::Fields, "fields")] {
        group.bench_function(format!("limits towards the client, {name}"), |bencher| {
            bencher.iter(|| head(|texts| limit_headers(black_box(&admitted.limits), form, texts)));
        });
    }
    let refusal = Rejection::RateLimited { retry_after_s: 7 };
    group.bench_function("a 429", |bencher| bencher.iter(|| black_box(&refusal).headers()));
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
