//! Why there is nothing to show.

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum InspectError {
    /// The thing that was asked for does not exist, or the question does not name one thing. The
    /// reason is for people.
    NotThere(String),
    /// The repository cannot be read.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for InspectError {
    fn from(error: E) -> Self {
        InspectError::Failed(error.into())
    }
}
