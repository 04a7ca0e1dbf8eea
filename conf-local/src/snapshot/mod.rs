pub(crate) mod declared;
pub mod fetching;
pub mod keyring;
pub mod repository;
