pub(crate) mod child;
pub(crate) mod receive;
pub mod upload;
