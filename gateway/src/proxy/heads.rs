//! Heads on their way through the gateway, as plain maps. The framework keeps the spelling of every header name in a second map and
//! parses each name that it is given; what is written here is written once, in lower case, as HTTP/2 has it anyway.

use http::{HeaderMap, Request, Response, StatusCode, request};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::{ErrorType, OrErr as _, Result};

/// Changes a request's head. The path goes its own way: `set_raw_path`, afterwards.
pub(super) fn edit_request<T>(head: &mut RequestHeader, edit: impl FnOnce(&mut HeaderMap) -> T) -> T {
    let sends_end = head.send_end_stream();
    let placeholder = RequestHeader::from(Request::new(()).into_parts().0);
    let mut parts = request::Parts::from(std::mem::replace(head, placeholder));
    let edited = edit(&mut parts.headers);
    *head = RequestHeader::from(parts);
    if let Some(sends_end) = sends_end {
        head.set_send_end_stream(sends_end);
    }
    edited
}

/// Changes an answer's head. A reason phrase of the upstream's own stays.
pub(super) fn edit_response<T>(head: &mut ResponseHeader, edit: impl FnOnce(&mut HeaderMap) -> T) -> T {
    let usual = head.status.canonical_reason();
    let own_reason = head.get_reason_phrase().filter(|reason| Some(*reason) != usual).map(str::to_owned);
    let placeholder = ResponseHeader::from(Response::new(()).into_parts().0);
    let mut parts = http::response::Parts::from(std::mem::replace(head, placeholder));
    let edited = edit(&mut parts.headers);
    *head = ResponseHeader::from(parts);
    if own_reason.is_some() {
        // It was one before.
        drop(head.set_reason_phrase(own_reason.as_deref()));
    }
    edited
}

/// The head of an answer that the gateway itself gives.
pub(super) fn own_response(status: u16, headers: HeaderMap) -> Result<ResponseHeader> {
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).or_err(ErrorType::InternalError, "a status of ours is one")?;
    parts.headers = headers;
    Ok(ResponseHeader::from(parts))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_answer_keeps_its_status_its_reason_and_its_other_headers() {
        for reason in [None, Some("Fine by me")] {
            let mut head = ResponseHeader::build(201, None).unwrap();
            head.set_reason_phrase(reason).unwrap();
            head.append_header("Set-Cookie", "a=1").unwrap();
            head.append_header("Set-Cookie", "b=2").unwrap();
            edit_response(&mut head, |headers| headers.insert("x-added", HeaderValue::from_static("yes")));
            assert_eq!((head.status.as_u16(), head.get_reason_phrase()), (201, reason.or(Some("Created"))));
            assert_eq!(
                (head.headers.get_all("set-cookie").iter().count(), &head.headers["x-added"]),
                (2, &HeaderValue::from_static("yes"))
            );
        }
    }

    #[test]
    fn a_request_keeps_its_method_its_path_and_its_other_headers() {
        let mut head = RequestHeader::build("PUT", b"/a?b=c", None).unwrap();
        head.insert_header("Accept", "text/plain").unwrap();
        edit_request(&mut head, |headers| headers.insert("x-added", HeaderValue::from_static("yes")));
        assert_eq!((head.method.as_str(), head.raw_path()), ("PUT", &b"/a?b=c"[..]));
        assert_eq!(
            (&head.headers["accept"], &head.headers["x-added"]),
            (&HeaderValue::from_static("text/plain"), &HeaderValue::from_static("yes"))
        );
    }
}
