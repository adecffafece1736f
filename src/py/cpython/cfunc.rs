//! Definition of C methods and parsing of their arguments, for methods that are too hot for pyo3's argument
//! handling.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use super::alloc;

/// Runs the body of a C method: errors become the pending exception, and so does a panic.
#[inline(always)]
pub(crate) fn raise(
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

/// What the interpreter gives a C method with the vectorcall convention: arguments, how many by position, names.
pub(crate) type Vectorcall = (*const *mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject);

/// The one argument of a method that takes `data`.
///
/// # Errors
/// `TypeError`, in the words of a Python function of the object's class.
///
/// # Safety
/// As the vectorcall convention says; `slf` is alive.
#[inline(always)]
pub(crate) unsafe fn data_argument(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    given: Vectorcall,
    method: &str,
) -> PyResult<*mut ffi::PyObject> {
    let (args, count, kwnames) = given;
    if count == 1 && kwnames.is_null() {
        // SAFETY: there is one.
        return Ok(unsafe { *args });
    }
    // SAFETY: by our caller's word.
    unsafe {
        let object = Bound::from_borrowed_ptr(py, slf);
        Arguments::new(args, count, kwnames).named(&object, method, ["data"], 1).map(|[data]| data)
    }
}

/// The definition of a C method without arguments.
pub(crate) const fn method_def(
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
pub(crate) const fn fast_def(
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
pub(crate) struct Arguments<'a> {
    pub(crate) positional: &'a [*mut ffi::PyObject],
    /// Where the keywords' values begin.
    pub(crate) values: *const *mut ffi::PyObject,
    pub(crate) kwnames: *mut ffi::PyObject,
}

impl Arguments<'_> {
    /// # Safety
    /// As the vectorcall convention says.
    #[inline(always)]
    pub(crate) unsafe fn new(
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
    pub(crate) fn keywords<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
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
    pub(crate) fn named<const N: usize>(
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
}

/// Adds C methods to a class, as its own.
pub(crate) fn add_methods(
    class: &Bound<'_, PyType>,
    definitions: Vec<ffi::PyMethodDef>,
) -> PyResult<()> {
    // The interpreter keeps pointers to method definitions for ever.
    for definition in definitions.leak() {
        // SAFETY: the definition is static, and the type is live.
        unsafe {
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            let descriptor = Bound::from_owned_ptr_or_err(class.py(), descriptor)?;
            let name = CStr::from_ptr(definition.ml_name);
            class.setattr(name.to_str().unwrap_or_default(), descriptor)?;
        }
    }
    Ok(())
}
