//! One WebSocket's state: messages out of frames, and frames out of messages.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::{fmt, mem};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::super::output::Output;
use super::deflate::{Deflater, InflateError};
use super::masking::unmask;

/// Bytes of the payload of a ping, a pong or a close.
const MAX_CONTROL: usize = 125;

/// Bytes of a message that is not worth to be compressed.
const SMALL: usize = 64;

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// What bytes were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A message of text.
    Text(&'a str),
    /// A message of bytes.
    Binary(&'a [u8]),
    /// A ping. It is answered already.
    Ping(&'a [u8]),
    /// The answer to a ping, or one that was not asked for.
    Pong(&'a [u8]),
    /// The peer sends no more; with its code, if it gave one, and its reason. It is answered already.
    Close(Option<u16>, &'a str),
    /// The peer has not kept to the protocol, and has been told. The connection ends.
    Failed(SocketFailure),
}

/// Who is handed each message, and says whether to go on with the next one.
pub type Sink<'a> = dyn FnMut(Message<'_>) -> ControlFlow<()> + 'a;

/// What is wrong with what a peer has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketFailure {
    /// 1002: no valid sequence of frames.
    Protocol(&'static str),
    /// 1007: text that is no UTF-8, or compressed bytes that are none.
    Invalid,
    /// 1009: a message that is longer than [`Settings::max_message`](crate::http::Settings::max_message).
    TooLong,
}

impl SocketFailure {
    /// The code of the close frame that tells the peer.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Invalid => 1007,
            Self::TooLong => 1009,
        }
    }
}

impl fmt::Display for SocketFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol(what) => what,
            Self::Invalid => "a message is not what it says that it is",
            Self::TooLong => "a message is too long",
        })
    }
}

/// The server's side of one WebSocket. One thread at a time; which one does not matter.
///
/// It keeps no memory but for a message of which a part has come. To inflate and to compress takes a [`Deflater`]
/// of the thread.
#[derive(Debug)]
pub struct WebSocket {
    max_message: usize,
    deflate: bool,
    /// Behind so many bytes that were used: a part of a header or of a control frame, what the sink did not go on
    /// to, and at first what came behind the handshake.
    pending: Vec<u8>,
    used: usize,
    /// The frame of data that is coming.
    frame: Option<Frame>,
    /// The message that is coming.
    begun: Option<Begun>,
    /// What of it has come.
    message: Vec<u8>,
    is_close_sent: bool,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    mask: [u8; 4],
    left: u64,
    /// Bytes of it that have come.
    taken: usize,
    is_final: bool,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    kind: Kind,
    is_compressed: bool,
}

impl WebSocket {
    pub(in crate::http) fn new(max_message: usize, deflate: bool, pending: Vec<u8>) -> Self {
        let (frame, begun, message) = (None, None, Vec::new());
        let (used, is_close_sent, is_closed) = (0, false, false);
        Self {
            max_message,
            deflate,
            pending,
            used,
            frame,
            begun,
            message,
            is_close_sent,
            is_closed,
        }
    }

    /// Takes what was read, which is changed. `sink` is called for each message, in order. Pongs and the answer to
    /// a close are appended to `out`.
    ///
    /// When `sink` breaks off, what is behind that message is kept as it came: it is neither inflated nor answered
    /// before the next call, which needs no new bytes.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        deflater: &mut Deflater,
        out: &mut Output,
        sink: &mut Sink<'_>,
    ) {
        if self.is_closed {
            return;
        }
        if self.pending.is_empty() {
            let used = self.process(bytes, deflater, out, sink);
            self.pending = bytes[used..].to_vec();
        } else {
            let (mut all, mut used) = (mem::take(&mut self.pending), mem::take(&mut self.used));
            all.extend_from_slice(bytes);
            used += self.process(&mut all[used..], deflater, out, sink);
            if used < all.len() {
                // So that each byte is moved once.
                if used > all.len() / 2 {
                    all.drain(..mem::take(&mut used));
                    all.shrink_to_fit();
                }
                (self.pending, self.used) = (all, used);
            }
        }
        if self.is_closed {
            (self.pending, self.used, self.message) = (Vec::new(), 0, Vec::new());
        }
    }

    /// Bytes that are kept: all the memory that depends on what the peer has sent.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len() - self.used + self.message.len()
    }

    /// Whether there are bytes of which the next messages may be made, without any that are still to come.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether it has ended: when all output is sent, the socket is to be closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether a close has been sent, after which nothing is.
    #[must_use]
    pub fn is_close_sent(&self) -> bool {
        self.is_close_sent
    }

    fn process(
        &mut self,
        bytes: &mut [u8],
        deflater: &mut Deflater,
        out: &mut Output,
        sink: &mut Sink<'_>,
    ) -> usize {
        let mut used = 0;
        while !self.is_closed {
            let mut flow = ControlFlow::Continue(());
            let step =
                self.step(&mut bytes[used..], deflater, out, &mut |message| flow = sink(message));
            match step {
                Ok(Some(count)) => used += count,
                Ok(None) => return used,
                Err(failure) => {
                    // Nothing comes behind it.
                    let _ = sink(Message::Failed(failure));
                    self.close(failure.code(), "", out);
                    self.is_closed = true;
                }
            }
            if flow.is_break() {
                return used;
            }
        }
        bytes.len()
    }

    /// Takes the first frame, or a part of it; says how many bytes these were. `None`: there is too little.
    fn step(
        &mut self,
        bytes: &mut [u8],
        deflater: &mut Deflater,
        out: &mut Output,
        sink: &mut dyn FnMut(Message<'_>),
    ) -> Result<Option<usize>, SocketFailure> {
        if let Some(frame) = self.frame {
            return self.go_on(frame, bytes, deflater, sink);
        }
        let Some(head) = FrameHead::parse(bytes)? else { return Ok(None) };
        let (header, length) = (&head.header, head.length);
        let Some(mask) = header.mask else {
            return Err(SocketFailure::Protocol("a frame is not masked"));
        };
        if header.rsv2 || header.rsv3 {
            return Err(SocketFailure::Protocol("a reserved bit is set"));
        }
        let data = match header.opcode {
            OpCode::Control(control) => {
                if header.rsv1 || !header.is_final || length > MAX_CONTROL as u64 {
                    return Err(SocketFailure::Protocol("a control frame is in parts"));
                }
                let end = head.size + usize::try_from(length).unwrap_or(MAX_CONTROL);
                let Some(payload) = bytes.get_mut(head.size..end) else { return Ok(None) };
                unmask(payload, mask, 0);
                self.control(control, payload, out, sink)?;
                return Ok(Some(end));
            }
            OpCode::Data(data) => data,
        };
        let kind = match (data, self.begun) {
            (Data::Continue, Some(begun)) => begun.kind,
            (Data::Text, None) => Kind::Text,
            (Data::Binary, None) => Kind::Binary,
            _ => return Err(SocketFailure::Protocol("the parts of messages are mixed")),
        };
        if header.rsv1 && (!self.deflate || self.begun.is_some()) {
            return Err(SocketFailure::Protocol("a reserved bit is set"));
        }
        let is_too_long = length
            .checked_add(self.message.len() as u64)
            .is_none_or(|all| all > self.max_message as u64);
        if is_too_long {
            return Err(SocketFailure::TooLong);
        }
        let begun = self.begun.unwrap_or(Begun { kind, is_compressed: header.rsv1 });
        let end = usize::try_from(length).ok().and_then(|length| head.size.checked_add(length));
        if let (true, None, Some(end)) = (header.is_final, self.begun, end)
            && let Some(payload) = bytes.get_mut(head.size..end)
        {
            // All of a message: it is handed on where it is.
            unmask(payload, mask, 0);
            deliver(begun, payload, self.max_message, deflater, sink)?;
            return Ok(Some(end));
        }
        self.begun = Some(begun);
        let frame = Frame { mask, left: length, taken: 0, is_final: header.is_final };
        let size = head.size;
        let taken = self.go_on(frame, &mut bytes[size..], deflater, sink)?;
        Ok(Some(size + taken.unwrap_or(0)))
    }

    /// Takes what has come of a frame of data.
    fn go_on(
        &mut self,
        mut frame: Frame,
        bytes: &mut [u8],
        deflater: &mut Deflater,
        sink: &mut dyn FnMut(Message<'_>),
    ) -> Result<Option<usize>, SocketFailure> {
        let count = usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let payload = &mut bytes[..count];
        unmask(payload, frame.mask, frame.taken);
        self.message.extend_from_slice(payload);
        frame.left -= count as u64;
        frame.taken = frame.taken.wrapping_add(count);
        if frame.left > 0 {
            self.frame = Some(frame);
            return Ok(if count == 0 { None } else { Some(count) });
        }
        self.frame = None;
        if frame.is_final
            && let Some(begun) = self.begun.take()
        {
            let message = mem::take(&mut self.message);
            deliver(begun, &message, self.max_message, deflater, sink)?;
        }
        Ok(Some(count))
    }

    fn control(
        &mut self,
        control: Control,
        payload: &[u8],
        out: &mut Output,
        sink: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), SocketFailure> {
        match control {
            Control::Ping => {
                sink(Message::Ping(payload));
                if !self.is_close_sent {
                    write_frame(OpCode::Control(Control::Pong), false, payload, out);
                }
            }
            Control::Pong => sink(Message::Pong(payload)),
            Control::Close => {
                let (code, reason) = match payload {
                    [] => (None, ""),
                    [high, low, reason @ ..] => {
                        let code = u16::from_be_bytes([*high, *low]);
                        if !CloseCode::from(code).is_allowed() {
                            return Err(SocketFailure::Protocol("no code of a close"));
                        }
                        let reason = str::from_utf8(reason);
                        (Some(code), reason.map_err(|_| SocketFailure::Invalid)?)
                    }
                    [_] => return Err(SocketFailure::Protocol("half a code of a close")),
                };
                sink(Message::Close(code, reason));
                if !mem::replace(&mut self.is_close_sent, true) {
                    let code = payload.get(..2).unwrap_or_default();
                    write_frame(OpCode::Control(Control::Close), false, code, out);
                }
                self.is_closed = true;
            }
            Control::Reserved(_) => return Err(SocketFailure::Protocol("no code of a frame")),
        }
        Ok(())
    }

    // -- out -----------------------------------------------------------------------------------------

    /// Sends a message in one frame; says whether it was sent, which it is not after a close. `Kind::Text` is for
    /// UTF-8.
    pub fn send(
        &mut self,
        kind: Kind,
        message: &[u8],
        deflater: &mut Deflater,
        out: &mut Output,
    ) -> bool {
        if self.is_close_sent {
            return false;
        }
        let code = OpCode::Data(match kind {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        });
        if self.deflate && message.len() > SMALL {
            write_frame(code, true, deflater.deflate(message), out);
        } else {
            write_frame(code, false, message, out);
        }
        true
    }

    /// Sends a ping of at most 125 bytes; says whether it was sent, which it is not after a close.
    pub fn ping(&mut self, payload: &[u8], out: &mut Output) -> bool {
        let may = !self.is_close_sent && payload.len() <= MAX_CONTROL;
        if may {
            write_frame(OpCode::Control(Control::Ping), false, payload, out);
        }
        may
    }

    /// Says that nothing more will be sent; the peer says the same in answer. Of a long reason the beginning is
    /// sent. Says whether this was sent, which it is not after a close, nor with a code that no close has.
    pub fn close(&mut self, code: u16, reason: &str, out: &mut Output) -> bool {
        if self.is_close_sent || !CloseCode::from(code).is_allowed() {
            return false;
        }
        self.is_close_sent = true;
        let most = reason.len().min(MAX_CONTROL - 2);
        let end = (0..=most).rev().find(|end| reason.is_char_boundary(*end));
        let reason = &reason[..end.unwrap_or(0)];
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        write_frame(OpCode::Control(Control::Close), false, &payload, out);
        true
    }
}

/// The header of a frame.
struct FrameHead {
    header: FrameHeader,
    /// Bytes of the payload.
    length: u64,
    /// Bytes of the header.
    size: usize,
}

impl FrameHead {
    /// `None`: a part of it is missing.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, SocketFailure> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor);
        let parsed = parsed.map_err(|_| SocketFailure::Protocol("no code of a frame"))?;
        let Some((header, length)) = parsed else { return Ok(None) };
        let size = usize::try_from(cursor.position()).unwrap_or(bytes.len());
        if header.len(length) != size || length > i64::MAX as u64 {
            return Err(SocketFailure::Protocol(
                "a length that is not written in the shortest way",
            ));
        }
        Ok(Some(Self { header, length, size }))
    }
}

fn deliver(
    begun: Begun,
    payload: &[u8],
    max_message: usize,
    deflater: &mut Deflater,
    sink: &mut dyn FnMut(Message<'_>),
) -> Result<(), SocketFailure> {
    let message = if begun.is_compressed {
        deflater.inflate(payload, max_message).map_err(|error| match error {
            InflateError::Invalid => SocketFailure::Invalid,
            InflateError::TooLong => SocketFailure::TooLong,
        })?
    } else {
        payload
    };
    match begun.kind {
        Kind::Text => {
            let text = str::from_utf8(message).map_err(|_| SocketFailure::Invalid)?;
            sink(Message::Text(text));
        }
        Kind::Binary => sink(Message::Binary(message)),
    }
    Ok(())
}

/// Appends a whole message, or a control frame.
fn write_frame(opcode: OpCode, is_compressed: bool, payload: &[u8], out: &mut Output) {
    let header = FrameHeader { rsv1: is_compressed, opcode, ..FrameHeader::default() };
    out.bytes.reserve(header.len(payload.len() as u64) + payload.len());
    // A vector takes all that is written to it.
    let _ = header.format(payload.len() as u64, &mut out.bytes);
    out.bytes.extend_from_slice(payload);
}
