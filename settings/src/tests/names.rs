//! Names: unknown tables and keys, their suggestions, and names of the wrong kind.

use super::faults_of;

#[test]
fn an_unknown_key_without_a_close_one_lists_the_valid_ones() {
    let found = faults_of("[a]\nelephant = 1\n", |reader| {
        let mut section = reader.section("a");
        section.boolean("x", true);
        section.boolean("y", true);
    });
    assert_eq!(found, ["config/gateway.toml:2: a.elephant: unknown key, valid keys here are `x`, `y`"]);
}

#[test]
fn a_key_in_the_wrong_table_is_sent_home() {
    let found = faults_of("workers = 2\n[log]\nmax_body = 5\n", |reader| {
        reader.section("limits").integer("max_body", 1, 1..=9);
        reader.section("runtime").integer("workers", 1, 1..=9);
        reader.section("log").string("level", "info");
    });
    let expected = [
        "config/gateway.toml:1: workers: unknown key, it belongs in `[runtime]`",
        "config/gateway.toml:3: log.max_body: unknown key, it belongs in `[limits]`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_forgotten_or_wrong_unit_is_suggested() {
    let found = faults_of("[a]\nread_timeout = 5\nidle_timeout_s = 5\n", |reader| {
        let mut section = reader.section("a");
        section.duration_ms("read_timeout_ms", 5, 1..=9);
        section.duration_ms("idle_timeout_ms", 5, 1..=9);
    });
    let expected = [
        "config/gateway.toml:2: a.read_timeout: unknown key, did you mean `read_timeout_ms`?",
        "config/gateway.toml:3: a.idle_timeout_s: unknown key, did you mean `idle_timeout_ms`?",
    ];
    assert_eq!(found, expected);
}

#[test]
fn case_and_dashes_are_recognised() {
    let found = faults_of("[a]\nMax-Body = 5\n", |reader| {
        reader.section("a").integer("max_body", 1, 1..=9);
    });
    assert_eq!(found, ["config/gateway.toml:2: a.Max-Body: unknown key, did you mean `max_body`?"]);
}

#[test]
fn an_unknown_table_is_reported_once_and_not_its_contents() {
    let found = faults_of("[limit]\nx = 1\n[limit.deep]\ny = 1\n", |reader| {
        reader.section("limits").integer("x", 1, 1..=9);
    });
    assert_eq!(found, ["config/gateway.toml:1: limit: unknown table, did you mean `[limits]`?"]);
}

#[test]
fn a_table_missing_its_parents_is_sent_home() {
    let found = faults_of("[http]\naddress = \"\"\n", |reader| {
        reader.section("listen.http").string("address", "");
    });
    assert_eq!(found, ["config/gateway.toml:1: http: unknown table, did you mean `[listen.http]`?"]);
}

#[test]
fn nested_tables_are_the_same_in_every_notation() {
    for text in [
        "[listen.http]\naddress = \"a\"\n",
        "[listen]\nhttp = { address = \"a\" }\n",
        "[listen]\nhttp.address = \"a\"\n",
        "listen.http.address = \"a\"\n",
        "listen = { http = { address = \"a\" } }\n",
    ] {
        let found = faults_of(text, |reader| {
            reader.section("listen");
            assert_eq!(reader.section("listen.http").string("address", ""), "a", "{text}");
        });
        assert!(found.is_empty(), "{text}: {found:?}");
    }
}

#[test]
fn keys_of_an_inline_table_are_checked_too() {
    let found = faults_of("[listen]\nhttp = { adress = \"a\" }\n", |reader| {
        reader.section("listen.http").string("address", "");
    });
    assert_eq!(found, ["config/gateway.toml:2: listen.http.adress: unknown key, did you mean `address`?"]);
}

#[test]
fn a_value_where_a_table_belongs_is_told_once() {
    let found = faults_of("listen = 3\n", |reader| {
        reader.section("listen.http").string("address", "");
        reader.section("listen.grpc").string("address", "");
    });
    assert_eq!(found, ["config/gateway.toml:1: listen: is an integer, must be a table, write `[listen]`"]);
}

#[test]
fn a_table_where_a_value_belongs_is_told_once() {
    let found = faults_of("[a.x]\ny = 1\n[a.x.z]\n", |reader| {
        reader.section("a").integer("x", 1, 1..=9);
    });
    assert_eq!(found, ["config/gateway.toml:1: a.x: is a table, must be a whole number"]);
}

#[test]
fn arrays_of_tables_are_refused_with_a_reason() {
    let found = faults_of("[[listen]]\naddress = 1\n[[listen]]\n[b]\nx = [{ a = 1 }]\n", |reader| {
        reader.section("listen").string("address", "");
        reader.section("b").string("x", "");
    });
    let expected = [
        "config/gateway.toml:1: listen: arrays of tables are not allowed, a settings table occurs once, \
         write a single `[listen]`",
        "config/gateway.toml:5: b.x: arrays of tables are not allowed, a settings table occurs once, \
         write a single `[b.x]`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn quoted_names_with_dots_and_line_breaks_cannot_pass_for_others() {
    let found = faults_of("\"a.x\" = 1\n\"b\\nc\" = 1\n[\"a.b\".c]\n", |reader| {
        assert_eq!(reader.section("a").integer("x", 4, 1..=9), 4);
    });
    let expected = [
        "config/gateway.toml:1: \"a.x\": unknown key",
        "config/gateway.toml:2: \"b\\nc\": unknown key",
        "config/gateway.toml:3: \"a.b\": unknown table, valid tables are `[a]`",
    ];
    assert_eq!(found, expected);
}
