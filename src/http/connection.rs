//! One connection's state: requests out of bytes, and bytes out of responses.

mod answers;
mod upgrade;

use std::mem;
use std::sync::Arc;

use super::chunked::{Chunks, Step};
use super::head::{BodyLength, Fields, RequestHead, Version};
use super::head_parser::{Parsed, Search, parse};
use super::output::Output;
use super::refusal::Refusal;
use super::replies::{Replies, RequestId};
use super::response::Demand;
use super::settings::Settings;
use super::websocket;

/// Empty lines before a request that are passed over: one is sent by old clients after a body.
const MAX_BLANK_LINES: u8 = 8;

/// What bytes were.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request has begun. If it has a body, what follows is [`Body`](Self::Body) and [`BodyEnd`](Self::BodyEnd),
    /// or [`BodyCut`](Self::BodyCut).
    Request(RequestId, Box<RequestHead>),
    /// The next bytes of a request's body, at least one.
    Body(RequestId, &'a [u8]),
    /// The body has come to its end; with the trailer fields, if there are some.
    BodyEnd(RequestId, Option<Fields>),
    /// The rest of the body will not come: the client is gone, or has been answered.
    BodyCut(RequestId, Option<Refusal>),
    /// Something was answered without the program, which has not seen it.
    Refused(Refusal),
}

/// What a connection is doing. Whoever has a clock says by this which time is to be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing: no request is under way.
    Idle,
    /// A part of a head has come, and nothing else is under way.
    ReceivingHead,
    /// A body is coming.
    ReceivingBody,
    /// Responses are awaited from the program.
    Responding,
    /// It has ended: when all output is sent, the socket is to be closed.
    Closing,
}

/// The server's side of one connection. One thread at a time; which one does not matter.
///
/// Bytes go in by [`receive`](Self::receive) and come out as [`Event`]s; responses go in by the other methods and
/// come out as bytes in an [`Output`] of the thread. Requests are answered in any order. It never waits, and keeps no
/// memory but for a head or a line of which a part has come, what comes behind requests that are not answered, and
/// responses that wait for their turn.
#[derive(Debug)]
pub struct Connection {
    settings: Arc<Settings>,
    phase: Phase,
    replies: Replies,
    /// What could not be used yet, behind so many bytes that were.
    pending: Vec<u8>,
    used: usize,
    blank_lines: u8,
    /// The client sends no more.
    is_ended: bool,
    /// No request is taken behind those that are under way.
    is_draining: bool,
    is_closing: bool,
}

/// What comes next.
#[derive(Debug)]
enum Phase {
    Head(Search),
    /// This request is there, and waits until those before it are answered.
    Parked(Box<RequestHead>),
    /// So many bytes of a body, at least one.
    Body(u64, Receiver),
    Chunked(Chunks, Receiver),
    /// Whatever follows a request for a WebSocket.
    Upgrade,
    /// Nothing that would be looked at.
    Stopped,
}

/// Where a body goes.
#[derive(Clone, Copy, Debug)]
enum Receiver {
    Request(RequestId),
    /// Its request is answered; so many bytes more are thrown away.
    Nobody(u64),
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            phase: Phase::Head(Search::default()),
            replies: Replies::default(),
            pending: Vec::new(),
            used: 0,
            blank_lines: 0,
            is_ended: false,
            is_draining: false,
            is_closing: false,
        }
    }

    // -- in ------------------------------------------------------------------------------------------

    /// Takes what was read. `sink` is called for each event, in order. Answers that need no program are appended
    /// to `out`.
    ///
    /// The work is bounded by the bytes given, and by [`Settings::max_pipelined`] requests.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Output, sink: &mut dyn FnMut(Event<'_>)) {
        if self.pending.is_empty() {
            let used = self.process(bytes, out, sink);
            // Without spare room: few connections wait in the middle of something.
            self.pending = bytes[used..].to_vec();
        } else {
            self.pending.extend_from_slice(bytes);
            self.proceed(out, sink);
        }
    }

    /// Takes the end of the stream: the client sends no more. Responses may still go to it.
    pub fn receive_end(&mut self, out: &mut Output, sink: &mut dyn FnMut(Event<'_>)) {
        self.is_ended = true;
        self.proceed(out, sink);
    }

    /// Goes on with what was kept, which a response may have made possible. To be called after each response that
    /// has ended; it costs nothing if there is nothing to do.
    pub fn proceed(&mut self, out: &mut Output, sink: &mut dyn FnMut(Event<'_>)) {
        if !self.pending.is_empty() || matches!(self.phase, Phase::Parked(_)) {
            let (mut pending, mut used) = (mem::take(&mut self.pending), mem::take(&mut self.used));
            used += self.process(&pending[used..], out, sink);
            if used < pending.len() {
                // So that each byte is moved once.
                if used > pending.len() / 2 {
                    pending.drain(..mem::take(&mut used));
                }
                (self.pending, self.used) = (pending, used);
            }
        }
        if self.is_ended {
            self.end(sink);
        }
    }

    /// Whether reading is of use now. Otherwise what came would only be kept.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Head(_) => self.may_begin() && !self.is_ended,
            Phase::Body(..) | Phase::Chunked(..) => !self.is_ended,
            Phase::Parked(_) | Phase::Upgrade | Phase::Stopped => false,
        }
    }

    /// Bytes that are kept: all the memory that depends on what the client has sent.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len() - self.used
    }

    /// All its memory on the heap.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.pending.capacity() + self.replies.heap()
    }

    /// What it is doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        match self.phase {
            _ if self.is_closing => Activity::Closing,
            Phase::Body(..) | Phase::Chunked(..) => Activity::ReceivingBody,
            _ if !self.replies.is_empty() => Activity::Responding,
            Phase::Head(_) if !self.pending.is_empty() => Activity::ReceivingHead,
            _ => Activity::Idle,
        }
    }

    /// Takes bytes; says how many of them.
    fn process(
        &mut self,
        bytes: &[u8],
        out: &mut Output,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> usize {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let may_begin = self.may_begin();
            match &mut self.phase {
                Phase::Head(search) => {
                    if !may_begin || matches!(rest, [] | [b'\r']) {
                        return used;
                    }
                    if rest.starts_with(b"\r\n") {
                        used += 2;
                        self.blank_lines += 1;
                        if self.blank_lines > MAX_BLANK_LINES {
                            self.refuse_next(Refusal::Malformed("empty lines"), None, out, sink);
                        }
                        continue;
                    }
                    match parse(rest, &self.settings, search) {
                        Parsed::Incomplete => return used,
                        Parsed::Refused(refusal) => self.refuse_next(refusal, None, out, sink),
                        Parsed::Complete(head, length) => {
                            used += length;
                            self.blank_lines = 0;
                            self.begin(Box::new(head), out, sink);
                        }
                    }
                }
                Phase::Parked(_) if !self.replies.is_empty() => return used,
                Phase::Parked(_) => {
                    let parked = mem::replace(&mut self.phase, Phase::Stopped);
                    if let Phase::Parked(head) = parked {
                        self.begin(head, out, sink);
                    }
                }
                Phase::Body(..) if rest.is_empty() => return used,
                Phase::Body(left, receiver) => {
                    let count =
                        usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    used += count;
                    *left -= count as u64;
                    let (is_end, receiver) = (*left == 0, *receiver);
                    if self.hand_on(&rest[..count], receiver, sink) && is_end {
                        self.end_body(receiver, None, sink);
                    }
                }
                Phase::Chunked(chunks, receiver) => {
                    let receiver = *receiver;
                    match chunks.step(rest, &self.settings) {
                        Step::Data(count) => {
                            used += count;
                            self.hand_on(&rest[..count], receiver, sink);
                        }
                        Step::Skip(count) => used += count,
                        Step::End(count, trailers) => {
                            used += count;
                            self.end_body(receiver, trailers, sink);
                        }
                        Step::Incomplete => return used,
                        Step::Refused(refusal) => self.refuse_rest(receiver, refusal, out, sink),
                    }
                }
                Phase::Upgrade => return used,
                Phase::Stopped => return bytes.len(),
            }
        }
    }

    /// Whether the next request may be looked at: those before it change nothing, and are not too many.
    fn may_begin(&self) -> bool {
        self.replies.is_empty()
            || !self.is_draining && self.replies.may_add(self.settings.max_pipelined)
    }

    /// Begins a request, or lets it wait.
    fn begin(&mut self, head: Box<RequestHead>, out: &mut Output, sink: &mut dyn FnMut(Event<'_>)) {
        // Requests may run at once if all of them are safe (RFC 9112, 9.3.2).
        let mut demand = demand(&head);
        if demand.is_alone && !self.replies.is_empty() {
            self.phase = Phase::Parked(head);
            return;
        }
        let is_too_long = match (head.body, self.settings.max_body) {
            (BodyLength::Bytes(length), Some(most)) => length > most,
            _ => false,
        };
        if is_too_long {
            return self.refuse_next(Refusal::BodyTooLarge, Some(&head), out, sink);
        }
        if head.is_websocket
            && let Err(refusal) = websocket::check(&head)
        {
            return self.refuse_next(refusal, Some(&head), out, sink);
        }
        demand.keep_alive &= !self.is_draining && !head.is_websocket;
        let id = self.replies.push(demand);
        if head.expects_continue {
            out.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.phase = match head.body {
            BodyLength::Bytes(length) => Phase::Body(length, Receiver::Request(id)),
            BodyLength::Chunked => Phase::Chunked(Chunks::default(), Receiver::Request(id)),
            BodyLength::None if head.is_websocket => Phase::Upgrade,
            BodyLength::None if demand.keep_alive => Phase::Head(Search::default()),
            BodyLength::None => Phase::Stopped,
        };
        sink(Event::Request(id, head));
    }

    /// Gives bytes of a body to whoever wants them; says whether the connection goes on.
    fn hand_on(
        &mut self,
        bytes: &[u8],
        receiver: Receiver,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> bool {
        match receiver {
            Receiver::Request(id) => sink(Event::Body(id, bytes)),
            Receiver::Nobody(left) => {
                let Some(left) = left.checked_sub(bytes.len() as u64) else {
                    self.stop();
                    return false;
                };
                if let Phase::Body(_, receiver) | Phase::Chunked(_, receiver) = &mut self.phase {
                    *receiver = Receiver::Nobody(left);
                }
            }
        }
        true
    }

    fn end_body(
        &mut self,
        receiver: Receiver,
        trailers: Option<Fields>,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let goes_on = match receiver {
            Receiver::Request(id) => {
                sink(Event::BodyEnd(id, trailers));
                self.replies.keeps_alive(id)
            }
            Receiver::Nobody(_) => true,
        };
        self.phase = if goes_on { Phase::Head(Search::default()) } else { Phase::Stopped };
        self.close_if_drained();
    }

    /// Nothing more comes: what has begun is given up.
    fn end(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        match self.phase {
            Phase::Head(_) if self.may_begin() => {
                self.phase = Phase::Stopped;
                self.drop_pending();
                self.replies.close_after_last();
                self.is_closing |= self.replies.is_empty();
            }
            Phase::Body(_, receiver) | Phase::Chunked(_, receiver) => {
                if let Receiver::Request(id) = receiver {
                    sink(Event::BodyCut(id, None));
                }
                self.stop();
            }
            // What is complete is answered first.
            Phase::Head(_) | Phase::Parked(_) | Phase::Upgrade | Phase::Stopped => {}
        }
    }

    /// Nothing goes on.
    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.drop_pending();
        self.replies.forget();
        self.is_closing = true;
    }

    fn drop_pending(&mut self) {
        (self.pending, self.used) = (Vec::new(), 0);
    }

    fn close_if_drained(&mut self) {
        let is_head = matches!(self.phase, Phase::Head(_));
        if self.is_draining && is_head && self.replies.is_empty() && self.pending.is_empty() {
            self.stop();
        }
    }

    // -- answers without the program -----------------------------------------------------------------

    /// Answers what comes next in place of the program, behind the responses that are under way.
    fn refuse_next(
        &mut self,
        refusal: Refusal,
        head: Option<&RequestHead>,
        out: &mut Output,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let unknown =
            Demand { version: Version::Http11, is_head: false, is_alone: true, keep_alive: false };
        let id = self.replies.push(head.map_or(unknown, demand));
        self.phase = Phase::Stopped;
        sink(Event::Refused(refusal));
        // The request is there, so that it cannot be gone.
        let _ = self.replies.refuse(id, refusal, &self.settings, out);
        self.settle(out);
    }

    /// Breaks off a request whose body is coming.
    fn refuse_rest(
        &mut self,
        receiver: Receiver,
        refusal: Refusal,
        out: &mut Output,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let Receiver::Request(id) = receiver else { return self.stop() };
        self.phase = Phase::Stopped;
        sink(Event::BodyCut(id, Some(refusal)));
        let _ = self.replies.refuse(id, refusal, &self.settings, out);
        self.settle(out);
    }

    /// Says that what is [awaited](Self::activity) of the client took too long. A request of which a part has come
    /// is answered with 408, if it is not answered in part already; the connection ends.
    pub fn time_out(&mut self, out: &mut Output, sink: &mut dyn FnMut(Event<'_>)) {
        match (self.activity(), &self.phase) {
            (Activity::Idle, _) => self.stop(),
            (Activity::ReceivingHead, _) => self.refuse_next(Refusal::TimedOut, None, out, sink),
            (_, Phase::Body(_, receiver) | Phase::Chunked(_, receiver)) => {
                self.refuse_rest(*receiver, Refusal::TimedOut, out, sink);
            }
            _ => {}
        }
    }

    /// Lets the connection end when the requests that are under way are answered: at once if there are none. What has
    /// been read and not begun is not taken, but for a head of which a part has come.
    pub fn drain(&mut self) {
        self.is_draining = true;
        self.replies.close_after_last();
        self.close_if_drained();
    }
}

fn demand(head: &RequestHead) -> Demand {
    let is_head = head.method() == b"HEAD";
    let is_alone = !head.is_safe() || head.body != BodyLength::None || head.is_websocket;
    Demand { version: head.version, is_head, is_alone, keep_alive: head.keep_alive }
}
