//! The path pattern of an endpoint: `/users/{id}`, `/files/{*rest}`. A parameter is a whole segment; a catch-all is the
//! last one. A pattern that parses here always compiles in `routes`.

use std::fmt;

/// Longest pattern in bytes and in segments: bounds what one endpoint costs in every snapshot.
pub const PATTERN_BYTES_MAX: usize = 1_024;
pub const PATTERN_SEGMENTS_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Literal(String),
    Parameter(String),
    CatchAll(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternFault {
    #[error("a path pattern begins with '/'")]
    NotAbsolute,
    #[error("a path pattern has at most {PATTERN_BYTES_MAX} bytes and {PATTERN_SEGMENTS_MAX} segments")]
    TooLong,
    #[error("the segment '{0}' mixes text and a parameter: a parameter is a whole segment, as in /users/{{id}}")]
    MixedSegment(String),
    #[error("the parameter name '{0}' is not 1 to 32 letters, digits or '_' beginning with a letter")]
    ParameterName(String),
    #[error("the parameter '{0}' occurs twice")]
    DuplicateParameter(String),
    #[error("the catch-all '{0}' must be the last segment")]
    CatchAllNotLast(String),
    #[error(
        "the segment '{0}' is not in normal form: use unreserved characters, write others percent-encoded in upper case, and no '.', '..' or empty segments"
    )]
    Segment(String),
}

impl Pattern {
    /// Parses and checks a pattern. Errors: [`PatternFault`], worded for the publisher.
    pub fn parse(text: &str) -> Result<Pattern, PatternFault> {
        let rest = text.strip_prefix('/').ok_or(PatternFault::NotAbsolute)?;
        let parts: Vec<&str> = rest.split('/').collect();
        if text.len() > PATTERN_BYTES_MAX || parts.len() > PATTERN_SEGMENTS_MAX {
            return Err(PatternFault::TooLong);
        }
        let last = parts.len() - 1;
        let mut segments: Vec<Segment> = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            let segment = parse_segment(part, at == last)?;
            if let Some(name) = segment.name()
                && segments.iter().any(|earlier| earlier.name() == Some(name))
            {
                return Err(PatternFault::DuplicateParameter(name.to_owned()));
            }
            segments.push(segment);
        }
        Ok(Pattern { text: text.to_owned(), segments })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Names of the parameters in the order in which they occur.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::name)
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn name(&self) -> Option<&str> {
        match self {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::CatchAll(name) => Some(name),
        }
    }
}

fn parse_segment(part: &str, is_last: bool) -> Result<Segment, PatternFault> {
    if let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        return match inner.strip_prefix('*') {
            Some(_) if !is_last => Err(PatternFault::CatchAllNotLast(part.to_owned())),
            Some(name) => parameter_name(name).map(Segment::CatchAll),
            None => parameter_name(inner).map(Segment::Parameter),
        };
    }
    if part.contains(['{', '}']) {
        return Err(PatternFault::MixedSegment(part.to_owned()));
    }
    let is_root_or_trailing = part.is_empty() && is_last;
    if !is_root_or_trailing && !crate::path::is_normal_segment(part.as_bytes()) {
        return Err(PatternFault::Segment(part.to_owned()));
    }
    Ok(Segment::Literal(part.to_owned()))
}

fn parameter_name(name: &str) -> Result<String, PatternFault> {
    let good = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    good.then(|| name.to_owned()).ok_or_else(|| PatternFault::ParameterName(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_in_the_order_in_which_they_occur() {
        let pattern = Pattern::parse("/users/{id}/{*rest}").unwrap();
        assert_eq!(pattern.parameters().collect::<Vec<_>>(), ["id", "rest"]);
        assert_eq!(pattern.to_string(), "/users/{id}/{*rest}");
    }

    #[test]
    fn each_fault_is_named() {
        for (text, fault) in [
            ("users", PatternFault::NotAbsolute),
            ("", PatternFault::NotAbsolute),
            ("/a{id}", PatternFault::MixedSegment("a{id}".into())),
            ("/{}", PatternFault::ParameterName(String::new())),
            ("/{1a}", PatternFault::ParameterName("1a".into())),
            ("/{a}/{a}", PatternFault::DuplicateParameter("a".into())),
            ("/{*a}/b", PatternFault::CatchAllNotLast("{*a}".into())),
            ("/a//b", PatternFault::Segment(String::new())),
            ("/a/../b", PatternFault::Segment("..".into())),
            ("/a b", PatternFault::Segment("a b".into())),
            ("/a%2fb", PatternFault::Segment("a%2fb".into())),
            ("/a?b", PatternFault::Segment("a?b".into())),
        ] {
            assert_eq!(Pattern::parse(text), Err(fault), "{text}");
        }
        assert_eq!(Pattern::parse(&format!("/{}", "a/".repeat(40))), Err(PatternFault::TooLong));
    }

    #[test]
    fn root_and_trailing_slash_are_patterns_of_their_own() {
        assert_eq!(Pattern::parse("/").unwrap().segments(), [Segment::Literal(String::new())]);
        assert_ne!(Pattern::parse("/a").unwrap().segments(), Pattern::parse("/a/").unwrap().segments());
    }
}
