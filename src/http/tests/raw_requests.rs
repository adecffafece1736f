//! Requests and handshakes as bytes, one by one: what the standards say of each, and what is done.
//!
//! The last two columns are what the parsers say that uvicorn has: httptools 0.9.0 (llhttp) and h11 0.16.0; for
//! handshakes, `websockets` 17.4 and wsproto 1.3.2. We refuse what they take where two servers could understand it
//! in two ways.

use super::*;

/// What is done with a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expectation {
    /// It is one: its method, path and query (`-`: none), and the body that it has. Others may follow it.
    Keep(&'static str, Option<&'static str>),
    /// The same, and the connection ends with its response.
    Close(&'static str, Option<&'static str>),
    /// It is one for a WebSocket.
    Socket,
    /// It, or the rest of it, is answered with this status, and the connection ends.
    Refused(u16),
}

use Expectation::{Close, Keep, Refused, Socket};

/// Its name, the bytes, what is done, where that is written (the RFC's number and section), and what uvicorn's
/// parsers do.
type Case = (&'static str, &'static [u8], Expectation, &'static str, &'static str, &'static str);

#[rustfmt::skip]
pub(super) const REQUESTS: &[Case] = &[
    ("a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET / -", None), "9112 3", "takes", "takes"),
    ("a method of one's own", b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("BREW / -", None), "9110 9.1", "refuses", "takes"),
    ("a method in lower case", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("get / -", None), "9110 9.1", "refuses", "takes"),
    ("a method with every byte of a token", b"!#$%&'*+-.^_`|~aZ9 / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("!#$%&'*+-.^_`|~aZ9 / -", None), "9110 5.6.2", "refuses", "takes"),
    ("a method with a byte of no token", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.1", "refuses", "refuses"),
    ("a method with a colon", b"GET: / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.1", "refuses", "refuses"),
    ("no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3", "refuses", "refuses"),
    ("two spaces behind the method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3", "takes", "refuses"),
    ("a tab behind the method", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3", "refuses", "refuses"),
    ("two spaces behind the target", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3", "takes", "refuses"),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2", "refuses", "refuses"),
    ("a space behind the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refused(400), "9112 3", "refuses", "refuses"),
    ("white space before the request line", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("an empty line before the request", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET / -", None), "9112 2.2", "takes", "refuses"),
    ("two empty lines before the request", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET / -", None), "9112 2.2", "takes", "refuses"),
    ("a hundred empty lines before the request", b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.2", "takes", "refuses"),
    ("a bare LF before the request", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.2", "takes", "refuses"),
    ("a bare CR before the request", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.2", "takes", "refuses"),
    ("a request line that ends with LF", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("a request line that ends with CR", b"GET / HTTP/1.1\rHost: a\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("a CR in the target", b"GET /\ra HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("a NUL in the target", b"GET /\0a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2", "refuses", "refuses"),
    ("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", Close("GET / -", None), "9112 9.3", "takes", "takes"),
    ("HTTP/1.0 that is kept", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Keep("GET / -", None), "9112 9.3", "takes", "takes"),
    ("HTTP/0.9", b"GET /\r\n\r\n", Refused(400), "9112 3", "takes", "refuses"),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused(505), "9110 15.6.6", "takes", "takes"),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(505), "9110 15.6.6", "refuses", "takes"),
    ("HTTP/0.9 in full", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Refused(505), "9110 15.6.6", "takes", "takes"),
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused(505), "9113 3.4", "refuses", "takes"),
    ("a version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.3", "refuses", "refuses"),
    ("a version of two digits", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Refused(400), "9112 2.3", "refuses", "refuses"),
    ("another protocol", b"GET / HTTQ/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 2.3", "refuses", "refuses"),
    ("a version without a dot", b"GET / HTTP/11\r\nHost: a\r\n\r\n", Refused(400), "9112 2.3", "refuses", "refuses"),
    ("the beginning of TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", Refused(400), "9112 3", "refuses", "refuses"),
    ("a query", b"GET /a?b=c?d HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET /a b=c?d", None), "9112 3.2.1", "takes", "takes"),
    ("an empty query", b"GET /a? HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET /a -", None), "9112 3.2.1", "takes", "takes"),
    ("percent-encoding", b"GET /%41%zz HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET /%41%zz -", None), "9112 3.2.1", "takes", "takes"),
    ("two slashes", b"GET //a HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET //a -", None), "9112 3.2.1", "takes", "takes"),
    ("no slash", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2", "refuses", "takes"),
    ("a fragment", b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2", "takes", "takes"),
    ("a target that is not ASCII", b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2", "refuses", "refuses"),
    ("the absolute form", b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET /c d", None), "9112 3.2.2", "takes", "takes"),
    ("the absolute form without a path", b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET / -", None), "9112 3.2.2", "takes", "takes"),
    ("the absolute form with a query alone", b"GET http://b?c HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET / c", None), "9112 3.2.2", "takes", "takes"),
    ("the absolute form with a port", b"GET HTTPS://b:8/ HTTP/1.1\r\nHost: a\r\n\r\n", Keep("GET / -", None), "9112 3.2.2", "takes", "takes"),
    ("the absolute form without a host", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2.2", "takes", "takes"),
    ("the absolute form with a name and password", b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9110 4.2.4", "takes", "takes"),
    ("the absolute form of another scheme", b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2.2", "takes", "takes"),
    ("the authority form", b"GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2.3", "refuses", "takes"),
    ("CONNECT", b"CONNECT b:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(501), "9110 9.3.6", "upgrade", "takes"),
    ("the asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Keep("OPTIONS * -", None), "9112 3.2.4", "takes", "takes"),
    ("the asterisk form of another method", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2.4", "takes", "takes"),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", Refused(400), "9112 3.2", "takes", "refuses"),
    ("no Host in HTTP/1.0", b"GET / HTTP/1.0\r\nA: b\r\n\r\n", Close("GET / -", None), "9112 3.2", "takes", "takes"),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refused(400), "9112 3.2", "takes", "refuses"),
    ("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400), "9112 3.2", "takes", "refuses"),
    ("an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Keep("GET / -", None), "9112 3.2", "takes", "takes"),
    ("a Host with a port", b"GET / HTTP/1.1\r\nHost: a.example:8000\r\n\r\n", Keep("GET / -", None), "9110 7.2", "takes", "takes"),
    ("a Host with an empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Keep("GET / -", None), "9110 7.2", "takes", "takes"),
    ("a Host with a port that is none", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Refused(400), "9110 7.2", "takes", "takes"),
    ("a Host with two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Refused(400), "9110 7.2", "takes", "takes"),
    ("a Host that is an IPv6 address", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Keep("GET / -", None), "9110 7.2", "takes", "takes"),
    ("a Host with half a bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused(400), "9110 7.2", "takes", "takes"),
    ("a Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400), "9110 7.2", "takes", "takes"),
    ("a Host with a name and password", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refused(400), "9110 7.2", "takes", "takes"),
    ("a Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400), "9110 7.2", "takes", "takes"),
    ("a list of Hosts", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Keep("GET / -", None), "3986 3.2.2", "takes", "takes"),
    ("white space around a value", b"GET / HTTP/1.1\r\nHost: a\r\nA: \t b \t \r\n\r\n", Keep("GET / -", None), "9112 5.1", "takes", "takes"),
    ("no white space before a value", b"GET / HTTP/1.1\r\nHost: a\r\nA:b\r\n\r\n", Keep("GET / -", None), "9112 5.1", "takes", "takes"),
    ("an empty value", b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\n\r\n", Keep("GET / -", None), "9112 5.1", "takes", "takes"),
    ("a value of other bytes than ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nA: \xe4\xff\r\n\r\n", Keep("GET / -", None), "9110 5.5", "takes", "takes"),
    ("a space before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", Refused(400), "9112 5.1", "refuses", "refuses"),
    ("a tab before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nA\t: b\r\n\r\n", Refused(400), "9112 5.1", "refuses", "refuses"),
    ("a folded value", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", Refused(400), "9112 5.2", "refuses", "takes"),
    ("a folded value by a tab", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n", Refused(400), "9112 5.2", "refuses", "takes"),
    ("white space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("an empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refused(400), "9112 5", "refuses", "refuses"),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nAb\r\n\r\n", Refused(400), "9112 5", "refuses", "refuses"),
    ("a name with a byte of no token", b"GET / HTTP/1.1\r\nHost: a\r\nA(b: c\r\n\r\n", Refused(400), "9110 5.1", "refuses", "refuses"),
    ("a name that is not ASCII", b"GET / HTTP/1.1\r\nHost: a\r\n\xe4: b\r\n\r\n", Refused(400), "9110 5.1", "refuses", "refuses"),
    ("a name with a NUL", b"GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n", Refused(400), "9110 5.1", "refuses", "refuses"),
    ("a value with a NUL", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n", Refused(400), "9110 5.5", "refuses", "refuses"),
    ("a value with a control character", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x01c\r\n\r\n", Refused(400), "9110 5.5", "refuses", "takes"),
    ("a value with DEL", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x7fc\r\n\r\n", Refused(400), "9110 5.5", "refuses", "takes"),
    ("a value with a bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("a field that ends with LF", b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("a field that ends with CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("a section that ends with LF", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("lines that all end with LF", b"GET / HTTP/1.1\nHost: a\n\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("a field twice", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nA: c\r\n\r\n", Keep("GET / -", None), "9110 5.3", "takes", "takes"),
    ("a body of a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Keep("POST / -", Some("abc")), "9112 6.2", "takes", "takes"),
    ("a body of a GET", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Keep("GET / -", Some("abc")), "9110 9.3.1", "takes", "takes"),
    ("a body of no bytes", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Keep("POST / -", None), "9112 6.2", "takes", "takes"),
    ("zeros before a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc", Keep("POST / -", Some("abc")), "9110 8.6", "takes", "takes"),
    ("no length", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", Keep("POST / -", None), "9112 6.3", "takes", "takes"),
    ("a length twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", Refused(400), "9112 6.3", "refuses", "takes"),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a list of equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", Refused(400), "9112 6.3", "refuses", "takes"),
    ("a list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("an empty length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a length with a plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a negative length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a length in hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a length with a space in it", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a length with an underscore", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n0123456789", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a length that is too large for 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Refused(400), "9112 6.3", "refuses", "waits"),
    ("chunks", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Keep("POST / -", Some("abcde")), "9112 7.1", "takes", "takes"),
    ("no chunks", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Keep("POST / -", Some("")), "9112 7.1", "takes", "takes"),
    ("the coding in upper case", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n", Keep("POST / -", Some("a")), "9112 7", "takes", "takes"),
    ("a coding beside a length", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.3", "refuses", "takes"),
    ("a length beside a coding", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.3", "refuses", "takes"),
    ("a coding in HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.1", "takes", "takes"),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.1", "refuses", "refuses"),
    ("chunked in two fields", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.1", "refuses", "refuses"),
    ("chunked before another coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("chunked before another coding, in two fields", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("another coding alone", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Refused(400), "9112 7", "refuses", "refuses"),
    ("another coding before chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(501), "9112 6.1", "takes", "refuses"),
    ("a coding that only looks like chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("a coding in quotes", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.3", "refuses", "refuses"),
    ("chunked with a parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", Refused(400), "9112 7", "refuses", "refuses"),
    ("an empty coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.1", "refuses", "refuses"),
    ("a comma before the coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.1", "takes", "refuses"),
    ("a comma behind the coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", Refused(400), "9112 6.1", "refuses", "refuses"),
    ("a vertical tab before the coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused(400), "9110 5.5", "refuses", "refuses"),
    ("a coding with a space before its colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused(400), "9112 5.1", "refuses", "refuses"),
    ("a size in upper and lower case", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", Keep("POST / -", Some("01234567890123456789")), "9112 7.1", "takes", "takes"),
    ("zeros before a size", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n003\r\nabc\r\n000\r\n\r\n", Keep("POST / -", Some("abc")), "9112 7.1", "takes", "takes"),
    ("an extension", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n", Keep("POST / -", Some("abc")), "9112 7.1.1", "takes", "takes"),
    ("white space before an extension", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 ;a\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1.1", "refuses", "refuses"),
    ("white space behind a size", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "takes"),
    ("white space before a size", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("an empty size", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a size with a prefix", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a negative size", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a size with a plus", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a size with an underscore", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\n0123456789abcdef\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a size of 17 digits", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "waits"),
    ("sizes that are too large together", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nffffffffffffffff\r\nabc", Refused(413), "9112 7.1", "waits", "waits"),
    ("a size that ends with LF", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("an extension with a bare CR", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("an extension with a bare LF", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("a chunk that is longer than its size", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a chunk that ends with LF", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", Refused(400), "9112 2.2", "refuses", "refuses"),
    ("a chunk that ends with nothing", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n", Refused(400), "9112 7.1", "refuses", "refuses"),
    ("a trailer section", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n", Keep("POST / -", Some("a")), "9112 7.1.2", "takes", "takes"),
    ("a trailer section that ends with LF", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("an end that is LF", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n", Refused(400), "9112 2.2", "refuses", "takes"),
    ("a folded trailer", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", Refused(400), "9112 5.2", "refuses", "takes"),
    ("a trailer with a space before its colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n", Refused(400), "9112 5.1", "refuses", "refuses"),
    ("a trailer without a colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nabc\r\n\r\n", Refused(400), "9112 5", "refuses", "refuses"),
    ("a length among the trailers", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", Refused(400), "9110 6.5.1", "refuses", "takes"),
    ("a coding among the trailers", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", Refused(400), "9110 6.5.1", "refuses", "takes"),
    ("a Host among the trailers", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n", Refused(400), "9110 6.5.1", "takes", "takes"),
    ("Connection: close", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", Close("GET / -", None), "9112 9.6", "takes", "takes"),
    ("close among others, in upper case", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a, CLOSE\r\n\r\n", Close("GET / -", None), "9112 9.6", "takes", "takes"),
    ("close and keep-alive", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", Close("GET / -", None), "9112 9.3", "takes", "takes"),
    ("an option that only looks like close", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", Keep("GET / -", None), "9112 9.6", "takes", "takes"),
    ("HTTP/1.0 with close and keep-alive", b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", Close("GET / -", None), "9112 9.3", "takes", "takes"),
    ("an expectation", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na", Keep("POST / -", Some("a")), "9110 10.1.1", "takes", "takes"),
    ("an expectation without a body", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", Keep("POST / -", None), "9110 10.1.1", "takes", "takes"),
    ("an expectation in upper case", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-CONTINUE\r\nContent-Length: 1\r\n\r\na", Keep("POST / -", Some("a")), "9110 10.1.1", "takes", "takes"),
    ("another expectation", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\na", Refused(417), "9110 10.1.1", "takes", "takes"),
    ("another expectation in HTTP/1.0", b"POST / HTTP/1.0\r\nExpect: a\r\nContent-Length: 1\r\n\r\na", Close("POST / -", Some("a")), "9110 10.1.1", "takes", "takes"),
    ("an upgrade to what is not there", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", Keep("GET / -", None), "9110 7.8", "upgrade", "takes"),
];

#[rustfmt::skip]
pub(super) const HANDSHAKES: &[Case] = &[
    ("a handshake", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Socket, "6455 4.2.1", "takes", "takes"),
    ("a handshake in other letters", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Socket, "6455 4.2.1", "takes", "takes"),
    ("a handshake in HTTP/1.0", b"GET /ws HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Close("GET /ws -", None), "9110 7.8", "refuses", "takes"),
    ("a handshake that is a POST", b"POST /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.1", "refuses", "refuses"),
    ("a handshake with a body", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nContent-Length: 3\r\n\r\n", Refused(400), "6455 4.1", "refuses", "takes"),
    ("a handshake without Connection", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Keep("GET /ws -", None), "9110 7.8", "refuses", "refuses"),
    ("a handshake without Upgrade", b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Keep("GET /ws -", None), "9110 7.8", "refuses", "refuses"),
    ("a handshake without a version", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", Refused(400), "6455 4.2.1", "refuses", "refuses"),
    ("a handshake of another version", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n", Refused(426), "6455 4.4", "refuses", "refuses"),
    ("a handshake without a key", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.2.1", "refuses", "refuses"),
    ("a handshake with a key that is too short", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub24=\r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.2.1", "refuses", "takes"),
    ("a handshake with a key that is too long", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=\r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.2.1", "refuses", "takes"),
    ("a handshake with a key that is no base64", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q==\r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.2.1", "refuses", "takes"),
    ("a handshake with an empty key", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.2.1", "refuses", "takes"),
    ("a handshake with two keys", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", Refused(400), "6455 11.3.1", "refuses", "takes"),
    ("a handshake without a Host", b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", Refused(400), "6455 4.2.1", "takes", "refuses"),
];

#[test]
fn each_request_is_taken_or_refused_as_the_standard_says() {
    for (name, raw, verdict, section, ..) in REQUESTS.iter().chain(HANDSHAKES) {
        hold(&format!("{name} (RFC {section})"), raw, *verdict);
    }
}

fn hold(name: &str, raw: &[u8], verdict: Expectation) {
    let mut server = Server::new();
    server.take(raw);
    let (said, body, closes) = match verdict {
        Keep(said, body) => (said, body, false),
        Close(said, body) => (said, body, true),
        Socket => {
            assert!(server.requests()[0].1.is_websocket(), "{name}: {:?}", server.seen);
            return;
        }
        Refused(expected) => {
            let sent = server.sent();
            assert_eq!((status(&sent), server.is_closing()), (expected, true), "{name}");
            assert!(sent.contains("connection: close\r\n"), "{name}");
            let is_told = matches!(
                server.seen.last(),
                Some(Seen::Refused(why) | Seen::BodyCut(_, Some(why))) if why.status() == expected
            );
            assert!(is_told, "{name}: {:?}", server.seen);
            return;
        }
    };
    let [(id, head)] = server.requests()[..] else { panic!("{name}: {:?}", server.seen) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let query = Some(text(head.query())).filter(|query| !query.is_empty());
    let seen = [text(head.method()), text(head.path()), query.unwrap_or_else(|| "-".into())];
    assert_eq!(seen.join(" "), said, "{name}");
    let body_of = |seen: &[Seen]| match seen {
        [] => None,
        [Seen::BodyEnd(..)] => Some(String::new()),
        [Seen::Body(_, body), Seen::BodyEnd(..)] => Some(text(body)),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(body_of(&server.seen[1..]).as_deref(), body, "{name}");
    server.answer(id, "");
    assert_eq!(server.is_closing(), closes, "{name}");
    assert_eq!(server.sent().contains("connection: close"), closes, "{name}");
}

#[test]
fn the_table_is_long_and_each_name_is_there_once() {
    let all: Vec<_> = REQUESTS.iter().chain(HANDSHAKES).map(|case| case.0).collect();
    let names: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 150, "{}", all.len());
}
