//! Failures of a TLS connection as the exceptions of Python's `ssl`, with its attributes and words.

use pyo3::prelude::*;

use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::tls::Failure;

/// `ssl.SSL_ERROR_SSL`, `SSL_ERROR_WANT_READ`, `SSL_ERROR_ZERO_RETURN`, `SSL_ERROR_EOF`.
const PROTOCOL_ERROR: i32 = 1;
const WANT_READ: i32 = 2;
const ZERO_RETURN: i32 = 6;
const UNEXPECTED_EOF: i32 = 8;

/// The exception for a failure. An error of its own if the exception cannot be made.
#[cold]
pub(crate) fn failure(py: Python<'_>, failure: &Failure) -> PyErr {
    let reason = failure.reason();
    let (class, number) = match failure {
        Failure::Certificate(_) => ("SSLCertVerificationError", PROTOCOL_ERROR),
        Failure::Truncated { .. } => ("SSLEOFError", UNEXPECTED_EOF),
        _ => ("SSLError", PROTOCOL_ERROR),
    };
    let said = match failure {
        Failure::Alert(_) => reason.to_lowercase().replace('_', " "),
        _ => failure.to_string(),
    };
    let made = exception(py, class, number, &format!("[SSL: {reason}] {said}")).and_then(|made| {
        made.setattr(intern!(py, "library"), alloc::text(py, "SSL")?)?;
        made.setattr(intern!(py, "reason"), alloc::text(py, reason)?)?;
        if let Failure::Certificate(why) = failure {
            made.setattr(intern!(py, "verify_code"), alloc::int(py, why.code)?)?;
            made.setattr(intern!(py, "verify_message"), alloc::text(py, &why.message)?)?;
        }
        Ok(made)
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// The exception for an error of a stream, if it is a failure of TLS.
pub(crate) fn of_stream(
    py: Python<'_>,
    error: &(dyn std::error::Error + 'static),
) -> Option<PyErr> {
    error.downcast_ref().map(|why| failure(py, why))
}

/// `ssl.SSLError` for what a program does at the wrong time; `reason` is OpenSSL's word for it.
#[cold]
pub(crate) fn misuse(py: Python<'_>, reason: &str) -> PyErr {
    let said = reason.to_lowercase().replace('_', " ");
    let made = exception(py, "SSLError", PROTOCOL_ERROR, &format!("[SSL: {reason}] {said}"))
        .and_then(|made| {
            made.setattr(intern!(py, "library"), alloc::text(py, "SSL")?)?;
            made.setattr(intern!(py, "reason"), alloc::text(py, reason)?)?;
            Ok(made)
        });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// `ssl.SSLWantReadError`: more of the peer is needed.
#[cold]
pub(crate) fn want_read(py: Python<'_>) -> PyErr {
    simple(py, "SSLWantReadError", WANT_READ, "The operation did not complete (read)")
}

/// `ssl.SSLZeroReturnError`: both sides have said that they send no more.
#[cold]
pub(crate) fn zero_return(py: Python<'_>) -> PyErr {
    simple(py, "SSLZeroReturnError", ZERO_RETURN, "TLS/SSL connection has been closed (EOF)")
}

fn simple(py: Python<'_>, class: &str, number: i32, said: &str) -> PyErr {
    exception(py, class, number, said).map_or_else(|error| error, PyErr::from_value)
}

fn exception<'py>(
    py: Python<'py>,
    class: &str,
    number: i32,
    said: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import(intern!(py, "ssl"))?.getattr(alloc::text(py, class)?)?;
    class.call1((alloc::int(py, number)?, alloc::text(py, said)?))
}
