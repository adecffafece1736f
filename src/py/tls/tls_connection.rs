//! A TLS connection over two `ssl.MemoryBIO`s, with the methods of `_ssl._SSLSocket`: what `ssl.SSLObject`
//! calls OpenSSL by, answered by the TLS layer.
//!
//! In: ciphertext from one BIO, plaintext from a program. Out: plaintext, ciphertext into the other BIO, the
//! exceptions of `ssl`. Threads: as an `ssl.SSLObject`, it is for one thread at a time; several do no harm to
//! memory, but to each other's data.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::tls_errors::{failure, misuse, want_read, zero_return};
use super::tls_info::{self, ConnectionInfo};
use super::tls_peer::Peer;
use super::tls_settings::TlsSettings;
use super::tls_state::Connected;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::Borrowed;
use crate::py::cpython::returned::Returned;
use crate::sync::{Mutex, MutexGuard};
use crate::tls::Failure;
use crate::transport::Passage;

/// See the head of this file. Made by `ssl.SSLContext.wrap_bio` of a native context.
#[pyclass(frozen, module = "loop_pool._core", name = "TLSConnection", weakref)]
pub(crate) struct TlsConnection {
    connected: Mutex<Connected>,
    settings: Py<TlsSettings>,
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    context: Py<PyAny>,
    server_hostname: Option<Py<PyAny>>,
    /// A weak reference to the `ssl.SSLObject`.
    owner: Option<Py<PyAny>>,
    server_side: bool,
    /// The end of the stream counts as the peer's word that it sends no more.
    suppresses_eof: bool,
}

/// The connection of the TLS layer's that an object is.
#[inline(always)]
pub(super) fn native<'a>(py: Python<'a>, object: &'a Ref) -> Option<&'a TlsConnection> {
    object.as_py().bind(py).cast_exact::<TlsConnection>().ok().map(Bound::get)
}

/// What one message of ciphertext said.
pub(super) struct Decrypted<'py> {
    pub(super) plaintext: Option<Bound<'py, PyBytes>>,
    /// The peer sends no more.
    pub(super) is_end: bool,
    pub(super) error: Option<PyErr>,
}

impl TlsConnection {
    /// Calls `f` with the state and the thread's memory, and gives what is to be sent to the outgoing BIO.
    fn with<R>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut Connected, &mut Passage) -> Result<R, Failure>,
    ) -> PyResult<R> {
        self.with_plaintext(py, f, |_| Ok(())).0
    }

    /// As `with`; then calls `g` with the plaintext that is left in the thread's memory, before anything of
    /// Python's runs that might use this memory.
    fn with_plaintext<R, T>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut Connected, &mut Passage) -> Result<R, Failure>,
        g: impl FnOnce(&[u8]) -> PyResult<T>,
    ) -> (PyResult<R>, PyResult<T>) {
        let (done, plaintext, to_send) = Passage::with(|passage| {
            passage.begin();
            let done = f(&mut self.lock(py), passage);
            let taken = g(&passage.plaintext);
            passage.forget_plaintext();
            // Also after a failure: an alert says so to the peer.
            let to_send = &passage.ciphertext;
            let made = (!to_send.is_empty()).then(|| alloc::bytes(py, to_send.bytes()));
            (done, taken, made)
        });
        let sent = to_send.map_or(Ok(()), |bytes| {
            let outgoing = self.outgoing.bind(py);
            outgoing.call_method1(intern!(py, "write"), (bytes?,)).map(drop)
        });
        let done = done.map_err(|error| failure(py, &error)).and_then(|done| sent.map(|()| done));
        (done, plaintext)
    }

    /// Takes what has come in. Says whether nothing more will.
    fn pump(&self, py: Python<'_>) -> PyResult<bool> {
        let incoming = self.incoming.bind(py);
        let data = incoming.call_method0(intern!(py, "read"))?;
        let data = data.cast::<PyBytes>()?.as_bytes();
        if data.is_empty() {
            return incoming.getattr(intern!(py, "eof"))?.is_truthy();
        }
        self.with(py, |connected, passage| {
            let kept = connected.keep(passage, data);
            // What came before a failure is read before it: the session says the same at each call.
            if connected.unread().is_empty() { kept } else { Ok(()) }
        })?;
        Ok(false)
    }

    /// Goes on with the handshake, until it is finished.
    ///
    /// # Errors
    /// `ssl.SSLWantReadError` if more of the peer is needed; if the handshake has failed.
    fn handshake(&self, py: Python<'_>) -> PyResult<()> {
        let is_handshaking = self.with(py, |connected, passage| {
            if let Some(first) = connected.first.take() {
                passage.ciphertext = first;
            }
            connected.session.check()?;
            Ok(connected.session.is_handshaking())
        })?;
        if !is_handshaking {
            return Ok(());
        }
        let ended = self.pump(py)?;
        if !self.lock(py).session.is_handshaking() {
            return Ok(());
        }
        if ended {
            return self.with(py, |connected, _| connected.session.receive_end());
        }
        Err(want_read(py))
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Connected> {
        lock_attached(py, &self.connected)
    }

    /// Makes sure that there is plaintext to be read. `false`: the peer sends no more.
    fn fill(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.lock(py).unread().is_empty() {
            return Ok(true);
        }
        self.handshake(py)?;
        let mut ended = false;
        if self.lock(py).unread().is_empty() {
            ended = self.pump(py)?;
        }
        let mut connected = self.lock(py);
        if !connected.unread().is_empty() {
            return Ok(true);
        }
        if let Err(error) = connected.session.check() {
            drop(connected);
            return Err(failure(py, &error));
        }
        connected.is_end_read = connected.session.is_peer_closed();
        let (is_end, is_closed) = (connected.session.is_peer_closed(), connected.is_closed);
        drop(connected);
        if is_end || (ended && self.suppresses_eof) {
            return if is_closed { Err(zero_return(py)) } else { Ok(false) };
        }
        if ended {
            self.with(py, |connected, _| connected.session.receive_end())?;
        }
        Err(want_read(py))
    }

    /// Takes a message of ciphertext and says what it says: the way without BIOs, in the ordinary state.
    ///
    /// The handshake is finished, and nothing that came earlier waits.
    pub(super) fn decrypt<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Decrypted<'py>> {
        let (received, plaintext) = self.with_plaintext(
            py,
            |connected, passage| {
                let received = Connected::receive(&mut connected.session, passage, data);
                // Our caller hands the end on.
                connected.is_end_read = connected.session.is_peer_closed();
                received
            },
            |all| (!all.is_empty()).then(|| alloc::bytes(py, all)).transpose(),
        );
        let plaintext = plaintext?;
        Ok(match received {
            Ok(is_end) => Decrypted { plaintext, is_end, error: None },
            Err(error) => Decrypted { plaintext, is_end: false, error: Some(error) },
        })
    }

    /// Whether there is something decrypted that the program has not read, if only the end.
    pub(super) fn has_unread(&self, py: Python<'_>) -> bool {
        self.lock(py).has_more()
    }

    /// Encrypts data as one or more pieces to be sent, each of which is given to `send`; says how many bytes
    /// were taken. The handshake is finished.
    pub(super) fn encrypt(
        &self,
        py: Python<'_>,
        mut data: &[u8],
        mut send: impl FnMut(Bound<'_, PyBytes>) -> PyResult<()>,
    ) -> PyResult<usize> {
        let mut taken = 0;
        while !data.is_empty() {
            let (count, records) = Passage::with(|passage| {
                let (_, _, to_send) = passage.begin();
                let count = self.lock(py).session.send(data, to_send);
                (count, alloc::bytes(py, to_send.bytes()))
            });
            let count = count.map_err(|error| failure(py, &error))?;
            if count == 0 {
                break;
            }
            send(records?)?;
            taken += count;
            data = &data[count..];
        }
        Ok(taken)
    }

    fn info(&self, py: Python<'_>) -> ConnectionInfo {
        ConnectionInfo::of(&self.lock(py).session)
    }

    fn peer(&self, py: Python<'_>) -> Peer {
        Peer::of(&self.lock(py).session)
    }
}

#[pymethods]
#[allow(clippy::unused_self, reason = "they are methods of Python's")]
impl TlsConnection {
    /// `None` if a client's `server_hostname` is one that rustls does not know as a name or an address.
    #[staticmethod]
    #[allow(clippy::too_many_arguments, reason = "those of `_wrap_bio`, and the settings")]
    #[pyo3(signature = (settings, incoming, outgoing, context, server_hostname, owner, suppresses_eof))]
    fn open(
        py: Python<'_>,
        settings: &Bound<'_, TlsSettings>,
        incoming: Py<PyAny>,
        outgoing: Py<PyAny>,
        context: Py<PyAny>,
        server_hostname: Option<Bound<'_, PyAny>>,
        owner: Option<Bound<'_, PyAny>>,
        suppresses_eof: bool,
    ) -> PyResult<Option<Self>> {
        let Some((session, first)) = settings.get().open(py, server_hostname.as_ref())? else {
            return Ok(None);
        };
        let owner = owner.map(|owner| pyo3::types::PyWeakrefReference::new(&owner)).transpose()?;
        Ok(Some(Self {
            connected: Mutex::new(Connected::new(session, (!first.is_empty()).then_some(first))),
            settings: settings.clone().unbind(),
            incoming,
            outgoing,
            context,
            server_hostname: server_hostname.map(Bound::unbind),
            owner: owner.map(|owner| owner.into_any().unbind()),
            server_side: settings.get().is_server(),
            suppresses_eof,
        }))
    }

    #[getter]
    fn context(&self, py: Python<'_>) -> Py<PyAny> {
        self.context.clone_ref(py)
    }

    #[getter]
    fn server_hostname(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.server_hostname.as_ref().map(|name| name.clone_ref(py))
    }

    #[getter]
    fn server_side(&self) -> bool {
        self.server_side
    }

    #[getter]
    fn owner<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.owner.as_ref().map(|owner| owner.bind(py).call0()).transpose()
    }

    /// Sessions are resumed by tickets, of which the settings keep those of clients.
    #[getter]
    fn session(&self) -> Option<Py<PyAny>> {
        None
    }

    #[getter]
    fn session_reused(&self, py: Python<'_>) -> bool {
        self.info(py).session_reused()
    }

    fn do_handshake(&self, py: Python<'_>) -> PyResult<()> {
        self.handshake(py)
    }

    /// Whether a read brings something without more of the peer's, if only the end.
    fn has_more(&self, py: Python<'_>) -> bool {
        self.has_unread(py)
    }

    fn pending(&self, py: Python<'_>) -> Returned<usize> {
        Returned(self.lock(py).unread().len())
    }

    #[pyo3(signature = (size, buffer=None, /))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        size: isize,
        buffer: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(buffer) = buffer else {
            let Ok(size) = usize::try_from(size) else {
                return Err(alloc::value_error(py, "size should not be negative"));
            };
            let mut taken = Vec::new();
            if size > 0 && self.fill(py)? {
                taken = self.lock(py).take(size);
            }
            return Ok(alloc::bytes(py, &taken)?.into_any());
        };
        let mut lent = Borrowed::new(buffer, true)?;
        let room = lent.bytes_mut();
        let limit = match usize::try_from(size) {
            Ok(size) if size > 0 => size.min(room.len()),
            _ => room.len(),
        };
        let mut count = 0;
        if limit > 0 && self.fill(py)? {
            let taken = self.lock(py).take(limit);
            count = taken.len();
            room[..count].copy_from_slice(&taken);
        }
        Ok(alloc::int(py, count)?.into_any())
    }

    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Returned<usize>> {
        let lent = Borrowed::new(data, false)?;
        if self.lock(py).is_closed {
            return Err(misuse(py, "PROTOCOL_IS_SHUTDOWN"));
        }
        self.handshake(py)?;
        let outgoing = self.outgoing.bind(py);
        let count = self.encrypt(py, lent.bytes(), |records| {
            outgoing.call_method1(intern!(py, "write"), (records,)).map(drop)
        })?;
        Ok(Returned(count))
    }

    /// Says that nothing more will be sent, and waits for the peer to say the same.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        if self.lock(py).session.is_handshaking() {
            return Err(misuse(py, "SHUTDOWN_WHILE_IN_INIT"));
        }
        self.with(py, |connected, passage| {
            connected.session.close(&mut passage.ciphertext);
            connected.is_closed = true;
            Ok(())
        })?;
        let ended = self.pump(py)?;
        let connected = self.lock(py);
        if !connected.unread().is_empty() {
            drop(connected);
            return Err(misuse(py, "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"));
        }
        let is_over = connected.session.is_peer_closed() || (ended && self.suppresses_eof);
        drop(connected);
        if is_over {
            return Ok(());
        }
        if ended {
            return self.with(py, |connected, _| connected.session.receive_end());
        }
        Err(want_read(py))
    }

    #[pyo3(signature = (binary_form=false, /))]
    fn getpeercert<'py>(
        &self,
        py: Python<'py>,
        binary_form: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer(py).getpeercert(self.context.bind(py), self.settings.get(), binary_form)
    }

    fn get_unverified_chain<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer(py).unverified_chain(self.context.bind(py))
    }

    /// Those from the peer's own to a trusted one; if nothing is verified, those that the peer gave.
    fn get_verified_chain<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer(py).verified_chain(self.context.bind(py), self.settings.get())
    }

    fn selected_alpn_protocol<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.info(py).alpn(py)
    }

    fn cipher<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.info(py).cipher(py)
    }

    fn shared_ciphers<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.info(py).shared_ciphers(py, self.server_side)
    }

    fn compression(&self) -> Option<Py<PyAny>> {
        None
    }

    fn version(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.info(py).version(py)
    }

    #[pyo3(signature = (cb_type="tls-unique"))]
    fn get_channel_binding(&self, py: Python<'_>, cb_type: &str) -> PyResult<Option<Py<PyAny>>> {
        tls_info::channel_binding(py, cb_type)
    }

    fn verify_client_post_handshake(&self, py: Python<'_>) -> PyResult<()> {
        Err(tls_info::no_post_handshake(py))
    }

    // There is no `__clear__`: nothing of these leads back here, but for a program's own attributes.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.incoming)?;
        visit.call(&self.outgoing)?;
        visit.call(&self.context)?;
        visit.call(&self.server_hostname)?;
        visit.call(&self.owner)
    }
}
