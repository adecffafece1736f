//! Why a request is answered without the program, and with which status.

use std::fmt;

/// Why a request does not reach the program, or why the rest of it does not. The connection ends with the
/// answer: what follows on it cannot be trusted, or is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: it is no request by RFC 9112; what is wrong is named.
    Malformed(&'static str),
    /// 408: it did not arrive in time.
    TimedOut,
    /// 413: its body is longer than [`Settings::max_body`](super::Settings::max_body).
    BodyTooLarge,
    /// 414: its first line alone is longer than [`Settings::max_head`](super::Settings::max_head).
    TargetTooLong,
    /// 417: it expects something else than `100-continue`.
    UnknownExpectation,
    /// 426: it asks for a WebSocket of another version than 13.
    WebSocketVersion,
    /// 431: its head is longer than [`Settings::max_head`](super::Settings::max_head), or has more fields than
    /// [`Settings::max_fields`](super::Settings::max_fields).
    HeadTooLarge,
    /// 500: the program has failed before it answered.
    ProgramFailed,
    /// 501: the server does not do what it asks for.
    NotImplemented(&'static str),
    /// 503: there are too many requests, or no loop to run them.
    Overloaded,
    /// 505: it is of another version than 1.0 and 1.1.
    UnsupportedVersion,
}

impl Refusal {
    /// The status that it is answered with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TimedOut => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::UnknownExpectation => 417,
            Self::WebSocketVersion => 426,
            Self::HeadTooLarge => 431,
            Self::ProgramFailed => 500,
            Self::NotImplemented(_) => 501,
            Self::Overloaded => 503,
            Self::UnsupportedVersion => 505,
        }
    }

    /// The text that it is answered with. It has nothing of the request in it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Malformed(_) => "Invalid HTTP request received.",
            Self::TimedOut => "Request Timeout",
            Self::BodyTooLarge => "Content Too Large",
            Self::TargetTooLong => "URI Too Long",
            Self::UnknownExpectation => "Expectation Failed",
            Self::WebSocketVersion => "Upgrade Required",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::ProgramFailed => "Internal Server Error",
            Self::NotImplemented(_) => "Not Implemented",
            Self::Overloaded => "Service Unavailable",
            Self::UnsupportedVersion => "HTTP Version Not Supported",
        }
    }

    /// The fields that belong to the status.
    pub(super) fn fields(self) -> &'static [(&'static [u8], &'static [u8])] {
        match self {
            Self::WebSocketVersion => {
                &[(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"), TEXT]
            }
            _ => &[TEXT],
        }
    }
}

const TEXT: (&[u8], &[u8]) = (b"content-type", b"text/plain; charset=utf-8");

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) | Self::NotImplemented(what) => {
                write!(f, "{} ({what})", self.status())
            }
            other => write!(f, "{} ({})", other.status(), other.text()),
        }
    }
}
