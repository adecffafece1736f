//! Requests before their turn, and responses in order.

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";

#[test]
fn responses_leave_in_the_order_of_the_requests() {
    let mut server = Server::new();
    server.take(&GET.repeat(4));
    let ids: Vec<_> = server.requests().iter().map(|request| request.0).collect();
    assert_eq!(ids.len(), 4);
    for (at, seen) in [(2, ""), (1, ""), (0, "012"), (3, "3")] {
        assert_eq!(server.connection.is_first(ids[at]), !seen.is_empty());
        server.answer(ids[at], &at.to_string());
        let sent = server.sent();
        let bodies: String = sent.split("\r\n\r\n").skip(1).map(|rest| &rest[..1]).collect();
        assert_eq!(bodies, seen);
    }
    assert_eq!(server.connection.activity(), Activity::Idle);
}

#[test]
fn a_response_that_comes_in_parts_waits_for_its_turn() {
    let mut server = Server::new();
    server.take(&GET.repeat(2));
    let (first, second) = (server.requests()[0].0, server.requests()[1].0);
    let Server { connection, out, .. } = &mut server;
    connection.respond(second, 200, NO_FIELDS, Payload::Stream, out).unwrap();
    connection.body(second, b"abc", false, out).unwrap();
    assert!(out.is_empty());
    server.answer(first, "x");
    let sent = server.sent();
    assert!(sent.ends_with("xHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"));
    let Server { connection, out, .. } = &mut server;
    connection.body(second, b"de", true, out).unwrap();
    assert_eq!(server.sent(), "2\r\nde\r\n0\r\n\r\n");
}

#[test]
fn no_more_are_begun_than_the_settings_say() {
    let mut server = Server::with(|settings| settings.max_pipelined = 3);
    server.take(&GET.repeat(5));
    assert_eq!(server.requests().len(), 3);
    assert!(!server.connection.wants_input());
    assert_eq!(server.connection.pending(), GET.len() * 2);
    server.answer(server.requests()[0].0, "");
    assert_eq!(server.requests().len(), 4);
    assert!(!server.connection.wants_input());
    server.answer(server.requests()[1].0, "");
    assert_eq!((server.requests().len(), server.connection.pending()), (5, 0));
}

#[test]
fn one_that_may_change_something_is_alone() {
    let mut server = Server::new();
    server.take(&[GET, POST, GET].concat());
    assert_eq!(server.requests().len(), 1);
    assert!(!server.connection.wants_input());
    server.answer(server.last(), "");
    assert_eq!(server.requests().len(), 2);
    assert_eq!(server.seen.len(), 4, "its body is there as well");
    server.answer(server.last(), "");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn one_without_a_body_that_may_change_something_is_alone_too() {
    let delete = b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut server = Server::new();
    server.take(&[&delete[..], GET].concat());
    assert_eq!(server.requests().len(), 1);
    server.answer(server.last(), "");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_refusal_waits_for_the_responses_before_it() {
    let mut server = Server::new();
    server.take(&[GET, b"GET / HTTP/1.1\r\n\r\n", GET].concat());
    assert_eq!(server.seen.len(), 2);
    assert_eq!((server.sent().as_str(), server.is_closing()), ("", false));
    server.answer(server.requests()[0].0, "x");
    let sent = server.sent();
    assert!(sent.contains("xHTTP/1.1 400 Bad Request\r\n"), "{sent}");
    assert!(server.is_closing());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn nothing_behind_a_request_that_closes_is_looked_at() {
    let close = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut server = Server::new();
    server.take(&[GET, close, GET, b"nonsense\r\n"].concat());
    assert_eq!((server.seen.len(), server.connection.pending()), (2, 0));
    server.answer(server.requests()[1].0, "");
    server.answer(server.requests()[0].0, "");
    assert!(server.sent().contains("connection: close"));
    assert!(server.is_closing());
}

#[test]
fn a_response_that_closes_gives_up_those_behind_it() {
    let mut server = Server::new();
    server.take(&GET.repeat(2));
    let (first, second) = (server.requests()[0].0, server.requests()[1].0);
    let fields = [(&b"Connection"[..], &b"close"[..])];
    let Server { connection, out, .. } = &mut server;
    connection.respond(first, 200, fields, Payload::Whole(b""), out).unwrap();
    assert!(connection.activity() == Activity::Closing && !connection.is_open(second));
    let late = connection.respond(second, 200, NO_FIELDS, Payload::Stream, out);
    assert_eq!(late, Err(ResponseError::Gone));
}

#[test]
fn a_connection_that_has_ended_keeps_nothing() {
    let mut server = Server::with(|settings| settings.max_pipelined = 2);
    server.take(&GET.repeat(9));
    let (first, second) = (server.requests()[0].0, server.requests()[1].0);
    server.answer(second, "it waits");
    assert!(server.connection.heap() > GET.len() * 7);
    server.connection.refuse(first, Refusal::ProgramFailed, &mut server.out).unwrap();
    assert_eq!((server.connection.heap(), server.is_closing()), (0, true));
}

#[test]
fn an_idle_connection_keeps_nothing() {
    let mut server = Server::new();
    for _ in 0..3 {
        server.take(&GET.repeat(9));
        let ids: Vec<_> = server.requests().iter().map(|request| request.0).collect();
        for id in ids {
            server.answer(id, "abc");
        }
        server.take(POST);
        server.answer(server.last(), "abc");
        server.seen.clear();
        assert_eq!(server.connection.activity(), Activity::Idle);
        assert_eq!(server.connection.heap(), 0);
    }
    assert!(size_of::<Connection>() <= 320, "{}", size_of::<Connection>());
}
