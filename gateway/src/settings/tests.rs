//! Tests of the settings: the committed file, and the faults that only this room can see.

use std::path::Path;

use ::settings::Reader;

use super::{RateLimitHeaders, Settings, reading};

const COMMITTED: &str = include_str!("../../../config/gateway.toml");

fn parse(text: &str) -> Result<Settings, Vec<String>> {
    let reader = Reader::parse_with_env("gateway.toml", text, |_| None).expect("the text is valid TOML");
    reading::read(reader).map_err(|errors| errors.faults().iter().map(ToString::to_string).collect())
}

#[test]
fn the_committed_file_is_accepted_and_shows_every_key() {
    parse(COMMITTED).unwrap();
    let mut reader = Reader::parse("config/gateway.toml", COMMITTED).unwrap();
    reader.section("");
    assert_eq!(reader.written_keys(), Settings::known_keys());
}

#[test]
fn the_committed_file_holds_the_defaults() {
    let (written, default) = (parse(COMMITTED).unwrap(), parse("").unwrap());
    assert_eq!(format!("{written:?}"), format!("{default:?}"));
    assert_eq!(default.answers.rate_limit_headers, RateLimitHeaders::Structured);
}

/// The settings are refused with so many faults, and each of these words stands in one of them.
fn assert_refused(settings: &str, count: usize, told: &[&str]) {
    let faults = parse(settings).unwrap_err();
    assert_eq!(faults.len(), count, "{faults:#?}");
    for words in told {
        assert!(faults.iter().any(|fault| fault.contains(words)), "{words}: {faults:#?}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_with_its_line() {
    assert_refused(
        "[listen]\nhttps = \"0.0.0.0:8443\"\n[feed]\ncontrol_planes = [\"http://10.0.0.1:9000\", \"ftp://x\"]\n[upstream]\nallow = [\"x\"]\n",
        5,
        &[":2: listen.https: needs `certificate_file`", "use https://", "feed.token_file: is needed"],
    );
}

#[test]
fn listeners_have_addresses_of_their_own() {
    assert_refused(
        "[listen]\nhttp = \"127.0.0.1:9090\"\nhttps = \"127.0.0.1:9090\"\ncertificate_file = \"c\"\nkey_file = \"k\"\n",
        2,
        &[":3: listen.https: is the address of `listen.http`", "admin.listen: is an address of `[listen]`"],
    );
}

#[test]
fn a_missing_file_says_how_to_name_one() {
    let errors = Settings::read(Path::new("/nonexistent/gateway.toml")).unwrap_err();
    assert!(errors.to_string().contains("--config"), "{errors}");
}

#[test]
fn secrets_are_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "hush-hush\n").unwrap();
    let text = format!("[feed]\ncontrol_planes = [\"unix:/run/feed.sock\"]\ntoken_file = \"{}\"\n", file.display());
    let settings = parse(&text).unwrap();
    assert_eq!(settings.feed.token.as_ref().unwrap().expose(), "hush-hush");
    assert!(!format!("{settings:?}").contains("hush-hush"));
}
