//! Settings: the shipped file shows every one with its default; what contradicts itself or leaks is refused by line.

use std::path::Path;

use settings::Reader;

use super::{FeedListen, Settings};
use crate::billing::account::{LATE_MONTHS_MAX, RECORD_DAYS_MIN};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/control-plane.toml");

fn environment(name: &str) -> Option<std::ffi::OsString> {
    match name {
        "DATABASE_URL" => Some("postgres://apihub:s3cret@db/apihub".into()),
        "APIHUB_FEED_TOKEN" => Some("a feed token".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Settings, Vec<String>> {
    let reader = Reader::parse_with_env("t.toml", text, environment).unwrap();
    Settings::from_reader(reader).map_err(|errors| errors.faults().iter().map(ToString::to_string).collect())
}

#[test]
fn the_shipped_file_shows_every_setting_with_its_default() {
    let mut reader = Reader::read_file_with_env(Path::new(SHIPPED), environment).unwrap();
    let shipped = Settings::take(&mut reader);
    assert_eq!(reader.known_keys(), reader.written_keys());
    reader.finish().unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{:?}", read("").unwrap()));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", read("").unwrap());
    assert!(!shown.contains("s3cret") && !shown.contains("a feed token"), "{shown}");
}

#[test]
fn all_faults_are_told_at_once() {
    let faults = read(
        "[rest]\nlisten = \"0.0.0.0:80\"\nlissten = 1\n[sessions]\ninsecure_cookies = true\n[keys]\nbrand = \"Hub!\"\n\
         [upstream]\nallow = [\"10.0.0.0/8:x\"]\n[feed]\nlisten = \"0.0.0.0:81\"\n[database]\nplain_url = \"postgres://a:b@c/d\"\n",
    )
    .unwrap_err();
    let wanted = [
        "t.toml:3: rest.lissten: unknown key, did you mean `listen`?",
        "t.toml:5: sessions.insecure_cookies: is for a loopback address only, and `rest.listen` is not one",
        "t.toml:7: keys.brand: must be 1 to 16 lower-case letters or digits",
        "t.toml:9: upstream.allow: '10.0.0.0/8:x' is not a range like 10.1.0.0/16, 127.0.0.1/32:9000 or [::1/128]:9000",
        "t.toml:11: feed.listen: is not a loopback address, so `certificate_file` and `key_file` are needed",
        "t.toml:13: database.plain_url: carries a password; use `url_file` or the environment variable DATABASE_URL",
    ];
    assert_eq!(faults, wanted);
}

#[test]
fn the_billing_record_outlives_the_months_that_an_invoice_looks_at_again() {
    let kept = |days: u64| read(&format!("[retention]\nusage_quarter_hour_days = {days}\n"));
    assert!(kept(159).is_err() && kept(160).is_ok());
    // The longest run of an invoice's month and the late ones before it, and a month for which it is held back.
    let months = u64::try_from(LATE_MONTHS_MAX).unwrap() + 2;
    assert!(RECORD_DAYS_MIN >= months * 31);
}

#[test]
fn a_database_and_a_feed_token_are_needed() {
    let reader = Reader::parse_with_env("t.toml", "", |_| None).unwrap();
    let errors = Settings::from_reader(reader).unwrap_err().to_string();
    assert!(
        errors.contains("database: needs `url_file`, `plain_url` or the environment variable DATABASE_URL"),
        "{errors}"
    );
    assert!(errors.contains("feed: needs `token_file` or the environment variable APIHUB_FEED_TOKEN"), "{errors}");
}

#[test]
fn a_feed_on_a_unix_socket_needs_no_token() {
    let text =
        "[feed]\nlisten = \"unix:/run/apihub/feed.sock\"\n[database]\nplain_url = \"postgres://apihub@db/apihub\"\n";
    let reader = Reader::parse_with_env("t.toml", text, |_| None).unwrap();
    let settings = Settings::from_reader(reader).unwrap();
    assert_eq!(settings.feed.listen, FeedListen::Unix("/run/apihub/feed.sock".into()));
    assert!(read("[feed]\nlisten = \"unix:relative\"\n").is_err());
    assert!(read("[feed]\nlisten = \"localhost\"\n").is_err());
}
