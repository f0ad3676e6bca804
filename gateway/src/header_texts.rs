//! Header values that are made for one request. Their texts stand one after the other in one buffer and each value is a slice
//! of it, so that ten values cost the allocation of one. What no header may carry becomes an empty value.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;
use uuid::Uuid;

/// A buffer that is being written.
pub struct HeaderTexts {
    bytes: Vec<u8>,
}

/// Where in the buffer one value stands.
#[derive(Clone, Debug)]
pub struct Piece(Range<usize>);

/// A buffer that is written; values are cut from it.
pub struct ReadyTexts {
    bytes: Bytes,
    /// Every byte is one that a header may carry.
    is_plain: bool,
}

impl HeaderTexts {
    /// `bytes` is what usually suffices; more is taken where it does not.
    pub fn with_capacity(bytes: usize) -> HeaderTexts {
        HeaderTexts { bytes: Vec::with_capacity(bytes) }
    }

    /// Where the next text will begin; for [`HeaderTexts::since`].
    pub fn here(&self) -> usize {
        self.bytes.len()
    }

    /// All that was written from `start` on, as one value.
    pub fn since(&self, start: usize) -> Piece {
        Piece(start..self.bytes.len())
    }

    /// Takes back what was written from `start` on.
    pub fn forget(&mut self, start: usize) {
        self.bytes.truncate(start);
    }

    pub fn text(&mut self, text: &str) -> Piece {
        let start = self.here();
        self.push(text);
        self.since(start)
    }

    pub fn number(&mut self, number: u64) -> Piece {
        let start = self.here();
        self.push_number(number);
        self.since(start)
    }

    pub fn uuid(&mut self, id: Uuid) -> Piece {
        let mut buffer = Uuid::encode_buffer();
        self.text(id.hyphenated().encode_lower(&mut buffer))
    }

    pub fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub fn push_number(&mut self, number: u64) {
        self.push_digits(number, 1);
    }

    /// At least `width` digits, with zeros in front.
    pub fn push_digits(&mut self, number: u64, width: usize) {
        /// Digits of the largest number.
        const DIGITS_MAX: usize = 20;
        let mut digits = [b'0'; DIGITS_MAX];
        let (mut rest, mut used) = (number, 0);
        for digit in digits.iter_mut().rev() {
            if rest == 0 && used >= width {
                break;
            }
            // A remainder of ten always fits.
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            used += 1;
        }
        self.bytes.extend_from_slice(digits.get(DIGITS_MAX - used..).unwrap_or_default());
    }

    pub fn ready(self) -> ReadyTexts {
        // All values at once, many bytes a step; a tab would be allowed too, but nobody writes one.
        let is_plain = self.bytes.iter().fold(true, |plain, &byte| plain & (byte >= b' ') & (byte != 0x7F));
        ReadyTexts { bytes: self.bytes.into(), is_plain }
    }
}

impl fmt::Write for HeaderTexts {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

impl ReadyTexts {
    pub fn value(&self, piece: &Piece) -> HeaderValue {
        let range = piece.0.start.min(self.bytes.len())..piece.0.end.min(self.bytes.len());
        let text = self.bytes.slice(range);
        if self.is_plain {
            // SAFETY: `ready` has looked at every byte of the buffer: none is a control character.
            #[allow(unsafe_code)]
            return unsafe { HeaderValue::from_maybe_shared_unchecked(text) };
        }
        HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn each_value_is_its_own_text() {
        let mut texts = HeaderTexts::with_capacity(4);
        let word = texts.text("word");
        let numbers = [0, 7, 10, 1_234_567_890, u64::MAX].map(|number| (number, texts.number(number)));
        let start = texts.here();
        texts.push("a=");
        texts.push_digits(5, 3);
        write!(texts, ",{}", 1.5).unwrap();
        let mixed = texts.since(start);
        let start = texts.here();
        texts.push("not this");
        texts.forget(start);
        let id = texts.uuid(Uuid::nil());
        let ready = texts.ready();
        assert_eq!(ready.value(&word), "word");
        for (number, piece) in &numbers {
            assert_eq!(ready.value(piece), number.to_string().as_str());
        }
        assert_eq!(ready.value(&mixed), "a=005,1.5");
        assert_eq!(ready.value(&id), "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn what_no_header_may_carry_becomes_an_empty_value() {
        let mut texts = HeaderTexts::with_capacity(0);
        let (bad, good) = (texts.text("two\r\nlines"), texts.text("one line"));
        let ready = texts.ready();
        assert_eq!((ready.value(&bad), ready.value(&good)), ("".parse().unwrap(), "one line".parse().unwrap()));
    }
}
