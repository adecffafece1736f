//! One connection's state: the handshake, records in both directions, and both ends.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, Error};

use super::engine::{self, Engine, Processed};
use super::failure::Failure;
use super::negotiated::Negotiated;
#[cfg(test)]
use super::records::Key;
use super::records::{self, RECORD, RecordKeys};
use super::settings::{ClientSettings, ServerSettings};
use crate::transport::{Ciphertext, Plaintext};

/// The least memory in bytes that [`Session::receive`] is to be given: for the longest message that a
/// handshake may have, and the record behind it.
pub const MIN_SCRATCH: usize = 96 * 1024;

/// The most bytes of a [`Ciphertext`] when more is encrypted: about what one write of a transport takes.
pub const WRITE_LIMIT: usize = 256 * 1024;

/// The most that waits for the rest of it, so that there is always room to read more.
const MAX_PENDING: usize = MIN_SCRATCH - 4 * 1024;

/// The state of one connection. One thread at a time.
///
/// It has no memory of its own, but for a record of which a part has come. Whoever uses it reads into memory of
/// the thread, behind what [`restore`](Self::restore) puts there, and gives all of it to
/// [`receive`](Self::receive), which decrypts in place. What is to be sent is appended to a [`Ciphertext`].
///
/// After a [`Failure`] there may still be an alert to be sent, which says so to the peer. Every later call says
/// the same.
pub struct Session {
    side: Side,
    /// By which data are sealed and opened without rustls.
    keys: RecordKeys,
    /// Ciphertext of which a part is missing, and what rustls holds by its place: what comes next follows it.
    pending: Vec<u8>,
    /// So many bytes of that, from the front, rustls has been given.
    held: usize,
    failure: Option<Failure>,
    /// The peer has said that it sends no more.
    peer_closed: bool,
    /// Nothing more is to be sent.
    is_closed: bool,
}

/// Either is some kilobytes.
enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What a call of [`Session::receive`] has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// Bytes of plaintext that were handed on.
    pub plaintext: usize,
    /// The handshake was finished by this.
    pub is_handshaken: bool,
    /// The peer has said by this that it sends no more.
    pub is_end: bool,
}

impl Session {
    /// A client of a server with this name, or this address; `None`: the server is told no name, and its
    /// session is not resumed. The first message is appended to `to`.
    ///
    /// # Errors
    /// [`Failure::Internal`]; also if `server` is neither a name nor an address, or is missing and to be
    /// verified.
    pub fn client(
        settings: &ClientSettings,
        server: Option<&str>,
        to: &mut Ciphertext,
    ) -> Result<Self, Failure> {
        let (config, name) = match (server, &settings.nameless) {
            (Some(server), _) => {
                let name = ServerName::try_from(server.to_owned())
                    .map_err(|_| Failure::Internal(format!("{server:?} is no name of a server")))?;
                (&settings.named, name)
            }
            // rustls tells a server no address.
            (None, Some(config)) => (config, ServerName::from(Ipv4Addr::UNSPECIFIED)),
            (None, None) => {
                let what = "the name of the server is to be verified, and not known";
                return Err(Failure::Internal(what.to_owned()));
            }
        };
        let connection = UnbufferedClientConnection::new(Arc::clone(config), name)?;
        let mut session = Self::new(Side::Client(Box::new(connection)));
        match session.process(&mut [], to, &mut |_| ()).error {
            Some(error) => Err(error.into()),
            None => Ok(session),
        }
    }

    /// Whether a client can be one of a server with this name: it is a name of DNS, or an address.
    #[must_use]
    pub fn is_server_name(server: &str) -> bool {
        ServerName::try_from(server).is_ok()
    }

    /// A server of one client.
    ///
    /// # Errors
    /// [`Failure::Internal`].
    pub fn server(settings: &ServerSettings) -> Result<Self, Failure> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&settings.0))?;
        Ok(Self::new(Side::Server(Box::new(connection))))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            keys: RecordKeys::default(),
            pending: Vec::new(),
            held: 0,
            failure: None,
            peer_closed: false,
            is_closed: false,
        }
    }

    // -- in ------------------------------------------------------------------------------------------

    /// Copies to the front of `scratch` what has to stand before what is read next; says how many bytes
    /// these are. At least 4 KiB are left of [`MIN_SCRATCH`]. It may be called again, if nothing could
    /// be read.
    #[inline]
    #[must_use]
    pub fn restore(&self, scratch: &mut [u8]) -> usize {
        debug_assert!(scratch.len() >= MIN_SCRATCH);
        let pending = self.pending.len();
        scratch[..pending].copy_from_slice(&self.pending);
        pending
    }

    /// Takes ciphertext: what was [restored](Self::restore), and what was read behind it. Data are appended to
    /// `plaintext`, answers to `to`.
    ///
    /// What comes after the peer's end is ignored.
    ///
    /// # Errors
    /// If the connection cannot go on, also because a certificate is not accepted. What came before that has
    /// been handed on.
    pub fn receive(
        &mut self,
        ciphertext: &mut [u8],
        to: &mut Ciphertext,
        plaintext: &mut dyn Plaintext,
    ) -> Result<Received, Failure> {
        self.check()?;
        if self.peer_closed {
            return Ok(Received::default());
        }
        let (was_handshaking, before) = (self.is_handshaking(), plaintext.len());
        let used = self.receive_records(ciphertext, to, plaintext)?;
        let left = if self.peer_closed { &[] } else { &ciphertext[used..] };
        if left.len() > MAX_PENDING {
            let what = "a message of the handshake is cut into too many records";
            return Err(self.fail(Failure::Protocol(what.to_owned())));
        }
        if !(left.is_empty() && self.pending.is_empty()) {
            // Without spare room: few connections wait in the middle of a record.
            self.pending = left.to_vec();
        }
        Ok(Received {
            plaintext: plaintext.len() - before,
            is_end: self.peer_closed,
            is_handshaken: was_handshaking && !self.is_handshaking(),
        })
    }

    /// Takes all that is whole of the ciphertext; says how many bytes are not needed any more.
    ///
    /// Data whose key is known are opened here. rustls gets all else, and then record by record, so that the data
    /// behind are opened here. What it does not let go of, since a message goes on in the next record, it is given again.
    fn receive_records(
        &mut self,
        ciphertext: &mut [u8],
        to: &mut Ciphertext,
        plaintext: &mut dyn Plaintext,
    ) -> Result<usize, Failure> {
        let (mut used, mut hinted) = (0, false);
        loop {
            let one_by_one = match &self.keys.open {
                Some(key) if self.held == 0 => {
                    if !std::mem::replace(&mut hinted, true) {
                        plaintext.hint(records::data_in(&ciphertext[used..]));
                    }
                    used += key.open_data(&ciphertext[used..], plaintext);
                    true
                }
                _ => false,
            };
            let (given, is_wrong) = records::whole(&ciphertext[used..], self.held, one_by_one);
            if given == self.held {
                return Ok(used);
            }
            let mut append = |data: &[u8]| plaintext.append(data);
            let done = self.process(&mut ciphertext[used..used + given], to, &mut append);
            if let Some(error) = done.error {
                return Err(self.fail(error.into()));
            }
            used += done.used;
            self.held = given - done.used;
            self.peer_closed = done.peer_closed;
            if self.peer_closed {
                return Ok(used);
            }
            if is_wrong {
                // rustls knows versions that no record of TLS has.
                let what = "a record has a version that is none of TLS's";
                return Err(self.fail(Failure::Protocol(what.to_owned())));
            }
        }
    }

    /// Lets rustls take ciphertext.
    fn process(
        &mut self,
        ciphertext: &mut [u8],
        to: &mut Ciphertext,
        plaintext: &mut dyn FnMut(&[u8]),
    ) -> Processed {
        self.keys.during(|| match &mut self.side {
            Side::Client(side) => engine::process(&mut **side, ciphertext, to, plaintext),
            Side::Server(side) => engine::process(&mut **side, ciphertext, to, plaintext),
        })
    }

    /// Takes the end of the stream below.
    ///
    /// # Errors
    /// [`Failure::Truncated`] if the peer has not said before that it sends no more.
    pub fn receive_end(&mut self) -> Result<(), Failure> {
        self.check()?;
        if self.peer_closed {
            return Ok(());
        }
        let in_handshake = self.is_handshaking();
        Err(self.fail(Failure::Truncated { in_handshake }))
    }

    // -- out -----------------------------------------------------------------------------------------

    /// Encrypts data; appends the records to `to`. Says how many bytes were taken: none during the handshake,
    /// and not all if `to` would hold more than [`WRITE_LIMIT`] bytes of them.
    ///
    /// # Errors
    /// [`Failure::Closed`] after [`close`](Self::close), and why the connection has failed.
    #[inline]
    pub fn send(&mut self, plaintext: &[u8], to: &mut Ciphertext) -> Result<usize, Failure> {
        // Only full records, so that they are as few as if all of it were taken at once.
        let room = WRITE_LIMIT.saturating_sub(to.len()) / RECORD * RECORD;
        self.send_all(&plaintext[..plaintext.len().min(room)], to)
    }

    /// As [`send`](Self::send), but takes all of it, however long it is.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_all(&mut self, plaintext: &[u8], to: &mut Ciphertext) -> Result<usize, Failure> {
        self.check()?;
        if self.is_closed {
            return Err(Failure::Closed);
        }
        // A server of TLS 1.3 could send before it knows with whom it speaks.
        if self.is_handshaking() {
            return Ok(0);
        }
        if plaintext.is_empty() {
            return Ok(0);
        }
        let taken = plaintext.len();
        if let Some(key) = &self.keys.seal
            && !self.state().wants_write()
        {
            if key.lasts_for(taken.div_ceil(RECORD)) {
                let done = key.seal_data(plaintext, to);
                return done.map(|()| taken).ok_or_else(|| self.fail(Error::EncryptError.into()));
            }
            match self.update_keys(to) {
                Ok(()) => (),
                Err(Failure::Closed) => return Err(Failure::Closed),
                Err(failure) => return Err(self.fail(failure)),
            }
        }
        let pending = &mut self.pending[..];
        let done = self.keys.during(|| match &mut self.side {
            Side::Client(side) => engine::encrypt(&mut **side, pending, plaintext, to),
            Side::Server(side) => engine::encrypt(&mut **side, pending, plaintext, to),
        });
        match done {
            Some(Ok(())) => Ok(taken),
            Some(Err(error)) => Err(self.fail(error.into())),
            None => Err(Failure::Closed),
        }
    }

    /// Says to the peer that nothing more will be sent. Data of the peer's may still come. During the handshake
    /// there is nothing to be said, and the connection is only given up.
    pub fn close(&mut self, to: &mut Ciphertext) {
        if self.is_closed || self.failure.is_some() {
            return;
        }
        self.is_closed = true;
        if self.is_handshaking() {
            return;
        }
        let pending = &mut self.pending[..];
        self.keys.during(|| match &mut self.side {
            Side::Client(side) => engine::close(&mut **side, pending, to),
            Side::Server(side) => engine::close(&mut **side, pending, to),
        });
    }

    /// Changes the keys by which data are encrypted, and asks the peer to do the same. Only TLS 1.3 can.
    ///
    /// # Errors
    /// If the version cannot, or nothing may be sent.
    pub fn update_keys(&mut self, to: &mut Ciphertext) -> Result<(), Failure> {
        self.check()?;
        if self.is_closed || self.is_handshaking() {
            return Err(Failure::Closed);
        }
        let pending = &mut self.pending[..];
        let done = self.keys.during(|| match &mut self.side {
            Side::Client(side) => engine::update_keys(&mut **side, pending, to),
            Side::Server(side) => engine::update_keys(&mut **side, pending, to),
        });
        Ok(done.ok_or(Failure::Closed)??)
    }

    // -- what is known -------------------------------------------------------------------------------

    /// Whether the handshake is not finished.
    #[inline]
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether the peer has said that it sends no more.
    #[must_use]
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Bytes that wait for the rest of them: all the memory that depends on what the peer has sent.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What was agreed on; `None` before the handshake is finished.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        Negotiated::of(self.state())
    }

    /// The peer's certificate and those that came with it, in DER. Nothing if it gave none.
    pub fn peer_certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.state().peer_certificates().unwrap_or_default().iter().map(AsRef::as_ref)
    }

    #[inline]
    fn state(&self) -> &CommonState {
        match &self.side {
            Side::Client(side) => Engine::state(&**side),
            Side::Server(side) => Engine::state(&**side),
        }
    }

    /// Says whether the connection has failed.
    ///
    /// # Errors
    /// The failure.
    #[inline]
    pub fn check(&self) -> Result<(), Failure> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// By which data are sealed and opened without rustls, if they are.
    #[cfg(test)]
    pub(super) fn record_keys(&self) -> (Option<&Key>, Option<&Key>) {
        (self.keys.seal.as_deref(), self.keys.open.as_deref())
    }

    /// Notes why nothing goes on.
    #[cold]
    fn fail(&mut self, failure: Failure) -> Failure {
        self.pending = Vec::new();
        self.failure.insert(failure).clone()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("is_client", &matches!(self.side, Side::Client(_)))
            .field("is_handshaking", &self.is_handshaking())
            .field("pending", &self.pending.len())
            .field("failure", &self.failure)
            .field("peer_closed", &self.peer_closed)
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}
