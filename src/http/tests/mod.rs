//! A server in memory: what it sees of bytes, and what it sends.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod cuts;
mod ends;
mod filter;
mod frames;
mod handshakes;
mod limits;
mod pipelining;
mod random;
mod raw_requests;
mod readiness;
mod responses;
mod sockets;

use std::sync::Arc;

use super::*;

/// What a program would be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request(RequestId, Box<RequestHead>),
    Body(RequestId, Vec<u8>),
    BodyEnd(RequestId, Option<Fields>),
    BodyCut(RequestId, Option<Refusal>),
    Refused(Refusal),
}

/// A connection, and what has come of it.
struct Server {
    connection: Connection,
    out: Output,
    /// The parts of a body are joined.
    seen: Vec<Seen>,
}

const NO_FIELDS: [(&[u8], &[u8]); 0] = [];

impl Server {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// With other settings, of which the fields `date` and `server` are left out.
    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { date: false, ..Settings::default() };
        change(&mut settings);
        let connection = Connection::new(Arc::new(settings));
        Self { connection, out: Output::default(), seen: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        let seen = &mut self.seen;
        self.connection.receive(bytes, &mut self.out, &mut |event| note(seen, event));
    }

    fn end(&mut self) {
        let seen = &mut self.seen;
        self.connection.receive_end(&mut self.out, &mut |event| note(seen, event));
    }

    fn proceed(&mut self) {
        let seen = &mut self.seen;
        self.connection.proceed(&mut self.out, &mut |event| note(seen, event));
    }

    fn time_out(&mut self) {
        let seen = &mut self.seen;
        self.connection.time_out(&mut self.out, &mut |event| note(seen, event));
    }

    /// All that is to be sent.
    fn sent(&mut self) -> String {
        let sent = String::from_utf8(self.out.bytes().to_vec()).unwrap();
        self.out.clear();
        sent
    }

    /// The requests that were seen.
    fn requests(&self) -> Vec<(RequestId, &RequestHead)> {
        let request = |seen| match seen {
            &Seen::Request(id, ref head) => Some((id, &**head)),
            _ => None,
        };
        self.seen.iter().filter_map(request).collect()
    }

    /// The request that was seen last.
    fn last(&self) -> RequestId {
        self.requests().last().unwrap().0
    }

    /// Answers a request with a body, and goes on.
    fn answer(&mut self, id: RequestId, body: &str) {
        let payload = Payload::Whole(body.as_bytes());
        self.connection.respond(id, 200, NO_FIELDS, payload, &mut self.out).unwrap();
        self.proceed();
    }

    fn is_closing(&self) -> bool {
        self.connection.activity() == Activity::Closing
    }
}

fn note(seen: &mut Vec<Seen>, event: Event<'_>) {
    match event {
        Event::Request(id, head) => seen.push(Seen::Request(id, head)),
        Event::Body(id, bytes) => {
            assert!(!bytes.is_empty());
            if let Some(Seen::Body(last, body)) = seen.last_mut() {
                assert_eq!(*last, id);
                body.extend_from_slice(bytes);
            } else {
                seen.push(Seen::Body(id, bytes.to_vec()));
            }
        }
        Event::BodyEnd(id, trailers) => seen.push(Seen::BodyEnd(id, trailers)),
        Event::BodyCut(id, why) => seen.push(Seen::BodyCut(id, why)),
        Event::Refused(refusal) => seen.push(Seen::Refused(refusal)),
    }
}

#[test]
fn any_thread_may_use_them() {
    fn is_send<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + 'static>() {}
    is_send::<Connection>();
    is_send::<WebSocket>();
    is_send::<Deflater>();
    is_send::<Output>();
    is_shared::<Settings>();
    is_shared::<RequestHead>();
}

/// The status of a response.
fn status(sent: &str) -> u16 {
    sent.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap()
}
