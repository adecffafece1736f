//! TLS inside a stream transport: the native half of such a transport, and what stands under its `ssl_object`.
//!
//! In: the native half of a transport that is about to begin, settings. Out: one whose bytes pass a session, and what
//! that says of itself. The transport reads, writes and ends (`src/py/transport`).

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::tls_info::{self, ConnectionInfo};
use super::tls_peer::Peer;
use super::tls_settings::TlsSettings;
use crate::py::cpython::alloc;
use crate::py::transport::stream::StreamCore;
use crate::tls::{Session, TlsFilter};

/// The native half of a transport with TLS, in place of `core`, which has not been registered. `None` if a client's
/// `server_hostname` is one that rustls does not know as a name or an address. `holder`: the object that closes the
/// descriptor, if the native half does not.
#[pyfunction]
#[pyo3(name = "_tls_stream", signature = (core, settings, server_hostname, holder=None))]
pub(crate) fn secured(
    core: &Bound<'_, StreamCore>,
    settings: &Bound<'_, TlsSettings>,
    server_hostname: Option<&Bound<'_, PyAny>>,
    holder: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<StreamCore>> {
    let Some((session, first)) = settings.get().open(core.py(), server_hostname)? else {
        return Ok(None);
    };
    let filter = Box::new(TlsFilter::new(session));
    Ok(Some(StreamCore::filtered(core, filter, &first, holder)))
}

/// What an `ssl.SSLObject` of a transport asks, answered by the transport's session. It cannot be read or written: that
/// is the transport's.
#[pyclass(frozen, module = "loop_pool._core", name = "TLSStreamInfo")]
pub(crate) struct TlsStreamInfo {
    core: Py<StreamCore>,
    settings: Py<TlsSettings>,
    context: Py<PyAny>,
    server_hostname: Option<Py<PyAny>>,
}

impl TlsStreamInfo {
    /// What `f` says of the session.
    fn ask<T>(&self, py: Python<'_>, f: impl FnOnce(&Session) -> T) -> PyResult<T> {
        let locked = self.core.get().filter(py);
        let said = locked.as_ref().and_then(|locked| {
            let filter: &TlsFilter = locked.filter().find()?;
            Some(f(filter.session()))
        });
        drop(locked);
        said.ok_or_else(|| alloc::error::<PyValueError>(py, "the transport has no TLS"))
    }

    fn info(&self, py: Python<'_>) -> PyResult<ConnectionInfo> {
        self.ask(py, ConnectionInfo::of)
    }

    fn peer(&self, py: Python<'_>) -> PyResult<Peer> {
        self.ask(py, Peer::of)
    }
}

/// That the connection is the transport's.
fn refused(py: Python<'_>) -> PyErr {
    let said = "the connection is its transport's: use the methods of that";
    alloc::error::<PyValueError>(py, said)
}

#[pymethods]
#[allow(clippy::unused_self, reason = "they are methods of Python's")]
impl TlsStreamInfo {
    /// Of the transport with this native half.
    #[new]
    fn new(
        core: Py<StreamCore>,
        settings: Py<TlsSettings>,
        context: Py<PyAny>,
        server_hostname: Option<Py<PyAny>>,
    ) -> Self {
        Self { core, settings, context, server_hostname }
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
        self.settings.get().is_server()
    }

    #[getter]
    fn owner(&self) -> Option<Py<PyAny>> {
        None
    }

    #[getter]
    fn session(&self) -> Option<Py<PyAny>> {
        None
    }

    #[getter]
    fn session_reused(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.info(py)?.session_reused())
    }

    /// A server's own certificate in DER, if it has one for all clients.
    #[getter]
    fn own_certificate<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.settings.get().certificate().map(|der| alloc::bytes(py, der)).transpose()
    }

    /// The number of the cipher suite in IANA's register.
    #[getter]
    fn cipher_suite<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.info(py)?
            .cipher_suite()
            .map(|number| Ok(alloc::int(py, number)?.into_any()))
            .transpose()
    }

    #[pyo3(signature = (binary_form=false, /))]
    fn getpeercert<'py>(
        &self,
        py: Python<'py>,
        binary_form: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer(py)?.getpeercert(self.context.bind(py), self.settings.get(), binary_form)
    }

    fn get_unverified_chain<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer(py)?.unverified_chain(self.context.bind(py))
    }

    fn get_verified_chain<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer(py)?.verified_chain(self.context.bind(py), self.settings.get())
    }

    fn selected_alpn_protocol<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.info(py)?.alpn(py)
    }

    fn cipher<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.info(py)?.cipher(py)
    }

    fn shared_ciphers<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.info(py)?.shared_ciphers(py, self.server_side())
    }

    fn compression(&self) -> Option<Py<PyAny>> {
        None
    }

    fn version(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.info(py)?.version(py)
    }

    #[pyo3(signature = (cb_type="tls-unique"))]
    fn get_channel_binding(&self, py: Python<'_>, cb_type: &str) -> PyResult<Option<Py<PyAny>>> {
        tls_info::channel_binding(py, cb_type)
    }

    fn verify_client_post_handshake(&self, py: Python<'_>) -> PyResult<()> {
        Err(tls_info::no_post_handshake(py))
    }

    /// Nothing that was decrypted is kept from the transport.
    fn pending(&self) -> u32 {
        0
    }

    #[pyo3(signature = (*_args))]
    fn read(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        Err(refused(py))
    }

    #[pyo3(signature = (*_args))]
    fn write(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        Err(refused(py))
    }

    fn do_handshake(&self, py: Python<'_>) -> PyResult<()> {
        Err(refused(py))
    }

    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Err(refused(py))
    }

    // There is no `__clear__`: nothing of these leads back here, but for a program's own attributes.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        visit.call(&self.context)?;
        visit.call(&self.server_hostname)
    }
}
