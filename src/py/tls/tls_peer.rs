//! A peer's certificates, as Python's `ssl` gives them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::tls_settings::TlsSettings;
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::tls::Session;

/// The certificates that a peer gave: copied, as no object of Python's is made under a lock.
pub(super) struct Peer {
    is_handshaking: bool,
    certificates: Vec<Vec<u8>>,
}

impl Peer {
    /// Of a session as it is now.
    pub(super) fn of(session: &Session) -> Self {
        Self {
            is_handshaking: session.is_handshaking(),
            certificates: session.peer_certificates().map(<[u8]>::to_vec).collect(),
        }
    }

    pub(super) fn getpeercert<'py>(
        &self,
        context: &Bound<'py, PyAny>,
        settings: &TlsSettings,
        binary_form: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.is_handshaking {
            let said = "handshake not done yet";
            return Err(alloc::error::<PyValueError>(context.py(), said));
        }
        let Some(certificate) = self.certificates.first() else { return Ok(None) };
        described(context, certificate, settings.verifies(), binary_form).map(Some)
    }

    /// The peer's certificates, as objects with the methods of `_ssl.Certificate`; `None` without any.
    pub(super) fn unverified_chain<'py>(
        &self,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        chain(context, &self.certificates)
    }

    /// Those from the peer's own to a trusted one; if nothing is verified, those that the peer gave.
    pub(super) fn verified_chain<'py>(
        &self,
        context: &Bound<'py, PyAny>,
        settings: &TlsSettings,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !settings.verifies() {
            return self.unverified_chain(context);
        }
        chain(context, &verified(context.py(), settings, &self.certificates))
    }
}

/// A certificate as `getpeercert` gives it: in DER, or described. It says nothing of one that was not verified.
fn described<'py>(
    context: &Bound<'py, PyAny>,
    der: &[u8],
    is_verified: bool,
    binary_form: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = context.py();
    let der = alloc::bytes(py, der)?;
    if binary_form {
        return Ok(der.into_any());
    }
    if is_verified {
        return context.call_method1(intern!(py, "_describe_certificate"), (der,));
    }
    Ok(alloc::dict(py)?.into_any())
}

/// Certificates as objects with the methods of `_ssl.Certificate`; `None` without any.
fn chain<'py>(
    context: &Bound<'py, PyAny>,
    ders: &[Vec<u8>],
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = context.py();
    if ders.is_empty() {
        return Ok(None);
    }
    let mut made = Vec::new();
    for der in ders {
        made.push(alloc::bytes(py, der)?);
    }
    let made = alloc::list(py, &made)?;
    context.call_method1(intern!(py, "_certificates"), (made,)).map(Some)
}

/// The chain by which a peer with these certificates is verified; empty if it is not any more.
fn verified(py: Python<'_>, settings: &TlsSettings, given: &[Vec<u8>]) -> Vec<Vec<u8>> {
    py.detach(|| {
        let given: Vec<&[u8]> = given.iter().map(Vec::as_slice).collect();
        settings.verified_chain(&given).unwrap_or_default()
    })
}
