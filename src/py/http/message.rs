//! What an application's messages say, taken out of their dicts.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::http::{BodyPart, ResponseError};
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::bytes_of;
use crate::py::cpython::slots::in_critical_section;

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
        let made = ffi::PySequence_Tuple(value.as_ptr());
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
    is_true(value(message, name)?.as_ref())
}

fn is_true(value: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    value.map_or(Ok(false), PyAnyMethods::is_truthy)
}

/// A message, and what it says under the names of most messages, which are looked up at once.
pub(super) struct Given<'a, 'py> {
    pub(super) message: &'a Bound<'py, PyAny>,
    kind: Bound<'py, PyString>,
    status: Option<Bound<'py, PyAny>>,
    headers: Option<Bound<'py, PyAny>>,
    trailers: Option<Bound<'py, PyAny>>,
    body: Option<Bound<'py, PyAny>>,
    more_body: Option<Bound<'py, PyAny>>,
}

impl<'a, 'py> Given<'a, 'py> {
    /// # Errors
    /// As [`kind`].
    pub(super) fn of(message: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        let py = message.py();
        let names = [
            intern!(py, "type"),
            intern!(py, "status"),
            intern!(py, "headers"),
            intern!(py, "trailers"),
            intern!(py, "body"),
            intern!(py, "more_body"),
        ];
        let [kind, status, headers, trailers, body, more_body] = values(message, names)?;
        let kind = match kind {
            Some(kind) => kind.cast_into()?,
            None => self::kind(message)?,
        };
        Ok(Self { message, kind, status, headers, trailers, body, more_body })
    }

    pub(super) fn kind(&self) -> &Bound<'py, PyString> {
        &self.kind
    }

    /// Whether more of the body comes.
    pub(super) fn has_more(&self) -> PyResult<bool> {
        is_true(self.more_body.as_ref())
    }

    /// What it has of the body.
    ///
    /// # Errors
    /// `TypeError`.
    pub(super) fn body(&self) -> PyResult<Bound<'py, PyBytes>> {
        as_bytes(intern!(self.message.py(), "body"), self.body.as_ref())
    }
}

/// What a message has under each name, in one look at it.
fn values<'py, const N: usize>(
    message: &Bound<'py, PyAny>,
    names: [&Bound<'py, PyString>; N],
) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
    let py = message.py();
    let mut found = [const { None }; N];
    let Ok(dict) = message.cast_exact::<PyDict>() else {
        for (found, name) in found.iter_mut().zip(names) {
            *found = value(message, name)?;
        }
        return Ok(found);
    };
    let mut has_others = false;
    let (mut place, mut key, mut item) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: nobody changes the dict meanwhile, nothing that is done calls Python, and what it has lives as long.
    unsafe {
        in_critical_section(dict.as_ptr(), || {
            let next = |place: &mut _, key: &mut _, item: &mut _| {
                ffi::PyDict_Next(dict.as_ptr(), place, key, item) != 0
            };
            while next(&mut place, &mut key, &mut item) {
                // Names are interned, nearly always.
                match names.iter().position(|name| std::ptr::eq(name.as_ptr(), key)) {
                    Some(known) => found[known] = Some(Bound::from_borrowed_ptr(py, item)),
                    None => has_others = true,
                }
            }
        });
    }
    for (found, name) in found.iter_mut().zip(names) {
        if found.is_none() && has_others {
            *found = dict.get_item(name)?;
        }
        if found.as_ref().is_some_and(PyAnyMethods::is_none) {
            *found = None;
        }
    }
    Ok(found)
}

/// `http.response.start`, or another head.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) status: u16,
    pub(super) fields: OwnFields,
    pub(super) has_trailers: bool,
}

impl Start {
    pub(super) fn of(given: &Given<'_, '_>) -> PyResult<Self> {
        let Some(status) = &given.status else {
            let py = given.message.py();
            return Err(alloc::value_error(py, "http.response.start has no status"));
        };
        Ok(Self {
            status: status.extract()?,
            fields: OwnFields::of(given.headers.as_ref())?,
            has_trailers: is_true(given.trailers.as_ref())?,
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
    as_bytes(name, value(message, name)?.as_ref())
}

fn as_bytes<'py>(
    name: &Bound<'py, PyString>,
    value: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = name.py();
    match value {
        None => alloc::bytes(py, b""),
        Some(value) if is_bytes(value) => Ok(value.cast::<PyBytes>()?.clone()),
        Some(value) => {
            let is_buffer = super::super::transport::stream_methods::may_be_written(value);
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
