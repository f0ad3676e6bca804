//! A section: typed access to one table. Each accessor makes its key known; a faulty value is recorded and replaced by the
//! default, so that reading goes on and all faults are found in one run. It refuses to convert between kinds.

mod place;
mod sensitive;

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::document::{Item, Value, join};
use crate::fault::{Wrong, shown};
use crate::nearest::nearest;
use crate::reader::{Claimed, Reader};

/// One open table. Optional keys may be written as `""`, which means unset, so that a file can show every setting.
pub struct Section<'a> {
    reader: &'a mut Reader,
    name: String,
}

impl<'a> Section<'a> {
    pub(crate) fn new(reader: &'a mut Reader, name: &str) -> Section<'a> {
        Section { reader, name: name.to_owned() }
    }

    pub fn string(&mut self, key: &str, default: &str) -> String {
        self.text(key).unwrap_or_else(|| default.to_owned())
    }

    /// `None` when the key is missing or empty.
    pub fn optional_string(&mut self, key: &str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A string without a default; missing or empty is a fault, and reads as the empty string.
    pub fn required_string(&mut self, key: &str) -> String {
        let text = match self.take(key, "a string", as_text) {
            Taken::Value(text) => text,
            Taken::Faulty => return String::new(),
            Taken::Nothing => String::new(),
        };
        if text.is_empty() {
            self.wrong(key, Wrong::new("is required and has no default"));
        }
        text
    }

    /// A string out of a closed list of choices.
    pub fn one_of<T: Copy>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else { return default };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return *value;
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        let reason = format!("{} is not one of {}", shown(&text), names.join(", "));
        let close = nearest(&text, choices.iter().map(|(name, _)| *name));
        let mend = close.map(|name| format!("did you mean `{name}`?"));
        self.wrong(key, Wrong { reason, mend });
        default
    }

    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        let pick = |value: &Value| if let Value::Boolean(flag) = value { Some(*flag) } else { None };
        self.take(key, "true or false, without quotes", pick).or(default)
    }

    /// A whole number within `range`, which the message names.
    pub fn integer(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.number(key, "a whole number", default, range)
    }

    /// Milliseconds; the key ends in `_ms`, so that a file never leaves the unit open.
    pub fn duration_ms(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> Duration {
        debug_assert!(key.ends_with("_ms"), "{key}: a key in milliseconds ends in _ms");
        Duration::from_millis(self.number(key, "a whole number of milliseconds", default, range))
    }

    /// Seconds; the key ends in `_s`.
    pub fn duration_s(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> Duration {
        debug_assert!(key.ends_with("_s"), "{key}: a key in seconds ends in _s");
        Duration::from_secs(self.number(key, "a whole number of seconds", default, range))
    }

    pub fn strings(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        self.texts(key).map_or_else(
            || default.iter().map(|text| (*text).to_owned()).collect(),
            |texts| texts.into_iter().map(|(_, text)| text).collect(),
        )
    }

    /// Records a fault that only the caller can see, such as two settings that contradict each other. It is shown at the
    /// key's line, or at the table's where the key is not written; the empty key is the table.
    pub fn fault(&mut self, key: &str, reason: impl Into<String>) {
        self.wrong(key, Wrong::new(reason));
    }

    fn number(&mut self, key: &str, wanted: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        debug_assert!(range.contains(&default), "{key}: the default {default} lies outside of {range:?}");
        let pick = |value: &Value| match value {
            Value::Integer { text, value } => Some((text.clone(), *value)),
            _ => None,
        };
        let Taken::Value((text, value)) = self.take(key, wanted, pick) else { return default };
        if let Some(value) = value.filter(|value| range.contains(value)) {
            return value;
        }
        let mend = match (*range.start(), *range.end()) {
            (low, u64::MAX) => format!("must be {low} or more"),
            (low, high) => format!("must be {low} to {high}"),
        };
        self.wrong(key, Wrong::new(format!("{} is out of range", shown(&text))).mend(mend));
        default
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, "a string", as_text).into_option()
    }

    /// The elements of an array of strings with their lines. Those of another kind are recorded and left out.
    fn texts(&mut self, key: &str) -> Option<Vec<(usize, String)>> {
        let pick = |value: &Value| if let Value::List(items) = value { Some(sort_texts(items)) } else { None };
        let (texts, others) = self.take(key, "an array of strings", pick).into_option()?;
        for (line, kind) in others {
            self.wrong_at(line, key, Wrong::new(format!("holds {kind}, must be an array of strings")));
        }
        Some(texts)
    }

    /// Makes the key known and takes its value, if it is of the kind that `pick` accepts.
    fn take<T>(&mut self, key: &str, wanted: &str, pick: impl FnOnce(&Value) -> Option<T>) -> Taken<T> {
        let name = join(&self.name, key);
        let claimed = self.reader.claim(&name);
        let picked = match &claimed {
            Claimed::Nothing => return Taken::Nothing,
            Claimed::Value(item) => pick(&item.value),
            Claimed::Table => None,
        };
        if let Some(value) = picked {
            return Taken::Value(value);
        }
        let wrong = Wrong::new(format!("is {}, must be {wanted}", claimed.kind()));
        self.wrong(key, wrong);
        Taken::Faulty
    }

    fn wrong(&mut self, key: &str, wrong: Wrong) {
        self.reader.record(&join(&self.name, key), wrong);
    }

    fn wrong_at(&mut self, line: usize, key: &str, wrong: Wrong) {
        self.reader.record_at(Some(line), &join(&self.name, key), wrong);
    }
}

/// What taking a key gave; a fault is already recorded and must not be followed by "is required".
enum Taken<T> {
    Value(T),
    Faulty,
    Nothing,
}

impl<T> Taken<T> {
    fn into_option(self) -> Option<T> {
        if let Taken::Value(value) = self { Some(value) } else { None }
    }

    fn or(self, default: T) -> T {
        self.into_option().unwrap_or(default)
    }
}

fn as_text(value: &Value) -> Option<String> {
    if let Value::Text(text) = value { Some(text.clone()) } else { None }
}

/// The strings with their lines, and the kinds of the other elements with theirs.
type SortedTexts = (Vec<(usize, String)>, Vec<(usize, &'static str)>);

fn sort_texts(items: &[Item]) -> SortedTexts {
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for Item { line, value } in items {
        match value {
            Value::Text(text) => texts.push((*line, text.clone())),
            other => others.push((*line, other.kind())),
        }
    }
    (texts, others)
}
