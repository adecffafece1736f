//! What stands for `tls_connection` in a build without the TLS layer: a connection of which there is none.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::py::cpython::object::Ref;

/// No value is one.
pub(crate) enum TlsConnection {}

/// See the other one.
pub(super) struct Decrypted<'py> {
    pub(super) plaintext: Option<Bound<'py, PyBytes>>,
    pub(super) is_end: bool,
    pub(super) error: Option<PyErr>,
}

/// The connection of the TLS layer's that an object is.
#[inline(always)]
pub(super) fn native<'a>(_: Python<'_>, _: &'a Ref) -> Option<&'a TlsConnection> {
    None
}

#[allow(clippy::unused_self, reason = "as the other one's")]
impl TlsConnection {
    pub(super) fn has_unread(&self, _: Python<'_>) -> bool {
        match *self {}
    }

    pub(super) fn decrypt<'py>(&self, _: Python<'py>, _: &[u8]) -> PyResult<Decrypted<'py>> {
        match *self {}
    }

    pub(super) fn encrypt(
        &self,
        _: Python<'_>,
        _: &[u8],
        _: impl FnMut(Bound<'_, PyBytes>) -> PyResult<()>,
    ) -> PyResult<usize> {
        match *self {}
    }
}
