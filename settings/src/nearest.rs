//! The nearest: which valid name a mistyped one was meant to be. It refuses to guess when nothing is close.

/// One edit is allowed for every so many characters of the mistyped name, and one in the shortest of names.
const CHARS_PER_EDIT: usize = 3;

/// The candidate closest to `word`, or none when all are too far; the first of equals.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / CHARS_PER_EDIT).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        // Replacing every character makes any word of any other.
        .filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits between two names; the case and `-` for `_` are the commonest slips and cost nothing.
fn distance(a: &str, b: &str) -> usize {
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    strsim::damerau_levenshtein(&plain(a), &plain(b))
}
