//! The one provider of cryptography.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// Returns ring, whatever the process has installed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
