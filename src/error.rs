//! Errors of the layers below Python. `py` maps each variant to the exception that asyncio would raise.
//!
//! Must never: mention Python.

use std::{fmt, io};

/// An operation on a loop that could not be done.
#[derive(Debug)]
pub enum LoopError {
    /// The loop has been closed.
    Closed,
    /// Another thread, or an outer call on this one, is running the loop.
    Running,
    /// The kernel refused; the operation is named.
    Io(&'static str, io::Error),
}

impl fmt::Display for LoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Event loop is closed"),
            Self::Running => f.write_str("This event loop is already running"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for LoopError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Closed | Self::Running => None,
        }
    }
}

impl From<LoopError> for io::Error {
    fn from(error: LoopError) -> Self {
        match error {
            LoopError::Io(_, error) => error,
            closed => Self::other(closed),
        }
    }
}
