//! What has come on a connection and waits for whoever runs the program: requests, bodies, messages.

use std::collections::VecDeque;
use std::mem;
use std::ops::ControlFlow;

use super::connection::{Connection, Event};
use super::head::{BodyLength, Fields, RequestHead};
use super::output::Output;
use super::replies::RequestId;
use super::response::Payload;
use super::settings::Readiness;
use super::websocket::{Deflater, Message, SocketFailure, WebSocket};

/// Bytes of bodies, of messages, and of what is behind requests that are not answered, that wait for the program.
/// With more than that nothing is read.
pub(super) const FULL: usize = 64 * 1024;

/// A thread's memory.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) output: Output,
    pub(super) deflater: Option<Deflater>,
    /// What came out of the filter below.
    pub(super) plaintext: Vec<u8>,
}

/// What comes next of a request's body.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// So many bytes; whether more will come; with the trailer fields, if there are some and this is the end.
    Data(Vec<u8>, bool, Option<Fields>),
    /// Nothing yet.
    Nothing,
    /// The rest will not come.
    Cut,
}

/// What comes next on a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub enum SocketMessage {
    /// A message of text.
    Text(Box<str>),
    /// A message of bytes.
    Binary(Box<[u8]>),
    /// The peer's close, with its code and reason; nothing comes behind it.
    Close(Option<u16>, Box<str>),
    /// The peer has not kept to the protocol, and was told so; nothing comes behind it.
    Failed(SocketFailure),
}

/// What has come and was not taken.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) heads: VecDeque<(RequestId, Box<RequestHead>)>,
    pub(super) bodies: Vec<Body>,
    pub(super) messages: VecDeque<SocketMessage>,
    /// Bytes of messages.
    pub(super) message_bytes: usize,
    /// Pongs that have come since somebody asked.
    pub(super) pongs: u32,
    /// Something was refused without the program.
    pub(super) was_refused: bool,
    /// The client sends no further request.
    pub(super) is_last: bool,
    /// Something has come since the owner looked.
    pub(super) news: bool,
}

#[derive(Debug)]
pub(super) struct Body {
    pub(super) id: RequestId,
    pub(super) data: Vec<u8>,
    pub(super) end: BodyEnd,
}

#[derive(Debug)]
pub(super) enum BodyEnd {
    Coming,
    Ended(Option<Fields>),
    Cut,
}

impl Arrived {
    pub(super) fn take(&mut self, event: Event<'_>) {
        self.news = true;
        match event {
            Event::Request(id, head) => {
                self.is_last = !head.keep_alive();
                if head.body() != BodyLength::None {
                    self.bodies.push(Body { id, data: Vec::new(), end: BodyEnd::Coming });
                }
                self.heads.push_back((id, head));
            }
            Event::Body(id, bytes) => {
                if let Some(body) = self.body(id) {
                    body.data.extend_from_slice(bytes);
                }
            }
            Event::BodyEnd(id, trailers) => {
                if let Some(body) = self.body(id) {
                    body.end = BodyEnd::Ended(trailers);
                }
            }
            Event::BodyCut(id, _) => {
                if let Some(body) = self.body(id) {
                    body.end = BodyEnd::Cut;
                }
            }
            Event::Refused(_) => self.was_refused = true,
        }
    }

    /// Answers the requests that ask whether the server is ready.
    pub(super) fn answer(
        &mut self,
        readiness: &Readiness,
        connection: &mut Connection,
        out: &mut Output,
    ) {
        const FIELDS: [(&[u8], &[u8]); 2] =
            [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")];
        while let Some(place) =
            self.heads.iter().position(|(_, head)| head.path() == &*readiness.path)
            && let Some((id, _)) = self.heads.remove(place)
        {
            let (status, body) = readiness.answer();
            let answered = connection.respond(id, status, FIELDS, Payload::Whole(body), out);
            debug_assert!(answered.is_ok(), "its head is valid, and nobody else answers it");
            connection.proceed(out, &mut |event| self.take(event));
            self.bodies.retain(|body| connection.is_open(body.id));
        }
    }

    pub(super) fn body(&mut self, id: RequestId) -> Option<&mut Body> {
        self.bodies.iter_mut().find(|body| body.id == id)
    }

    /// Takes messages, and no more of them once too much waits: what is behind it stays as it came.
    pub(super) fn receive(
        &mut self,
        socket: &mut WebSocket,
        bytes: &mut [u8],
        max_messages: usize,
        work: &mut Work,
    ) {
        let Work { output, deflater, .. } = work;
        socket.receive(bytes, deflater.get_or_insert_default(), output, &mut |message| {
            self.message(message);
            if self.is_full(max_messages) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        self.news |= socket.is_closed();
    }

    pub(super) fn message(&mut self, message: Message<'_>) {
        let message = match message {
            Message::Text(text) => SocketMessage::Text(text.into()),
            Message::Binary(bytes) => SocketMessage::Binary(bytes.into()),
            Message::Close(code, reason) => SocketMessage::Close(code, reason.into()),
            Message::Failed(failure) => SocketMessage::Failed(failure),
            Message::Ping(_) => return,
            Message::Pong(_) => {
                self.pongs = self.pongs.saturating_add(1);
                return;
            }
        };
        match &message {
            SocketMessage::Text(text) => self.message_bytes += text.len(),
            SocketMessage::Binary(bytes) => self.message_bytes += bytes.len(),
            _ => {}
        }
        self.news = true;
        self.messages.push_back(message);
    }

    pub(super) fn take_request(&mut self) -> Option<(RequestId, Box<RequestHead>)> {
        let next = self.heads.pop_front();
        if self.heads.is_empty() {
            self.news = false;
            // Idle connections keep no memory.
            self.heads = VecDeque::new();
        }
        next
    }

    pub(super) fn take_body(&mut self, id: RequestId) -> BodyPart {
        let Some(index) = self.bodies.iter().position(|body| body.id == id) else {
            return BodyPart::Cut;
        };
        let body = &mut self.bodies[index];
        match &mut body.end {
            BodyEnd::Coming if body.data.is_empty() => BodyPart::Nothing,
            BodyEnd::Coming => BodyPart::Data(mem::take(&mut body.data), true, None),
            BodyEnd::Ended(trailers) => {
                let part = BodyPart::Data(mem::take(&mut body.data), false, trailers.take());
                self.bodies.swap_remove(index);
                part
            }
            BodyEnd::Cut => BodyPart::Cut,
        }
    }

    pub(super) fn take_message(&mut self) -> Option<SocketMessage> {
        let message = self.messages.pop_front();
        match &message {
            Some(SocketMessage::Text(text)) => self.message_bytes -= text.len(),
            Some(SocketMessage::Binary(bytes)) => self.message_bytes -= bytes.len(),
            _ => {}
        }
        message
    }

    /// Whether so much waits for the program that nothing is read.
    pub(super) fn is_full(&self, max_messages: usize) -> bool {
        let bytes =
            self.message_bytes + self.bodies.iter().map(|body| body.data.len()).sum::<usize>();
        bytes > FULL || self.messages.len() > max_messages
    }
}
