//! Socket addresses as Python's `socket` module writes them.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::sys::address::SocketAddress;

/// The address as `socket.getsockname` would give it; `None` if it is unknown.
pub(super) fn to_python(py: Python<'_>, address: &SocketAddress) -> PyResult<Py<PyAny>> {
    Ok(match address {
        SocketAddress::Inet(SocketAddr::V4(at)) => {
            (at.ip().to_string(), at.port()).into_pyobject(py)?.into_any().unbind()
        }
        SocketAddress::Inet(SocketAddr::V6(at)) => {
            let mut host = at.ip().to_string();
            if at.scope_id() != 0 {
                host = scoped(&host, at.scope_id());
            }
            let whole: Bound<'_, PyTuple> =
                (host, at.port(), at.flowinfo(), at.scope_id()).into_pyobject(py)?;
            whole.into_any().unbind()
        }
        // An abstract name is bytes, a path a string.
        SocketAddress::Unix(name) if name.first() == Some(&0) => {
            PyBytes::new(py, name).into_any().unbind()
        }
        SocketAddress::Unix(name) => OsStr::from_bytes(name).into_pyobject(py)?.into_any().unbind(),
        SocketAddress::Unknown => py.None(),
    })
}

/// A link-local host with its zone, as `getnameinfo` writes it.
fn scoped(host: &str, scope: u32) -> String {
    match crate::sys::address::interface_name(scope) {
        Some(name) => format!("{host}%{name}"),
        None => format!("{host}%{scope}"),
    }
}
