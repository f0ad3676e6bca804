//! Secrets of a section: from the environment, or from a file of their own. It refuses them in the settings file.

use super::Section;
use crate::document::join;
use crate::fault::Wrong;
use crate::secret::{Secret, secret_from_file, secret_from_variable};

impl Section<'_> {
    /// The value of the environment variable `env`; else the contents, trimmed, of the file that `<key>_file` names; else
    /// `None`. The known key is `<key>_file`; `<key>` itself in the file is a fault.
    pub fn secret(&mut self, key: &str, env: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        if self.reader.settle(&join(&self.name, key)) {
            let wrong = Wrong::new("a secret must not stand in this file");
            self.wrong(key, wrong.mend(format!("use `{file_key}` or the environment variable {env}")));
        }
        self.secret_beside(key, env)
    }

    /// As `secret`, for a key that may also stand in the file itself where its value is no secret.
    pub fn secret_beside(&mut self, key: &str, env: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let path = self.optional_path(&file_key);
        let found = match (secret_from_variable(env, self.reader.variable(env)), path) {
            (Ok(None), Some(path)) => secret_from_file(&path).map(Some),
            (from_variable, _) => from_variable,
        };
        found.unwrap_or_else(|wrong| {
            self.wrong(&file_key, wrong);
            None
        })
    }
}
