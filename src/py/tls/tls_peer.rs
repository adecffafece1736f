//! A peer's certificates, as Python's `ssl` gives them.

use pyo3::prelude::*;

use super::tls_settings::TlsSettings;
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;

/// A certificate as `getpeercert` gives it: in DER, or described. It says nothing of one that was not verified.
pub(super) fn certificate<'py>(
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
pub(super) fn chain<'py>(
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
pub(super) fn verified(py: Python<'_>, settings: &TlsSettings, given: &[Vec<u8>]) -> Vec<Vec<u8>> {
    py.detach(|| {
        let given: Vec<&[u8]> = given.iter().map(Vec::as_slice).collect();
        settings.verified_chain(&given).unwrap_or_default()
    })
}
