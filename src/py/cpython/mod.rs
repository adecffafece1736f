//! What CPython's C API requires, each unsafe technique once: references, slots, contexts, errors, C
//! methods.
//!
//! In: pointers and objects of the interpreter. Out: Rust values that keep its rules. Must never: know
//! asyncio, or wait for a lock while attached, except through `attach`.

pub(crate) mod address;
pub(crate) mod alloc;
pub(crate) mod attach;
pub(crate) mod bytes_builder;
pub(crate) mod cfunc;
pub(crate) mod closing;
pub(crate) mod context;
pub(crate) mod descriptor;
pub(crate) mod dict_watcher;
pub(crate) mod error;
pub(crate) mod gil;
pub(crate) mod holder;
pub(crate) mod names;
pub(crate) mod object;
pub(crate) mod payload;
pub(crate) mod returned;
pub(crate) mod slots;
