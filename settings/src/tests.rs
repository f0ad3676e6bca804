//! Tests of the reader by what an operator sees: the messages, word for word where the wording is the point.

mod names;
mod notation;
mod secrets;
mod values;

use crate::{Reader, SettingsErrors};

const FILE: &str = "config/gateway.toml";

/// A reader whose environment is empty.
fn reader(text: &str) -> Reader {
    Reader::parse_with_env(FILE, text, |_| None).expect("the text is valid TOML")
}

/// Reads with `read` and returns what `finish` complains about, one message per fault.
fn faults_of(text: &str, read: impl FnOnce(&mut Reader)) -> Vec<String> {
    let mut reader = reader(text);
    read(&mut reader);
    reader.finish().map_or_else(|errors| messages(&errors), |()| Vec::new())
}

fn messages(errors: &SettingsErrors) -> Vec<String> {
    errors.faults().iter().map(ToString::to_string).collect()
}

#[test]
fn the_display_of_errors_is_one_line_per_fault() {
    let mut reader = reader("[limits]\nmax_body = \"x\"\nmax_bodi = 1\n");
    reader.section("limits").integer("max_body", 1, 1..=9);
    let errors = reader.finish().unwrap_err();
    assert_eq!(
        errors.to_string(),
        "config/gateway.toml:2: limits.max_body: is a string, must be a whole number\n\
         config/gateway.toml:3: limits.max_bodi: unknown key, did you mean `max_body`?"
    );
    assert_eq!(errors.faults()[1].line, Some(3));
    assert_eq!(errors.faults()[1].key, "limits.max_bodi");
    assert_eq!(errors.faults()[1].reason, "unknown key");
    assert_eq!(errors.faults()[1].mend.as_deref(), Some("did you mean `max_body`?"));
}

#[test]
fn every_fault_of_a_file_is_reported_at_once_in_the_order_of_lines() {
    let text = "\
[zone]                      # 1
size = 99                   # 2
                            # 3
[listen.http]               # 4
address = \"localhost:80\"    # 5
adress = \"127.0.0.1:80\"     # 6
                            # 7
[listn]                     # 8
x = 1                       # 9
[auth]                      # 10
mode = \"strickt\"            # 11
on = \"yes\"                  # 12
";
    let found = faults_of(text, |reader| {
        let mut auth = reader.section("auth");
        auth.one_of("mode", 0, &[("strict", 0), ("lax", 1)]);
        auth.boolean("on", true);
        auth.required_string("issuer");
        reader.section("listen.http").socket_addr("address", "127.0.0.1:8080");
        reader.section("zone").integer("size", 4, 1..=64);
        reader.section("away").required_string("name");
    });
    let expected = [
        "config/gateway.toml:2: zone.size: `99` is out of range, must be 1 to 64",
        "config/gateway.toml:5: listen.http.address: `localhost:80` is not an IP address with a port, \
         write it as `127.0.0.1:8080` or `[::1]:8080`",
        "config/gateway.toml:6: listen.http.adress: unknown key, did you mean `address`?",
        "config/gateway.toml:8: listn: unknown table, did you mean `[listen]`?",
        "config/gateway.toml:10: auth.issuer: is required and has no default",
        "config/gateway.toml:11: auth.mode: `strickt` is not one of `strict`, `lax`, did you mean `strict`?",
        "config/gateway.toml:12: auth.on: is a string, must be true or false, without quotes",
        "config/gateway.toml: away.name: is required and has no default",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_empty_file_gives_all_defaults() {
    let found = faults_of("", |reader| {
        let mut limits = reader.section("limits");
        assert_eq!(limits.integer("workers", 2, 1..=64), 2);
        assert_eq!(limits.string("name", "here"), "here");
        assert_eq!(limits.optional_string("note"), None);
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn known_and_written_keys_can_be_compared() {
    let mut reader = reader("top = 1\n[a]\nx = 1\n[a.b]\ny = \"\"\n");
    reader.section("").integer("top", 1, 0..=9);
    reader.section("a").integer("x", 1, 0..=9);
    let mut inner = reader.section("a.b");
    inner.optional_string("y");
    inner.secret("token", "A_TOKEN");
    assert_eq!(reader.known_keys(), ["a.b.token_file", "a.b.y", "a.x", "top"]);
    assert_eq!(reader.written_keys(), ["a.b.y", "a.x", "top"]);
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn faults_of_the_caller_stand_at_the_line_of_their_key_or_table() {
    let found = faults_of("[a]\nlow = 5\nhigh = 2\n", |reader| {
        let mut section = reader.section("a");
        let (low, high) = (section.integer("low", 1, 0..=9), section.integer("high", 9, 0..=9));
        if low > high {
            section.fault("low", format!("must not be above `high`, which is {high}"));
        }
        section.fault("absent", "is needed when `low` is set");
        section.fault("", "contradicts itself");
    });
    let expected = [
        "config/gateway.toml:1: a: contradicts itself",
        "config/gateway.toml:1: a.absent: is needed when `low` is set",
        "config/gateway.toml:2: a.low: must not be above `high`, which is 2",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_section_read_twice_reports_its_faults_once() {
    let found = faults_of("[a]\nx = true\n", |reader| {
        reader.section("a").string("x", "");
        reader.section("a").string("x", "");
    });
    assert_eq!(found, ["config/gateway.toml:2: a.x: is a boolean, must be a string"]);
}
