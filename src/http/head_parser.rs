//! Finds the head of a request in what has come, and makes one block of it.
//!
//! `httparse` tells tokens from what is none. That each line is as RFC 9112 has it, and not merely understood, is
//! seen here: it would take a bare LF as the end of a line.

use std::mem::MaybeUninit;
use std::ptr;

use httparse::{Error, Header, Status};

use super::facts::Facts;
use super::head::{FieldSpan, Fields, RequestHead, Span, Version};
use super::refusal::Refusal;
use super::settings::{MAX_FIELDS, Settings};
use super::target;
use crate::sys::search::find;

/// What was found out about bytes that are not all there, so that it is not done again. A head that comes in small
/// pieces costs no more than one in large pieces.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// In so many bytes there is no end.
    searched: usize,
    /// The request line is there, and is one.
    has_line: bool,
}

/// What the bytes are.
#[derive(Debug)]
pub(super) enum Parsed<T> {
    /// What was looked for, and its length in bytes.
    Complete(T, usize),
    /// A part of it.
    Incomplete,
    /// Something else.
    Refused(Refusal),
}

/// Looks for a head at the beginning of `bytes`, which do not begin with an empty line.
///
/// The request line is judged when it is complete, the rest when all of it is there or may not become longer: so the
/// answer does not depend on the pieces in which it comes.
pub(super) fn parse(bytes: &[u8], settings: &Settings, search: &mut Search) -> Parsed<RequestHead> {
    let limit = settings.head_limit();
    let window = &bytes[..bytes.len().min(limit)];
    let is_full = window.len() == limit;
    // Mostly all of it is there.
    if search.searched == 0
        && let Some(Ok(found)) = try_parse(window, settings)
    {
        return found;
    }
    if !search.has_line {
        let Some(at) = find(&window[search.searched..], b"\n") else {
            search.searched = window.len();
            return if is_full {
                Parsed::Refused(Refusal::TargetTooLong)
            } else {
                Parsed::Incomplete
            };
        };
        let end = search.searched + at + 1;
        if let Err(refusal) = judge_line(&window[..end]) {
            return Parsed::Refused(refusal);
        }
        search.has_line = true;
        search.searched = end;
    }
    match find_end(window, &mut search.searched) {
        Some(end) => match try_parse(&window[..end], settings) {
            Some(Ok(found)) => found,
            Some(Err(error)) => Parsed::Refused(refusal(error)),
            None => Parsed::Refused(Refusal::Malformed("the header section")),
        },
        None if is_full => Parsed::Refused(Refusal::HeadTooLarge),
        None => Parsed::Incomplete,
    }
}

/// Looks for a trailer section.
pub(super) fn parse_trailers(
    bytes: &[u8],
    settings: &Settings,
    searched: &mut usize,
) -> Parsed<Option<Fields>> {
    if bytes.starts_with(b"\r\n") {
        return Parsed::Complete(None, 2);
    }
    let limit = settings.head_limit();
    let window = &bytes[..bytes.len().min(limit)];
    let Some(end) = find_end(window, searched) else {
        return if window.len() == limit {
            Parsed::Refused(Refusal::HeadTooLarge)
        } else {
            Parsed::Incomplete
        };
    };
    let text = &window[..end];
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let room = &mut storage[..settings.max_fields.min(MAX_FIELDS)];
    let parsed = match httparse::parse_headers(text, room) {
        Ok(Status::Complete((_, headers))) => block(text, 0, headers, |name, _| {
            // What says how the message is read comes too late here (RFC 9110, 6.5.1).
            match name {
                b"content-length" | b"transfer-encoding" | b"host" | b"trailer" => {
                    Err(Refusal::Malformed("a trailer field that is none"))
                }
                _ => Ok(()),
            }
        }),
        Ok(Status::Partial) => Err(Refusal::Malformed("the trailer section")),
        Err(error) => Err(refusal(error)),
    };
    match parsed {
        Ok(fields) => Parsed::Complete(Some(fields), end),
        Err(refusal) => Parsed::Refused(refusal),
    }
}

/// The end of a section: behind the first empty line, however its lines end. The first line is not empty, unless it
/// is all that there is.
fn find_end(bytes: &[u8], searched: &mut usize) -> Option<usize> {
    while let Some(at) = find(&bytes[*searched..], b"\n") {
        let line = *searched + at;
        *searched = line + 1;
        if matches!(bytes[..line], [] | [b'\r'] | [.., b'\n'] | [.., b'\n', b'\r']) {
            return Some(line + 1);
        }
    }
    *searched = bytes.len();
    None
}

/// Parses a head that may be complete: `None` if it is not.
#[inline]
fn try_parse(bytes: &[u8], settings: &Settings) -> Option<Result<Parsed<RequestHead>, Error>> {
    let mut storage = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let room = &mut storage[..settings.max_fields.min(MAX_FIELDS)];
    let mut request = httparse::Request::new(&mut []);
    let end = match request.parse_with_uninit_headers(bytes, room) {
        Ok(Status::Complete(end)) => end,
        Ok(Status::Partial) => return None,
        Err(error) => return Some(Err(error)),
    };
    Some(Ok(match head(&bytes[..end], &request, settings) {
        Ok(head) => Parsed::Complete(head, end),
        Err(refusal) => Parsed::Refused(refusal),
    }))
}

/// Makes a head of what `httparse` has understood.
fn head(
    text: &[u8],
    request: &httparse::Request<'_, '_>,
    settings: &Settings,
) -> Result<RequestHead, Refusal> {
    let line = Line::check(text, request)?;
    let mut facts = Facts::default();
    let fields = block(text, line.end, request.headers, |name, value| facts.note(name, value))?;
    let meaning = facts.meaning(line.version, &text[..line.method_end], settings.websocket)?;
    let shift = |at: u32| line.target.start + at;
    Ok(RequestHead {
        fields,
        method_end: Span::new(0, line.method_end).end,
        target: line.target,
        path: Span { start: shift(line.path.start), end: shift(line.path.end) },
        version: line.version,
        body: meaning.body,
        keep_alive: meaning.keep_alive,
        expects_continue: meaning.expects_continue,
        is_websocket: meaning.is_websocket,
    })
}

/// A request line.
struct Line {
    method_end: usize,
    target: Span,
    /// Within the target.
    path: Span,
    version: Version,
    /// Behind its CRLF.
    end: usize,
}

impl Line {
    /// Sees that the text begins with what was understood: one space between the parts, CRLF at the end.
    fn check(text: &[u8], request: &httparse::Request<'_, '_>) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed("the request line");
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(malformed);
        };
        let (version, suffix) = match minor {
            0 => (Version::Http10, b" HTTP/1.0\r\n"),
            1 => (Version::Http11, b" HTTP/1.1\r\n"),
            _ => return Err(Refusal::UnsupportedVersion),
        };
        let (method_end, target_end) = (method.len(), method.len() + 1 + target.len());
        let end = target_end + suffix.len();
        let is_exact = text.starts_with(method.as_bytes())
            && text.get(method_end) == Some(&b' ')
            && text.get(target_end..end) == Some(suffix);
        if !is_exact || !method.bytes().all(is_token) {
            return Err(malformed);
        }
        let path = target::path(method.as_bytes(), target.as_bytes())?;
        Ok(Self { method_end, target: Span::new(method_end + 1, target_end), path, version, end })
    }
}

/// Judges a request line of which the end is there, and nothing behind it.
fn judge_line(line: &[u8]) -> Result<(), Refusal> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse(line) {
        Ok(_) => Line::check(line, &request).map(|_| ()),
        Err(Error::Version) if has_other_version(line) => Err(Refusal::UnsupportedVersion),
        Err(error) => Err(refusal(error)),
    }
}

/// Whether a line ends with a version, and it is not ours.
fn has_other_version(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let version = line.len().checked_sub(9).map(|start| &line[start..]);
    matches!(version, Some([b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit() && !matches!((major, minor), (b'1', b'0' | b'1')))
}

/// Copies a section, and sees that each of its lines is a name, a colon, a value and CRLF: no folded value, no
/// space before the colon, no bare CR or LF. The names become lower case. `note` is called for each field.
#[inline]
fn block(
    text: &[u8],
    start: usize,
    headers: &[Header<'_>],
    mut note: impl FnMut(&[u8], &[u8]) -> Result<(), Refusal>,
) -> Result<Fields, Refusal> {
    let malformed = Refusal::Malformed("a line of the header section");
    let mut copy: Box<[u8]> = text.into();
    let mut spans = Vec::with_capacity(headers.len());
    let mut at = start;
    let skip = |mut at: usize| {
        while matches!(text.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        at
    };
    for header in headers {
        let name_end = at + header.name.len();
        if header.name.is_empty() || text.get(name_end) != Some(&b':') {
            return Err(malformed);
        }
        let name = &mut copy[at..name_end];
        name.make_ascii_lowercase();
        let value = skip(name_end + 1);
        let value_end = value + header.value.len();
        let line_end = skip(value_end);
        let is_there = header.value.is_empty()
            || text.get(value).is_some_and(|byte| ptr::eq(byte, header.value.as_ptr()));
        if !is_there || text.get(line_end..line_end + 2) != Some(b"\r\n") {
            return Err(malformed);
        }
        note(name, header.value)?;
        spans.push(FieldSpan { name: Span::new(at, name_end), value: Span::new(value, value_end) });
        at = line_end + 2;
    }
    if &text[at..] != b"\r\n" {
        return Err(malformed);
    }
    Ok(Fields { text: copy, spans: spans.into_boxed_slice() })
}

fn refusal(error: Error) -> Refusal {
    match error {
        Error::TooManyHeaders => Refusal::HeadTooLarge,
        Error::HeaderName => Refusal::Malformed("the name of a field"),
        Error::HeaderValue => Refusal::Malformed("the value of a field"),
        Error::NewLine => Refusal::Malformed("the end of a line"),
        Error::Status | Error::Token | Error::Version => Refusal::Malformed("the request line"),
    }
}

/// A byte of a token (RFC 9110, 5.6.2).
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = target::byte_table(b"!#$%&'*+-.^_`|~");
