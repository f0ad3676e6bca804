//! A short text on the stack that becomes a header value with a single allocation. Refuses what does not fit.

use std::fmt;

use http::HeaderValue;

/// Holds at most `N` bytes.
pub(crate) struct StackText<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> StackText<N> {
    pub(crate) fn new() -> StackText<N> {
        StackText { bytes: [0; N], len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Empty where the text is no header value; what the gateway writes always is.
    pub(crate) fn to_value(&self) -> HeaderValue {
        let text = self.bytes.get(..self.len).unwrap_or_default();
        HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
    }
}

impl<const N: usize> fmt::Write for StackText<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_text_that_fits_is_a_value_and_one_that_does_not_is_an_error() {
        let mut text = StackText::<8>::new();
        assert!(text.is_empty());
        write!(text, "a={}", 1234).unwrap();
        assert_eq!(text.to_value(), "a=1234");
        assert!(write!(text, "more").is_err());
        assert_eq!(text.to_value(), "a=1234");
    }
}
