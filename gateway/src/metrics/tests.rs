//! What a scrape shows: names, closed labels, and nothing of a consumer.

use std::time::Duration;

use http::Method;
use snapshot::token::Token;
use uuid::Uuid;

use super::labels::DropReason;
use super::status::{PartState, Served, Source};
use super::{Metrics, RequestSeen};

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render().unwrap()).unwrap()
}

#[test]
fn a_finished_request_is_counted_with_closed_labels_only() {
    let metrics = Metrics::new("1.2.3").unwrap();
    let invented = Method::from_bytes(b"BREW").unwrap();
    metrics.observe_request(&RequestSeen {
        method: &invented,
        status: 429,
        verdict: "rate_limited",
        total: Duration::from_micros(70),
        upstream: None,
        request_bytes: 3,
        response_bytes: 5,
    });
    metrics.usage.dropped(DropReason::RingFull, 7);
    let text = text(&metrics);
    assert!(
        text.contains(r#"gateway_http_requests_total{code="429",method="other",verdict="rate_limited"} 1"#),
        "{text}"
    );
    assert!(text.contains(r#"gateway_usage_events_dropped_total{reason="ring_full"} 7"#));
    assert!(text.contains(r#"gateway_build_info{version="1.2.3"} 1"#));
    assert!(text.contains("gateway_http_response_bytes_total 5"));
}

#[test]
fn the_status_is_shown_and_readiness_needs_a_snapshot_even_a_stale_one() {
    let metrics = Metrics::new("1").unwrap();
    assert!(!metrics.status.is_ready());
    assert!(text(&metrics).contains("gateway_config_age_seconds -1"));
    let token = Token { epoch: Uuid::nil(), revision: 42 };
    metrics.status.set_served(Served { token, source: Source::Disk }, 1);
    metrics.status.set_saved(token);
    metrics.status.set_feed(PartState::Down);
    assert!(!metrics.status.is_ready(), "clients are not let in yet");
    metrics.status.set_open();
    assert!(metrics.status.is_ready());
    let shown = text(&metrics);
    assert!(shown.contains("gateway_config_revision 42"));
    assert!(shown.contains("gateway_config_saved_revision 42"));
    assert!(shown.contains(r#"gateway_part_up{part="feed"} 0"#));
    metrics.status.set_draining();
    assert!(!metrics.status.is_ready());
}

#[test]
fn the_age_is_counted_from_the_last_time_the_snapshot_was_the_newest() {
    let metrics = Metrics::new("1").unwrap();
    let token = |revision| Token { epoch: Uuid::nil(), revision };
    metrics.status.set_served(Served { token: token(2), source: Source::Feed }, 10_000);
    metrics.status.set_newest(token(2), 20_000);
    assert_eq!(metrics.status.snapshot_age_s(25_000), Some(5));
    metrics.status.set_newest(token(3), 30_000);
    assert_eq!(metrics.status.snapshot_age_s(35_000), Some(15));
}

#[test]
fn names_have_the_prefix_counters_end_in_total_and_every_family_has_help() {
    let text = text(&Metrics::new("1").unwrap());
    let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(types.len() > 20, "closed labels are there from the start: {text}");
    for line in types {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(name.starts_with("gateway_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[test]
fn every_value_of_a_closed_label_is_shown_at_zero_before_it_happens() {
    let text = text(&Metrics::new("1").unwrap());
    for series in [
        r#"gateway_rate_limit_decisions_total{algorithm="sliding_window",outcome="over_quota"} 0"#,
        r#"gateway_usage_events_dropped_total{reason="not_configured"} 0"#,
        r#"gateway_config_apply_failures_total{reason="out_of_order"} 0"#,
        r#"gateway_http_request_duration_seconds_count{code_class="5xx"} 0"#,
    ] {
        assert!(text.contains(series), "{series}");
    }
}
