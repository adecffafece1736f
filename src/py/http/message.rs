//! What an application's messages say, taken out of their dicts.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::http::{BodyPart, ResponseError};
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::bytes_of;

/// The fields of a response: bytes that nobody changes.
#[derive(Debug, Default)]
pub(super) struct OwnFields(Vec<(Ref, Ref)>);

impl OwnFields {
    /// Of an iterable of pairs of bytes.
    fn of(value: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(value) = value else { return Ok(Self::default()) };
        let pairs = as_tuple(value)?;
        let mut all = Vec::with_capacity(pairs.len());
        for pair in pairs.iter_borrowed() {
            let pair = as_tuple(&pair)?;
            let (name, value) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
            if pair.len() != 2 || !(is_bytes(&name) && is_bytes(&value)) {
                let said = "headers: an iterable of pairs of bytes was expected";
                return Err(alloc::type_error(value.py(), said));
            }
            all.push((name.to_owned().into(), value.to_owned().into()));
        }
        Ok(Self(all))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // SAFETY: bytes objects, which live as long as this.
        self.0
            .iter()
            .map(|(name, value)| unsafe { (bytes_of(name.as_ptr()), bytes_of(value.as_ptr())) })
    }
}

fn is_bytes(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyBytes>()
}

fn as_tuple<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return Ok(tuple.clone());
    }
    // SAFETY: a new reference to a tuple, or null with an exception.
    unsafe {
        let made = pyo3::ffi::PySequence_Tuple(value.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(value.py(), made)?.cast_into_unchecked())
    }
}

/// The kind of a message.
///
/// # Errors
/// What a mapping raises that has none.
pub(super) fn kind<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    let kind = message.get_item(intern!(message.py(), "type"))?;
    kind.cast_into().map_err(PyErr::from)
}

/// A value of a message; `None`: it has none.
pub(super) fn value<'py>(
    message: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(dict) = message.cast_exact::<PyDict>() {
        return Ok(dict.get_item(name)?.filter(|value| !value.is_none()));
    }
    let value = message.call_method1(intern!(message.py(), "get"), (name,))?;
    Ok(Some(value).filter(|value| !value.is_none()))
}

/// Whether a message says yes to this.
pub(super) fn flag(message: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    value(message, name)?.map_or(Ok(false), |value| value.is_truthy())
}

/// `http.response.start`, or another head.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) status: u16,
    pub(super) fields: OwnFields,
    pub(super) has_trailers: bool,
}

impl Start {
    pub(super) fn of(message: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = message.py();
        let Some(status) = value(message, intern!(py, "status"))? else {
            return Err(alloc::value_error(py, "http.response.start has no status"));
        };
        Ok(Self {
            status: status.extract()?,
            fields: fields(message)?,
            has_trailers: flag(message, intern!(py, "trailers"))?,
        })
    }
}

/// The `headers` of a message.
pub(super) fn fields(message: &Bound<'_, PyAny>) -> PyResult<OwnFields> {
    OwnFields::of(value(message, intern!(message.py(), "headers"))?.as_ref())
}

/// The `links` of a hint, as fields.
pub(super) fn links(message: &Bound<'_, PyAny>) -> PyResult<OwnFields> {
    let py = message.py();
    let Some(links) = value(message, intern!(py, "links"))? else {
        return Ok(OwnFields::default());
    };
    let name: Ref = alloc::bytes(py, b"link")?.into_any().into();
    let mut all = Vec::new();
    for link in as_tuple(&links)?.iter_borrowed() {
        if !is_bytes(&link) {
            return Err(alloc::type_error(py, "links: an iterable of bytes was expected"));
        }
        all.push((name.clone_ref(py), link.to_owned().into()));
    }
    Ok(OwnFields(all))
}

/// Bytes under a name of a message, none if it has none.
pub(super) fn payload<'py>(
    message: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = message.py();
    match value(message, name)? {
        None => alloc::bytes(py, b""),
        Some(value) if is_bytes(&value) => Ok(value.cast_into::<PyBytes>()?),
        Some(value) => {
            let is_buffer = super::super::transport::stream_methods::may_be_written(&value);
            if !is_buffer {
                let class = value.get_type().name()?;
                let said = format!("{name}: bytes were expected, got {class}");
                return Err(alloc::type_error(py, said));
            }
            // A copy: nobody changes it.
            py.get_type::<PyBytes>().call1((value,))?.cast_into().map_err(PyErr::from)
        }
    }
}

/// `http.disconnect`.
pub(super) fn disconnect(py: Python<'_>) -> PyResult<Ref> {
    let message = alloc::dict(py)?;
    message.set_item(intern!(py, "type"), intern!(py, "http.disconnect"))?;
    Ok(message.into_any().into())
}

/// `http.request`; `None`: there is nothing yet, or nothing comes any more.
pub(super) fn body(py: Python<'_>, part: &BodyPart) -> PyResult<Option<Ref>> {
    let BodyPart::Data(data, more, _) = part else { return Ok(None) };
    let message = alloc::dict(py)?;
    message.set_item(intern!(py, "type"), intern!(py, "http.request"))?;
    message.set_item(intern!(py, "body"), alloc::bytes(py, data)?)?;
    message.set_item(intern!(py, "more_body"), *more)?;
    Ok(Some(message.into_any().into()))
}

/// That a response is none.
#[cold]
pub(super) fn refused(py: Python<'_>, error: ResponseError) -> PyErr {
    alloc::runtime_error(py, format!("{error}"))
}
