//! The cryptography that rustls uses: `README.md` says why this one.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self as chosen, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::ProducesTickets;

use super::records::share_keys;
use crate::sync::OnceLock;

/// How keys are agreed on, the preferred way first. As with OpenSSL since 3.5, the first holds against those who
/// record a connection now and have a quantum computer later.
const GROUPS: &[&dyn SupportedKxGroup] =
    &[kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// The one of the process.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let theirs = chosen::default_provider();
        Arc::new(share_keys(CryptoProvider { kx_groups: GROUPS.to_vec(), ..theirs }))
    })
}

/// Keys for session tickets, which are changed every six hours.
pub(super) fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    chosen::Ticketer::new()
}
