//! TLS in Python's terms.
//!
//! The hot half of asyncio's `sslproto`: encryption and decryption of messages in the ordinary state, by
//! OpenSSL or by the TLS layer; handshakes and shutdowns are asyncio's (`tls_methods`, `tls_receive`,
//! `tls_types`). What stands for OpenSSL under an `ssl.SSLObject` (`tls_connection` and `tls_state`). And
//! TLS inside a transport, from the handshake on without any of these (`tls_stream`). They share `tls_settings`,
//! `tls_info`, `tls_peer` and `tls_errors`.
//!
//! In: encrypted bytes, data to send. Out: data for the protocol, bytes for the transport. Must never: touch a
//! socket.

#[cfg(feature = "tls")]
pub(crate) mod tls_connection;
#[cfg(not(feature = "tls"))]
#[path = "tls_absent.rs"]
pub(crate) mod tls_connection;
#[cfg(feature = "tls")]
pub(crate) mod tls_errors;
#[cfg(feature = "tls")]
mod tls_info;
pub(crate) mod tls_methods;
#[cfg(feature = "tls")]
mod tls_peer;
pub(crate) mod tls_receive;
#[cfg(feature = "tls")]
pub(crate) mod tls_settings;
#[cfg(feature = "tls")]
mod tls_state;
#[cfg(feature = "tls")]
pub(crate) mod tls_stream;
pub(crate) mod tls_types;

use pyo3::prelude::*;

/// Adds what stands for OpenSSL to the module.
pub(crate) fn export(module: &Bound<'_, PyModule>) -> PyResult<()> {
    #[cfg(feature = "tls")]
    {
        module.add_class::<tls_connection::TlsConnection>()?;
        module.add_class::<tls_settings::TlsSettings>()?;
        module.add_class::<tls_stream::TlsStreamInfo>()?;
        module.add_function(wrap_pyfunction!(tls_stream::secured, module)?)?;
        crate::py::cpython::error::set_converter(tls_errors::of_stream);
        module.add_function(wrap_pyfunction!(tls_settings::server_settings, module)?)?;
        module.add_function(wrap_pyfunction!(tls_settings::client_settings, module)?)?;
    }
    module.add_function(wrap_pyfunction!(tls_methods::install, module)?)
}
