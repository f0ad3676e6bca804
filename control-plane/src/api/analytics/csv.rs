//! CSV (RFC 4180) that a spreadsheet opens without running any of it: text that would begin a formula gets an apostrophe.
//! Refuses to know what the columns mean.

use std::fmt::{Display, Write as _};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

/// What a spreadsheet takes for the beginning of a formula.
const FORMULA_STARTS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// One line being written.
pub(super) struct Line<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl<'a> Line<'a> {
    pub(super) fn begin(out: &'a mut String) -> Line<'a> {
        Line { out, is_first: true }
    }

    fn separate(&mut self) {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
    }

    /// Text of whoever wrote it.
    pub(super) fn text(&mut self, text: &str) {
        self.separate();
        let guard = if text.starts_with(FORMULA_STARTS) { "'" } else { "" };
        if text.contains([',', '"', '\n', '\r']) {
            let _infallible = write!(self.out, "\"{guard}{}\"", text.replace('"', "\"\""));
        } else {
            let _infallible = write!(self.out, "{guard}{text}");
        }
    }

    /// What cannot be a formula: numbers, ids, times.
    pub(super) fn number(&mut self, value: impl Display) {
        self.separate();
        let _infallible = write!(self.out, "{value}");
    }

    pub(super) fn optional(&mut self, value: Option<impl Display>) {
        match value {
            Some(value) => self.number(value),
            None => self.separate(),
        }
    }

    pub(super) fn optional_text(&mut self, text: Option<&str>) {
        self.text(text.unwrap_or_default());
    }

    pub(super) fn end(self) {
        self.out.push_str("\r\n");
    }
}

/// A download under this name.
pub(super) fn answer(name: &'static str, body: Body) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let disposition = HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment"));
    let kind = HeaderValue::from_static("text/csv; charset=utf-8");
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, disposition)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_a_formula_or_another_cell() {
        let mut out = String::new();
        let mut line = Line::begin(&mut out);
        for text in ["=1+1", "+1", "-1", "@x", "\tx", "a,b", "he said \"x\"", "=a,\"b\"", "two\nlines", "plain", ""] {
            line.text(text);
        }
        line.number(7);
        line.optional(None::<i64>);
        line.end();
        let wanted =
            "'=1+1,'+1,'-1,'@x,'\tx,\"a,b\",\"he said \"\"x\"\"\",\"'=a,\"\"b\"\"\",\"two\nlines\",plain,,7,\r\n";
        assert_eq!(out, wanted);
    }
}
