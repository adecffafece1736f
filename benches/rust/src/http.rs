//! HTTP and WebSocket in memory: requests in, responses out.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

use loop_pool::http::{
    Connection, Deflater, Event, Kind, Message, Output, Payload, RequestHead, RequestId, Settings,
    WebSocket,
};

const GET: &[u8] = b"GET /hello?name=world HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
    Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.5\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nCache-Control: no-cache\r\n\
    X-Request-Id: 7f000001-1234\r\n\r\n";

const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

type Head = Box<RequestHead>;

/// So many requests with eight fields at once, each answered with two fields and 13 bytes.
///
/// # Panics
/// The closure does, if what is valid is not taken.
pub fn get(pipelined: usize) -> impl FnMut() {
    let mut connection = Connection::new(Arc::new(Settings::default()));
    let (mut out, raw) = (Output::default(), GET.repeat(pipelined));
    let mut requests: Vec<(RequestId, Head)> = Vec::new();
    move || {
        connection.receive(&raw, &mut out, &mut |event| {
            if let Event::Request(id, head) = event {
                requests.push((id, head));
            }
        });
        for (id, head) in requests.drain(..) {
            black_box(head.path());
            let fields = [(&b"content-type"[..], &b"text/plain"[..]), (b"content-length", b"13")];
            let body = Payload::Whole(b"Hello, World!");
            let sent = connection.respond(id, 200, fields, body, &mut out);
            sent.expect("it is a valid response");
        }
        black_box(out.bytes());
        out.clear();
    }
}

/// A request whose body comes in chunks of 1 KiB, so many of them.
///
/// # Panics
/// The closure does, if what is valid is not taken.
pub fn post_chunked(chunks: usize) -> impl FnMut() {
    let mut connection = Connection::new(Arc::new(Settings::default()));
    let mut raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..chunks {
        raw.extend_from_slice(b"400\r\n");
        raw.extend_from_slice(&[b'x'; 1024]);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"0\r\n\r\n");
    let mut out = Output::default();
    move || {
        let (mut request, mut length) = (None, 0);
        connection.receive(&raw, &mut out, &mut |event| match event {
            Event::Request(id, _) => request = Some(id),
            Event::Body(_, bytes) => length += black_box(bytes).len(),
            _ => {}
        });
        debug_assert_eq!(length, chunks * 1024);
        let id = request.expect("it is a valid request");
        let fields: [(&[u8], &[u8]); 0] = [];
        let sent = connection.respond(id, 200, fields, Payload::Whole(b""), &mut out);
        sent.expect("it is a valid response");
        out.clear();
    }
}

/// A message of so many bytes, sent back; compressed both ways, or not.
///
/// # Panics
/// The closure does, if what is valid is not taken.
pub fn echo(size: usize, compressed: bool) -> impl FnMut() {
    let settings = Settings { deflate: compressed, ..Settings::default() };
    let (mut out, mut deflater) = (Output::default(), Deflater::default());
    let mut socket = upgraded(settings, &mut out);
    let text: Vec<u8> = (0..size).map(|at| b"some text "[at % 10]).collect();
    socket.send(Kind::Text, &text, &mut deflater, &mut out);
    let frame = masked(out.bytes());
    out.clear();
    let (mut bytes, mut message) = (Vec::new(), Vec::new());
    move || {
        bytes.clear();
        bytes.extend_from_slice(&frame);
        message.clear();
        socket.receive(&mut bytes, &mut deflater, &mut out, &mut |event| {
            if let Message::Text(text) = event {
                message.extend_from_slice(text.as_bytes());
            }
            ControlFlow::Continue(())
        });
        debug_assert_eq!(message.len(), size);
        socket.send(Kind::Text, &message, &mut deflater, &mut out);
        black_box(out.bytes());
        out.clear();
    }
}

fn upgraded(settings: Settings, out: &mut Output) -> WebSocket {
    let mut connection = Connection::new(Arc::new(settings));
    let mut request = None;
    connection.receive(UPGRADE, out, &mut |event| {
        if let Event::Request(id, head) = event {
            request = Some((id, head));
        }
    });
    let (id, head) = request.expect("it is a valid handshake");
    let fields: [(&[u8], &[u8]); 0] = [];
    let socket = connection.accept(id, &head, None, fields, out);
    out.clear();
    socket.expect("it may be accepted")
}

/// A server's frame as a client sends it.
fn masked(frame: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (head, payload) = frame.split_at(head);
    let mut masked = head.to_vec();
    masked[1] |= 0x80;
    masked.extend_from_slice(&MASK);
    masked.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    masked
}
