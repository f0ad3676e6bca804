//! Values: each accessor's good values, wrong kinds and ranges.

use std::time::Duration;

use super::faults_of;
use crate::Reader;

/// The single fault of one line `x = …` in table `[a]`, without its place.
fn fault_of(value: &str, read: impl FnOnce(&mut Reader)) -> String {
    let mut found = faults_of(&format!("[a]\n{value}\n"), read);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0).strip_prefix("config/gateway.toml:2: a.").expect("the fault stands on line 2").to_owned()
}

#[test]
fn good_values_are_read() {
    let text = r#"
[a]
text = "héllo"
empty = ""
mode = "lax"
flag = false
number = 0x1_0
ms = 250
wait_ms = 250
wait_s = 3
address = "[::1]:8080"
dir = "data/spool"
names = ["b", "a"]
nets = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"]
url = "redis+unix:///run/redis.sock"
none_url = ""
none_dir = ""
none_address = ""
"#;
    let found = faults_of(text, |reader| {
        let mut a = reader.section("a");
        assert_eq!(a.string("text", ""), "héllo");
        assert_eq!(a.string("empty", "full"), "");
        assert_eq!(a.one_of("mode", 0, &[("strict", 0), ("lax", 1)]), 1);
        assert!(!a.boolean("flag", true));
        assert_eq!(a.integer("number", 1, 1..=16), 16);
        assert_eq!(a.integer("ms", 250, 1..=u64::MAX), 250);
        assert_eq!(a.duration_ms("wait_ms", 1, 1..=300), Duration::from_millis(250));
        assert_eq!(a.duration_s("wait_s", 1, 1..=300), Duration::from_secs(3));
        assert_eq!(a.socket_addr("address", "").port(), 8080);
        assert_eq!(a.path("dir", "").to_str(), Some("data/spool"));
        assert_eq!(a.strings("names", &["z"]), ["b", "a"]);
        let nets: Vec<String> = a.networks("nets", &[]).iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]);
        assert_eq!(a.url("url", "", &["redis", "redis+unix"]).path(), "/run/redis.sock");
        assert_eq!(a.optional_url("none_url", &["http"]), None);
        assert_eq!(a.optional_path("none_dir"), None);
        assert_eq!(a.optional_socket_addr("none_address"), None);
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn defaults_stand_in_for_missing_values() {
    let found = faults_of("[a]\n", |reader| {
        let mut a = reader.section("a");
        assert_eq!(a.socket_addr("address", "127.0.0.1:80").to_string(), "127.0.0.1:80");
        assert_eq!(a.optional_socket_addr("other"), None);
        assert_eq!(a.strings("names", &["z"]), ["z"]);
        assert_eq!(a.networks("nets", &["127.0.0.0/8"]).len(), 1);
        assert_eq!(a.url("url", "http://127.0.0.1:1", &["http"]).port(), Some(1));
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_number_in_quotes_names_the_unit() {
    let fault = fault_of("wait_ms = \"30s\"", |reader| {
        assert_eq!(reader.section("a").duration_ms("wait_ms", 7, 1..=9), Duration::from_millis(7));
    });
    assert_eq!(fault, "wait_ms: is a string, must be a whole number of milliseconds");
}

#[test]
fn fractions_and_dates_are_no_numbers() {
    for (value, kind) in [("1.5", "a fraction"), ("1979-05-27", "a date"), ("[1]", "an array"), ("inf", "a fraction")] {
        let fault = fault_of(&format!("x = {value}"), |reader| {
            reader.section("a").integer("x", 1, 1..=9);
        });
        assert_eq!(fault, format!("x: is {kind}, must be a whole number"));
    }
}

#[test]
fn numbers_out_of_range_name_the_range() {
    for value in ["0", "10", "-3", "18446744073709551616", "999999999999999999999999999999999999999999"] {
        let fault = fault_of(&format!("x = {value}"), |reader| {
            assert_eq!(reader.section("a").integer("x", 1, 1..=9), 1);
        });
        assert_eq!(fault, format!("x: `{value}` is out of range, must be 1 to 9"));
    }
    let fault = fault_of("x = 0", |reader| {
        reader.section("a").integer("x", 1, 1..=u64::MAX);
    });
    assert_eq!(fault, "x: `0` is out of range, must be 1 or more");
}

#[test]
fn a_choice_without_a_close_one_only_lists_them() {
    let fault = fault_of("mode = \"elephant\"", |reader| {
        assert_eq!(reader.section("a").one_of("mode", 7, &[("strict", 0), ("lax", 1)]), 7);
    });
    assert_eq!(fault, "mode: `elephant` is not one of `strict`, `lax`");
}

#[test]
fn addresses_without_a_port_get_told_where_it_goes() {
    for (value, mend) in [("127.0.0.1", "127.0.0.1:8080"), ("::1", "[::1]:8080")] {
        let fault = fault_of(&format!("x = \"{value}\""), |reader| {
            assert_eq!(reader.section("a").optional_socket_addr("x"), None);
        });
        assert_eq!(fault, format!("x: `{value}` is not an IP address with a port, add the port, as in `{mend}`"));
    }
    let fault = fault_of("x = \"127.0.0.1:65536\"", |reader| {
        assert_eq!(reader.section("a").socket_addr("x", "127.0.0.1:1").port(), 1);
    });
    assert!(fault.contains("is not an IP address with a port"), "{fault}");
}

#[test]
fn faulty_elements_are_told_at_their_own_lines() {
    let text = "[a]\nnames = [\n  \"b\",\n  3,\n]\nnets = [\n  \"10.1.2.3/8\",\n  \"ten\",\n  \"10.0.0.0/8\"\n]\n";
    let found = faults_of(text, |reader| {
        assert_eq!(reader.section("a").strings("names", &[]), ["b"]);
        assert_eq!(reader.section("a").networks("nets", &[]).len(), 1);
    });
    let expected = [
        "config/gateway.toml:4: a.names: holds an integer, must be an array of strings",
        "config/gateway.toml:7: a.nets: `10.1.2.3/8` has bits set outside of its mask, write `10.0.0.0/8`",
        "config/gateway.toml:8: a.nets: `ten` is not a network, write it as `10.0.0.0/8` or `fd00::/8`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_string_where_an_array_belongs_is_refused() {
    let fault = fault_of("x = \"b\"", |reader| {
        assert_eq!(reader.section("a").strings("x", &["z"]), ["z"]);
    });
    assert_eq!(fault, "x: is a string, must be an array of strings");
}

#[test]
fn urls_need_an_allowed_scheme_and_no_password() {
    let read = |reader: &mut Reader| {
        assert_eq!(reader.section("a").url("x", "http://fallback", &["http", "https"]).host_str(), Some("fallback"));
    };
    assert_eq!(
        fault_of("x = \"localhost\"", read),
        "x: is not a URL: relative URL without a base, it starts with `http://` or `https://`"
    );
    assert_eq!(fault_of("x = \"ftp://h\"", read), "x: has the scheme `ftp`, must start with `http://` or `https://`");
    let fault = fault_of("x = \"http://u:hunter2@h\"", read);
    assert_eq!(fault, "x: carries a password, which does not belong into this file, leave it out");
}

#[test]
fn places_with_an_empty_default_are_required() {
    let found = faults_of("[a]\ndir = \"\"\nkind = 3\n", |reader| {
        let mut a = reader.section("a");
        a.url("url", "", &["http"]);
        a.socket_addr("address", "");
        a.path("dir", "");
        a.path("kind", "");
        a.path("absent", "");
        a.required_string("kind");
    });
    let expected = [
        "config/gateway.toml:1: a.absent: is required and has no default",
        "config/gateway.toml:1: a.address: is required and has no default",
        "config/gateway.toml:1: a.url: is required and has no default",
        "config/gateway.toml:2: a.dir: is empty, must be a path",
        "config/gateway.toml:3: a.kind: is an integer, must be a string",
    ];
    assert_eq!(found, expected);
}

#[test]
fn faulty_built_in_defaults_are_faults_and_not_panics() {
    let found = faults_of("", |reader| {
        let mut a = reader.section("a");
        a.socket_addr("address", "localhost");
        a.url("url", "x", &["http"]);
        assert!(a.networks("nets", &["ten"]).is_empty());
    });
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|fault| fault.contains("the built-in default is faulty: ")), "{found:?}");
}

#[test]
fn long_and_odd_values_are_cut_and_escaped_in_messages() {
    let fault = fault_of(&format!("mode = \"\\n{}\"", "x".repeat(200)), |reader| {
        reader.section("a").one_of("mode", 0, &[("on", 0)]);
    });
    assert_eq!(fault, format!("mode: `\\n{}…` is not one of `on`", "x".repeat(59)));
}
