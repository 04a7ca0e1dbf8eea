//! Places: components where programs look for them, as `export:` of the host's configuration says.
//! Relies on `fs` and `export`.
//!
//! The host transaction calls `Placements::stage` before its switch, which writes every file
//! beside its place and reports what cannot be placed. Then it calls `Placements::put`, which
//! renames. `Placements::restore` leads from whatever a crash or a failure has left to the
//! exported files.
//!
//! Always true:
//! - Nothing is replaced or removed that conf-local did not place. The one exception is a file of
//!   the same name that belongs to root, to the agent's user, or to the owner that the entry names.
//! - Nothing is written through a link, nor where another user could replace it.

mod entry;
mod path;
mod journal;
mod copy;
mod put;
mod swap;
mod exchange;
mod link;
mod placements;
mod look;

pub(crate) use crate::place::{
    entry::PlaceEntry,
    placements::{PlaceStatus, Placements},
};
