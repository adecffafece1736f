//! What is answered on connections that no loop gets to.

use super::*;
use crate::transport::Responder;

fn response(readiness: bool, asked: &[u8]) -> Option<String> {
    let known = Arc::new(Readiness::new(b"/ready"[..].into()));
    known.set(readiness);
    let settings = Settings { readiness: Some(known), date: false, ..Settings::default() };
    let responder = ReadinessResponder::new(Arc::new(settings));
    responder.response(asked).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn who_asks_for_readiness_alone_is_answered_and_the_connection_ends() {
    let get = b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n";
    let ready = response(true, get).unwrap();
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
    assert!(
        ready.contains("connection: close\r\n") && ready.ends_with("\r\n\r\nready\n"),
        "{ready}"
    );
    let not_yet = response(false, get).unwrap();
    assert!(not_yet.starts_with("HTTP/1.1 503 ") && not_yet.ends_with("not ready\n"), "{not_yet}");
    let head = response(true, b"HEAD /ready HTTP/1.0\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn what_else_comes_is_a_loops() {
    let get: &[u8] = b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n";
    for asked in [
        b"".to_vec(),
        get[..get.len() - 1].to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        [get, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
        [get, b"GE"].concat(),
        b"POST /ready HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na".to_vec(),
        b"GET /ready HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01".to_vec(),
    ] {
        assert_eq!(response(true, &asked), None, "{}", String::from_utf8_lossy(&asked));
    }
}
