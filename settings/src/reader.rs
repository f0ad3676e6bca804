//! The reader: one settings file while it is being read. It hands out sections, gathers their faults and, at the end, refuses
//! every table and key that nobody asked for.

use std::ffi::OsString;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::document::{Document, Item, Value, split};
use crate::fault::{Fault, SettingsErrors, Wrong};
use crate::section::Section;
use crate::unknown::{Known, find_unknown};

/// A settings file above this size, in bytes, is taken for a mistake; honest ones have some tens of kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How the environment is asked; tests bring their own.
type Environment = Box<dyn Fn(&str) -> Option<OsString> + Send>;

/// One file being read: open sections, take values (defaults stand in for faulty ones), then `finish`, which tells all faults.
pub struct Reader {
    file: String,
    document: Document,
    environment: Environment,
    known: Known,
    faults: Vec<Fault>,
}

impl Reader {
    /// Reads and parses a file; `SettingsErrors` when it is absent, unreadable, too large, not UTF-8 or not TOML.
    pub fn read_file(path: &Path) -> Result<Reader, SettingsErrors> {
        Reader::read_file_with_env(path, |name| std::env::var_os(name))
    }

    /// As `read_file`, with another source of environment variables.
    pub fn read_file_with_env(
        path: &Path,
        environment: impl Fn(&str) -> Option<OsString> + Send + 'static,
    ) -> Result<Reader, SettingsErrors> {
        let name = path.display().to_string();
        let text = read_text(path).map_err(|(line, wrong)| fatal(vec![whole_file_fault(&name, line, wrong)]))?;
        Reader::parse_with_env(&name, &text, environment)
    }

    /// Parses text; `name` stands for the file in messages.
    pub fn parse(name: &str, text: &str) -> Result<Reader, SettingsErrors> {
        Reader::parse_with_env(name, text, |variable| std::env::var_os(variable))
    }

    /// As `parse`, with another source of environment variables.
    pub fn parse_with_env(
        name: &str,
        text: &str,
        environment: impl Fn(&str) -> Option<OsString> + Send + 'static,
    ) -> Result<Reader, SettingsErrors> {
        let document = Document::parse(text).map_err(|errors| {
            let faults = errors.into_iter().map(|error| whole_file_fault(name, error.line, Wrong::new(error.reason)));
            fatal(faults.collect())
        })?;
        let mut reader = Reader {
            file: name.to_owned(),
            document,
            environment: Box::new(environment),
            known: Known::default(),
            faults: Vec::new(),
        };
        reader.refuse_arrays_of_tables();
        Ok(reader)
    }

    /// Opens `[name]`; dotted names go deeper, the empty name is the root. A missing table reads as an empty one.
    pub fn section(&mut self, name: &str) -> Section<'_> {
        self.known.add_table(name);
        self.refuse_values_on_the_way(name);
        Section::new(self, name)
    }

    /// All keys asked for so far, dotted and sorted.
    pub fn known_keys(&self) -> Vec<String> {
        self.known.keys.iter().cloned().collect()
    }

    /// All keys that stand in the file, dotted and sorted.
    pub fn written_keys(&self) -> Vec<String> {
        self.document.values.keys().cloned().collect()
    }

    /// Adds unknown tables and keys, and fails with every fault found since the file was opened, sorted by line.
    pub fn finish(mut self) -> Result<(), SettingsErrors> {
        for unknown in find_unknown(&self.document, &self.known) {
            let wrong = Wrong { reason: unknown.reason.to_owned(), mend: unknown.mend };
            self.record_at(Some(unknown.line), &unknown.name, wrong);
        }
        if self.faults.is_empty() { Ok(()) } else { Err(fatal(self.faults)) }
    }

    /// Marks a key as one that the file may have, and returns what the file has.
    pub(crate) fn claim(&mut self, name: &str) -> Claimed<'_> {
        self.known.keys.insert(name.to_owned());
        match self.document.values.get(name) {
            Some(item) => Claimed::Value(item),
            None if self.document.tables.contains_key(name) => Claimed::Table,
            None => Claimed::Nothing,
        }
    }

    /// Whether the file has anything of that name; it is then not reported as unknown, since the caller reports it.
    pub(crate) fn settle(&mut self, name: &str) -> bool {
        let written = self.document.line_of(name).is_some();
        if written {
            self.known.settled.insert(name.to_owned());
        }
        written
    }

    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name)
    }

    /// Records a fault at the name's line or, where it is not written, at its table's.
    pub(crate) fn record(&mut self, name: &str, wrong: Wrong) {
        let line = self.document.line_of(name).or_else(|| self.document.line_of(split(name).0));
        self.record_at(line, name, wrong);
    }

    pub(crate) fn record_at(&mut self, line: Option<usize>, name: &str, wrong: Wrong) {
        let fault =
            Fault { file: self.file.clone(), line, key: name.to_owned(), reason: wrong.reason, mend: wrong.mend };
        // A section may be opened twice, and two sections may lie under one faulty name.
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn refuse_arrays_of_tables(&mut self) {
        for (name, line) in std::mem::take(&mut self.document.arrays_of_tables) {
            let wrong = Wrong::new("arrays of tables are not allowed, a settings table occurs once")
                .mend(format!("write a single `[{name}]`"));
            self.record_at(Some(line), &name, wrong);
        }
    }

    /// `listen = 3` makes it impossible to open `[listen.http]`.
    fn refuse_values_on_the_way(&mut self, name: &str) {
        let mut rest = name;
        while !rest.is_empty() {
            if let Some(item) = self.document.values.get(rest) {
                let wrong =
                    Wrong::new(format!("is {}, must be a table", item.value.kind())).mend(format!("write `[{rest}]`"));
                let line = item.line;
                self.known.settled.insert(rest.to_owned());
                self.record_at(Some(line), rest, wrong);
            }
            rest = split(rest).0;
        }
    }
}

impl fmt::Debug for Reader {
    /// Without the values, any of which may be a secret that was wrongly put into the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("file", &self.file).field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// What a file has under the name of a key.
pub(crate) enum Claimed<'a> {
    Nothing,
    Value(&'a Item),
    Table,
}

impl Claimed<'_> {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Claimed::Nothing => "missing",
            Claimed::Value(Item { value, .. }) => Value::kind(value),
            Claimed::Table => "a table",
        }
    }
}

fn fatal(faults: Vec<Fault>) -> SettingsErrors {
    SettingsErrors::new(faults)
}

fn whole_file_fault(file: &str, line: Option<usize>, wrong: Wrong) -> Fault {
    Fault { file: file.to_owned(), line, key: String::new(), reason: wrong.reason, mend: wrong.mend }
}

/// The text of a file, or the fault with its line.
fn read_text(path: &Path) -> Result<String, (Option<usize>, Wrong)> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(
        |error| match error.kind() {
            ErrorKind::NotFound => (None, Wrong::new("no such file").mend("name the settings file with --config FILE")),
            _ => (None, Wrong::new(format!("cannot be read: {error}")).mend("see the file given with --config FILE")),
        },
    )?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err((None, Wrong::new(format!("larger than {FILE_BYTES_MAX} bytes"))));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = valid.filter(|byte| **byte == b'\n').count() + 1;
        (Some(line), Wrong::new("not UTF-8").mend("save the file as UTF-8"))
    })
}
