//! What a request says before its body: one block of text, and where in it everything is.

use std::fmt;

/// A part of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// Places in a head, which is far below 4 GiB (`Settings::head_limit`).
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Self {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: place(start), end: place(end) }
    }

    #[inline]
    fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// A name, and the value without white space around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldSpan {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// The fields of a header or trailer section, in the order in which they came.
#[derive(Clone)]
pub struct Fields {
    /// The section as it came, but for the names, which are in lower case.
    pub(super) text: Box<[u8]>,
    pub(super) spans: Box<[FieldSpan]>,
}

impl Fields {
    /// Each field's name, in lower case, and its value. A name may come more than once.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|span| (span.name.of(&self.text), span.value.of(&self.text)))
    }

    /// The value of the first field of this name, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.0 == name.as_bytes()).map(|field| field.1)
    }

    /// The values of all fields of this name, which is in lower case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |field| field.0 == name.as_bytes()).map(|field| field.1)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        f.debug_list().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

/// The version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What is known of a body's length before it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// So many bytes, and more than none.
    Bytes(u64),
    /// Its end says itself (`Transfer-Encoding: chunked`).
    Chunked,
}

/// A request but for its body. It owns its memory, and may go to any thread.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub(super) fields: Fields,
    /// The method ends here; it begins the text.
    pub(super) method_end: u32,
    pub(super) target: Span,
    /// Without a scheme and an authority before it, and without the query behind it.
    pub(super) path: Span,
    pub(super) version: Version,
    pub(super) body: BodyLength,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) is_websocket: bool,
}

impl RequestHead {
    /// The method, as it came: methods are told apart by case.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        &self.fields.text[..self.method_end as usize]
    }

    /// The target, as it came.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        self.target.of(&self.fields.text)
    }

    /// The path of the target, still percent-encoded: `/` if it has none, `*` for `OPTIONS *`.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let path = self.path.of(&self.fields.text);
        if path.is_empty() { b"/" } else { path }
    }

    /// What is behind the first `?` of the target; nothing if there is none.
    #[must_use]
    pub fn query(&self) -> &[u8] {
        let rest = Span { start: self.path.end, end: self.target.end }.of(&self.fields.text);
        rest.get(1..).unwrap_or_default()
    }

    /// The authority of a target that is a whole URL, which takes the place of `Host` (RFC 9112, 3.2.2).
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        let before = Span { start: self.target.start, end: self.path.start }.of(&self.fields.text);
        let scheme = before.iter().position(|byte| *byte == b':')?;
        before.get(scheme + 3..)
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The header fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// What is known of the body.
    #[must_use]
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// Whether the client would like to send further requests on the connection.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether this is a valid request for a WebSocket: accept it or answer it.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.is_websocket
    }

    /// Whether the request asks for nothing to be changed (RFC 9110, 9.2.1).
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(self.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &String::from_utf8_lossy(self.method()))
            .field("target", &String::from_utf8_lossy(self.target()))
            .field("version", &self.version)
            .field("fields", &self.fields)
            .field("body", &self.body)
            .field("keep_alive", &self.keep_alive)
            .field("is_websocket", &self.is_websocket)
            .finish_non_exhaustive()
    }
}
