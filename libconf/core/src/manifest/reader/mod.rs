//! From the text of a `datacenter.yaml` to its types. The reader goes on after a fault, so that all
//! faults come at once.

mod place;
mod basics;
mod secrets;
mod inventories;
mod document;
