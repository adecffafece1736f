//! The requests of a connection that are begun and not answered, and their responses in order.
//!
//! The response to the oldest goes to the output at once. Others are held until it is their turn.

use std::collections::VecDeque;
use std::mem;

use super::head::Version;
use super::output::Output;
use super::refusal::Refusal;
use super::response::{
    self, Begun, Demand, Framing, Payload, ResponseError, write_chunk_size, write_fields,
};
use super::settings::Settings;

/// A request of one connection. It is not given again before 4 billion others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u32);

/// The unanswered requests of one connection, oldest first. Without any there is no memory.
#[derive(Debug, Default)]
pub(super) struct Replies {
    first: Option<Exchange>,
    /// Of pipelined requests.
    later: VecDeque<Exchange>,
    next_id: u32,
}

#[derive(Debug)]
struct Exchange {
    id: RequestId,
    demand: Demand,
    state: State,
    /// The connection ends with the response.
    close: bool,
    /// What is to be sent when it is its turn.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no head yet.
    Open,
    Body(Framing),
    Done,
}

/// What must stand around a part of a body that the caller sends itself: before it, what was appended to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Around {
    /// Whether the part itself is to be sent. It is not if the response has no body.
    pub is_sent: bool,
    /// What is to be sent behind it.
    pub suffix: &'static [u8],
}

impl Replies {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether another request may begin beside those that are there, of which no more than `most` may be.
    pub(super) fn may_add(&self, most: usize) -> bool {
        let last = self.later.back().or(self.first.as_ref());
        last.is_none_or(|last| !last.demand.is_alone && self.later.len() + 1 < most)
    }

    pub(super) fn is_first(&self, id: RequestId) -> bool {
        self.first.as_ref().is_some_and(|first| first.id == id)
    }

    /// Bytes of a response that wait for their turn.
    pub(super) fn held(&self, id: RequestId) -> usize {
        let exchange = self.later.iter().find(|exchange| exchange.id == id);
        exchange.map_or(0, |exchange| exchange.held.len())
    }

    /// Whether the head of this response is sent, and a body is to follow.
    pub(super) fn takes_body(&self, id: RequestId) -> bool {
        let state = self.first.iter().chain(&self.later).find(|each| each.id == id);
        state.is_some_and(
            |each| matches!(each.state, State::Body(framing) if framing != Framing::Nothing),
        )
    }

    /// Whether the connection goes on behind the response to this request, which is not answered to the end.
    pub(super) fn keeps_alive(&self, id: RequestId) -> bool {
        self.first.iter().chain(&self.later).any(|each| each.id == id && !each.close)
    }

    /// Whether nothing of a response was sent yet, but for interim ones.
    pub(super) fn is_unanswered(&self, id: RequestId) -> bool {
        let mut all = self.first.iter().chain(&self.later);
        all.any(|exchange| exchange.id == id && exchange.state == State::Open)
    }

    /// Memory on the heap.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        let held = |exchange: &Exchange| exchange.held.capacity();
        let later = self.later.capacity() * size_of::<Exchange>();
        later + self.first.iter().chain(&self.later).map(held).sum::<usize>()
    }

    /// Gives all of them up.
    pub(super) fn forget(&mut self) {
        *self = Self { next_id: self.next_id, ..Self::default() };
    }

    /// Adds a request behind the others.
    pub(super) fn push(&mut self, demand: Demand) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let (state, held) = (State::Open, Vec::new());
        let exchange = Exchange { id, demand, state, close: !demand.keep_alive, held };
        if self.first.is_none() {
            self.first = Some(exchange);
        } else {
            self.later.push_back(exchange);
        }
        id
    }

    /// Whether the request is not answered to the end.
    pub(super) fn has(&self, id: RequestId) -> bool {
        self.first.iter().chain(&self.later).any(|exchange| exchange.id == id)
    }

    /// Lets the connection end with the last response that is under way.
    pub(super) fn close_after_last(&mut self) {
        if let Some(last) = self.later.back_mut().or(self.first.as_mut()) {
            last.close = true;
            last.demand.keep_alive = false;
        }
    }

    /// Lets the connection end with this response.
    pub(super) fn close_after(&mut self, id: RequestId) {
        let mut all = self.first.iter_mut().chain(&mut self.later);
        if let Some(exchange) = all.find(|exchange| exchange.id == id) {
            exchange.close = true;
            exchange.demand.keep_alive = false;
        }
    }

    /// Lets `write` append to what is sent for a request. What it appends before an error is taken back.
    fn write<R>(
        &mut self,
        id: RequestId,
        out: &mut Output,
        write: impl FnOnce(&mut Exchange, &mut Vec<u8>) -> Result<R, ResponseError>,
    ) -> Result<R, ResponseError> {
        let is_first = self.is_first(id);
        let exchange = if is_first {
            self.first.as_mut()
        } else {
            self.later.iter_mut().find(|exchange| exchange.id == id)
        };
        let exchange = exchange.ok_or(ResponseError::Gone)?;
        let mut held = mem::take(&mut exchange.held);
        let to = if is_first { &mut out.bytes } else { &mut held };
        let before = to.len();
        let written = write(exchange, to);
        if written.is_err() {
            to.truncate(before);
        }
        exchange.held = held;
        written
    }

    pub(super) fn interim<'a>(
        &mut self,
        id: RequestId,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.write(id, out, |exchange, to| match (exchange.state, exchange.demand.version) {
            (State::Open, Version::Http11) => response::write_interim(status, fields, to),
            // HTTP/1.0 has none (RFC 9110, 15.2).
            (State::Open, Version::Http10) => Ok(()),
            _ => Err(ResponseError::Order),
        })
    }

    pub(super) fn respond<'a>(
        &mut self,
        id: RequestId,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        payload: Payload<'_>,
        settings: &Settings,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        let date = out.date();
        self.write(id, out, |exchange, to| {
            if exchange.state != State::Open {
                return Err(ResponseError::Order);
            }
            let length = match payload {
                Payload::Whole(body) => Some(body.len() as u64),
                Payload::Sized(length) => Some(length),
                Payload::Stream => None,
            };
            let demand = exchange.demand;
            let Begun { framing, close } =
                response::write_head(demand, status, fields, length, settings, &date, to)?;
            let mut state = State::Body(framing);
            match (payload, framing) {
                (Payload::Whole(body), _) => state = write_body(state, body, true, to)?,
                (Payload::Sized(length), Framing::Length(said)) if length > said => {
                    return Err(ResponseError::TooLong);
                }
                (Payload::Sized(length), Framing::Length(said)) if length < said => {
                    return Err(ResponseError::TooShort);
                }
                _ => {}
            }
            exchange.state = state;
            exchange.close |= close;
            Ok(())
        })
    }

    pub(super) fn body(
        &mut self,
        id: RequestId,
        bytes: &[u8],
        is_last: bool,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.write(id, out, |exchange, to| {
            exchange.state = write_body(exchange.state, bytes, is_last, to)?;
            Ok(())
        })
    }

    pub(super) fn body_around(
        &mut self,
        id: RequestId,
        length: u64,
        out: &mut Output,
    ) -> Result<Around, ResponseError> {
        if !self.is_first(id) {
            return Err(ResponseError::Order);
        }
        self.write(id, out, |exchange, to| {
            let (state, around) = frame_body(exchange.state, length, false, to)?;
            exchange.state = state;
            Ok(around)
        })
    }

    pub(super) fn body_within(
        &mut self,
        id: RequestId,
        bytes: &[u8],
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.write(id, out, |_, to| {
            to.extend_from_slice(bytes);
            Ok(())
        })
    }

    pub(super) fn body_behind(
        &mut self,
        id: RequestId,
        around: Around,
        is_last: bool,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.write(id, out, |exchange, to| {
            to.extend_from_slice(around.suffix);
            if is_last {
                exchange.state = write_body(exchange.state, b"", true, to)?;
            }
            Ok(())
        })
    }

    pub(super) fn trailers<'a>(
        &mut self,
        id: RequestId,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        self.write(id, out, |exchange, to| {
            match exchange.state {
                State::Body(Framing::Chunked) => {
                    to.extend_from_slice(b"0\r\n");
                    write_fields(fields, to)?;
                }
                // There is no place for them (RFC 9110, 6.5).
                State::Body(Framing::Length(0) | Framing::UntilClose | Framing::Nothing) => {}
                State::Body(Framing::Length(_)) => return Err(ResponseError::TooShort),
                State::Open | State::Done => return Err(ResponseError::Order),
            }
            exchange.state = State::Done;
            Ok(())
        })
    }

    /// Answers without the program, or breaks the response off if it has begun. The connection ends with it.
    pub(super) fn refuse(
        &mut self,
        id: RequestId,
        refusal: Refusal,
        settings: &Settings,
        out: &mut Output,
    ) -> Result<(), ResponseError> {
        let date = out.date();
        self.write(id, out, |exchange, to| {
            exchange.close = true;
            if mem::replace(&mut exchange.state, State::Done) == State::Open {
                exchange.demand.keep_alive = false;
                write_refusal(exchange.demand, refusal, settings, &date, to)?;
            }
            Ok(())
        })
    }

    /// Hands on what may be sent now. Says whether the connection ends with it.
    pub(super) fn settle(&mut self, out: &mut Output) -> bool {
        while let Some(Exchange { state: State::Done, close, .. }) = self.first {
            self.first = self.later.pop_front();
            if close {
                self.forget();
                return true;
            }
            if let Some(first) = &mut self.first {
                out.bytes.append(&mut first.held);
                first.held = Vec::new();
            }
            if self.later.is_empty() {
                self.later = VecDeque::new();
            }
        }
        false
    }
}

fn write_body(
    state: State,
    bytes: &[u8],
    is_last: bool,
    to: &mut Vec<u8>,
) -> Result<State, ResponseError> {
    let (state, around) = frame_body(state, bytes.len() as u64, is_last, to)?;
    if around.is_sent {
        to.extend_from_slice(bytes);
    }
    to.extend_from_slice(around.suffix);
    Ok(state)
}

/// Appends what stands before a part of a body; says what stands behind it, and what the state is then.
fn frame_body(
    state: State,
    length: u64,
    is_last: bool,
    to: &mut Vec<u8>,
) -> Result<(State, Around), ResponseError> {
    let State::Body(framing) = state else { return Err(ResponseError::Order) };
    let is_sent = framing != Framing::Nothing && length > 0;
    let mut suffix: &[u8] = b"";
    let mut next = framing;
    match framing {
        Framing::Length(left) => {
            let left = left.checked_sub(length).ok_or(ResponseError::TooLong)?;
            if is_last && left > 0 {
                return Err(ResponseError::TooShort);
            }
            next = Framing::Length(left);
        }
        Framing::Chunked => {
            if is_sent {
                write_chunk_size(length, to);
            }
            suffix = match (is_sent, is_last) {
                (true, true) => b"\r\n0\r\n\r\n",
                (true, false) => b"\r\n",
                (false, true) => b"0\r\n\r\n",
                (false, false) => b"",
            };
        }
        Framing::UntilClose | Framing::Nothing => {}
    }
    let state = if is_last { State::Done } else { State::Body(next) };
    Ok((state, Around { is_sent, suffix }))
}

fn write_refusal(
    demand: Demand,
    refusal: Refusal,
    settings: &Settings,
    date: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), ResponseError> {
    let (fields, text) = (refusal.fields(), refusal.text().as_bytes());
    let fields = fields.iter().copied();
    let length = Some(text.len() as u64);
    let begun = response::write_head(demand, refusal.status(), fields, length, settings, date, to)?;
    write_body(State::Body(begun.framing), text, true, to)?;
    Ok(())
}
