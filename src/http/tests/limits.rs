//! Bounds: of heads, of bodies, of what is thrown away.

use super::*;

fn post(fields: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").into_bytes()
}

#[test]
fn a_head_may_be_as_long_as_the_settings_say() {
    let line = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (length, expected) in [(1024, None), (1025, Some(431))] {
        let field = format!("A: {}\r\n\r\n", "b".repeat(length - line.len() - 7));
        let raw = format!("{line}{field}");
        assert_eq!(raw.len(), length);
        let mut server = Server::with(|settings| settings.max_head = 1024);
        server.take(raw.as_bytes());
        let sent = server.sent();
        assert_eq!((!sent.is_empty()).then(|| status(&sent)), expected);
    }
}

#[test]
fn a_first_line_that_is_too_long_has_a_status_of_its_own() {
    let mut server = Server::with(|settings| settings.max_head = 1024);
    server.take(format!("GET /{}", "a".repeat(2000)).as_bytes());
    assert_eq!(status(&server.sent()), 414);
}

#[test]
fn memory_for_a_head_is_bounded_by_the_settings() {
    let mut server = Server::with(|settings| settings.max_head = 1024);
    server.take(b"GET / HTTP/1.1\r\n");
    for _ in 0..10_000 {
        server.take(b"a: b\r\n");
        assert!(server.connection.heap() <= 4096, "{}", server.connection.heap());
    }
    assert_eq!(status(&server.sent()), 431);
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_comes() {
    for (length, expected) in [(10, None), (11, Some(413))] {
        let mut server = Server::with(|settings| settings.max_body = Some(10));
        server.take(&post(&format!("Content-Length: {length}\r\nExpect: 100-continue")));
        let sent = server.sent();
        assert_eq!(Some(status(&sent)).filter(|status| *status != 100), expected);
        assert_eq!(server.is_closing(), expected.is_some());
        assert_eq!(server.requests().len(), usize::from(expected.is_none()));
    }
}

#[test]
fn a_chunked_body_that_is_too_long_is_refused_where_it_is() {
    let mut server = Server::with(|settings| settings.max_body = Some(10));
    server.take(&post("Transfer-Encoding: chunked"));
    server.take(b"a\r\n0123456789\r\n1\r\n");
    let id = server.last();
    let (body, cut) = (b"0123456789".to_vec(), Some(Refusal::BodyTooLarge));
    assert_eq!(server.seen[1..], [Seen::Body(id, body), Seen::BodyCut(id, cut)]);
    assert_eq!((status(&server.sent()), server.is_closing()), (413, true));
}

#[test]
fn the_rest_of_a_short_body_is_thrown_away() {
    let mut server = Server::with(|settings| settings.max_discarded = 10);
    server.take(&post("Content-Length: 10"));
    server.answer(server.last(), "");
    assert!(!server.sent().contains("close"));
    server.take(b"0123456789GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((server.seen.len(), server.requests().len()), (2, 2));
}

#[test]
fn the_rest_of_a_long_body_ends_the_connection() {
    let mut server = Server::with(|settings| settings.max_discarded = 10);
    server.take(&post("Content-Length: 11"));
    server.answer(server.last(), "");
    assert!(server.sent().contains("connection: close\r\n"));
    assert!(server.is_closing());
}

#[test]
fn the_rest_of_a_chunked_body_is_thrown_away_up_to_a_bound() {
    for (chunks, closes) in [(5, false), (6, true)] {
        let mut server = Server::with(|settings| settings.max_discarded = 10);
        server.take(&post("Transfer-Encoding: chunked"));
        server.answer(server.last(), "");
        for _ in 0..chunks {
            server.take(b"2\r\nab\r\n");
        }
        assert_eq!(server.is_closing(), closes);
        server.take(b"0\r\n\r\n");
        assert_eq!((server.is_closing(), server.seen.len()), (closes, 1));
    }
}

#[test]
fn chunk_extensions_are_bounded_together() {
    let mut server = Server::new();
    server.take(&post("Transfer-Encoding: chunked"));
    let chunk = format!("1;{}\r\na\r\n", "e".repeat(999));
    for _ in 0..16 {
        server.take(chunk.as_bytes());
    }
    assert!(server.out.is_empty());
    server.take(chunk.as_bytes());
    assert_eq!(status(&server.sent()), 400);
}

#[test]
fn a_trailer_section_is_bounded_as_a_head() {
    let mut server = Server::with(|settings| settings.max_head = 1024);
    server.take(&post("Transfer-Encoding: chunked"));
    server.take(b"0\r\n");
    for _ in 0..200 {
        server.take(b"a: b\r\n");
    }
    assert_eq!(status(&server.sent()), 431);
}

#[test]
fn settings_without_sense_do_no_harm() {
    let mut server = Server::with(|settings| {
        (settings.max_fields, settings.max_pipelined) = (usize::MAX, 0);
        settings.max_head = usize::MAX;
    });
    server.take(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.answer(server.last(), "");
    let fields = "a: b\r\n".repeat(MAX_FIELDS);
    server.take(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
    assert!(server.sent().contains(" 431 "));
    let mut server = Server::with(|settings| settings.max_head = 0);
    server.take(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.answer(server.last(), "");
}

#[test]
fn fields_are_bounded_in_number() {
    for (fields, expected) in [(127, None), (128, Some(431))] {
        let mut server = Server::new();
        server.take(
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(fields)).as_bytes(),
        );
        let sent = server.sent();
        assert_eq!((!sent.is_empty()).then(|| status(&sent)), expected);
        let mut server = Server::new();
        server.take(&post("Transfer-Encoding: chunked"));
        server.take(format!("0\r\n{}\r\n", "A: b\r\n".repeat(fields + 1)).as_bytes());
        let sent = server.sent();
        assert_eq!((!sent.is_empty()).then(|| status(&sent)), expected);
    }
}

#[test]
fn empty_lines_before_a_request_are_bounded() {
    for (lines, expected) in [(8, None), (9, Some(400))] {
        let mut server = Server::new();
        server.take("\r\n".repeat(lines).as_bytes());
        let sent = server.sent();
        assert_eq!((!sent.is_empty()).then(|| status(&sent)), expected);
    }
}

#[test]
fn the_line_before_a_chunk_is_bounded() {
    for pieces in [1, 100, 10_000] {
        let mut server = Server::new();
        server.take(&post("Transfer-Encoding: chunked"));
        format!("3;{}", "a".repeat(5000)).as_bytes().chunks(pieces).for_each(|it| server.take(it));
        assert_eq!(status(&server.sent()), 400);
    }
}
