//! What is sent, and what has to come back: requests and responses of HTTP/1.1, or messages of a
//! WebSocket.
//!
//! Nothing in here touches a socket, but for the handshake that opens a WebSocket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use crate::options::Options;

/// The key of the handshake, and what a server has to make of it: both are RFC 6455's example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_HEAD: usize = 65536;

/// A final frame that holds a binary message.
const BINARY: u8 = 0x82;
/// Beside the length: the payload is masked, as a client has to.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x8e];
/// In place of the length: it is in the next two bytes.
const LENGTH_IN_16_BITS: u8 = 126;

const HEAD_END: &[u8] = b"\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 ";
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

enum Expected {
    /// A response with this body; `None`: with any.
    Response(Option<Vec<u8>>),
    /// These bytes and no others.
    Exactly(Vec<u8>),
}

/// One request, the same for all connections, and its answer.
pub(crate) struct Exchange {
    request: Vec<u8>,
    expected: Expected,
    handshake: Option<Vec<u8>>,
}

impl Exchange {
    pub(crate) fn new(options: &Options) -> Self {
        let (path, host) = (options.path.as_str(), options.host);
        if let Some(size) = options.post {
            let body = payload(size);
            let mut request = head("POST", path, host, &format!("Content-Length: {size}\r\n"));
            request.extend_from_slice(&body);
            return Self { request, expected: Expected::Response(Some(body)), handshake: None };
        }
        let Some(size) = options.websocket else {
            let request = get(path, host);
            let body = options.expect.clone().map(String::into_bytes);
            return Self { request, expected: Expected::Response(body), handshake: None };
        };
        let handshake = head(
            "GET",
            path,
            host,
            &format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
            ),
        );
        let payload = payload(size);
        let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let mut request = frame_head(size, MASKED);
        request.extend_from_slice(&MASK);
        request.extend(masked);
        let mut answer = frame_head(size, 0);
        answer.extend_from_slice(&payload);
        Self { request, expected: Expected::Exactly(answer), handshake: Some(handshake) }
    }

    /// The bytes of a request.
    pub(crate) fn request(&self) -> &[u8] {
        &self.request
    }

    /// Whether a new connection has to be opened before its first request.
    pub(crate) fn has_handshake(&self) -> bool {
        self.handshake.is_some()
    }

    /// Make a new connection ready for requests.
    ///
    /// # Errors
    ///
    /// As those of sockets; `InvalidData` if the server does not agree to a WebSocket.
    pub(crate) fn open(&self, stream: &mut TcpStream) -> io::Result<()> {
        let Some(handshake) = &self.handshake else { return Ok(()) };
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        stream.write_all(handshake)?;
        let mut head = Vec::new();
        // Byte by byte, so that nothing behind the head is taken.
        while !head.ends_with(HEAD_END) {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
            if head.len() > LONGEST_HEAD {
                return Err(invalid("the response to the handshake has no end"));
            }
        }
        if !head.starts_with(SWITCHING) {
            return Err(invalid(&format!("no WebSocket: {}", first_line(&head))));
        }
        if header(&head, b"sec-websocket-accept") != Some(ACCEPT) {
            return Err(invalid("the server accepted another key than ours"));
        }
        stream.set_read_timeout(None)
    }

    /// How many bytes at the beginning of `received` are the answer; `None`: it is not complete.
    ///
    /// # Errors
    ///
    /// Says in which way they cannot be the beginning of what is expected.
    pub(crate) fn answer(&self, received: &[u8]) -> Result<Option<usize>, String> {
        match &self.expected {
            Expected::Response(body) => {
                Ok(response(received, body.as_deref())?.map(|body| body.end))
            }
            Expected::Exactly(bytes) => {
                let count = bytes.len().min(received.len());
                if bytes[..count] != received[..count] {
                    return Err("not the message that was sent".to_owned());
                }
                Ok((count == bytes.len()).then_some(count))
            }
        }
    }
}

/// A request for a path, whole.
pub(crate) fn get(path: &str, host: SocketAddr) -> Vec<u8> {
    head("GET", path, host, "Accept: */*\r\n")
}

/// The head of a request, with these header lines beside `Host`.
fn head(method: &str, path: &str, host: SocketAddr, lines: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n").into_bytes()
}

/// Bytes to send: no two neighbours are alike, and nothing repeats at a power of two.
fn payload(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

/// The beginning of a frame, up to the length of the payload.
fn frame_head(size: usize, mask_bit: u8) -> Vec<u8> {
    let length = u16::try_from(size).unwrap_or(u16::MAX);
    match u8::try_from(size) {
        Ok(short) if short < LENGTH_IN_16_BITS => vec![BINARY, mask_bit | short],
        _ => {
            let [high, low] = length.to_be_bytes();
            vec![BINARY, mask_bit | LENGTH_IN_16_BITS, high, low]
        }
    }
}

/// Where the body lies, at the end of a response; `None`: the response is not complete.
///
/// # Errors
///
/// Says in which way it is not the response that is expected.
pub(crate) fn response(
    received: &[u8],
    expected: Option<&[u8]>,
) -> Result<Option<Range<usize>>, String> {
    let known = received.len().min(OK.len());
    if received[..known] != OK[..known] {
        return Err(format!("not a 200: {}", first_line(received)));
    }
    let Some(end) = received.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
        if received.len() > LONGEST_HEAD {
            return Err("the head of the response has no end".to_owned());
        }
        return Ok(None);
    };
    let start = end + HEAD_END.len();
    let length = header(&received[..start], b"content-length");
    let length: usize = length
        .and_then(|value| str::from_utf8(value).ok()?.parse().ok())
        .ok_or("a response without a content-length")?;
    if let Some(body) = expected
        && body.len() != length
    {
        return Err(format!("a body of {length} bytes, not {}", body.len()));
    }
    let Some(body) = received.get(start..start + length) else { return Ok(None) };
    if expected.is_some_and(|expected| expected != body) {
        return Err("another body than expected".to_owned());
    }
    Ok(Some(start..start + length))
}

/// The value of the first header of that name, which is given in lower case.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(80)]).trim_end().to_owned()
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nCONTENT-Length:  2\r\n\r\nhi";

    fn exchange(arguments: &str) -> Exchange {
        let arguments = format!("--port 80 {arguments}");
        Exchange::new(&Options::parse(arguments.split_whitespace().map(str::to_owned)).unwrap())
    }

    #[test]
    fn a_response_is_complete_with_its_last_byte() {
        let exchange = exchange("--expect hi");
        for count in 0..RESPONSE.len() {
            assert_eq!(exchange.answer(&RESPONSE[..count]), Ok(None), "{count} bytes");
        }
        assert_eq!(exchange.answer(RESPONSE), Ok(Some(RESPONSE.len())));
        let more = [RESPONSE, b"HTTP"].concat();
        assert_eq!(exchange.answer(&more), Ok(Some(RESPONSE.len())));
    }

    #[test]
    fn a_body_of_any_bytes_will_do_if_none_is_expected() {
        assert_eq!(exchange("").answer(RESPONSE), Ok(Some(RESPONSE.len())));
    }

    #[test]
    fn a_wrong_response_is_refused() {
        let exchange = exchange("--expect ho");
        for (wrong, says) in [
            (RESPONSE, "another body"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "3 bytes, not 2"),
            (b"HTTP/1.1 200 OK\r\nX-Content-Length: 2\r\n\r\nho", "without a content-length"),
            (b"HTTP/1.1 503 Service Unavailable\r\n", "HTTP/1.1 503 Service Unavailable"),
            (b"SSH", "not a 200"),
        ] {
            let error = exchange.answer(wrong).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_body_that_is_posted_has_to_come_back() {
        let exchange = exchange("--path /echo --post 3");
        let sent =
            b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 3\r\n\r\n\0\x01\x02";
        assert_eq!(exchange.request(), sent);
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n".as_slice();
        let answer = [head, &[0, 1, 2]].concat();
        assert_eq!(exchange.answer(&answer), Ok(Some(answer.len())));
        assert!(exchange.answer(&[head, &[0, 1, 3]].concat()).is_err());
    }

    #[test]
    fn a_message_is_sent_masked_and_expected_as_it_is() {
        let exchange = exchange("--websocket 3");
        assert_eq!(exchange.request(), [0x82, 0x83, 0x5a, 0xc3, 0x17, 0x8e, 0x5a, 0xc2, 0x15]);
        assert_eq!(exchange.answer(&[0x82, 3, 0]), Ok(None));
        assert_eq!(exchange.answer(&[0x82, 3, 0, 1, 2]), Ok(Some(5)));
        assert!(exchange.answer(&[0x82, 3, 0, 1, 3]).is_err());
        assert!(exchange.answer(&[0x88, 2]).is_err());
    }

    #[test]
    fn the_length_of_a_message_takes_two_bytes_from_126_on() {
        assert_eq!(exchange("--websocket 125").request()[..2], [0x82, 0xfd]);
        assert_eq!(exchange("--websocket 126").request()[..4], [0x82, 0xfe, 0, 126]);
        assert_eq!(exchange("--websocket 300").request()[..4], [0x82, 0xfe, 1, 44]);
        assert_eq!(exchange("--websocket 300").answer(&[0x82, 126, 1, 44]), Ok(None));
    }
}
