//! Secrets: values that must not be seen. It refuses to print them, and to take them from the settings file itself.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::fault::Wrong;

/// A secret file above this size, in bytes, is taken for a mistake; the largest honest ones are PEM bundles.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A password, token or key; never empty when it comes from the settings. Only `expose` shows it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value itself; the name is meant to be noticed in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// White space around the value is dropped, as many tools end it with a newline. An empty variable counts as unset, because
/// compose files pass on variables that nobody set.
pub(crate) fn secret_from_variable(name: &str, value: Option<OsString>) -> Result<Option<Secret>, Wrong> {
    let Some(value) = value else { return Ok(None) };
    let text = value.into_string().map_err(|_| Wrong::new(format!("environment variable {name} is not UTF-8")))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()).map(Secret::new))
}

/// The reasons do not repeat the path: someone who wrote the secret itself under `…_file` must not find it in a log.
pub(crate) fn secret_from_file(path: &Path) -> Result<Secret, Wrong> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Wrong::new(format!("the file that it names cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > SECRET_BYTES_MAX {
        return Err(Wrong::new(format!("the file that it names is larger than {SECRET_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| Wrong::new("the file that it names is not UTF-8"))?;
    match text.trim() {
        "" => Err(Wrong::new("the file that it names is empty")),
        secret => Ok(Secret::new(secret)),
    }
}
