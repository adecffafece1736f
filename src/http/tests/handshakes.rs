//! Requests for a WebSocket, accepted and not.

use std::ops::ControlFlow;

use super::*;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// A server that has seen a request for a WebSocket with these further fields.
fn asked(fields: &str) -> Server {
    let mut server = Server::new();
    server.take(request(fields).as_bytes());
    assert!(server.requests()[0].1.is_websocket());
    server
}

fn request(fields: &str) -> String {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    format!("GET /ws HTTP/1.1\r\nHost: a\r\n{upgrade}{KEY}{fields}\r\n")
}

fn accept(
    server: &mut Server,
    subprotocol: Option<&str>,
    fields: &[(&[u8], &[u8])],
) -> Result<WebSocket, ResponseError> {
    let (id, head) = server.requests()[0];
    let (head, subprotocol) = (head.clone(), subprotocol.map(str::as_bytes));
    let fields = fields.iter().copied();
    server.connection.accept(id, &head, subprotocol, fields, &mut server.out)
}

#[test]
fn an_accepted_handshake_is_that_of_the_standard() {
    let mut server = asked("");
    accept(&mut server, None, &[(b"Set-Cookie", b"a")]).unwrap();
    let sent = server.sent();
    let key = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let begin = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade";
    assert_eq!(sent, format!("{begin}\r\n{key}\r\nSet-Cookie: a\r\n\r\n"));
    assert_eq!(server.connection.heap(), 0);
}

#[test]
fn the_subprotocol_is_the_programs_choice() {
    let offer = "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n";
    // One that was not offered is the client's to refuse, as with uvicorn's protocols.
    for (offer, name) in [(offer, "a"), (offer, "c"), (offer, "d"), ("", "a")] {
        let mut server = asked(offer);
        accept(&mut server, Some(name), &[]).unwrap();
        assert!(server.sent().contains(&format!("sec-websocket-protocol: {name}\r\n")));
    }
    let mut server = asked(offer);
    let refused = accept(&mut server, Some("a\r\nb: c"), &[]);
    assert_eq!(refused.unwrap_err(), ResponseError::Field);
    assert!(server.out.is_empty());
    accept(&mut server, None, &[]).unwrap();
}

#[test]
fn compression_is_agreed_on_if_it_can_be_met() {
    for (offer, is_met) in [
        ("permessage-deflate", true),
        ("Permessage-Deflate", true),
        ("permessage-deflate; client_max_window_bits", true),
        ("permessage-deflate; client_max_window_bits=10", true),
        ("permessage-deflate; client_max_window_bits=\"10\"", true),
        ("permessage-deflate; server_max_window_bits=15", true),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", true),
        ("a, permessage-deflate", true),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", true),
        ("permessage-deflate; server_max_window_bits=10", false),
        ("permessage-deflate; server_max_window_bits", false),
        ("permessage-deflate; client_max_window_bits=7", false),
        ("permessage-deflate; client_max_window_bits=16", false),
        ("permessage-deflate; client_max_window_bits=08", false),
        ("permessage-deflate; server_no_context_takeover=1", false),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", false),
        ("permessage-deflate; a", false),
        ("permessage-deflate;", false),
        ("x-webkit-deflate-frame", false),
        ("", false),
    ] {
        let mut server = asked(&format!("Sec-WebSocket-Extensions: {offer}\r\n"));
        accept(&mut server, None, &[]).unwrap();
        let answer = "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; \
                      client_no_context_takeover\r\n";
        assert_eq!(server.sent().contains(answer), is_met, "{offer}");
    }
}

#[test]
fn the_fields_of_a_handshake_are_not_the_programs() {
    for (name, value) in [
        (&b"Sec-WebSocket-Accept"[..], &b"x"[..]),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"Upgrade", b"x"),
        (b"connection", b"close"),
        (b"content-length", b"0"),
        (b"a", b"b\r\nc: d"),
    ] {
        let mut server = asked("");
        assert!(accept(&mut server, None, &[(name, value)]).is_err());
        assert!(server.out.is_empty());
    }
}

#[test]
fn a_handshake_may_be_denied() {
    let mut server = asked("");
    let id = server.last();
    let body = Payload::Whole(b"no");
    server.connection.respond(id, 403, NO_FIELDS, body, &mut server.out).unwrap();
    let fields = "content-length: 2\r\nconnection: close";
    assert_eq!(server.sent(), format!("HTTP/1.1 403 Forbidden\r\n{fields}\r\n\r\nno"));
    assert!(server.is_closing());
    assert_eq!(accept(&mut server, None, &[]).unwrap_err(), ResponseError::Gone);
}

#[test]
fn a_handshake_waits_for_the_responses_before_it() {
    let mut server = Server::new();
    server.take(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.take(request("").as_bytes());
    assert_eq!(server.requests().len(), 1);
    server.answer(server.last(), "");
    assert!(server.requests()[1].1.is_websocket());
}

#[test]
fn what_comes_behind_a_handshake_is_the_sockets() {
    let mut server = asked("");
    server.take(&[0x89, 0x80, 1, 2]);
    server.take(&[3, 4]);
    assert!(!server.connection.wants_input());
    let mut socket = accept(&mut server, None, &[]).unwrap();
    server.sent();
    assert_eq!(socket.pending(), 6);
    let mut pings = 0;
    let sink = &mut |message: Message<'_>| {
        pings += u8::from(message == Message::Ping(b""));
        ControlFlow::Continue(())
    };
    socket.receive(&mut [], &mut Deflater::default(), &mut server.out, sink);
    assert_eq!((pings, server.out.bytes(), socket.pending()), (1, &[0x8a, 0][..], 0));
}

#[test]
fn a_server_without_websockets_takes_a_plain_request() {
    let mut server = Server::with(|settings| settings.websocket = false);
    server.take(request("").as_bytes());
    assert!(!server.requests()[0].1.is_websocket());
    server.answer(server.last(), "");
    assert!(!server.is_closing());
}

#[test]
fn a_client_of_another_version_is_told_ours() {
    let mut server = Server::new();
    server.take(request("").replace("Version: 13", "Version: 12").as_bytes());
    let sent = server.sent();
    assert_eq!(status(&sent), 426);
    assert!(sent.contains("sec-websocket-version: 13\r\n") && sent.contains("upgrade: websocket"));
}
