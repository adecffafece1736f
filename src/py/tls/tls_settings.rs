//! Settings of `loop_pool.tls.SSLContext`, made into those of the TLS layer.
//!
//! In: what the Python class remembers, as plain values. Out: settings for all its connections, or the reason
//! why OpenSSL has to make them.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::tls_errors::failure;
use crate::py::cpython::alloc;
use crate::py::cpython::error::os_error;
use crate::tls::{
    Ciphertext, ClientOptions, ClientSettings, Clients, Common, Identity, RevocationCheck, Roots,
    ServerOptions, ServerSettings, Servers, Session, SettingsError, Version,
};

/// What all connections of one context share. Made by `loop_pool.tls.SSLContext`.
#[pyclass(frozen, module = "loop_pool._core", name = "TLSSettings")]
pub(crate) struct TlsSettings(Side);

impl TlsSettings {
    /// A session, and what it wants sent first. `None` if a client's `server_hostname` is one that rustls does not
    /// know as a name or an address.
    ///
    /// # Errors
    /// `TypeError` if the name is no string; `ssl.SSLError`.
    pub(super) fn open(
        &self,
        py: Python<'_>,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<(Session, Ciphertext)>> {
        let mut first = Ciphertext::default();
        let session = match &self.0 {
            Side::Server(settings, _) => Session::server(settings),
            Side::Client(settings) => {
                let name = server_hostname.map(PyAnyMethods::extract::<String>).transpose()?;
                if name.as_ref().is_some_and(|name| !Session::is_server_name(name)) {
                    return Ok(None);
                }
                Session::client(settings, name.as_deref(), &mut first)
            }
        };
        session.map(|session| Some((session, first))).map_err(|error| failure(py, &error))
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.0, Side::Server(..))
    }

    /// Whether certificates of peers are verified.
    pub(super) fn verifies(&self) -> bool {
        match &self.0 {
            Side::Client(settings) => settings.verifies(),
            Side::Server(settings, _) => settings.verifies(),
        }
    }

    /// The chain by which a peer with these certificates is verified.
    pub(super) fn verified_chain(&self, certificates: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        match &self.0 {
            Side::Client(settings) => settings.verified_chain(certificates),
            Side::Server(settings, _) => settings.verified_chain(certificates),
        }
    }

    /// A server's certificate in DER, if all clients get the same one.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        match &self.0 {
            Side::Client(_) => None,
            Side::Server(_, certificate) => certificate.as_deref(),
        }
    }
}

/// For which side of connections.
enum Side {
    Client(ClientSettings),
    /// With its certificate in DER, if it has one for all clients.
    Server(ServerSettings, Option<Vec<u8>>),
}

/// A certificate chain and its key, as the contents of PEM files.
type Pem = (Vec<u8>, Vec<u8>);

/// What peers are verified by, in the order of `TrustGiven` of `tls_trust.py`: authorities, others, folders with the
/// hashes by which files are named, lists; whether chains may be partial, must be strict, and names in subjects do not
/// count; which certificates are looked up in the lists.
type Trust = (Ders, Ders, Vec<Vec<(u32, PyBackedBytes)>>, Ders, bool, bool, bool, u8);

/// Certificates or lists, in DER.
type Ders = Vec<PyBackedBytes>;

fn roots(trust: &Trust) -> Result<Roots, SettingsError> {
    let (authorities, others, folders, revoked, partial, strict, no_common_name, crl_check) = trust;
    let mut roots = Roots::default();
    for certificate in authorities {
        roots.add(certificate)?;
    }
    for certificate in others {
        roots.add_other(certificate)?;
    }
    for (place, folder) in folders.iter().enumerate() {
        for (hash, certificate) in folder {
            roots.add_from_folder(place, *hash, certificate)?;
        }
    }
    for list in revoked {
        roots.add_revoked(list)?;
    }
    let rules = roots.rules();
    rules.partial_chain = *partial;
    rules.strict = *strict;
    rules.ignores_common_name = *no_common_name;
    rules.revocation = match crl_check {
        0 => RevocationCheck::None,
        1 => RevocationCheck::Leaf,
        _ => RevocationCheck::Chain,
    };
    Ok(roots)
}

/// The settings, or the reason why rustls cannot have them.
fn made(py: Python<'_>, made: Result<Side, SettingsError>) -> PyResult<Bound<'_, PyAny>> {
    match made {
        Ok(side) => Ok(Bound::new(py, TlsSettings(side))?.into_any()),
        Err(SettingsError::Io(error)) => Err(os_error(py, &error)),
        Err(why) => Ok(alloc::text(py, &why.to_string())?.into_any()),
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

fn identity((chain, key): &Pem) -> Result<Identity, SettingsError> {
    Identity::from_pem(chain, key)
}

/// Settings for servers. `versions`: whether TLS 1.2 and 1.3 are enabled; `by_name`: certificates by the name that a
/// client asks for; `trust`: what clients are verified by, if they are; `is_required`: whether they have to have a
/// certificate.
#[pyfunction]
#[pyo3(name = "_tls_server_settings")]
#[allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "as pyo3 extracts it, and each is a setting of Python's"
)]
pub(crate) fn server_settings(
    py: Python<'_>,
    certificate: Pem,
    by_name: Vec<(String, Pem)>,
    alpn: Vec<Vec<u8>>,
    versions: (bool, bool),
    tickets: usize,
    key_log: Option<PathBuf>,
    trust: Option<Trust>,
    is_required: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let settings = py.detach(|| {
        let identity = identity(&certificate)?;
        let is_only = by_name.is_empty();
        let own = identity.certificate().filter(|_| is_only).map(<[u8]>::to_vec);
        let mut options = ServerOptions::new(identity);
        for (name, pem) in by_name {
            options.by_name.push((name, self::identity(&pem)?));
        }
        options.common = common(alpn, versions, key_log);
        options.tickets = tickets;
        options.clients = match &trust {
            None => Clients::All,
            Some(trust) if is_required => Clients::Certified(roots(trust)?),
            Some(trust) => Clients::Verified(roots(trust)?),
        };
        Ok(Side::Server(ServerSettings::new(options)?, own))
    });
    made(py, settings)
}

/// Settings for clients. `trust`: what servers are verified by, if they are; `checks_name`: whether their names are, too.
#[pyfunction]
#[pyo3(name = "_tls_client_settings")]
#[allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "as pyo3 extracts it, and each is a setting of Python's"
)]
pub(crate) fn client_settings(
    py: Python<'_>,
    certificate: Option<Pem>,
    alpn: Vec<Vec<u8>>,
    versions: (bool, bool),
    key_log: Option<PathBuf>,
    remembers_sessions: bool,
    trust: Option<Trust>,
    checks_name: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let settings = py.detach(|| {
        let mut options = ClientOptions::new(match &trust {
            None => Servers::All,
            Some(trust) if checks_name => Servers::Named(roots(trust)?),
            Some(trust) => Servers::AnyName(roots(trust)?),
        });
        options.identity = certificate.as_ref().map(identity).transpose()?;
        options.common = common(alpn, versions, key_log);
        if !remembers_sessions {
            options.sessions = 0;
        }
        ClientSettings::new(options)
    });
    made(py, settings.map(Side::Client))
}
