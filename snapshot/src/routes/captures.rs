//! What the parameters of a matched pattern stand for: parts of the path, in the pattern's order. Never copies them.

use crate::path::PATH_BYTES_MAX;
use crate::pattern::PATTERN_SEGMENTS_MAX;

const _: () = assert!(PATH_BYTES_MAX <= u16::MAX as usize);

#[derive(Clone, Copy, Debug)]
pub struct Captures<'p> {
    path: &'p str,
    /// Where each part begins and ends.
    parts: [(u16, u16); PATTERN_SEGMENTS_MAX],
    len: usize,
}

impl<'p> Captures<'p> {
    /// None: the path is longer than any that is looked at.
    pub(super) fn none_of(path: &'p str) -> Option<Captures<'p>> {
        let no_parts = [(0, 0); PATTERN_SEGMENTS_MAX];
        (path.len() <= PATH_BYTES_MAX).then_some(Captures { path, parts: no_parts, len: 0 })
    }

    pub(super) fn path(&self) -> &'p str {
        self.path
    }

    /// No pattern has more parameters than there is room for.
    pub(super) fn push(&mut self, from: usize, bytes: usize) {
        if let (Some(part), Ok(from), Ok(to)) =
            (self.parts.get_mut(self.len), u16::try_from(from), u16::try_from(from + bytes))
        {
            *part = (from, to);
            self.len += 1;
        }
    }

    pub(super) fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    /// What the parameter of this place stands for; nothing beyond the last.
    pub fn get(&self, at: usize) -> &'p str {
        let part = self.parts.get(..self.len).and_then(|parts| parts.get(at));
        part.and_then(|(from, to)| self.path.get(usize::from(*from)..usize::from(*to))).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = &'p str> {
        (0..self.len).map(|at| self.get(at))
    }
}
