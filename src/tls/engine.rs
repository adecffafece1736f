//! What rustls does to the bytes of one connection, client or server alike.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};

use crate::transport::Ciphertext;

/// rustls's connection without buffers of its own.
pub(super) trait Engine {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        ciphertext: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn state(&self) -> &CommonState;
}

impl Engine for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    #[inline]
    fn process<'c, 'i>(
        &'c mut self,
        ciphertext: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(ciphertext)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Engine for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    #[inline]
    fn process<'c, 'i>(
        &'c mut self,
        ciphertext: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(ciphertext)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// How far the ciphertext was understood.
#[derive(Debug)]
#[must_use]
pub(super) struct Processed {
    /// Bytes that are not needed any more, from the front.
    pub(super) used: usize,
    /// Whether the peer has said that it sends no more.
    pub(super) peer_closed: bool,
    /// Why the connection cannot go on.
    pub(super) error: Option<Error>,
}

/// Takes all complete records, hands their plaintext on, and writes what is to be answered to `to`. Alerts
/// about an error are written, too.
pub(super) fn process<E: Engine>(
    engine: &mut E,
    ciphertext: &mut [u8],
    to: &mut Ciphertext,
    plaintext: &mut dyn FnMut(&[u8]),
) -> Processed {
    let mut done = Processed { used: 0, peer_closed: false, error: None };
    loop {
        let UnbufferedStatus { mut discard, state } = engine.process(&mut ciphertext[done.used..]);
        let mut goes_on = true;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            plaintext(record.payload);
                        }
                        Err(error) => {
                            done.error.get_or_insert(error);
                            goes_on = false;
                            break;
                        }
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => loop {
                match data.encode(to.room()) {
                    Ok(written) => break to.filled(written),
                    Err(EncodeError::InsufficientSize(size)) => to.reserve(size.required_size),
                    Err(EncodeError::AlreadyEncoded) => break,
                }
            },
            Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
            Ok(ConnectionState::PeerClosed) => done.peer_closed = true,
            // Nobody asks for early data, so there is none.
            Ok(_) => goes_on = false,
            Err(error) => {
                done.error.get_or_insert(error);
                goes_on = false;
            }
        }
        done.used += discard;
        // Before it looks at what is wrong again, rustls gives the alert about it.
        let is_over = if done.error.is_some() { !engine.state().wants_write() } else { !goes_on };
        if is_over {
            return done;
        }
    }
}

/// Calls `f` if the connection lets something be sent. `pending` is what is left of the ciphertext: rustls may
/// hold parts of it by their places.
fn when_writable<E: Engine, R>(
    engine: &mut E,
    pending: &mut [u8],
    to: &mut Ciphertext,
    f: impl FnOnce(WriteTraffic<'_, E::Data>, &mut Ciphertext) -> R,
) -> Option<R> {
    loop {
        let status = engine.process(pending);
        debug_assert_eq!(status.discard, 0, "all of it was processed when it came");
        match status.state {
            Ok(ConnectionState::WriteTraffic(traffic)) => return Some(f(traffic, to)),
            Ok(ConnectionState::EncodeTlsData(mut data)) => loop {
                match data.encode(to.room()) {
                    Ok(written) => break to.filled(written),
                    Err(EncodeError::InsufficientSize(size)) => to.reserve(size.required_size),
                    Err(EncodeError::AlreadyEncoded) => break,
                }
            },
            Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
            _ => return None,
        }
    }
}

/// Encrypts all of `plaintext`; `None` if the connection does not let it.
pub(super) fn encrypt<E: Engine>(
    engine: &mut E,
    pending: &mut [u8],
    plaintext: &[u8],
    to: &mut Ciphertext,
) -> Option<Result<(), Error>> {
    when_writable(engine, pending, to, |mut traffic, to| {
        written(to, |room| traffic.encrypt(plaintext, room))
    })
}

/// Writes that nothing more will be sent; does nothing if the connection does not let it.
pub(super) fn close<E: Engine>(engine: &mut E, pending: &mut [u8], to: &mut Ciphertext) {
    let _ = when_writable(engine, pending, to, |mut traffic, to| {
        written(to, |room| traffic.queue_close_notify(room))
    });
}

/// Lets the keys be changed, and the peer told to change its own.
pub(super) fn update_keys<E: Engine>(
    engine: &mut E,
    pending: &mut [u8],
    to: &mut Ciphertext,
) -> Option<Result<(), Error>> {
    let done = when_writable(engine, pending, to, |traffic, _| traffic.refresh_traffic_keys());
    // What says so is written before the next state.
    let _ = when_writable(engine, pending, to, |_, _| ());
    done
}

/// Writes by `f`, which says how much room it needs if there is not enough.
#[inline]
fn written(
    to: &mut Ciphertext,
    mut f: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    loop {
        match f(to.room()) {
            Ok(count) => {
                to.filled(count);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => to.reserve(size.required_size),
            Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
        }
    }
}
