//! Responses, byte by byte.

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
const OLD_KEPT: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";

fn begun(request: &str) -> (Server, RequestId) {
    let mut server = Server::new();
    server.take(request.as_bytes());
    let id = server.last();
    (server, id)
}

fn bytes(fields: Pairs<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

/// What is sent for a response of which the body comes in the given parts; and whether the connection ends.
fn streamed(request: &str, status: u16, fields: Pairs<'_>, parts: &[&str]) -> (String, bool) {
    let (mut server, id) = begun(request);
    let Server { connection, out, .. } = &mut server;
    connection.respond(id, status, bytes(fields), Payload::Stream, out).unwrap();
    for part in parts {
        connection.body(id, part.as_bytes(), false, out).unwrap();
    }
    connection.body(id, b"", true, out).unwrap();
    (server.sent(), server.is_closing())
}

fn whole(request: &str, status: u16, fields: Pairs<'_>, body: &str) -> (String, bool) {
    let (mut server, id) = begun(request);
    let Server { connection, out, .. } = &mut server;
    let payload = Payload::Whole(body.as_bytes());
    connection.respond(id, status, bytes(fields), payload, out).unwrap();
    (server.sent(), server.is_closing())
}

#[test]
fn bodies_are_framed_as_the_request_and_the_status_allow() {
    let length = &[("content-length", "2")];
    let chunked = &[("Transfer-Encoding", "chunked")];
    let both = &[("transfer-encoding", "chunked"), ("content-length", "9")];
    for (request, status, fields, sent, closes) in [
        (
            GET,
            200,
            &[][..],
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            false,
        ),
        (
            GET,
            200,
            chunked,
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            false,
        ),
        (GET, 200, both, "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", false),
        (HEAD, 200, both, "200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false),
        (GET, 204, both, "204 No Content\r\n\r\n", false),
        (OLD_KEPT, 200, both, "200 OK\r\nconnection: close\r\n\r\nab", true),
        (GET, 200, length, "200 OK\r\ncontent-length: 2\r\n\r\nab", false),
        (HEAD, 200, length, "200 OK\r\ncontent-length: 2\r\n\r\n", false),
        (HEAD, 200, &[], "200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false),
        (GET, 204, length, "204 No Content\r\n\r\n", false),
        (GET, 204, chunked, "204 No Content\r\n\r\n", false),
        (GET, 205, &[], "205 Reset Content\r\ncontent-length: 0\r\n\r\n", false),
        (GET, 304, length, "304 Not Modified\r\ncontent-length: 2\r\n\r\n", false),
        (GET, 304, &[], "304 Not Modified\r\n\r\n", false),
        (GET, 299, length, "299 \r\ncontent-length: 2\r\n\r\nab", false),
        (OLD, 200, length, "200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab", true),
        (
            OLD_KEPT,
            200,
            length,
            "200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nab",
            false,
        ),
        (OLD_KEPT, 200, &[], "200 OK\r\nconnection: close\r\n\r\nab", true),
        (OLD_KEPT, 200, chunked, "200 OK\r\nconnection: close\r\n\r\nab", true),
    ] {
        let seen = streamed(request, status, fields, &["ab"]);
        assert_eq!(seen, (format!("HTTP/1.1 {sent}"), closes), "{request} {status} {fields:?}");
    }
}

#[test]
fn a_whole_body_has_a_length() {
    for (request, status, sent) in [
        (GET, 200, "200 OK\r\ncontent-length: 3\r\n\r\nabc"),
        (GET, 404, "404 Not Found\r\ncontent-length: 3\r\n\r\nabc"),
        (HEAD, 200, "200 OK\r\ncontent-length: 3\r\n\r\n"),
        (GET, 204, "204 No Content\r\n\r\n"),
        (GET, 304, "304 Not Modified\r\n\r\n"),
        (OLD_KEPT, 200, "200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc"),
    ] {
        let seen = whole(request, status, &[], "abc");
        assert_eq!(seen, (format!("HTTP/1.1 {sent}"), false), "{request} {status}");
    }
    let (sent, _) = whole(GET, 200, &[("X-A", "b"), ("Set-Cookie", "c"), ("Set-Cookie", "d")], "");
    let fields = "X-A: b\r\nSet-Cookie: c\r\nSet-Cookie: d\r\ncontent-length: 0";
    assert_eq!(sent, format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
}

#[test]
fn parts_without_bytes_end_nothing() {
    let (sent, _) = streamed(GET, 200, &[], &["", "abc", "", &"d".repeat(300)]);
    let chunks = format!("3\r\nabc\r\n12c\r\n{}\r\n0\r\n\r\n", "d".repeat(300));
    assert_eq!(sent, format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"));
}

#[test]
fn a_program_may_end_the_connection() {
    let (sent, closes) = whole(GET, 200, &[("Connection", "Close")], "");
    assert_eq!(sent, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    assert!(closes);
    let (sent, closes) = whole(GET, 200, &[("connection", "keep-alive")], "");
    assert_eq!((sent.as_str(), closes), ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false));
}

#[test]
fn what_would_not_be_one_response_is_not_sent() {
    for (status, fields, error) in [
        (199, &[][..], ResponseError::Status),
        (1000, &[], ResponseError::Status),
        (200, &[("a b", "c")][..], ResponseError::Field),
        (200, &[("", "c")], ResponseError::Field),
        (200, &[("a:", "c")], ResponseError::Field),
        (200, &[("a\r\nb", "c")], ResponseError::Field),
        (200, &[("a", "b\r\nc: d")], ResponseError::Field),
        (200, &[("a", "b\nc")], ResponseError::Field),
        (200, &[("a", "b\0")], ResponseError::Field),
        (200, &[("content-length", "x")], ResponseError::Framing),
        (200, &[("content-length", "-1")], ResponseError::Framing),
        (200, &[("content-length", "1"), ("Content-Length", "1")], ResponseError::Framing),
        (200, &[("transfer-encoding", "gzip")], ResponseError::Framing),
    ] {
        let (mut server, id) = begun(GET);
        let Server { connection, out, .. } = &mut server;
        let sent = connection.respond(id, status, bytes(fields), Payload::Stream, out);
        assert_eq!((sent, out.is_empty()), (Err(error), true), "{status} {fields:?}");
        server.answer(id, "it may still be answered");
        assert_eq!(status_of(&mut server), 200);
    }
}

fn status_of(server: &mut Server) -> u16 {
    status(&server.sent())
}

#[test]
fn a_body_is_as_long_as_the_head_says() {
    let (mut server, id) = begun(GET);
    let Server { connection, out, .. } = &mut server;
    let length = [(&b"content-length"[..], &b"3"[..])];
    let body = Payload::Whole(b"ab");
    let short = connection.respond(id, 200, length, body, out);
    assert_eq!((short, out.is_empty()), (Err(ResponseError::TooShort), true));
    connection.respond(id, 200, length, Payload::Stream, out).unwrap();
    out.clear();
    assert_eq!(connection.body(id, b"abcd", false, out), Err(ResponseError::TooLong));
    connection.body(id, b"ab", false, out).unwrap();
    assert_eq!(connection.body(id, b"", true, out), Err(ResponseError::TooShort));
    assert_eq!(connection.trailers(id, NO_FIELDS, out), Err(ResponseError::TooShort));
    assert_eq!(out.bytes(), b"ab");
    connection.refuse(id, Refusal::ProgramFailed, out).unwrap();
    assert_eq!(out.bytes(), b"ab", "the client sees that it is cut off");
    assert!(server.is_closing());
}

#[test]
fn parts_come_in_their_order() {
    let (mut server, id) = begun(GET);
    let Server { connection, out, .. } = &mut server;
    assert_eq!(connection.body(id, b"a", false, out), Err(ResponseError::Order));
    assert_eq!(connection.trailers(id, NO_FIELDS, out), Err(ResponseError::Order));
    connection.respond(id, 200, NO_FIELDS, Payload::Stream, out).unwrap();
    let again = connection.respond(id, 200, NO_FIELDS, Payload::Stream, out);
    assert_eq!(again, Err(ResponseError::Order));
    assert_eq!(connection.interim(id, 103, NO_FIELDS, out), Err(ResponseError::Order));
    connection.body(id, b"a", true, out).unwrap();
    assert_eq!(connection.body(id, b"a", true, out), Err(ResponseError::Gone));
}

#[test]
fn interim_responses_come_before_the_head() {
    let link = [(&b"link"[..], &b"</a>"[..])];
    let (mut server, id) = begun(GET);
    let Server { connection, out, .. } = &mut server;
    connection.interim(id, 103, link, out).unwrap();
    assert_eq!(out.bytes(), b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    for status in [99, 101, 200] {
        assert_eq!(connection.interim(id, status, link, out), Err(ResponseError::Status));
    }
    server.answer(id, "");

    let (mut server, id) = begun(OLD_KEPT);
    server.connection.interim(id, 103, link, &mut server.out).unwrap();
    assert!(server.out.is_empty(), "HTTP/1.0 has none");
}

#[test]
fn trailers_have_a_place_behind_chunks_alone() {
    let trailer = [(&b"a"[..], &b"b"[..])];
    for (request, end) in [(GET, "1\r\nx\r\n0\r\na: b\r\n\r\n"), (OLD, "x"), (HEAD, "\r\n\r\n")] {
        let (mut server, id) = begun(request);
        let Server { connection, out, .. } = &mut server;
        connection.respond(id, 200, NO_FIELDS, Payload::Stream, out).unwrap();
        connection.body(id, b"x", false, out).unwrap();
        let framing = [(&b"Content-Length"[..], &b"1"[..])];
        if request == GET {
            assert_eq!(connection.trailers(id, framing, out), Err(ResponseError::Framing));
        }
        connection.trailers(id, trailer, out).unwrap();
        assert!(!connection.is_open(id));
        let sent = server.sent();
        assert!(sent.ends_with(end), "{sent}");
    }
}

#[test]
fn a_part_may_be_sent_by_the_caller() {
    let (mut server, id) = begun(GET);
    let Server { connection, out, .. } = &mut server;
    connection.respond(id, 200, NO_FIELDS, Payload::Stream, out).unwrap();
    out.clear();
    let around = connection.body_around(id, 255, out).unwrap();
    assert_eq!(out.bytes(), b"ff\r\n");
    assert!(around.is_sent);
    out.clear();
    connection.body_behind(id, around, false, out).unwrap();
    assert_eq!(out.bytes(), b"\r\n");
    out.clear();
    let around = connection.body_around(id, 16, out).unwrap();
    assert_eq!(out.bytes(), b"10\r\n");
    out.clear();
    connection.body_behind(id, around, true, out).unwrap();
    assert_eq!(out.bytes(), b"\r\n0\r\n\r\n");
    assert!(!connection.is_open(id));

    let (mut server, id) = begun(HEAD);
    let Server { connection, out, .. } = &mut server;
    connection.respond(id, 200, NO_FIELDS, Payload::Stream, out).unwrap();
    out.clear();
    let around = connection.body_around(id, 255, out).unwrap();
    assert!(!around.is_sent);
    connection.body_behind(id, around, true, out).unwrap();
    assert!(out.is_empty() && !connection.is_open(id));
}

#[test]
fn nothing_is_sent_into_a_part_that_the_caller_sends() {
    let (mut server, first) = begun(GET);
    server.take(GET.as_bytes());
    let second = server.last();
    let Server { connection, out, .. } = &mut server;
    assert_eq!(connection.body_around(second, 5, out), Err(ResponseError::Order));
    connection.respond(first, 200, NO_FIELDS, Payload::Sized(5), out).unwrap();
    assert_eq!(out.bytes(), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    let around = connection.body_around(first, 5, out).unwrap();
    out.clear();
    connection.respond(second, 200, NO_FIELDS, Payload::Whole(b"2"), out).unwrap();
    connection.settle(out);
    assert!(out.is_empty());
    connection.body_behind(first, around, true, out).unwrap();
    assert!(out.bytes().ends_with(b"content-length: 1\r\n\r\n2"));
}

#[test]
fn a_length_that_is_known_is_the_one_that_is_said() {
    let said = |length: &str, known| {
        let (mut server, id) = begun(GET);
        let fields = [(&b"content-length"[..], length.as_bytes())];
        let Server { connection, out, .. } = &mut server;
        let done = connection.respond(id, 200, fields, Payload::Sized(known), out);
        (done, out.is_empty())
    };
    assert_eq!(said("5", 5), (Ok(()), false));
    assert_eq!(said("5", 4), (Err(ResponseError::TooShort), true));
    assert_eq!(said("5", 6), (Err(ResponseError::TooLong), true));
}

#[test]
fn the_date_and_the_server_are_said_once() {
    let make = || {
        let mut server = Server::with(|settings| {
            settings.date = true;
            settings.server = Some("x/1".into());
        });
        server.out.set_time(784_111_777);
        server.take(GET.as_bytes());
        server
    };
    let mut server = make();
    server.answer(server.last(), "");
    let fields = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nserver: x/1\r\ncontent-length: 0";
    assert_eq!(server.sent(), format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
    let mut server = make();
    let (id, own) = (server.last(), bytes(&[("Date", "d"), ("SERVER", "s")]));
    server.connection.respond(id, 200, own, Payload::Whole(b""), &mut server.out).unwrap();
    let fields = "Date: d\r\nSERVER: s\r\ncontent-length: 0";
    assert_eq!(server.sent(), format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
}
