//! Bytes arrive cut at any place: nothing depends on where.

use super::raw_requests::{HANDSHAKES, REQUESTS};
use super::*;

/// What comes of bytes in these pieces.
fn outcome(pieces: &[&[u8]]) -> (Vec<Seen>, String, Activity) {
    let mut server = Server::new();
    for piece in pieces {
        server.take(piece);
    }
    let sent = server.sent();
    (server.seen, sent, server.connection.activity())
}

/// Compares all at once with two pieces, cut at each byte, and with single bytes.
fn hold(raw: &[u8], name: &str) {
    let whole = outcome(&[raw]);
    let bytes: Vec<&[u8]> = raw.chunks(1).collect();
    assert_eq!(outcome(&bytes), whole, "{name}, byte by byte");
    // Long ones are repetitions.
    for cut in (0..=raw.len()).filter(|cut| *cut < 200 || cut + 200 > raw.len()) {
        let (before, after) = raw.split_at(cut);
        assert_eq!(outcome(&[before, after]), whole, "{name}, cut at {cut}");
    }
}

#[test]
fn each_request_of_the_table_may_be_cut_at_every_byte() {
    for (name, raw, ..) in REQUESTS.iter().chain(HANDSHAKES) {
        hold(raw, name);
    }
}

#[test]
fn a_head_that_is_too_long_is_refused_wherever_it_is_cut() {
    let (one, many) = (format!("GET /{}", "a".repeat(2000)), "a: b\r\n".repeat(300));
    for (name, raw, expected) in
        [("one line", one, 414), ("many lines", format!("GET / HTTP/1.1\r\n{many}"), 431)]
    {
        let raw = raw.as_bytes();
        let outcome = |pieces: usize| {
            let mut server = Server::with(|settings| settings.max_head = 1024);
            for piece in raw.chunks(pieces) {
                server.take(piece);
            }
            (server.sent(), server.seen)
        };
        let whole = outcome(raw.len());
        assert_eq!(status(&whole.0), expected);
        for pieces in [1, 2, 3, 1000, 1023, 1024, 1025] {
            assert_eq!(outcome(pieces), whole, "{name} in pieces of {pieces}");
        }
    }
}

#[test]
fn a_stream_of_requests_may_be_cut_at_every_byte() {
    let raw = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
        Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\nHEAD /3 HTTP/1.1\r\nHost: a\r\n\r\n\
        PUT /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nde\
        GET /5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /6 HTTP/1.0\r\n\r\nGET /7";
    let mut whole = Server::new();
    serve(&mut whole, raw);
    assert_eq!((whole.requests().len(), whole.is_closing()), (6, true));
    let sent = whole.sent();
    for cut in 0..raw.len() {
        let mut server = Server::new();
        serve(&mut server, &raw[..cut]);
        serve(&mut server, &raw[cut..]);
        assert_eq!((server.sent(), &server.seen), (sent.clone(), &whole.seen), "cut at {cut}");
    }
    let mut server = Server::new();
    for byte in raw.chunks(1) {
        serve(&mut server, byte);
    }
    assert_eq!((server.sent(), &server.seen), (sent, &whole.seen));
}

/// Takes bytes, and answers each request that is complete, with its path.
pub(super) fn serve(server: &mut Server, bytes: &[u8]) {
    server.take(bytes);
    loop {
        let complete = server.requests().into_iter().find(|(id, head)| {
            let ends = |seen: &Seen| matches!(seen, Seen::BodyEnd(of, _) if of == id);
            server.connection.is_open(*id)
                && (head.body() == BodyLength::None || server.seen.iter().any(ends))
        });
        let Some((id, head)) = complete else { return };
        let path = String::from_utf8(head.path().to_vec()).unwrap();
        server.answer(id, &path);
    }
}
