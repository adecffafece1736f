//! What a connection of the TLS layer's says of itself, in the terms of `_ssl._SSLSocket`.
//!
//! In: a session, of whichever object keeps it. Out: values of Python's. Must never: change the session.

use pyo3::exceptions::{PyNotImplementedError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::py::cpython::alloc;
use crate::tls::{Negotiated, Session, Version};

/// What was agreed on: copied, as no object of Python's is made under a lock.
pub(super) struct ConnectionInfo {
    negotiated: Option<Negotiated>,
}

impl ConnectionInfo {
    /// Of a session as it is now.
    pub(super) fn of(session: &Session) -> Self {
        Self { negotiated: session.negotiated() }
    }

    pub(super) fn session_reused(&self) -> bool {
        self.negotiated.as_ref().is_some_and(|negotiated| negotiated.is_resumed)
    }

    pub(super) fn alpn<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let protocol = self.negotiated.as_ref().and_then(|negotiated| negotiated.alpn.as_ref());
        let named = protocol.map(|name| alloc::text(py, &String::from_utf8_lossy(name)));
        Ok(named.transpose()?.map(Bound::into_any))
    }

    pub(super) fn cipher<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some(negotiated) = &self.negotiated else { return Ok(None) };
        let cipher = &negotiated.cipher;
        let name = alloc::text(py, cipher.name)?.into_any();
        let version = alloc::text(py, name_of(negotiated.version))?.into_any();
        let bits = alloc::int(py, cipher.bits)?.into_any();
        alloc::tuple(py, [name, version, bits]).map(Some)
    }

    /// The number of the cipher suite in IANA's register.
    pub(super) fn cipher_suite(&self) -> Option<u16> {
        self.negotiated.as_ref().map(|negotiated| negotiated.cipher.number)
    }

    /// Of a server, the cipher that was chosen: rustls does not say what else a client has offered.
    pub(super) fn shared_ciphers<'py>(
        &self,
        py: Python<'py>,
        server_side: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let chosen = if server_side { self.cipher(py)? } else { None };
        chosen.map(|chosen| Ok(alloc::list(py, &[chosen])?.into_any())).transpose()
    }

    pub(super) fn version(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let version = self.negotiated.as_ref().map(|negotiated| name_of(negotiated.version));
        let named = version.map(|name| alloc::text(py, name)).transpose()?;
        Ok(named.map(|name| name.into_any().unbind()))
    }
}

/// TLS 1.3 has no "tls-unique", and rustls does not give the one of TLS 1.2.
///
/// # Errors
/// `ValueError` for any other type.
pub(super) fn channel_binding(py: Python<'_>, cb_type: &str) -> PyResult<Option<Py<PyAny>>> {
    if cb_type == "tls-unique" {
        return Ok(None);
    }
    let said = format!("'{cb_type}' channel binding type not implemented");
    Err(alloc::error::<PyValueError>(py, said))
}

/// The error of what a native context does not have.
pub(super) fn no_post_handshake(py: Python<'_>) -> PyErr {
    let said = "a native context has no post-handshake authentication";
    alloc::error::<PyNotImplementedError>(py, said)
}

/// The name of a version, as OpenSSL gives it.
fn name_of(version: Version) -> &'static str {
    match version {
        Version::Tls10 => "TLSv1",
        Version::Tls11 => "TLSv1.1",
        Version::Tls12 => "TLSv1.2",
        Version::Tls13 => "TLSv1.3",
    }
}
