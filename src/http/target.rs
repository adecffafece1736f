//! The request's target and host (RFC 9112, 3.2; RFC 3986).

use super::head::Span;
use super::refusal::Refusal;

/// Where the path of a target is, for which the query and what stands before the path are left out.
///
/// # Errors
/// It has none of the forms that a server which is no proxy takes.
pub(super) fn path(method: &[u8], target: &[u8]) -> Result<Span, Refusal> {
    if method == b"CONNECT" {
        return Err(Refusal::NotImplemented("CONNECT"));
    }
    // Visible ASCII, and no fragment.
    if !target.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#') {
        return Err(Refusal::Malformed("a byte that no target has"));
    }
    let start = match target {
        [b'/', ..] => 0,
        b"*" if method == b"OPTIONS" => 0,
        _ => absolute(target)?,
    };
    let query = target[start..].iter().position(|byte| *byte == b'?');
    Ok(Span::new(start, query.map_or(target.len(), |at| start + at)))
}

/// The absolute form: says where the path begins.
fn absolute(target: &[u8]) -> Result<usize, Refusal> {
    let malformed = Refusal::Malformed("the form of the target");
    let colon = target.iter().position(|byte| *byte == b':').ok_or(malformed)?;
    let is_known = [&b"http"[..], b"https", b"ws", b"wss"]
        .iter()
        .any(|scheme| target[..colon].eq_ignore_ascii_case(scheme));
    let Some(rest) = target[colon + 1..].strip_prefix(b"//") else { return Err(malformed) };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = &rest[..end];
    if !is_known || authority.is_empty() || !is_host(authority) {
        return Err(malformed);
    }
    Ok(colon + 3 + end)
}

/// Whether this is the value of a field `Host`: a name or an address, and a port or none. It may be empty.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (host, rest) = match value {
        [b'[', inside @ ..] => {
            let Some(end) = inside.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = (&inside[..end], &inside[end + 1..]);
            let is_address = !address.is_empty()
                && address.iter().all(|byte| is_name(*byte) && *byte != b'%' || *byte == b':');
            if !is_address {
                return false;
            }
            (&[][..], rest)
        }
        _ => value.split_at(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let is_port = match rest {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit) && port.len() <= 5,
        _ => false,
    };
    is_port && host.iter().all(|byte| is_name(*byte))
}

/// A byte of a name (`reg-name`): unreserved, percent-encoded, or a delimiter of parts.
fn is_name(byte: u8) -> bool {
    NAME[usize::from(byte)]
}

const NAME: [bool; 256] = byte_table(b"-._~%!$&'()*+,;=");

/// Letters, digits and these bytes.
pub(super) const fn byte_table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}
