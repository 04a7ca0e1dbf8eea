//! Why Consul gave no answer.

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// Not reached in time, or its cluster has no leader. Retry later.
    #[error("Consul at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why, in words.
        reason: String,
    },
    /// The token may not do this, or cannot be read. A person must mend it; retry later.
    #[error("Consul at {address} denies it: {reason}; the token needs a policy for these keys")]
    Denied {
        /// Where it is.
        address: String,
        /// Its words.
        reason: String,
    },
    /// What answered is not Consul, or is broken. Retry later.
    #[error("Consul at {address} gave an answer of no use: {reason}")]
    Malformed {
        /// Where it is.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key or a request that is not sent.
    #[error("not sent to Consul: {0}")]
    Refused(String),
}

/// Why no client can be made from what was given.
#[derive(Debug, thiserror::Error)]
#[error("cannot use Consul at {address}: {reason}")]
pub struct BadAddress {
    /// Which address.
    pub address: String,
    /// What is wrong, and what to write instead.
    pub reason: String,
}
