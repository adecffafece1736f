//! How C methods are defined and their arguments read, for the methods that are too hot for pyo3's
//! own argument handling.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::alloc;
use super::handle::Scheduled;
use super::io::copy_context;
use super::object::{Ref, incref};
use super::state::state;

/// Runs the body of a C method: errors become the pending exception, and so does a panic.
#[inline(always)]
pub(super) fn raise(
    body: impl FnOnce(Python<'_>) -> PyResult<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls C methods attached.
    let py = unsafe { Python::assume_attached() };
    let result = catch_unwind(AssertUnwindSafe(|| body(py))).unwrap_or_else(|_| {
        Err(alloc::runtime_error(
            py,
            "loop_pool: internal error (a panic; its message is on stderr)",
        ))
    });
    result.unwrap_or_else(|error| {
        // An error of pyo3's own is made only now, and its text with a panic if there is no memory.
        if catch_unwind(AssertUnwindSafe(|| error.restore(py))).is_err() {
            // SAFETY: the thread is attached.
            unsafe { ffi::PyErr_NoMemory() };
        }
        ptr::null_mut()
    })
}

/// The definition of a C method without arguments.
pub(super) const fn method_def(
    name: &'static CStr,
    function: ffi::PyCFunction,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: doc.as_ptr(),
    }
}

/// The definition of a C method with the vectorcall convention.
pub(super) const fn fast_def(
    name: &'static CStr,
    function: ffi::PyCFunctionFastWithKeywords,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

/// The arguments of a vectorcall.
pub(super) struct Arguments<'a> {
    pub(super) positional: &'a [*mut ffi::PyObject],
    /// Where the keywords' values begin.
    pub(super) values: *const *mut ffi::PyObject,
    pub(super) kwnames: *mut ffi::PyObject,
}

impl Arguments<'_> {
    /// # Safety
    /// As the vectorcall convention says.
    #[inline(always)]
    pub(super) unsafe fn new(
        args: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        kwnames: *mut ffi::PyObject,
    ) -> Self {
        let count = count.unsigned_abs();
        // SAFETY: the caller of a vectorcall passes that many arguments, and the keywords' values
        // after them; with neither the pointer may be null.
        let (positional, values) = unsafe {
            if args.is_null() {
                (&[][..], args)
            } else {
                (std::slice::from_raw_parts(args, count), args.add(count))
            }
        };
        Self { positional, values, kwnames }
    }

    /// The names of the keywords, strings all.
    pub(super) fn keywords<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        if self.kwnames.is_null() {
            return PyTuple::empty(py);
        }
        // SAFETY: `kwnames` is a tuple, alive during the call.
        unsafe { Bound::from_borrowed_ptr(py, self.kwnames).cast_into_unchecked() }
    }

    /// The arguments of a method that takes `names`, by position or by keyword; null for one that was
    /// not given. The first `required` have to be.
    ///
    /// # Errors
    /// `TypeError`, in the words of a Python function of the object's class.
    #[cold]
    pub(super) fn named<const N: usize>(
        &self,
        object: &Bound<'_, PyAny>,
        method: &str,
        names: [&str; N],
        required: usize,
    ) -> PyResult<[*mut ffi::PyObject; N]> {
        let py = object.py();
        let class = object.get_type().name()?;
        let error = |text: String| Err(alloc::type_error(py, format!("{class}.{method}() {text}")));
        let mut found = [ptr::null_mut(); N];
        let given = self.positional.len();
        if given > N {
            let (least, most, given) = (required + 1, N + 1, given + 1);
            let takes =
                if least == most { most.to_string() } else { format!("from {least} to {most}") };
            return error(format!("takes {takes} positional arguments but {given} were given"));
        }
        found[..given].copy_from_slice(self.positional);
        for (index, keyword) in self.keywords(py).iter().enumerate() {
            let keyword = keyword.cast_into::<PyString>()?;
            let keyword = keyword.to_string_lossy();
            let Some(place) = names.iter().position(|name| *name == keyword) else {
                return error(format!("got an unexpected keyword argument '{keyword}'"));
            };
            if !found[place].is_null() {
                return error(format!("got multiple values for argument '{keyword}'"));
            }
            // SAFETY: the values of the keywords follow the positional arguments.
            found[place] = unsafe { *self.values.add(index) };
        }
        for (name, value) in names.iter().zip(&found[..required]) {
            if value.is_null() {
                return error(format!("missing 1 required positional argument: '{name}'"));
            }
        }
        Ok(found)
    }

    /// The value of `context`, if that is the only keyword.
    #[inline(always)]
    fn only_context(&self) -> Option<*mut ffi::PyObject> {
        // SAFETY: `kwnames` is a tuple of strings, its values follow the positional arguments.
        unsafe {
            if std::ptr::eq(self.kwnames, state().context_kwnames.load(Relaxed))
                || self.is_context_by_name()
            {
                Some(*self.values)
            } else {
                None
            }
        }
    }

    /// # Safety
    /// `kwnames` is a tuple of strings.
    unsafe fn is_context_by_name(&self) -> bool {
        // SAFETY: handed on to our caller.
        unsafe {
            if ffi::PyTuple_GET_SIZE(self.kwnames) != 1 {
                return false;
            }
            let name = ffi::PyTuple_GET_ITEM(self.kwnames, 0);
            if std::ptr::eq(name, state().name_context.as_ptr()) {
                return true;
            }
            if ffi::PyUnicode_EqualToUTF8(name, c"context".as_ptr()) == 0 {
                return false;
            }
            // `_asyncio` passes one tuple for ever, whose string is not interned: know it again.
            let known = &state().context_kwnames;
            if known.compare_exchange(ptr::null_mut(), self.kwnames, Relaxed, Relaxed).is_ok() {
                ffi::Py_INCREF(self.kwnames);
            }
            true
        }
    }
}

/// `N` required arguments, the rest, and the context, of a call that schedules a callback.
pub(super) struct Parsed<'a, const N: usize> {
    pub(super) required: [*mut ffi::PyObject; N],
    pub(super) rest: &'a [*mut ffi::PyObject],
    pub(super) context: Option<*mut ffi::PyObject>,
}

impl<'a, const N: usize> Parsed<'a, N> {
    #[inline(always)]
    pub(super) fn new(
        py: Python<'_>,
        method: &str,
        names: [&str; N],
        args: &Arguments<'a>,
    ) -> PyResult<Self> {
        if let Some((required, rest)) = args.positional.split_first_chunk::<N>() {
            if args.kwnames.is_null() {
                return Ok(Self { required: *required, rest, context: None });
            }
            if let Some(context) = args.only_context() {
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

    /// The context given, or a copy of the current one.
    #[inline(always)]
    fn context(&self, py: Python<'_>) -> PyResult<Ref> {
        match self.context {
            // SAFETY: attached, compared by identity.
            Some(context) if !std::ptr::eq(context, unsafe { ffi::Py_None() }) => {
                // SAFETY: an argument is alive during the call.
                Ok(unsafe { Ref::from_borrowed(context) })
            }
            _ => copy_context(py),
        }
    }

    /// The remaining arguments as a tuple.
    #[inline(always)]
    pub(super) fn rest_tuple(&self, py: Python<'_>) -> PyResult<Ref> {
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

    #[inline(always)]
    pub(super) fn scheduled(
        &self,
        py: Python<'_>,
        callback: *mut ffi::PyObject,
    ) -> PyResult<Scheduled> {
        Ok(Scheduled {
            // SAFETY: an argument is alive during the call.
            callback: unsafe { Ref::from_borrowed(callback) },
            args: self.rest_tuple(py)?,
            context: self.context(py)?,
        })
    }

    /// `context` as an object, for the handles' own constructors.
    pub(super) fn context_object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self.context {
            // SAFETY: an argument is alive during the call.
            Some(context) => unsafe { Bound::from_borrowed_ptr(py, context) },
            None => py.None().into_bound(py),
        }
    }
}
