pub(crate) mod command;
pub mod guardian;
pub(crate) mod handle;
