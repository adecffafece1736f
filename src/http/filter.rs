//! HTTP as the uppermost filter of a stream: requests are taken out of what comes, responses go in.
//!
//! In: bytes that the kernel or the filter below has, and the program's responses. Out: requests, parts of bodies and
//! messages, which wait here for whoever runs the program, and bytes to be sent. All of it under the lock of the
//! stream's filter, so that any thread may read for a connection and any thread may answer a request of it.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use super::arrived::{Arrived, BodyPart, FULL, SocketMessage, Work};
use super::connection::{Activity, Connection};
use super::head::RequestHead;
use super::output::Output;
use super::replies::RequestId;
use super::response::ResponseError;
use super::settings::Settings;
use super::websocket::{Deflater, WebSocket};
use crate::sys::clock;
use crate::transport::{Ciphertext, Filter, Plaintext};

thread_local! {
    static WORK: RefCell<Work> = RefCell::new(Work::default());
}

/// What the connection is.
#[derive(Debug)]
enum Side {
    Http(Connection),
    WebSocket(Box<WebSocket>),
}

/// A connection's HTTP, over TLS or over nothing.
#[derive(Debug)]
pub struct HttpFilter {
    below: Option<Box<dyn Filter>>,
    side: Side,
    arrived: Arrived,
    settings: Arc<Settings>,
    /// Since when a head is coming, or nothing of a body has, in nanoseconds of the clock; 0: nothing is to come.
    coming_since_ns: u64,
    /// The filter below has said that no more is sent.
    is_closed: bool,
}

impl HttpFilter {
    /// Of a connection that was just accepted; its bytes pass `below`, too.
    #[must_use]
    pub fn new(settings: Arc<Settings>, below: Option<Box<dyn Filter>>) -> Self {
        let side = Side::Http(Connection::new(Arc::clone(&settings)));
        Self {
            below,
            side,
            arrived: Arrived::default(),
            settings,
            coming_since_ns: 0,
            is_closed: false,
        }
    }

    // -- for the owner -------------------------------------------------------------------------------

    /// The next request that has come, oldest first. There is no news any more if it is the last one, or `None`.
    pub fn take_request(&mut self) -> Option<(RequestId, Box<RequestHead>)> {
        self.arrived.take_request()
    }

    /// As [`take_request`](Self::take_request), for another loop than the owner: a WebSocket is left to that.
    pub fn take_offered(&mut self) -> Option<(RequestId, Box<RequestHead>)> {
        // The owner finds less then than it was told of.
        let is_websocket = self.arrived.heads.front().is_none_or(|(_, head)| head.is_websocket());
        if is_websocket { None } else { self.arrived.heads.pop_front() }
    }

    /// Whether the client may still be sending what nobody reads: when it was refused, or was not told before that the
    /// connection ends. A socket that is closed then sends a reset, which may overtake the response.
    #[must_use]
    pub fn may_be_sending(&self) -> bool {
        !self.arrived.is_last || self.arrived.was_refused
    }

    /// Since when a head is coming, or nothing has come of a body that is, in nanoseconds of the clock.
    #[must_use]
    pub fn coming_since_ns(&self) -> Option<u64> {
        Some(self.coming_since_ns).filter(|since| *since > 0)
    }

    /// Refuses what has not come in time.
    ///
    /// # Errors
    /// Those of the filter below.
    pub fn time_out(&mut self, to: &mut Ciphertext) -> io::Result<()> {
        let Self { below, side, arrived, .. } = self;
        let Side::Http(connection) = side else { return Ok(()) };
        with_output(below, to, |work| {
            connection.time_out(&mut work.output, &mut |event| arrived.take(event));
            arrived.news = true;
        })
    }

    /// What it is doing. A WebSocket responds until it is closed.
    #[must_use]
    pub fn activity(&self) -> Activity {
        match &self.side {
            Side::Http(connection) => connection.activity(),
            Side::WebSocket(socket) if socket.is_closed() => Activity::Closing,
            Side::WebSocket(_) => Activity::Responding,
        }
    }

    /// Whether no request is under way, and none comes.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let is_over = matches!(self.activity(), Activity::Idle | Activity::Closing);
        is_over && self.arrived.heads.is_empty()
    }

    /// Bytes of the response to this request that wait for those before it.
    #[must_use]
    pub fn held(&self, id: RequestId) -> usize {
        match &self.side {
            Side::Http(connection) => connection.held(id),
            Side::WebSocket(_) => 0,
        }
    }

    // -- what has come -------------------------------------------------------------------------------

    /// Takes what comes out of the filter below, also if that fails behind it.
    fn receive_through(
        &mut self,
        read: &mut [u8],
        plaintext: &mut Vec<u8>,
        answers: &mut Ciphertext,
    ) -> io::Result<()> {
        let below = self.below.as_mut();
        let received = below.map_or(Ok(()), |below| below.receive(read, plaintext, answers));
        self.take(plaintext, answers)?;
        received
    }

    /// Takes bytes of HTTP.
    fn take(&mut self, bytes: &mut [u8], answers: &mut Ciphertext) -> io::Result<()> {
        // What comes while the filter below waits for its peer's end is for nobody.
        if bytes.is_empty() || self.is_closed {
            return Ok(());
        }
        let Self { below, side, arrived, settings, coming_since_ns, .. } = self;
        with_output(below, answers, |work| match side {
            Side::Http(connection) => {
                connection.receive(bytes, &mut work.output, &mut |event| arrived.take(event));
                if let Some(readiness) = &settings.readiness {
                    arrived.answer(readiness, connection, &mut work.output);
                }
                let activity = connection.activity();
                arrived.news |= activity == Activity::Closing;
                match activity {
                    Activity::ReceivingHead | Activity::ReceivingBody => {
                        // Whoever has a clock is to look at it.
                        arrived.news |= *coming_since_ns == 0;
                        // A head has to come as a whole, a body to go on.
                        if *coming_since_ns == 0 || activity == Activity::ReceivingBody {
                            *coming_since_ns = clock::monotonic_ns();
                        }
                    }
                    _ => *coming_since_ns = 0,
                }
            }
            Side::WebSocket(socket) => arrived.receive(socket, bytes, settings.max_messages, work),
        })
    }

    // -- requests ------------------------------------------------------------------------------------

    /// The next part of a request's body.
    pub fn take_body(&mut self, id: RequestId) -> BodyPart {
        if self.is_full() {
            // Until now nothing could come.
            self.coming_since_ns = clock::monotonic_ns();
        }
        self.arrived.take_body(id)
    }

    /// Lets `f` answer requests, and appends what is to be sent to `to`. Then it is looked whether that lets others
    /// begin.
    ///
    /// # Errors
    /// Those of the filter below; [`io::ErrorKind::NotConnected`]: it is no HTTP any more.
    pub fn respond<R>(
        &mut self,
        to: &mut Ciphertext,
        f: impl FnOnce(&mut Connection, &mut Output) -> R,
    ) -> io::Result<R> {
        let Self { below, side, arrived, settings, .. } = self;
        let Side::Http(connection) = side else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        with_output(below, to, |work| {
            let result = f(connection, &mut work.output);
            connection.proceed(&mut work.output, &mut |event| arrived.take(event));
            if let Some(readiness) = &settings.readiness {
                arrived.answer(readiness, connection, &mut work.output);
            }
            arrived.bodies.retain(|body| connection.is_open(body.id));
            if connection.activity() == Activity::Closing {
                arrived.news = true;
            }
            result
        })
    }

    // -- WebSockets ----------------------------------------------------------------------------------

    /// Accepts a request for a WebSocket, as [`Connection::accept`].
    ///
    /// # Errors
    /// Those of the filter below, and in it those of [`Connection::accept`].
    pub fn accept<'a>(
        &mut self,
        id: RequestId,
        head: &RequestHead,
        subprotocol: Option<&[u8]>,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        to: &mut Ciphertext,
    ) -> io::Result<Result<(), ResponseError>> {
        let Self { below, side, arrived, settings, .. } = self;
        let Side::Http(connection) = side else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let accepted = with_output(below, to, |work| {
            connection.accept(id, head, subprotocol, fields, &mut work.output)
        })?;
        match accepted {
            Ok(socket) => {
                let mut socket = Box::new(socket);
                let done = with_output(below, to, |work| {
                    arrived.receive(&mut socket, &mut [], settings.max_messages, work);
                });
                *side = Side::WebSocket(socket);
                done.map(Ok)
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// The next message; `None`: there is none yet. What waited behind those that were taken is looked at now, and
    /// what is to be answered is appended to `to`.
    pub fn take_message(&mut self, to: &mut Ciphertext) -> Option<SocketMessage> {
        let Self { below, side, arrived, settings, .. } = self;
        let message = arrived.take_message();
        if let Side::WebSocket(socket) = side
            && socket.has_more()
            && !arrived.is_full(settings.max_messages)
        {
            let had_news = arrived.news;
            // Of a filter that has failed whoever sends next hears, or reads.
            let _ = with_output(below, to, |work| {
                arrived.receive(socket, &mut [], settings.max_messages, work);
            });
            // Whoever takes messages finds them, and the owner hears of the end.
            arrived.news = had_news || socket.is_closed();
        }
        message
    }

    /// Pongs that have come since they were taken.
    #[must_use]
    pub fn pongs(&self) -> u32 {
        self.arrived.pongs
    }

    /// Counts pongs from now on.
    pub fn take_pongs(&mut self) {
        self.arrived.pongs = 0;
    }

    /// Lets `f` send on the WebSocket, and appends that to `to`. `None`: it is none.
    ///
    /// # Errors
    /// Those of the filter below.
    pub fn socket<R>(
        &mut self,
        to: &mut Ciphertext,
        f: impl FnOnce(&mut WebSocket, &mut Deflater, &mut Output) -> R,
    ) -> io::Result<Option<R>> {
        let Self { below, side, arrived, .. } = self;
        let Side::WebSocket(socket) = side else { return Ok(None) };
        with_output(below, to, |work| {
            let Work { output, deflater, .. } = work;
            let result = f(socket, deflater.get_or_insert_default(), output);
            arrived.news |= socket.is_closed();
            Some(result)
        })
    }
}

/// Lets `f` use the thread's memory, and hands what it wants sent to the filter below.
fn with_output<R>(
    below: &mut Option<Box<dyn Filter>>,
    to: &mut Ciphertext,
    f: impl FnOnce(&mut Work) -> R,
) -> io::Result<R> {
    WORK.with_borrow_mut(|work| {
        work.output.clear();
        work.output.set_time(clock::unix_seconds());
        let result = f(work);
        let bytes = work.output.bytes();
        let done = match below {
            _ if bytes.is_empty() => Ok(()),
            None => {
                to.extend(bytes);
                Ok(())
            }
            Some(below) => below.send_all(bytes, to),
        };
        work.output.forget();
        done.map(|()| result)
    })
}

impl Filter for HttpFilter {
    fn restore(&self, memory: &mut [u8]) -> usize {
        self.below.as_ref().map_or(0, |below| below.restore(memory))
    }

    fn receive(
        &mut self,
        read: &mut [u8],
        _: &mut dyn Plaintext,
        answers: &mut Ciphertext,
    ) -> io::Result<()> {
        if self.below.is_none() {
            return self.take(read, answers);
        }
        let mut plaintext = WORK.with_borrow_mut(|work| std::mem::take(&mut work.plaintext));
        let received = self.receive_through(read, &mut plaintext, answers);
        plaintext.clear();
        WORK.with_borrow_mut(|work| work.plaintext = plaintext);
        received
    }

    fn receive_end(&mut self, answers: &mut Ciphertext) -> io::Result<()> {
        let Self { below, side, arrived, .. } = self;
        let ended = below.as_mut().map_or(Ok(()), |below| below.receive_end(answers));
        if let Side::Http(connection) = side {
            with_output(below, answers, |work| {
                connection.receive_end(&mut work.output, &mut |event| arrived.take(event));
            })?;
        }
        (arrived.news, arrived.is_last) = (true, true);
        ended
    }

    fn send(&mut self, _: &[u8], _: &mut Ciphertext) -> io::Result<usize> {
        Err(io::Error::other("nothing but responses is sent"))
    }

    fn close(&mut self, to: &mut Ciphertext) {
        if let Some(below) = &mut self.below {
            self.is_closed = true;
            below.close(to);
        }
    }

    fn is_open(&self) -> bool {
        self.below.as_ref().is_none_or(|below| below.is_open())
    }

    fn is_peer_closed(&self) -> bool {
        self.below.as_ref().is_some_and(|below| below.is_peer_closed())
    }

    fn has_news(&self) -> bool {
        self.arrived.news
    }

    fn has_offers(&self) -> bool {
        self.arrived.news && matches!(self.side, Side::Http(_))
    }

    fn is_full(&self) -> bool {
        let kept = match &self.side {
            Side::Http(connection) => connection.pending(),
            Side::WebSocket(_) => 0,
        };
        kept > FULL || self.arrived.is_full(self.settings.max_messages)
    }

    fn below(&self) -> Option<&dyn Filter> {
        self.below.as_deref()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
