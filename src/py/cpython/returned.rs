//! Return values of native methods, converted so that a failed allocation raises `MemoryError`: pyo3's own
//! conversions of numbers, text, tuples and vectors panic.

use std::convert::Infallible;

use pyo3::prelude::*;

use super::alloc;

/// What a method returns.
pub(crate) struct Returned<T>(pub(crate) T);

/// What becomes an object, or an error.
pub(crate) trait Becomes {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>>;
}

impl<'py, T: Becomes> IntoPyObject<'py> for Returned<T> {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        self.0.made(py)
    }
}

macro_rules! becomes_an_int {
    ($($number:ty)*) => {
        $(impl Becomes for $number {
            fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
                Ok(alloc::int(py, self)?.into_any())
            }
        })*
    };
}
becomes_an_int!(i32 i64 u64 usize);

impl Becomes for f64 {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(alloc::float(py, self)?.into_any())
    }
}

impl Becomes for bool {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let Ok(made): Result<_, Infallible> = self.into_pyobject(py);
        Ok(made.to_owned().into_any())
    }
}

impl Becomes for &str {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(alloc::text(py, self)?.into_any())
    }
}

impl Becomes for String {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        self.as_str().made(py)
    }
}

impl<T> Becomes for Py<T> {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(self.into_any().into_bound(py))
    }
}

impl<T> Becomes for Bound<'_, T> {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        self.into_any().unbind().made(py)
    }
}

impl<T: Becomes> Becomes for Option<T> {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        self.map_or_else(|| Ok(py.None().into_bound(py)), |value| value.made(py))
    }
}

impl<T: Becomes> Becomes for Vec<T> {
    fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let made = self.into_iter().map(|one| one.made(py)).collect::<PyResult<Vec<_>>>()?;
        Ok(alloc::list(py, &made)?.into_any())
    }
}

macro_rules! becomes_a_tuple {
    ($($name:ident)*) => {
        #[allow(non_snake_case, reason = "each is named as its type")]
        impl<$($name: Becomes),*> Becomes for ($($name,)*) {
            fn made(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
                let ($($name,)*) = self;
                Ok(alloc::tuple(py, [$($name.made(py)?),*])?.into_any())
            }
        }
    };
}
becomes_a_tuple!(A B);
becomes_a_tuple!(A B C);
becomes_a_tuple!(A B C D);
