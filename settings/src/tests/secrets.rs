//! Secrets: where they come from, where they must not stand, and that no message shows them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::{FILE, faults_of, messages};
use crate::{Reader, Secret};

const VALUE: &str = "hunter2";

/// The secret `[feed] token` with the given environment value, and the faults.
fn read_token(text: &str, variable: Option<OsString>) -> (Option<String>, Vec<String>) {
    let lookup = move |name: &str| variable.clone().filter(|_| name == "APIHUB_FEED_TOKEN");
    let mut reader = Reader::parse_with_env(FILE, text, lookup).unwrap();
    let token = reader.section("feed").secret("token", "APIHUB_FEED_TOKEN");
    let found = reader.finish().map_or_else(|errors| messages(&errors), |()| Vec::new());
    (token.map(|token| token.expose().to_owned()), found)
}

fn naming(path: &Path) -> String {
    format!("[feed]\ntoken_file = \"{}\"\n", path.display())
}

#[test]
fn without_variable_and_file_there_is_none() {
    assert_eq!(read_token("", None), (None, vec![]));
    assert_eq!(read_token("[feed]\ntoken_file = \"\"\n", Some("".into())), (None, vec![]));
}

#[test]
fn the_variable_wins_over_the_file_and_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "from file\n").unwrap();
    assert_eq!(read_token(&naming(&path), Some(" from variable\n".into())), (Some("from variable".to_owned()), vec![]));
    assert_eq!(read_token(&naming(&path), Some(" ".into())), (Some("from file".to_owned()), vec![]));
    assert_eq!(read_token(&naming(&path), None), (Some("from file".to_owned()), vec![]));
}

#[test]
fn a_plain_secret_in_the_file_is_refused_and_not_shown() {
    let (token, found) = read_token("[feed]\ntoken = \"hunter2\"\n", None);
    assert_eq!(token, None);
    let expected = "config/gateway.toml:2: feed.token: a secret must not stand in this file, \
                    use `token_file` or the environment variable APIHUB_FEED_TOKEN";
    assert_eq!(found, [expected]);
    assert_eq!(read_token("[feed]\ntoken = \"hunter2\"\n", Some("other".into())).1, [expected]);
}

#[test]
fn a_secret_written_as_its_file_name_is_not_shown() {
    let (_, found) = read_token("[feed]\ntoken_file = \"hunter2\"\n", None);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("config/gateway.toml:2: feed.token_file: the file that it names cannot be read: "));
    assert!(!found[0].contains(VALUE));
}

#[test]
fn empty_large_and_binary_secret_files_are_faults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let large = vec![b'x'; 64 * 1024 + 1];
    let cases: [(&[u8], &str); 3] =
        [(b" \n", "is empty"), (&large, "is larger than 65536 bytes"), (b"\xff", "is not UTF-8")];
    for (contents, reason) in cases {
        fs::write(&path, contents).unwrap();
        let (token, found) = read_token(&naming(&path), None);
        assert_eq!(token, None);
        assert_eq!(found, [format!("config/gateway.toml:2: feed.token_file: the file that it names {reason}")]);
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_a_fault() {
    let (token, found) = read_token("", Some(OsString::from_vec(vec![0xff])));
    assert_eq!(token, None);
    assert_eq!(found, ["config/gateway.toml: feed.token_file: environment variable APIHUB_FEED_TOKEN is not UTF-8"]);
}

#[test]
fn mistyped_secret_keys_are_suggested_without_their_values() {
    let (_, found) = read_token("[feed]\ntokn_file = \"hunter2\"\n", None);
    assert_eq!(found, ["config/gateway.toml:2: feed.tokn_file: unknown key, did you mean `token_file`?"]);
}

#[test]
fn secrets_and_readers_do_not_print_what_they_hold() {
    let secret = Secret::new(VALUE);
    assert_eq!(format!("{secret} {secret:?}"), "(redacted) Secret(redacted)");
    assert_eq!(secret.expose(), VALUE);
    let reader = Reader::parse(FILE, "token = \"hunter2\"\n").unwrap();
    assert!(!format!("{reader:?}").contains(VALUE));
    let found = faults_of("[a]\nx = \"hunter2\"\n", |reader| {
        reader.section("a").integer("x", 1, 1..=9);
    });
    assert!(!found[0].contains(VALUE));
}
