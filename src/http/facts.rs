//! What the fields of a head mean for the connection: where the body ends, and what comes after it.
//!
//! RFC 9112, 6 and 9; RFC 9110, 7.2, 7.6.1, 7.8 and 10.1.1. What two readers could understand in two ways is refused.

use super::head::{BodyLength, Version};
use super::refusal::Refusal;
use super::target;

/// What the fields have said so far.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Facts {
    has_host: bool,
    length: Option<u64>,
    codings: Codings,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    websocket: bool,
    expects_continue: bool,
    unknown_expectation: bool,
}

/// What `Transfer-Encoding` lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// `chunked` alone.
    Chunked,
    /// Others, and not `chunked` at their end.
    Others,
    /// Others, and `chunked` at their end.
    OthersChunked,
}

/// What a head means for the connection.
#[derive(Debug)]
pub(super) struct Meaning {
    pub(super) body: BodyLength,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    /// A WebSocket is asked for.
    pub(super) is_websocket: bool,
}

impl Facts {
    /// Takes the next field, the name in lower case.
    ///
    /// # Errors
    /// The value is not one of this field, or the field must not be repeated.
    #[inline]
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match (name.len(), name) {
            (4, b"host") => {
                if std::mem::replace(&mut self.has_host, true) {
                    return Err(Refusal::Malformed("Host more than once"));
                }
                if !target::is_host(value) {
                    return Err(Refusal::Malformed("Host"));
                }
            }
            (6, b"expect") => {
                for member in members(value).filter(|member| !member.is_empty()) {
                    let is_known = member.eq_ignore_ascii_case(b"100-continue");
                    self.expects_continue |= is_known;
                    self.unknown_expectation |= !is_known;
                }
            }
            (7, b"upgrade") => {
                self.websocket |= members(value).any(|it| it.eq_ignore_ascii_case(b"websocket"));
            }
            (10, b"connection") => {
                for option in members(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            (14, b"content-length") => {
                let length = length(value).ok_or(Refusal::Malformed("Content-Length"))?;
                if self.length.replace(length).is_some() {
                    return Err(Refusal::Malformed("Content-Length more than once"));
                }
            }
            (17, b"transfer-encoding") => self.note_codings(value)?,
            _ => {}
        }
        Ok(())
    }

    /// The codings are applied in the order of the list, and `chunked` is the last and comes once.
    fn note_codings(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for coding in members(value) {
            if coding.is_empty() {
                return Err(Refusal::Malformed("Transfer-Encoding"));
            }
            self.codings = match (self.codings, coding.eq_ignore_ascii_case(b"chunked")) {
                (Codings::None, true) => Codings::Chunked,
                (Codings::None | Codings::Others, false) => Codings::Others,
                (Codings::Others, true) => Codings::OthersChunked,
                (Codings::Chunked | Codings::OthersChunked, _) => {
                    return Err(Refusal::Malformed("chunked is not the last coding"));
                }
            };
        }
        Ok(())
    }

    /// What all fields together mean.
    ///
    /// # Errors
    /// The fields contradict each other or the version, or ask for what the server does not do.
    pub(super) fn meaning(
        &self,
        version: Version,
        method: &[u8],
        takes_websockets: bool,
    ) -> Result<Meaning, Refusal> {
        let is_11 = version == Version::Http11;
        if is_11 && !self.has_host {
            return Err(Refusal::Malformed("no Host"));
        }
        let body = match (self.codings, self.length) {
            (Codings::None, None | Some(0)) => BodyLength::None,
            (Codings::None, Some(length)) => BodyLength::Bytes(length),
            (_, Some(_)) => {
                return Err(Refusal::Malformed("Transfer-Encoding beside Content-Length"));
            }
            (_, None) if !is_11 => {
                return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
            }
            (Codings::Chunked, None) => BodyLength::Chunked,
            (Codings::Others, None) => {
                return Err(Refusal::Malformed("chunked is not the last coding"));
            }
            (Codings::OthersChunked, None) => {
                return Err(Refusal::NotImplemented("a transfer coding"));
            }
        };
        if is_11 && self.unknown_expectation {
            return Err(Refusal::UnknownExpectation);
        }
        let is_websocket = is_11 && takes_websockets && self.websocket && self.upgrade;
        if is_websocket && (method != b"GET" || body != BodyLength::None) {
            return Err(Refusal::Malformed("a WebSocket begins with a GET without a body"));
        }
        Ok(Meaning {
            body,
            keep_alive: !self.close && (is_11 || self.keep_alive),
            expects_continue: is_11 && self.expects_continue && body != BodyLength::None,
            is_websocket,
        })
    }
}

/// The members of a list, which commas separate. None of our lists has commas in quotes.
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits alone, and no more than fit.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}
