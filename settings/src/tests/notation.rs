//! Notation: files as editors leave them, files that are no TOML, and files that are not there.

use std::fs;

use super::{FILE, faults_of, messages};
use crate::Reader;

#[test]
fn windows_line_ends_count_as_one() {
    let found = faults_of("[a]\r\nx = 1\r\n\r\ny = \"2\"\r\n", |reader| {
        let mut section = reader.section("a");
        assert_eq!(section.integer("x", 5, 1..=9), 1);
        section.integer("y", 5, 1..=9);
    });
    assert_eq!(found, ["config/gateway.toml:4: a.y: is a string, must be a whole number"]);
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let found = faults_of("\u{feff}x = true\n", |reader| {
        reader.section("").integer("x", 5, 1..=9);
    });
    assert_eq!(found, ["config/gateway.toml:1: x: is a boolean, must be a whole number"]);
    let errors = Reader::parse(FILE, "\u{feff}x = \n").unwrap_err();
    assert_eq!(errors.faults()[0].line, Some(1));
}

#[test]
fn lines_count_through_multi_line_strings_and_comments() {
    let found = faults_of("# one\n[a] # two\nx = \"\"\"\nfour\n\"\"\"\ny = 1 # six\n", |reader| {
        let mut section = reader.section("a");
        assert_eq!(section.string("x", ""), "four\n");
        section.string("y", "");
    });
    assert_eq!(found, ["config/gateway.toml:6: a.y: is an integer, must be a string"]);
}

#[test]
fn syntax_errors_are_told_together_without_the_text_of_the_line() {
    let errors = Reader::parse(FILE, "[a]\ntoken = hunter2\n[b]\nx = 1\nx = 2\n").unwrap_err();
    let found = messages(&errors);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("config/gateway.toml:2: not valid TOML at column 9: "), "{}", found[0]);
    assert!(!found[0].contains("hunter2"));
    assert_eq!(found[1], "config/gateway.toml:5: not valid TOML at column 1: duplicate key");
}

#[test]
fn a_table_written_twice_is_an_error() {
    let errors = Reader::parse(FILE, "[a]\nx = 1\n[b]\n[a]\ny = 1\n").unwrap_err();
    assert_eq!(messages(&errors), ["config/gateway.toml:4: not valid TOML at column 2: duplicate key"]);
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    let whole =
        "# é\n[a.b]\nx = [\"1\", 2, { y = 1.5 }]\n[[c]]\nz.\"q.r\" = \"\"\"\n\\u00e9\"\"\"\nd = 1979-05-27\n[a]\n";
    let places: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    for at in places {
        let (before, after) = whole.split_at(at);
        for damage in
            ["", "\"", "[", "]", "{", "}", ".", "=", "\n", "\\", "'", "\0", "\r", "#", "é", "[a]\n", "a.b.x=1\n"]
        {
            for rest in [after, after.get(1..).unwrap_or("")] {
                if let Ok(mut reader) = Reader::parse_with_env(FILE, &format!("{before}{damage}{rest}"), |_| None) {
                    reader.section("a.b").strings("x", &[]);
                    let _ = reader.finish();
                }
            }
        }
    }
}

#[test]
fn a_missing_file_names_the_path_and_the_option() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.toml");
    let errors = Reader::read_file(&path).unwrap_err();
    let expected = format!("{}: no such file, name the settings file with --config FILE", path.display());
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn a_directory_is_no_settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let message = Reader::read_file(dir.path()).unwrap_err().to_string();
    assert!(message.contains("cannot be read: ") && message.contains("--config FILE"), "{message}");
}

#[test]
fn a_file_is_read_with_its_path_in_the_messages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, "[a]\nx = 1\n").unwrap();
    let mut reader = Reader::read_file(&path).unwrap();
    assert_eq!(reader.section("a").integer("x", 5, 1..=9), 1);
    reader.section("a").fault("x", "is odd");
    assert_eq!(reader.finish().unwrap_err().to_string(), format!("{}:2: a.x: is odd", path.display()));
}

#[test]
fn files_that_are_not_utf8_or_too_large_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, b"[a]\nx = \"\xe9\"\n").unwrap();
    let message = Reader::read_file(&path).unwrap_err().to_string();
    assert_eq!(message, format!("{}:2: not UTF-8, save the file as UTF-8", path.display()));
    fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
    let message = Reader::read_file(&path).unwrap_err().to_string();
    assert_eq!(message, format!("{}: larger than 1048576 bytes", path.display()));
}
