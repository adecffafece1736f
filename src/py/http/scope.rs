//! ASGI's scope, made of a request's head.

use std::borrow::Cow;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::http::{Fields, RequestHead, Version};
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

/// Names of fields that most requests have: made once.
const KNOWN: [&str; 32] = [
    "host",
    "accept",
    "cookie",
    "origin",
    "referer",
    "upgrade",
    "connection",
    "user-agent",
    "content-type",
    "authorization",
    "cache-control",
    "content-length",
    "accept-encoding",
    "accept-language",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x-request-id",
    "if-none-match",
    "if-modified-since",
    "range",
    "pragma",
    "priority",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
    "transfer-encoding",
    "upgrade-insecure-requests",
];

/// What is the same in the scopes of all requests.
#[derive(Debug)]
pub(super) struct Constants {
    /// The scope of a request by `GET`, in HTTP/1.1 and without TLS: to copy one costs less than to make one.
    http: Py<PyDict>,
    /// As `http`, of a WebSocket.
    websocket: Py<PyDict>,
    /// In front of each path, as bytes.
    root: Vec<u8>,
    asgi: Py<PyDict>,
    asgi_websocket: Py<PyDict>,
    extensions: Py<PyDict>,
    /// Of HTTP/1.0, which has no interim responses.
    extensions_http_10: Py<PyDict>,
    extensions_websocket: Py<PyDict>,
    names: Vec<Py<PyBytes>>,
    http_10: Ref,
}

impl Constants {
    /// `asgi_version`: the one that the application speaks; `sends_files`: whether the server can.
    pub(super) fn new(
        root_path: &Bound<'_, PyString>,
        asgi_version: &str,
        sends_files: bool,
    ) -> PyResult<Self> {
        let py = root_path.py();
        let versions = |spec: &str| -> PyResult<Py<PyDict>> {
            let asgi = alloc::dict(py)?;
            asgi.set_item(intern!(py, "version"), alloc::interned(py, asgi_version)?)?;
            asgi.set_item(intern!(py, "spec_version"), alloc::interned(py, spec)?)?;
            Ok(asgi.unbind())
        };
        let extensions = |names: &[&str]| -> PyResult<Py<PyDict>> {
            let all = alloc::dict(py)?;
            for name in names {
                all.set_item(alloc::interned(py, name)?, alloc::dict(py)?)?;
            }
            Ok(all.unbind())
        };
        let always = if sends_files {
            &["http.response.trailers", "http.response.pathsend", "http.response.zerocopysend"][..]
        } else {
            &["http.response.trailers"]
        };
        let names = KNOWN.iter().map(|name| Ok(alloc::bytes(py, name.as_bytes())?.unbind()));
        let template = |kind, scheme, own, value: Bound<'_, PyAny>| -> PyResult<Py<PyDict>> {
            let scope = alloc::dict(py)?;
            let none = py.None();
            scope.set_item(intern!(py, "type"), kind)?;
            scope.set_item(intern!(py, "asgi"), &none)?;
            scope.set_item(intern!(py, "http_version"), alloc::interned(py, "1.1")?)?;
            scope.set_item(intern!(py, "server"), &none)?;
            scope.set_item(intern!(py, "client"), &none)?;
            scope.set_item(intern!(py, "scheme"), scheme)?;
            scope.set_item(own, value)?;
            scope.set_item(intern!(py, "root_path"), root_path)?;
            for name in ["path", "raw_path", "query_string", "headers", "state", "extensions"] {
                scope.set_item(alloc::interned(py, name)?, &none)?;
            }
            Ok(scope.unbind())
        };
        let get = alloc::interned(py, "GET")?.into_any();
        let none = py.None().into_bound(py);
        let (http, ws) = (intern!(py, "http"), intern!(py, "ws"));
        Ok(Self {
            root: root_path.to_str()?.as_bytes().to_vec(),
            http: template(http, http, intern!(py, "method"), get)?,
            websocket: template(intern!(py, "websocket"), ws, intern!(py, "subprotocols"), none)?,
            asgi: versions("2.3")?,
            asgi_websocket: versions("2.4")?,
            extensions: extensions(&[&["http.response.early_hint"], always].concat())?,
            extensions_http_10: extensions(always)?,
            extensions_websocket: extensions(&["websocket.http.response"])?,
            names: names.collect::<PyResult<_>>()?,
            http_10: alloc::interned(py, "1.0")?.into_any().into(),
        })
    }

    fn name<'py>(&self, py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        match KNOWN.iter().position(|known| known.as_bytes() == name) {
            Some(place) => Ok(self.names[place].bind(py).clone()),
            None => alloc::bytes(py, name),
        }
    }
}

/// Where a connection comes from and goes to.
#[derive(Debug)]
pub(super) struct Ends {
    /// `(host, port)`, or `None`.
    pub(super) client: Ref,
    pub(super) server: Ref,
    pub(super) is_tls: bool,
    /// The extension `tls` of ASGI, a dict.
    pub(super) tls: Option<Ref>,
}

/// The scope of a request; `state`: what the lifespan has left for it.
///
/// # Errors
/// `MemoryError`.
pub(super) fn scope<'py>(
    py: Python<'py>,
    (constants, state): (&Constants, &Py<PyDict>),
    ends: &Ends,
    head: &RequestHead,
) -> PyResult<Bound<'py, PyDict>> {
    let is_websocket = head.is_websocket();
    let is_http_10 = head.version() == Version::Http10;
    let (template, asgi, extensions) = if is_websocket {
        (&constants.websocket, &constants.asgi_websocket, &constants.extensions_websocket)
    } else if is_http_10 {
        (&constants.http, &constants.asgi, &constants.extensions_http_10)
    } else {
        (&constants.http, &constants.asgi, &constants.extensions)
    };
    let scope = template.bind(py).copy()?;
    scope.set_item(intern!(py, "asgi"), asgi.bind(py).copy()?)?;
    if is_http_10 {
        scope.set_item(intern!(py, "http_version"), constants.http_10.as_py())?;
    }
    scope.set_item(intern!(py, "server"), ends.server.as_py())?;
    scope.set_item(intern!(py, "client"), ends.client.as_py())?;
    if ends.is_tls {
        let scheme = if is_websocket { intern!(py, "wss") } else { intern!(py, "https") };
        scope.set_item(intern!(py, "scheme"), scheme)?;
    }
    if is_websocket {
        scope.set_item(intern!(py, "subprotocols"), subprotocols(py, head.fields())?)?;
    } else if head.method() != b"GET" {
        let method = String::from_utf8_lossy(head.method());
        scope.set_item(intern!(py, "method"), alloc::text(py, &method)?)?;
    }
    let (path, raw_path) = (unquoted(head.path()), below(&constants.root, head.path()));
    let path = below(&constants.root, &path);
    scope.set_item(intern!(py, "path"), alloc::text(py, &String::from_utf8_lossy(&path))?)?;
    scope.set_item(intern!(py, "raw_path"), alloc::bytes(py, &raw_path)?)?;
    scope.set_item(intern!(py, "query_string"), alloc::bytes(py, head.query())?)?;
    scope.set_item(intern!(py, "headers"), fields(py, constants, head.fields())?)?;
    scope.set_item(intern!(py, "state"), state.bind(py).copy()?)?;
    let extensions = extensions.bind(py).copy()?;
    if let Some(tls) = &ends.tls {
        extensions.set_item(intern!(py, "tls"), tls.as_py().bind(py).cast::<PyDict>()?.copy()?)?;
    }
    scope.set_item(intern!(py, "extensions"), extensions)?;
    Ok(scope)
}

fn below<'a>(root: &[u8], path: &'a [u8]) -> Cow<'a, [u8]> {
    if root.is_empty() { Cow::Borrowed(path) } else { Cow::Owned([root, path].concat()) }
}

/// The path with its escapes decoded; what is no escape stays, as `urllib.parse.unquote` leaves it.
fn unquoted(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        if let (b'%', [high, low, behind @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
            rest = behind;
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    Cow::Owned(decoded)
}

fn fields<'py>(
    py: Python<'py>,
    constants: &Constants,
    fields: &Fields,
) -> PyResult<Bound<'py, PyList>> {
    let mut all = Vec::with_capacity(fields.len());
    for (name, value) in fields.iter() {
        all.push(alloc::tuple(py, [constants.name(py, name)?, alloc::bytes(py, value)?])?);
    }
    alloc::list(py, &all)
}

/// What a client offers, as text.
fn subprotocols<'py>(py: Python<'py>, fields: &Fields) -> PyResult<Bound<'py, PyList>> {
    let mut all = Vec::new();
    for value in fields.all("sec-websocket-protocol") {
        for one in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            all.push(alloc::text(py, &String::from_utf8_lossy(one))?);
        }
    }
    alloc::list(py, &all)
}

/// Whether a proxy has said something of the client.
pub(super) fn is_proxied(fields: &Fields) -> bool {
    fields.iter().any(|(name, _)| name.starts_with(b"x-forwarded-"))
}
