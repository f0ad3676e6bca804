//! House rules that run: sizes of files and functions, opening sentences, forbidden edges, documented codes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test crate: a failed expectation is the failed test.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;
const ARCHITECTURE_LINES_MAX: usize = 200;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(below: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of ours but the generated wire code.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for room in [
        "src",
        "gateway",
        "control-plane",
        "snapshot",
        "settings",
        "servers",
        "limits",
        "limits-redis",
        "tests",
        "benches",
    ] {
        rust_files(&root().join(room), &mut files);
    }
    let name = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    files
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .filter(|(name, _)| !name.starts_with("snapshot/src/wire/"))
        .collect()
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests/")
        || name.starts_with("tests/")
        || name.ends_with("tests.rs")
        || name.contains("/testing")
        || name.contains("/simulation")
}

/// The part of a file that is not its test module.
fn without_tests(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let tests =
        lines.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].trim().starts_with("mod "));
    lines[..tests.unwrap_or(lines.len())].to_vec()
}

/// Whether a line names `word` itself, and not something that only ends with it.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':'))
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_file_opens_with_a_sentence_that_says_what_it_is_for() {
    let opens = |text: &str| text.starts_with("//! ");
    report(sources().into_iter().filter(|(_, text)| !opens(text)).map(|(name, _)| name).collect());
}

#[test]
fn no_file_outgrows_its_room() {
    let faults = sources().into_iter().filter(|(name, _)| !is_test_file(name)).filter_map(|(name, text)| {
        let lines = without_tests(&text).len();
        (lines > FILE_LINES_MAX).then(|| format!("{name}: {lines} lines, at most {FILE_LINES_MAX}"))
    });
    report(faults.collect());
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut faults = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !is_test_file(name)) {
        let lines = without_tests(&text);
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let is_function = code.starts_with("fn ")
                || (code.starts_with("pub") || code.starts_with("async ")) && code.contains(" fn ");
            if !is_function || code.ends_with(';') {
                continue;
            }
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let length = lines[at..].iter().position(|later| **later == end).map_or(1, |after| after + 1);
            if length > FUNCTION_LINES_MAX {
                faults.push(format!("{name}:{}: {length} lines, at most {FUNCTION_LINES_MAX}", at + 1));
            }
        }
    }
    report(faults);
}

#[test]
fn no_room_reaches_where_it_must_not() {
    let mut faults = Vec::new();
    let mut forbid = |room: &str, but: &[&str], words: &[&str], why: &str| {
        for (name, text) in sources() {
            if !name.starts_with(room) || but.iter().any(|but| name.starts_with(but)) || is_test_file(&name) {
                continue;
            }
            for line in without_tests(&text).iter().filter(|line| !line.trim_start().starts_with("//")) {
                if words.iter().any(|word| names(line, word)) {
                    faults.push(format!("{name}: {why}: {}", line.trim()));
                }
            }
        }
    };
    forbid("gateway/", &[], &["postgres", "control_plane::"], "the gateway has no database and knows no control plane");
    forbid("control-plane/", &[], &["pingora", "gateway::"], "the control plane has no proxy");
    forbid(
        "snapshot/",
        &[],
        &["gateway::", "control_plane::", "tokio_postgres", "pingora"],
        "the contract belongs to neither plane",
    );
    forbid("settings/", &[], &["gateway::", "control_plane::", "snapshot::"], "settings know no plane");
    // The comparison of the model with the real functions is a test, too.
    let differential = ["limits/src/script/differential"];
    forbid("limits/", &differential, &["redis::", "tokio::"], "the core of limits has no I/O");
    forbid("limits/", &[], &["gateway::", "control_plane::"], "the core of limits knows no plane");
    forbid("limits-redis/", &[], &["gateway::", "control_plane::"], "the way to the limits' Redis knows no plane");
    for plane in ["gateway/src/limiter", "control-plane/src/quota_seed"] {
        forbid(plane, &[], &["SentinelClient", "ClusterClient", "Client::open"], "limits-redis is the way to Redis");
    }
    forbid(
        "control-plane/src/",
        &["control-plane/src/store", "control-plane/src/migrate"],
        &["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE "],
        "SQL lives in store/",
    );
    report(faults);
}

#[test]
fn no_file_was_left_half_done() {
    let words = ["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX"].map(|word| word.to_owned());
    let mut faults = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name != "tests/tidy.rs") {
        for (at, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                faults.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    report(faults);
}

/// Status and code of each row of the table below `heading`, as in "| 404 | `no_route` | …".
fn explained(page: &str, heading: &str) -> Vec<String> {
    let table = page.split(heading).nth(1).unwrap().split("\n#").next().unwrap();
    let rows = table.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let rows = rows.filter(|row| row.get(1).is_some_and(|status| status.parse::<u16>().is_ok()));
    rows.map(|row| format!("{} {}", row[1], row[2].trim_matches('`'))).collect()
}

#[test]
fn every_error_code_is_explained_and_no_other() {
    let page = fs::read_to_string(root().join("docs/API.md")).unwrap();
    let without_status = |row: String| row.split_once(' ').map(|(_, code)| code.to_owned()).unwrap();
    let rest = control_plane::api::problem::ALL_CODES.iter();
    let rest: Vec<String> = rest.map(|code| format!("{} {}", code.status().as_u16(), code.as_str())).collect();
    let gateway: Vec<String> = gateway::rejection::Rejection::ALL_CODES.iter().map(|code| (*code).to_owned()).collect();
    let told_of_the_gateway = explained(&page, "### Of the gateway").into_iter().map(without_status).collect();
    let mut faults = Vec::new();
    for (codes, told) in [(gateway, told_of_the_gateway), (rest, explained(&page, "### Of REST"))] {
        let missing = codes.iter().filter(|code| !told.contains(code));
        faults.extend(missing.map(|code| format!("docs/API.md lacks `{code}`")));
        let stale = told.iter().filter(|code| !codes.contains(code));
        faults.extend(stale.map(|code| format!("docs/API.md explains `{code}`, which nothing answers")));
    }
    report(faults);
}

#[test]
fn the_architecture_page_stays_readable() {
    let lines = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap().lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "{lines} lines, at most {ARCHITECTURE_LINES_MAX}");
}
