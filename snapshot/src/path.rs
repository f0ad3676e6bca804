//! The one normal form of a request path: unreserved characters decoded, other escapes in upper case, dot segments
//! removed, empty segments refused. The gateway decides on the very bytes that it sends on. Source: RFC 3986 §6.2.2.

/// Longest path in bytes that is looked at; the gateway's limit on the whole target is no larger.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathFault {
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("the path has a percent sign that two hexadecimal digits do not follow")]
    BrokenEscape,
    #[error("the path has an encoded slash, backslash, percent sign or control character")]
    ForbiddenEscape,
    #[error("the path has a byte that must be percent-encoded")]
    ForbiddenByte,
    #[error("the path has an empty segment ('//')")]
    EmptySegment,
    #[error("the path climbs above its root ('..')")]
    AboveRoot,
}

/// Brings `path` (without its query) to normal form. Borrowed and free of allocation when it already is, the usual case.
pub fn normalize(path: &str) -> Result<std::borrow::Cow<'_, str>, PathFault> {
    let rest = path.strip_prefix('/').ok_or(PathFault::NotAbsolute)?;
    if path.len() > PATH_BYTES_MAX {
        return Err(PathFault::TooLong);
    }
    let mut all_normal = true;
    let mut segments = rest.as_bytes().split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment.is_empty() {
            if !is_last {
                return Err(PathFault::EmptySegment);
            }
        } else if !is_normal_segment(segment) {
            all_normal = false;
            break;
        }
    }
    if all_normal {
        return Ok(std::borrow::Cow::Borrowed(path));
    }
    rebuild(rest).map(std::borrow::Cow::Owned)
}

/// Whether a segment is not empty and already in normal form.
pub fn is_normal_segment(segment: &[u8]) -> bool {
    if segment.is_empty() || segment == b"." || segment == b".." {
        return false;
    }
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        if byte == b'%' {
            let (Some(&high), Some(&low)) = (bytes.next(), bytes.next()) else { return false };
            let upper = |digit: u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit);
            let (true, true, Some(value)) = (upper(high), upper(low), hex_pair(high, low)) else { return false };
            if is_unreserved(value) || is_forbidden(value) {
                return false;
            }
        } else if !is_path_byte(byte) {
            return false;
        }
    }
    true
}

fn rebuild(rest: &str) -> Result<String, PathFault> {
    let mut segments: Vec<String> = Vec::new();
    let mut parts = rest.split('/').peekable();
    let mut ends_with_slash = false;
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let segment = normal_segment(part.as_bytes())?;
        match segment.as_str() {
            "" if is_last => ends_with_slash = true,
            "" => return Err(PathFault::EmptySegment),
            "." => ends_with_slash = is_last,
            ".." => {
                segments.pop().ok_or(PathFault::AboveRoot)?;
                ends_with_slash = is_last;
            }
            _ => segments.push(segment),
        }
    }
    let mut path = String::with_capacity(rest.len() + 1);
    for segment in &segments {
        path.push('/');
        path.push_str(segment);
    }
    if ends_with_slash || path.is_empty() {
        path.push('/');
    }
    Ok(path)
}

fn normal_segment(segment: &[u8]) -> Result<String, PathFault> {
    let mut normal = String::with_capacity(segment.len());
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            if !is_path_byte(byte) {
                return Err(PathFault::ForbiddenByte);
            }
            normal.push(char::from(byte));
            continue;
        }
        let (Some(&high), Some(&low)) = (bytes.next(), bytes.next()) else { return Err(PathFault::BrokenEscape) };
        let value = hex_pair(high, low).ok_or(PathFault::BrokenEscape)?;
        if is_forbidden(value) {
            return Err(PathFault::ForbiddenEscape);
        }
        if is_unreserved(value) {
            normal.push(char::from(value));
        } else {
            normal.push('%');
            normal.push(char::from(high.to_ascii_uppercase()));
            normal.push(char::from(low.to_ascii_uppercase()));
        }
    }
    Ok(normal)
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 without the percent sign.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// What an upstream might decode into a path of another meaning.
fn is_forbidden(value: u8) -> bool {
    matches!(value, b'/' | b'\\' | b'%' | 0x00..=0x1F | 0x7F)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn normal_paths_are_borrowed() {
        for path in ["/", "/a", "/a/", "/a/b.c/d~e", "/%C3%A9", "/a;b=1/c@d:e"] {
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn other_spellings_come_to_the_same_path() {
        for (path, normal) in [
            ("/%61", "/a"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/%7Eme", "/~me"),
        ] {
            assert_eq!(normalize(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn what_an_upstream_might_read_differently_is_refused() {
        for (path, fault) in [
            ("", PathFault::NotAbsolute),
            ("a", PathFault::NotAbsolute),
            ("/%", PathFault::BrokenEscape),
            ("/%g0", PathFault::BrokenEscape),
            ("/a%2fb", PathFault::ForbiddenEscape),
            ("/a%5Cb", PathFault::ForbiddenEscape),
            ("/a%00", PathFault::ForbiddenEscape),
            ("/a%252e", PathFault::ForbiddenEscape),
            ("/a\\b", PathFault::ForbiddenByte),
            ("/a b", PathFault::ForbiddenByte),
            ("/é", PathFault::ForbiddenByte),
            ("//a", PathFault::EmptySegment),
            ("/a//b", PathFault::EmptySegment),
            ("/..", PathFault::AboveRoot),
            ("/a/../../b", PathFault::AboveRoot),
        ] {
            assert_eq!(normalize(path), Err(fault), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/[a-zA-Z0-9%./~;=@ \\\\]{0,40}") {
            if let Ok(once) = normalize(&path) {
                let twice = normalize(&once).map(Cow::into_owned);
                proptest::prop_assert_eq!(twice, Ok(once.into_owned()));
            }
        }

        #[test]
        fn any_text_is_answered(path in ".{0,60}") {
            let _ = normalize(&path);
        }
    }
}
