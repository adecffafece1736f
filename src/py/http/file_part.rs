//! Parts of a body that are bytes of a file: `http.response.pathsend` and `http.response.zerocopysend`.
//!
//! Files are opened and read in Python (`_serve/files.py`), by the threads of an executor; here is what a response
//! makes of them. Either the transport sends the bytes itself, between what stands around them in the response, or they
//! come in pieces.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::message;
use super::operation::HttpOperation;
use super::request::{HttpRequest, Phase};
use super::transmit::transmit;
use crate::http::{Payload, ResponseError};
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::payload::bytes_of;

impl HttpRequest {
    /// What sends the file that a message names: a coroutine.
    pub(super) fn send_file(
        slf: &Bound<'_, Self>,
        given: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Some(send_file) = &slf.get().exchange.server.get().send_file else {
            return Err(alloc::runtime_error(py, "this server sends no files"));
        };
        Ok(send_file.bind(py).call1((slf, given))?.unbind())
    }

    /// Begins a part of so many bytes, and sends the head. Says whether the part is to be sent; `None`: the client is
    /// gone.
    ///
    /// # Errors
    /// That another message is expected, or the response is not valid: nothing was sent.
    pub(super) fn begin_file(
        &self,
        py: Python<'_>,
        length: u64,
        more: bool,
    ) -> PyResult<Option<bool>> {
        let (phase, start, has_trailers) = {
            let mut progress = lock_attached(py, &self.state);
            let phase = progress.phase;
            if matches!(phase, Phase::Started | Phase::Body) {
                progress.phase = Phase::File;
            }
            (phase, progress.start.take(), progress.has_trailers)
        };
        if !matches!(phase, Phase::Started | Phase::Body) {
            return Err(alloc::runtime_error(py, "a file was sent while another message was"));
        }
        let own = self.exchange.server.get().own_fields();
        let begun = self.exchange.respond(py, |connection, id, out| {
            let Some(start) = &start else { return Ok(()) };
            let fields = own.chain(start.fields.iter());
            let is_all = !more && !has_trailers;
            let payload = if is_all { Payload::Sized(length) } else { Payload::Stream };
            connection.respond(id, start.status, fields, payload, out)
        })?;
        match begun {
            None | Some(Err(ResponseError::Gone)) => {
                self.exchange.waiting.note_lost(py);
                Ok(None)
            }
            Some(Err(error)) => {
                // It may still be answered otherwise.
                let mut progress = lock_attached(py, &self.state);
                (progress.phase, progress.start) = (phase, start);
                drop(progress);
                Err(message::refused(py, error))
            }
            Some(Ok(())) => transmit(py, self.exchange.connection.get(), |filter, to| {
                filter.respond(to, |connection, _| connection.takes_body(self.exchange.id()))
            }),
        }
    }

    /// The transport, whose next bytes are to be these, and nothing else before [`end_file`](Self::end_file). `None`:
    /// they are to be sent in pieces, as there is TLS, or the transport's loop is another one, or other responses come
    /// first.
    ///
    /// # Errors
    /// That the part is longer than the body may be.
    pub(super) fn lend(&self, py: Python<'_>, length: u64) -> PyResult<Option<Py<PyAny>>> {
        let connection = self.exchange.connection.get();
        let is_here = connection.loop_(py).get().event_loop.local.is_owner();
        let Some(parts) = connection.parts(py) else { return Ok(None) };
        if !is_here || connection.ends(py)?.is_tls {
            return Ok(None);
        }
        let around = transmit(py, connection, |filter, to| {
            filter.respond(to, |connection, out| {
                connection.body_around(self.exchange.id(), length, out)
            })
        })?;
        match around {
            None | Some(Err(ResponseError::Order | ResponseError::Gone)) => Ok(None),
            Some(Err(error)) => Err(message::refused(py, error)),
            Some(Ok(around)) => {
                lock_attached(py, &self.state).around = Some(around);
                Ok(Some(parts.transport.clone_ref(py)))
            }
        }
    }

    /// Sends a piece of the part.
    ///
    /// # Errors
    /// That the part is longer than the body may be.
    pub(super) fn send_piece(
        &self,
        py: Python<'_>,
        piece: &Bound<'_, PyBytes>,
    ) -> PyResult<Py<HttpOperation>> {
        // SAFETY: a bytes object, which is alive during the call.
        let bytes = unsafe { bytes_of(piece.as_ptr()) };
        let is_lent = lock_attached(py, &self.state).around.is_some();
        let sent = self.exchange.respond(py, |connection, id, out| {
            if is_lent {
                connection.body_within(id, bytes, out)
            } else {
                connection.body(id, bytes, false, out)
            }
        })?;
        self.exchange.sent(py, sent, false)
    }

    /// Ends the part: all of it was sent, or there was nothing to send.
    ///
    /// # Errors
    /// That the body is shorter than it said.
    pub(super) fn end_file(&self, py: Python<'_>, more: bool) -> PyResult<Py<HttpOperation>> {
        let (around, has_trailers) = {
            let mut progress = lock_attached(py, &self.state);
            (progress.around.take(), progress.has_trailers)
        };
        let is_last = !more && !has_trailers;
        let sent = self.exchange.respond(py, |connection, id, out| match around {
            Some(around) => connection.body_behind(id, around, is_last, out),
            None if is_last => connection.body(id, b"", true, out),
            None => Ok(()),
        })?;
        lock_attached(py, &self.state).phase = if more { Phase::Body } else { Phase::Trailers };
        self.exchange.sent(py, sent, is_last)
    }
}
