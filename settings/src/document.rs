//! The document: TOML text flattened into dotted names with line numbers. It refuses to judge names and ranges, and never
//! repeats the text of a value in a message, because it cannot know which one is a secret.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// How many syntax errors are reported: one slip can make a parser complain about everything below it.
const SYNTAX_ERRORS_MAX: usize = 20;

#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    /// `value` is `None` when it is negative or above 64 bits; `text` is how it was written.
    Integer {
        text: String,
        value: Option<u64>,
    },
    Boolean(bool),
    List(Vec<Item>),
    /// A kind that no setting has.
    Other(&'static str),
}

impl Value {
    /// The kind with its article, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer { .. } => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "an array",
            Value::Other(kind) => kind,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// A whole file; every name is dotted from the root, and segments that are no bare keys stand in quotes.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// Tables in any notation, with the line of the name's first mention.
    pub(crate) tables: BTreeMap<String, usize>,
    pub(crate) values: BTreeMap<String, Item>,
    /// Settings are never repeated tables; the reader refuses these by name.
    pub(crate) arrays_of_tables: Vec<(String, usize)>,
}

/// An error of the notation itself.
pub(crate) struct SyntaxError {
    pub(crate) line: Option<usize>,
    pub(crate) reason: String,
}

impl Document {
    pub(crate) fn parse(text: &str) -> Result<Document, Vec<SyntaxError>> {
        let lines = Lines::of(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(syntax_errors(text, &lines, &errors));
        }
        let mut document = Document::default();
        document.flatten("", root.into_inner(), &lines);
        Ok(document)
    }

    /// The line where a name stands, be it a key or a table.
    pub(crate) fn line_of(&self, name: &str) -> Option<usize> {
        self.values.get(name).map(|item| item.line).or_else(|| self.tables.get(name).copied())
    }

    /// Recursion is bounded by the parser, which refuses nesting beyond 80.
    fn flatten(&mut self, prefix: &str, table: DeTable<'_>, lines: &Lines) {
        for (key, value) in table {
            let line = lines.line_at(key.span().start);
            let name = join(prefix, &segment(key.get_ref()));
            match value.into_inner() {
                DeValue::Table(inner) => {
                    self.tables.insert(name.clone(), line);
                    self.flatten(&name, inner, lines);
                }
                DeValue::Array(items) if !items.is_empty() && items.iter().all(|item| item.get_ref().is_table()) => {
                    self.arrays_of_tables.push((name, line));
                }
                other => {
                    self.values.insert(name, Item { line, value: convert(other, lines) });
                }
            }
        }
    }
}

/// Puts a dotted name together; the root's name is empty.
pub(crate) fn join(prefix: &str, key: &str) -> String {
    match (prefix.is_empty(), key.is_empty()) {
        (true, _) => key.to_owned(),
        (false, true) => prefix.to_owned(),
        (false, false) => format!("{prefix}.{key}"),
    }
}

/// Splits a dotted name into its table and its last segment.
pub(crate) fn split(name: &str) -> (&str, &str) {
    if name.ends_with('"') {
        return name
            .rsplit_once(".\"")
            .map_or(("", name), |(table, _)| (table, name.get(table.len() + 1..).unwrap_or("")));
    }
    name.rsplit_once('.').unwrap_or(("", name))
}

fn segment(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) }
}

fn convert(value: DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer {
            text: number.to_string(),
            value: u64::from_str_radix(number.as_str(), number.radix()).ok(),
        },
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| convert_item(item, lines)).collect()),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn convert_item(item: Spanned<DeValue<'_>>, lines: &Lines) -> Item {
    Item { line: lines.line_at(item.span().start), value: convert(item.into_inner(), lines) }
}

/// One error per line at most, since what follows the first on a line is mostly its echo.
fn syntax_errors(text: &str, lines: &Lines, errors: &[Error]) -> Vec<SyntaxError> {
    let mut found: Vec<SyntaxError> = Vec::new();
    for error in errors {
        let line = error.span().map(|span| lines.line_at(span.start));
        if found.iter().any(|earlier| earlier.line == line) {
            continue;
        }
        let at = match error.span() {
            Some(span) => format!(" at column {}", lines.column_at(text, span.start)),
            None => String::new(),
        };
        found.push(SyntaxError { line, reason: format!("not valid TOML{at}: {}", error.message()) });
        if found.len() == SYNTAX_ERRORS_MAX {
            break;
        }
    }
    found
}

/// Where each line starts, as byte offsets.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Lines {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { starts }
    }

    /// The line of a byte offset, counted from 1.
    fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// The column of a byte offset in characters, counted from 1; a byte order mark takes no column.
    fn column_at(&self, text: &str, offset: usize) -> usize {
        let start = self.line_at(offset).checked_sub(1).and_then(|line| self.starts.get(line)).copied().unwrap_or(0);
        let before = text.get(start..offset).unwrap_or("");
        before.chars().filter(|c| *c != '\u{feff}').count() + 1
    }
}
