//! The arguments of the methods that schedule a callback: `call_soon` and similar.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::handle::Scheduled;
use super::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::Arguments;
use crate::py::cpython::context::copy_context;
use crate::py::cpython::object::{Ref, incref};

/// The value of `context`, if that is the only keyword.
#[inline(always)]
fn only_context(args: &Arguments<'_>) -> Option<*mut ffi::PyObject> {
    // SAFETY: `kwnames` is a tuple of strings, its values follow the positional arguments.
    unsafe { if state().keywords.is_context(args.kwnames) { Some(*args.values) } else { None } }
}

/// `N` required arguments, the rest, and the context, of a call that schedules a callback.
pub(crate) struct Parsed<'a, const N: usize> {
    pub(crate) required: [*mut ffi::PyObject; N],
    pub(crate) rest: &'a [*mut ffi::PyObject],
    pub(crate) context: Option<*mut ffi::PyObject>,
}

impl<'a, const N: usize> Parsed<'a, N> {
    #[inline(always)]
    pub(crate) fn new(
        py: Python<'_>,
        method: &str,
        names: [&str; N],
        args: &Arguments<'a>,
    ) -> PyResult<Self> {
        if let Some((required, rest)) = args.positional.split_first_chunk::<N>() {
            if args.kwnames.is_null() {
                return Ok(Self { required: *required, rest, context: None });
            }
            if let Some(context) = only_context(args) {
                return Ok(Self { required: *required, rest, context: Some(context) });
            }
        }
        Self::with_keywords(py, method, names, args)
    }

    /// The seldom forms: required arguments by keyword, a missing or an unknown one.
    #[cold]
    fn with_keywords(
        py: Python<'_>,
        method: &str,
        names: [&str; N],
        args: &Arguments<'a>,
    ) -> PyResult<Self> {
        let mut required = [ptr::null_mut(); N];
        let given = args.positional.len().min(N);
        required[..given].copy_from_slice(&args.positional[..given]);
        let mut context = None;
        for (index, keyword) in args.keywords(py).iter().enumerate() {
            // SAFETY: the values of the keywords follow the positional arguments.
            let value = unsafe { *args.values.add(index) };
            let keyword = keyword.cast_into::<PyString>()?;
            let keyword = keyword.to_string_lossy();
            if keyword == "context" {
                context = Some(value);
            } else if let Some(place) = names.iter().position(|name| *name == keyword) {
                if !required[place].is_null() {
                    return Err(alloc::type_error(
                        py,
                        format!("{method}() got multiple values for argument '{keyword}'"),
                    ));
                }
                required[place] = value;
            } else {
                return Err(alloc::type_error(
                    py,
                    format!("{method}() got an unexpected keyword argument '{keyword}'"),
                ));
            }
        }
        for (name, value) in names.iter().zip(&required) {
            if value.is_null() {
                return Err(alloc::type_error(
                    py,
                    format!("{method}() missing required argument: '{name}'"),
                ));
            }
        }
        Ok(Self { required, rest: args.positional.get(N..).unwrap_or(&[]), context })
    }

    /// The context that was given; `None`: none was.
    #[inline(always)]
    pub(crate) fn given_context(&self) -> Option<Ref> {
        match self.context {
            // SAFETY: attached, compared by identity.
            Some(context) if !std::ptr::eq(context, unsafe { ffi::Py_None() }) => {
                // SAFETY: an argument is alive during the call.
                Some(unsafe { Ref::from_borrowed(context) })
            }
            _ => None,
        }
    }

    /// The remaining arguments as a tuple.
    #[inline(always)]
    pub(crate) fn rest_tuple(&self, py: Python<'_>) -> PyResult<Ref> {
        if self.rest.is_empty() {
            return Ok(state().empty_tuple.clone_ref(py));
        }
        // SAFETY: the new tuple is ours until returned, and each item is a new reference.
        unsafe {
            let tuple = ffi::PyTuple_New(self.rest.len().cast_signed());
            let made = Ref::from_owned_or_err(py, tuple)?;
            for (index, item) in self.rest.iter().enumerate() {
                incref(*item);
                ffi::PyTuple_SET_ITEM(tuple, index.cast_signed(), *item);
            }
            Ok(made)
        }
    }

    /// What a handle is to run: in the context that was given, or in a copy of the current one, for which
    /// something else may stand (`handle::own_context`).
    #[inline(always)]
    pub(crate) fn scheduled(
        &self,
        py: Python<'_>,
        callback: *mut ffi::PyObject,
    ) -> PyResult<Scheduled> {
        let context = match self.given_context() {
            Some(context) => context,
            None => match state().context.as_ref().and_then(|facts| facts.empty_if_current(py)) {
                Some(empty) => empty,
                None => copy_context(py)?,
            },
        };
        self.scheduled_in(py, callback, context)
    }

    /// What a handle is to run in that context.
    #[inline(always)]
    pub(crate) fn scheduled_in(
        &self,
        py: Python<'_>,
        callback: *mut ffi::PyObject,
        context: Ref,
    ) -> PyResult<Scheduled> {
        Ok(Scheduled {
            // SAFETY: an argument is alive during the call.
            callback: unsafe { Ref::from_borrowed(callback) },
            args: self.rest_tuple(py)?,
            context,
        })
    }

    /// `context` as an object, for the handles' own constructors.
    pub(crate) fn context_object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self.context {
            // SAFETY: an argument is alive during the call.
            Some(context) => unsafe { Bound::from_borrowed_ptr(py, context) },
            None => py.None().into_bound(py),
        }
    }
}
