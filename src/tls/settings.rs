//! Settings: what all connections of one context share. They are made once and never change; they may be used
//! by any thread, and a clone is the same settings.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, KeyLog, NoKeyLog, ServerConfig, SupportedProtocolVersion};

use super::identity::{Always, ByName};
use super::key_log::KeyLogFile;
use super::options::{ClientOptions, Clients, Common, ServerOptions, Servers, Version};
use super::provider::{provider, ticketer};
use super::settings_error::{NotNative, SettingsError};
use super::verify;
use super::x509::{Purpose, Store};

/// A server's. A ticket that one loop has given is good for all connections with the same settings.
#[derive(Clone, Debug)]
pub struct ServerSettings(pub(super) Arc<ServerConfig>, Option<Arc<Store>>);

/// A client's, with the sessions that it remembers.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub(super) named: Arc<ClientConfig>,
    /// For servers of which no name is known; `None` if it is to be verified.
    pub(super) nameless: Option<Arc<ClientConfig>>,
    store: Option<Arc<Store>>,
}

impl ServerSettings {
    /// Settings of these options.
    ///
    /// # Errors
    /// If rustls cannot do what they say, or nobody can.
    pub fn new(options: ServerOptions) -> Result<Self, SettingsError> {
        let ServerOptions { common, mut identity, by_name, clients, tickets } = options;
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&versions(&common)?)?;
        let (store, is_required) = match clients {
            Clients::All => (None, false),
            Clients::Verified(roots) => (Some(roots.into_store()), false),
            Clients::Certified(roots) => (Some(roots.into_store()), true),
        };
        let builder = match &store {
            None => builder.with_no_client_auth(),
            Some(store) => {
                identity = identity.completed(store);
                let store = Arc::clone(store);
                let verifier = verify::Clients { store, is_required };
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        // A session that is resumed is not verified again.
        let tickets = if store.is_some() { 0 } else { tickets };
        let by_name = by_name.into_iter().map(|(name, one)| (name.to_lowercase(), one)).collect();
        let mut config =
            builder.with_cert_resolver(Arc::new(ByName { default: identity, by_name }));
        config.send_tls13_tickets = tickets;
        if tickets == 0 {
            config.session_storage = Arc::new(NoServerSessionStorage {});
        } else {
            // Nothing is kept of a session here: all of it is in the ticket.
            config.ticketer = ticketer()?;
        }
        config.key_log = key_log(&common)?;
        config.alpn_protocols = common.alpn;
        Ok(Self(Arc::new(config), store))
    }

    /// The chain by which a client with these certificates is verified, from its own to a trusted one, in DER; `None` if
    /// it is not, or clients are not verified. It is verified again for this, as of now.
    #[must_use]
    pub fn verified_chain(&self, certificates: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        verify::verified_chain(self.1.as_ref()?, certificates, Purpose::Client)
    }

    /// Whether clients are verified, if they have a certificate.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.1.is_some()
    }
}

impl ClientSettings {
    /// Settings of these options.
    ///
    /// # Errors
    /// If rustls cannot do what they say, or nobody can.
    pub fn new(options: ClientOptions) -> Result<Self, SettingsError> {
        let ClientOptions { common, servers, identity, sessions } = options;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&versions(&common)?)?;
        let (store, checks_name) = match servers {
            Servers::Named(roots) => (Some(roots.into_store()), true),
            Servers::AnyName(roots) => (Some(roots.into_store()), false),
            Servers::All => (None, false),
        };
        let verifier = Arc::new(verify::Servers { store: store.clone(), checks_name });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let identity = identity.map(|identity| match &store {
            None => identity,
            Some(store) => identity.completed(store),
        });
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(Always(identity))),
        };
        config.resumption = match sessions {
            // A session that is resumed is not verified again.
            _ if store.is_some() => Resumption::disabled(),
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        config.key_log = key_log(&common)?;
        config.alpn_protocols = common.alpn;
        let nameless = (!checks_name).then(|| {
            let mut config = config.clone();
            // A session is found by the name of its server.
            config.resumption = Resumption::disabled();
            Arc::new(config)
        });
        Ok(Self { named: Arc::new(config), nameless, store })
    }

    /// The chain by which a server with these certificates is verified, whatever its name. As
    /// [`ServerSettings::verified_chain`].
    #[must_use]
    pub fn verified_chain(&self, certificates: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        verify::verified_chain(self.store.as_ref()?, certificates, Purpose::Server)
    }

    /// Whether servers are verified.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.store.is_some()
    }
}

/// The versions that are enabled, of those that rustls has.
fn versions(common: &Common) -> Result<Vec<&'static SupportedProtocolVersion>, SettingsError> {
    if common.ciphers.is_some() {
        return Err(NotNative::Ciphers.into());
    }
    let is_enabled = |version| common.minimum <= version && version <= common.maximum;
    let all = [(Version::Tls12, &TLS12), (Version::Tls13, &TLS13)];
    let enabled: Vec<_> =
        all.into_iter().filter(|(version, _)| is_enabled(*version)).map(|(_, it)| it).collect();
    match enabled.is_empty() {
        false => Ok(enabled),
        true if common.minimum > common.maximum => {
            Err(SettingsError::Invalid("the lowest version is above the highest".to_owned()))
        }
        true => Err(NotNative::OldVersions.into()),
    }
}

fn key_log(common: &Common) -> Result<Arc<dyn KeyLog>, SettingsError> {
    Ok(match &common.key_log {
        None => Arc::new(NoKeyLog {}),
        Some(path) => Arc::new(KeyLogFile::open(path)?),
    })
}
