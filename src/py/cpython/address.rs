//! Socket addresses in the format of Python's `socket` module.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};

use super::alloc;

use crate::sys::address::{Family, LONGEST_PATH, SocketAddress};

/// The address as `socket.getsockname` would give it; `None` if it is unknown.
pub(crate) fn to_python(py: Python<'_>, address: &SocketAddress) -> PyResult<Py<PyAny>> {
    Ok(match address {
        SocketAddress::Inet(SocketAddr::V4(at)) => {
            let (ip, port) = (alloc::text(py, &at.ip().to_string())?, alloc::int(py, at.port())?);
            alloc::tuple(py, [ip.into_any(), port.into_any()])?.into_any().unbind()
        }
        SocketAddress::Inet(SocketAddr::V6(at)) => {
            let ip = alloc::text(py, &v6_text(at.ip()))?.into_any();
            let port = alloc::int(py, at.port())?.into_any();
            let [flow, scope] = [alloc::int(py, at.flowinfo())?, alloc::int(py, at.scope_id())?];
            alloc::tuple(py, [ip, port, flow.into_any(), scope.into_any()])?.into_any().unbind()
        }
        // An abstract name is bytes, a path a string.
        SocketAddress::Unix(name) if name.first() == Some(&0) => {
            alloc::bytes(py, name)?.into_any().unbind()
        }
        SocketAddress::Unix(name) => alloc::path(py, name)?.into_any().unbind(),
        SocketAddress::Unknown => py.None(),
    })
}

/// The host as `inet_ntop` writes it, which unlike Rust shows an embedded IPv4 address of the old
/// kind (`::192.0.2.1`). As in Python, the scope is not part of it.
fn v6_text(ip: &Ipv6Addr) -> String {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
            let [.., a, b, c, d] = ip.octets();
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => ip.to_string(),
    }
}

/// The address that `object` writes out in numbers, or as a unix name. `None` if it does not: then
/// the socket's own methods know what to do, or what to say.
pub(crate) fn from_python(family: Family, object: &Bound<'_, PyAny>) -> Option<SocketAddress> {
    match family {
        Family::V4 => {
            let tuple = object.cast_exact::<PyTuple>().ok().filter(|tuple| tuple.len() == 2)?;
            let ip: Ipv4Addr = host(tuple)?.to_str().ok()?.parse().ok()?;
            Some(SocketAddress::Inet(SocketAddrV4::new(ip, number(tuple, 1)?).into()))
        }
        Family::V6 => {
            let tuple = object.cast_exact::<PyTuple>().ok()?;
            let length = tuple.len();
            let ip: Ipv6Addr = host(tuple)?.to_str().ok()?.parse().ok()?;
            let port = number(tuple, 1)?;
            let flow = if length > 2 { number(tuple, 2)? } else { 0 };
            let scope = if length > 3 { number(tuple, 3)? } else { 0 };
            let whole = length <= 4 && flow <= LARGEST_FLOW;
            whole.then(|| SocketAddress::Inet(SocketAddrV6::new(ip, port, flow, scope).into()))
        }
        Family::Unix => {
            let name: &[u8] = if let Ok(name) = object.cast_exact::<PyString>() {
                // Other names depend on the encoding of the file system.
                name.to_str().ok().filter(|name| name.is_ascii())?.as_bytes()
            } else {
                object.cast_exact::<PyBytes>().ok()?.as_bytes()
            };
            let (first, rest) = name.split_first()?;
            let plain = name.len() <= LONGEST_PATH && (*first == 0 || !rest.contains(&0));
            plain.then(|| SocketAddress::Unix(name.into()))
        }
    }
}

/// The largest flow label.
const LARGEST_FLOW: u32 = 0xf_ffff;

fn host<'py>(tuple: &Bound<'py, PyTuple>) -> Option<Bound<'py, PyString>> {
    tuple.get_item(0).ok()?.cast_into_exact().ok()
}

fn number<'py, N: for<'a> FromPyObject<'a, 'py>>(
    tuple: &Bound<'py, PyTuple>,
    index: usize,
) -> Option<N> {
    let item = tuple.get_item(index).ok()?;
    item.cast_exact::<PyInt>().ok()?.extract().ok()
}
