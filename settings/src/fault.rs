//! Faults: what is wrong with a settings file, where, and how to mend it. It refuses to echo values that may be secrets.

use std::fmt;

/// How much of a faulty value a message repeats, in characters: enough to recognise it, too little to flood a log.
const VALUE_SHOWN_CHARS_MAX: usize = 60;

/// One fault of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file as the operator named it.
    pub file: String,
    /// Counted from 1; `None` when the fault stands on no line (a missing file, a missing key of a missing table).
    pub line: Option<usize>,
    /// The dotted key, empty when the fault concerns the whole file.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it, where that can be said.
    pub mend: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.reason)?;
        match &self.mend {
            Some(mend) => write!(f, ", {mend}"),
            None => Ok(()),
        }
    }
}

/// Every fault of a file, sorted by line; those that stand on no line come last. Displays one line per fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", one_per_line(.faults))]
pub struct SettingsErrors {
    faults: Vec<Fault>,
}

impl SettingsErrors {
    pub(crate) fn new(mut faults: Vec<Fault>) -> SettingsErrors {
        faults.sort_by(|a, b| {
            let place = |fault: &Fault| (fault.line.unwrap_or(usize::MAX), fault.key.clone());
            place(a).cmp(&place(b))
        });
        SettingsErrors { faults }
    }

    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

fn one_per_line(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

/// What a parser of one value has to say against it, before file, line and key are known.
pub(crate) struct Wrong {
    pub(crate) reason: String,
    pub(crate) mend: Option<String>,
}

impl Wrong {
    pub(crate) fn new(reason: impl Into<String>) -> Wrong {
        Wrong { reason: reason.into(), mend: None }
    }

    pub(crate) fn mend(self, mend: impl Into<String>) -> Wrong {
        Wrong { mend: Some(mend.into()), ..self }
    }
}

/// A value for a message: in backticks, control characters escaped, long ones cut.
pub(crate) fn shown(value: &str) -> String {
    let escaped: String = value.chars().take(VALUE_SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    let more = if value.chars().nth(VALUE_SHOWN_CHARS_MAX).is_some() { "…" } else { "" };
    format!("`{escaped}{more}`")
}
