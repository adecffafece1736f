//! The opening handshake (RFC 6455, 4.2; RFC 7692, 5 and 7).

use tungstenite::handshake::derive_accept_key;

use super::super::facts::members;
use super::super::head::{Fields, RequestHead};
use super::super::output::Output;
use super::super::refusal::Refusal;
use super::super::response::{ResponseError, write_field};
use super::super::settings::Settings;

/// Sees that a request for a WebSocket is a valid one.
pub(in crate::http) fn check(head: &RequestHead) -> Result<(), Refusal> {
    match single(&head.fields, "sec-websocket-version") {
        Some(b"13") => {}
        Some(_) => return Err(Refusal::WebSocketVersion),
        None => return Err(Refusal::Malformed("Sec-WebSocket-Version")),
    }
    let key = single(&head.fields, "sec-websocket-key");
    if !key.is_some_and(is_key) {
        return Err(Refusal::Malformed("Sec-WebSocket-Key"));
    }
    Ok(())
}

/// Appends the answer that accepts it; says whether messages may be compressed.
pub(in crate::http) fn write_accept<'a>(
    head: &RequestHead,
    subprotocol: Option<&[u8]>,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    settings: &Settings,
    out: &mut Output,
) -> Result<bool, ResponseError> {
    let key = single(&head.fields, "sec-websocket-key").ok_or(ResponseError::Subprotocol)?;
    let date = out.date();
    let to = &mut out.bytes;
    to.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n");
    to.extend_from_slice(b"connection: Upgrade\r\n");
    write_field(b"sec-websocket-accept", derive_accept_key(key).as_bytes(), to)?;
    if let Some(subprotocol) = subprotocol {
        write_field(b"sec-websocket-protocol", subprotocol, to)?;
    }
    let deflate = settings.deflate && offers_deflate(&head.fields);
    if deflate {
        // Neither side keeps anything from one message to the next.
        let answer = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        write_field(b"sec-websocket-extensions", answer, to)?;
    }
    let (mut has_date, mut has_server) = (!settings.date, settings.server.is_none());
    for (name, value) in fields {
        let is_ours = |own: &&[u8]| name.eq_ignore_ascii_case(own);
        let own = [&b"upgrade"[..], b"connection", b"content-length", b"transfer-encoding"];
        let prefix = name.get(..b"sec-websocket-".len());
        if own.iter().any(is_ours)
            || prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"sec-websocket-"))
        {
            return Err(ResponseError::Framing);
        }
        has_date |= name.eq_ignore_ascii_case(b"date");
        has_server |= name.eq_ignore_ascii_case(b"server");
        write_field(name, value, to)?;
    }
    if !has_date {
        write_field(b"date", &date, to)?;
    }
    if let (false, Some(server)) = (has_server, &settings.server) {
        write_field(b"server", server.as_bytes(), to)?;
    }
    to.extend_from_slice(b"\r\n");
    Ok(deflate)
}

/// The value of a field that comes once.
fn single<'a>(fields: &'a Fields, name: &'a str) -> Option<&'a [u8]> {
    let mut all = fields.all(name);
    let value = all.next();
    if all.next().is_some() { None } else { value }
}

/// Whether this is base64 of 16 bytes.
fn is_key(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else { return false };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // Of the last digit, two bits are used.
    digits.len() == 22 && digits.iter().all(is_digit) && b"AQgw".contains(&digits[21])
}

/// Whether one of the extensions offered is `permessage-deflate` with parameters that can be met.
fn offers_deflate(fields: &Fields) -> bool {
    fields.all("sec-websocket-extensions").flat_map(members).any(|offer| {
        let mut parts = offer.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_deflate =
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"permessage-deflate"));
        let mut seen = [false; 4];
        is_deflate && parts.all(|parameter| may_meet(parameter, &mut seen))
    })
}

/// Whether a parameter is a valid one, is there for the first time, and asks for nothing that we cannot do.
fn may_meet(parameter: &[u8], seen: &mut [bool; 4]) -> bool {
    let (name, value) = match parameter.iter().position(|byte| *byte == b'=') {
        Some(at) => (&parameter[..at], Some(unquoted(parameter[at + 1..].trim_ascii()))),
        None => (parameter, None),
    };
    let name = name.trim_ascii();
    let known = [
        &b"server_no_context_takeover"[..],
        b"client_no_context_takeover",
        b"server_max_window_bits",
        b"client_max_window_bits",
    ];
    let Some(which) = known.iter().position(|known| name.eq_ignore_ascii_case(known)) else {
        return false;
    };
    let is_bits = |value: &[u8]| matches!(value, [b'8' | b'9'] | [b'1', b'0'..=b'5']);
    let may = match which {
        0 | 1 => value.is_none(),
        // The window of what we send is always of 15 bits.
        2 => value == Some(b"15"),
        _ => value.is_none_or(is_bits),
    };
    may && !std::mem::replace(&mut seen[which], true)
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}
