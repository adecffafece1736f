//! How connections end: by the client, by the clock, by the server.

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";

#[test]
fn a_client_that_leaves_while_nothing_is_under_way_is_gone() {
    for begun in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost"] {
        let mut server = Server::new();
        server.take(begun);
        server.end();
        assert!(server.is_closing());
        assert_eq!(
            (server.sent().as_str(), server.seen.len(), server.connection.heap()),
            ("", 0, 0)
        );
    }
}

#[test]
fn a_client_that_sends_no_more_is_still_answered() {
    let mut server = Server::new();
    server.take(&GET.repeat(2));
    server.end();
    assert!(!server.connection.wants_input());
    assert_eq!(server.connection.activity(), Activity::Responding);
    server.answer(server.requests()[0].0, "x");
    assert!(!server.is_closing());
    server.answer(server.requests()[1].0, "y");
    assert!(server.is_closing());
    assert!(server.sent().ends_with("connection: close\r\n\r\ny"));
}

#[test]
fn what_is_complete_is_answered_though_the_client_sends_no_more() {
    let delete = b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut server = Server::new();
    server.take(&[GET, &delete[..], GET].concat());
    server.end();
    for count in 1..=3 {
        assert_eq!((server.requests().len(), server.is_closing()), (count, false));
        server.answer(server.last(), "");
    }
    assert!(server.is_closing());
}

#[test]
fn a_body_that_is_cut_off_is_told_and_not_answered() {
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na";
    for raw in [&[POST, b"a"].concat()[..], chunked] {
        let mut server = Server::new();
        server.take(raw);
        let id = server.last();
        server.end();
        assert_eq!(server.seen[1..], [Seen::Body(id, b"a".to_vec()), Seen::BodyCut(id, None)]);
        assert!(server.is_closing() && server.out.is_empty() && !server.connection.is_open(id));
    }
}

#[test]
fn what_takes_too_long_is_answered_if_it_has_begun() {
    let mut server = Server::new();
    server.time_out();
    assert!(server.is_closing() && server.out.is_empty());

    let mut server = Server::new();
    server.take(b"GET / HTTP/1.1\r\n");
    assert_eq!(server.connection.activity(), Activity::ReceivingHead);
    server.time_out();
    assert_eq!((status(&server.sent()), server.is_closing()), (408, true));
    assert_eq!(server.seen, [Seen::Refused(Refusal::TimedOut)]);

    let mut server = Server::new();
    server.take(POST);
    assert_eq!(server.connection.activity(), Activity::ReceivingBody);
    let id = server.last();
    server.time_out();
    assert_eq!((status(&server.sent()), server.is_closing()), (408, true));
    assert_eq!(server.seen[1..], [Seen::BodyCut(id, Some(Refusal::TimedOut))]);
}

#[test]
fn a_response_that_has_begun_is_broken_off_rather_than_answered_again() {
    let mut server = Server::new();
    server.take(POST);
    let id = server.last();
    let Server { connection, out, .. } = &mut server;
    connection.respond(id, 200, NO_FIELDS, Payload::Stream, out).unwrap();
    server.sent();
    server.time_out();
    assert!(server.is_closing() && server.out.is_empty());
}

#[test]
fn the_program_takes_as_long_as_it_likes() {
    let mut server = Server::new();
    server.take(GET);
    server.time_out();
    assert_eq!(server.connection.activity(), Activity::Responding);
    server.answer(server.last(), "");
    assert_eq!(status(&server.sent()), 200);
}

#[test]
fn a_connection_that_is_drained_ends_when_all_is_answered() {
    let mut server = Server::new();
    server.connection.drain();
    assert!(server.is_closing(), "there is nothing to answer");

    let mut server = Server::new();
    server.take(&GET.repeat(2));
    server.connection.drain();
    server.take(GET);
    assert_eq!(server.requests().len(), 2, "none is taken any more");
    server.answer(server.requests()[0].0, "");
    assert!(!server.sent().contains("close"));
    server.answer(server.requests()[1].0, "");
    assert!(server.sent().contains("connection: close") && server.is_closing());
    assert_eq!(server.requests().len(), 2);

    let mut server = Server::new();
    server.take(&GET[..10]);
    server.connection.drain();
    assert!(!server.is_closing(), "a part of a request is there");
    server.take(&GET[10..]);
    server.answer(server.last(), "");
    assert!(server.sent().contains("connection: close") && server.is_closing());

    let mut server = Server::new();
    server.take(POST);
    server.connection.drain();
    server.take(b"abc");
    server.answer(server.last(), "");
    assert!(server.sent().contains("connection: close") && server.is_closing());
}

#[test]
fn a_request_is_answered_in_place_of_the_program() {
    for (refusal, expected) in [(Refusal::Overloaded, 503), (Refusal::ProgramFailed, 500)] {
        let mut server = Server::new();
        server.take(GET);
        let id = server.last();
        server.connection.refuse(id, refusal, &mut server.out).unwrap();
        let sent = server.sent();
        assert_eq!(status(&sent), expected);
        assert!(sent.contains("connection: close\r\n") && sent.ends_with(refusal.text()));
        assert!(server.is_closing());
        let again = server.connection.refuse(id, refusal, &mut server.out);
        assert_eq!(again, Err(ResponseError::Gone));
    }
}

#[test]
fn a_head_request_is_refused_without_a_body() {
    let mut server = Server::new();
    server.take(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let id = server.last();
    server.connection.refuse(id, Refusal::Overloaded, &mut server.out).unwrap();
    assert!(server.sent().ends_with("\r\n\r\n"));
}

#[test]
fn nothing_is_looked_at_after_the_end() {
    let mut server = Server::new();
    server.take(b"nonsense\r\n");
    server.sent();
    server.take(GET);
    server.end();
    assert_eq!((server.seen.len(), server.connection.heap()), (1, 0));
    assert!(server.out.is_empty());
}
