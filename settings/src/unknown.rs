//! The unknown: finds tables and keys that nobody asked for and says what they may have been meant to be. It refuses to
//! report a name twice: what stands in an unknown table is not reported again.

use std::collections::BTreeSet;

use crate::document::{Document, join, split};
use crate::nearest::nearest;

/// How many valid names a message lists when none is close.
const NAMES_LISTED_MAX: usize = 12;

/// What the caller asked for, and what was already complained about.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) tables: BTreeSet<String>,
    pub(crate) keys: BTreeSet<String>,
    /// Names with a fault of their own, which would otherwise be reported as unknown too.
    pub(crate) settled: BTreeSet<String>,
}

pub(crate) struct Unknown {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) reason: &'static str,
    pub(crate) mend: Option<String>,
}

impl Known {
    /// Opening `a.b` makes `a` a valid table as well.
    pub(crate) fn add_table(&mut self, name: &str) {
        let mut rest = name;
        while !rest.is_empty() {
            self.tables.insert(rest.to_owned());
            rest = split(rest).0;
        }
    }

    /// A key may be settled or be registered while the file has a table of that name: its wrong kind was reported.
    fn is_settled(&self, name: &str) -> bool {
        self.keys.contains(name) || self.settled.contains(name)
    }

    fn keys_of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a str> {
        self.keys.iter().map(|key| split(key)).filter(move |(of, _)| *of == table).map(|(_, key)| key)
    }
}

pub(crate) fn find_unknown(document: &Document, known: &Known) -> Vec<Unknown> {
    let mut found = Vec::new();
    // Names whose contents are not looked at; ordered, so that a table is met before what it holds.
    let mut closed: BTreeSet<&str> = BTreeSet::new();
    for (name, line) in &document.tables {
        if has_ancestor_in(name, &closed) {
            continue;
        }
        if known.is_settled(name) {
            closed.insert(name);
        } else if !known.tables.contains(name) {
            closed.insert(name);
            let mend = mend_of_table(name, known);
            found.push(Unknown { name: name.clone(), line: *line, reason: "unknown table", mend });
        }
    }
    for (name, item) in &document.values {
        if !known.is_settled(name) && !has_ancestor_in(name, &closed) {
            let mend = mend_of_key(name, known);
            found.push(Unknown { name: name.clone(), line: item.line, reason: "unknown key", mend });
        }
    }
    found
}

fn has_ancestor_in(name: &str, closed: &BTreeSet<&str>) -> bool {
    let mut rest = split(name).0;
    while !rest.is_empty() {
        if closed.contains(rest) {
            return true;
        }
        rest = split(rest).0;
    }
    false
}

fn mend_of_table(name: &str, known: &Known) -> Option<String> {
    if let Some(close) = nearest(name, known.tables.iter().map(String::as_str)) {
        return Some(format!("did you mean `[{close}]`?"));
    }
    let last = split(name).1;
    if let Some(deeper) = known.tables.iter().find(|table| split(table).1 == last) {
        return Some(format!("did you mean `[{deeper}]`?"));
    }
    listed(known.tables.iter().map(|table| format!("`[{table}]`"))).map(|names| format!("valid tables are {names}"))
}

fn mend_of_key(name: &str, known: &Known) -> Option<String> {
    let (table, key) = split(name);
    if let Some(close) = nearest(key, known.keys_of(table)) {
        return Some(format!("did you mean `{close}`?"));
    }
    let homes = known.tables.iter().filter(|other| known.keys.contains(&join(other, key)));
    if let Some(homes) = listed(homes.map(|other| format!("`[{other}]`"))) {
        return Some(format!("it belongs in {homes}"));
    }
    listed(known.keys_of(table).map(|key| format!("`{key}`"))).map(|names| format!("valid keys here are {names}"))
}

fn listed(names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<String> = names.collect();
    let more = if names.len() > NAMES_LISTED_MAX { " and others" } else { "" };
    let shown: Vec<&str> = names.iter().take(NAMES_LISTED_MAX).map(String::as_str).collect();
    (!shown.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
}
