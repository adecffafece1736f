//! Settings of `loop_pool.tls.SSLContext`, made into those of the TLS layer.
//!
//! In: what the Python class remembers, as plain values. Out: settings for all its connections, or the reason
//! why OpenSSL has to make them.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::py::cpython::alloc;
use crate::py::cpython::error::os_error;
use crate::tls::{
    ClientOptions, ClientSettings, Clients, Common, Identity, RevocationCheck, Roots,
    ServerOptions, ServerSettings, Servers, SettingsError, Version,
};

/// What all connections of one context share. Made by `loop_pool.tls.SSLContext`.
#[pyclass(frozen, module = "loop_pool._core", name = "TLSSettings")]
pub(crate) struct TlsSettings(pub(super) Side);

/// For which side of connections.
pub(super) enum Side {
    Client(ClientSettings),
    Server(ServerSettings),
}

/// A certificate chain and its key, as the contents of PEM files.
type Pem = (Vec<u8>, Vec<u8>);

/// Why there are none, as a value or as an exception.
enum Refused {
    /// OpenSSL can do it.
    NotNative(String),
    Raised(PyErr),
}

impl Refused {
    fn new(py: Python<'_>, error: &SettingsError) -> Self {
        match error {
            SettingsError::NotNative(_) | SettingsError::Invalid(_) => {
                Self::NotNative(error.to_string())
            }
            SettingsError::Io(error) => Self::Raised(os_error(py, error)),
        }
    }
}

/// The settings, or the reason why rustls cannot have them.
fn made(py: Python<'_>, made: Result<Side, Refused>) -> PyResult<Bound<'_, PyAny>> {
    match made {
        Ok(side) => Ok(Bound::new(py, TlsSettings(side))?.into_any()),
        Err(Refused::NotNative(why)) => Ok(alloc::text(py, &why)?.into_any()),
        Err(Refused::Raised(error)) => Err(error),
    }
}

fn common(alpn: Vec<Vec<u8>>, (tls12, tls13): (bool, bool), key_log: Option<PathBuf>) -> Common {
    Common {
        minimum: if tls12 { Version::Tls12 } else { Version::Tls13 },
        maximum: if tls13 { Version::Tls13 } else { Version::Tls12 },
        alpn,
        key_log,
        ..Common::default()
    }
}

/// What is trusted. `crl_check`: 1, the peer's certificate is looked up in the lists of revoked ones that stand
/// beside the trusted; 2, those between it and a trusted one are, too.
fn roots(pem: &[Vec<u8>], crl_check: u8) -> Result<Roots, SettingsError> {
    let mut roots = Roots::default();
    for each in pem {
        roots.add_pem(each)?;
        roots.add_revoked_pem(each)?;
    }
    roots.check_revoked(match crl_check {
        0 => RevocationCheck::None,
        1 => RevocationCheck::Leaf,
        _ => RevocationCheck::Chain,
    });
    Ok(roots)
}

fn identity((chain, key): &Pem) -> Result<Identity, SettingsError> {
    Identity::from_pem(chain, key)
}

/// Settings for servers. `verify`: `ssl.VerifyMode`; `versions`: whether TLS 1.2 and 1.3 are enabled;
/// `by_name`: certificates by the name that a client asks for.
#[pyfunction]
#[pyo3(name = "_tls_server_settings")]
#[allow(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    reason = "each is a setting of Python's context, as pyo3 extracts it"
)]
pub(crate) fn server_settings(
    py: Python<'_>,
    certificate: Pem,
    by_name: Vec<(String, Pem)>,
    verified_by: Vec<Vec<u8>>,
    crl_check: u8,
    verify: u8,
    alpn: Vec<Vec<u8>>,
    versions: (bool, bool),
    tickets: usize,
    key_log: Option<PathBuf>,
) -> PyResult<Bound<'_, PyAny>> {
    let settings = || -> Result<ServerSettings, SettingsError> {
        let mut options = ServerOptions::new(identity(&certificate)?);
        for (name, pem) in by_name {
            options.by_name.push((name, identity(&pem)?));
        }
        options.clients = match verify {
            0 => Clients::All,
            1 => Clients::Verified(roots(&verified_by, crl_check)?),
            _ => Clients::Certified(roots(&verified_by, crl_check)?),
        };
        options.common = common(alpn, versions, key_log);
        options.tickets = tickets;
        ServerSettings::new(options)
    };
    let settings = py.detach(settings);
    made(py, settings.map(Side::Server).map_err(|error| Refused::new(py, &error)))
}

/// Settings for clients. `verify`: whether the certificate is; `check_hostname`: whether the name in it is, too.
#[pyfunction]
#[pyo3(name = "_tls_client_settings")]
#[allow(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    reason = "each is a setting of Python's context, as pyo3 extracts it"
)]
pub(crate) fn client_settings(
    py: Python<'_>,
    certificate: Option<Pem>,
    verified_by: Vec<Vec<u8>>,
    crl_check: u8,
    verify: bool,
    check_hostname: bool,
    alpn: Vec<Vec<u8>>,
    versions: (bool, bool),
    key_log: Option<PathBuf>,
    remembers_sessions: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let settings = || -> Result<ClientSettings, SettingsError> {
        let servers = match (verify, check_hostname) {
            (false, _) => Servers::All,
            (true, false) => Servers::AnyName(roots(&verified_by, crl_check)?),
            (true, true) => Servers::Named(roots(&verified_by, crl_check)?),
        };
        let mut options = ClientOptions::new(servers);
        options.identity = certificate.as_ref().map(identity).transpose()?;
        options.common = common(alpn, versions, key_log);
        if !remembers_sessions {
            options.sessions = 0;
        }
        ClientSettings::new(options)
    };
    let settings = py.detach(settings);
    made(py, settings.map(Side::Client).map_err(|error| Refused::new(py, &error)))
}
