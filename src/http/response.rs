//! Writes responses: the head, and the body as the request and the status allow it (RFC 9112, 6; RFC 9110, 8.6
//! and 15).

use std::fmt;

use super::facts::{self, members};
use super::head::Version;
use super::head_parser::is_token;
use super::settings::Settings;

/// Why a program's response, or a part of it, is not sent. Nothing of the part has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// The request is answered already, or its connection is gone.
    Gone,
    /// The parts come in another order than: interim responses, head, body, trailers.
    Order,
    /// No status of a final response; or, for an interim one, none of those but 101.
    Status,
    /// A name that is no token, or a value with CR, LF or another control character.
    Field,
    /// `Content-Length` is no length or comes twice; or `Transfer-Encoding` is not `chunked`.
    Framing,
    /// There is more body than `Content-Length` says.
    TooLong,
    /// There is less body than `Content-Length` says.
    TooShort,
    /// The client has not offered this subprotocol, or asked for no WebSocket.
    Subprotocol,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the request is answered, or its connection is closed",
            Self::Order => "a part of the response comes out of order",
            Self::Status => "this is no status of such a response",
            Self::Field => "a header field has a byte that none may have",
            Self::Framing => "Content-Length or Transfer-Encoding is not valid",
            Self::TooLong => "the response is longer than its Content-Length",
            Self::TooShort => "the response is shorter than its Content-Length",
            Self::Subprotocol => "the client has not asked for this",
        })
    }
}

impl std::error::Error for ResponseError {}

/// What is known of a response's body when its head is written.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// It is this.
    Whole(&'a [u8]),
    /// It comes in parts that are so many bytes together. A `Content-Length` says the same, or it is refused.
    Sized(u64),
    /// It comes in parts. Without a `Content-Length` it is chunked; for a client of HTTP/1.0 the end of the
    /// connection is its end.
    Stream,
}

/// What a request wants of its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub(super) version: Version,
    /// The method is `HEAD`.
    pub(super) is_head: bool,
    /// No other request runs beside it: it may change something, or has a body.
    pub(super) is_alone: bool,
    pub(super) keep_alive: bool,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    UntilClose,
    /// There is none, whatever the program sends.
    Nothing,
}

/// What a head has settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) framing: Framing,
    /// The connection ends with the response.
    pub(super) close: bool,
}

/// Appends a head. `length`: bytes of the body, if they are known.
///
/// # Errors
/// `to` may then have a part of it.
pub(super) fn write_head<'a>(
    demand: Demand,
    status: u16,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    length: Option<u64>,
    settings: &Settings,
    date: &[u8],
    to: &mut Vec<u8>,
) -> Result<Begun, ResponseError> {
    if !(200..=999).contains(&status) {
        return Err(ResponseError::Status);
    }
    write_status(status, to);
    let has_no_body = matches!(status, 204 | 304);
    let (mut has_date, mut has_server) = (!settings.date, settings.server.is_none());
    let (mut given, mut is_chunked, mut close) = (None, false, !demand.keep_alive);
    for (name, value) in fields {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"date") => has_date = true,
            6 if name.eq_ignore_ascii_case(b"server") => has_server = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                // Ours says what is true; what else is named in it stays.
                let is_close = |member: &[u8]| member.eq_ignore_ascii_case(b"close");
                let is_keep = |member: &[u8]| member.eq_ignore_ascii_case(b"keep-alive");
                close |= members(value).any(is_close);
                if members(value).all(|member| is_close(member) || is_keep(member)) {
                    continue;
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = facts::length(value).ok_or(ResponseError::Framing)?;
                if given.replace(length).is_some() {
                    return Err(ResponseError::Framing);
                }
                continue;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(ResponseError::Framing);
                }
                is_chunked = true;
                continue;
            }
            _ => {}
        }
        write_field(name, value, to)?;
    }
    if is_chunked {
        // A length may not stand beside it (RFC 9112, 6.2), and programs give both: the coding is what they mean, as
        // for h11.
        given = None;
    }
    if !has_date {
        to.extend_from_slice(b"date: ");
        to.extend_from_slice(date);
        to.extend_from_slice(b"\r\n");
    }
    if let (false, Some(server)) = (has_server, &settings.server) {
        write_field(b"server", server.as_bytes(), to)?;
    }

    let known = given.or(if is_chunked { None } else { length });
    let mut framing = match known {
        // A response without content may say how long it would have been; one of 204 may not.
        _ if status == 204 || status == 304 && given.is_none() => Framing::Nothing,
        _ if status == 205 => {
            to.extend_from_slice(b"content-length: 0\r\n");
            Framing::Nothing
        }
        Some(length) => {
            to.extend_from_slice(b"content-length: ");
            write_number(length, to);
            to.extend_from_slice(b"\r\n");
            Framing::Length(length)
        }
        None if demand.version == Version::Http11 => {
            to.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
        None => Framing::UntilClose,
    };
    if has_no_body || demand.is_head {
        framing = Framing::Nothing;
    }
    close |= framing == Framing::UntilClose;
    match (close, demand.version) {
        (true, _) => to.extend_from_slice(b"connection: close\r\n"),
        (false, Version::Http10) => to.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, Version::Http11) => {}
    }
    to.extend_from_slice(b"\r\n");
    Ok(Begun { framing, close })
}

/// Appends an interim response.
///
/// # Errors
/// `to` may then have a part of it.
pub(super) fn write_interim<'a>(
    status: u16,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    to: &mut Vec<u8>,
) -> Result<(), ResponseError> {
    if !(100..200).contains(&status) || status == 101 {
        return Err(ResponseError::Status);
    }
    write_status(status, to);
    write_fields(fields, to)
}

/// Appends a section of fields which say nothing of the connection, and its end.
pub(super) fn write_fields<'a>(
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    to: &mut Vec<u8>,
) -> Result<(), ResponseError> {
    for (name, value) in fields {
        let is_framing = [&b"content-length"[..], b"transfer-encoding", b"connection"]
            .iter()
            .any(|framing| name.eq_ignore_ascii_case(framing));
        if is_framing {
            return Err(ResponseError::Framing);
        }
        write_field(name, value, to)?;
    }
    to.extend_from_slice(b"\r\n");
    Ok(())
}

pub(super) fn write_field(
    name: &[u8],
    value: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), ResponseError> {
    let is_text = |byte: &u8| *byte >= b' ' && *byte != 0x7f || *byte == b'\t';
    if name.is_empty() || !name.iter().copied().all(is_token) || !value.iter().all(is_text) {
        return Err(ResponseError::Field);
    }
    to.reserve(name.len() + value.len() + 4);
    to.extend_from_slice(name);
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
    Ok(())
}

/// What begins a part of a body, apart from the bytes themselves.
pub(super) fn write_chunk_size(length: u64, to: &mut Vec<u8>) {
    let digits = (u64::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        to.push(b"0123456789abcdef"[(length >> (4 * digit) & 15) as usize]);
    }
    to.extend_from_slice(b"\r\n");
}

fn write_number(mut number: u64, to: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len() - 1;
    loop {
        digits[start] = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
        number /= 10;
        if number == 0 {
            return to.extend_from_slice(&digits[start..]);
        }
        start -= 1;
    }
}

fn write_status(status: u16, to: &mut Vec<u8>) {
    if status == 200 {
        return to.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    to.extend_from_slice(b"HTTP/1.1 ");
    write_number(status.into(), to);
    to.push(b' ');
    to.extend_from_slice(reason(status).as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// What IANA's register calls a status; nothing for one that it does not have.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a Teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}
