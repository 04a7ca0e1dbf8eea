//! The names that every part of the system shares, as types. Text becomes one of these once, where
//! it enters.

mod text;
mod segment;
mod secret;
mod component;
mod datacenter;
mod object;
mod sequence;
mod reference;

pub use self::{
    component::{ComponentName, ComponentSelector, ComponentVersion, Kind},
    datacenter::DatacenterName,
    object::{CommitId, ObjectId},
    reference::RefName,
    secret::{SecretName, SourceName},
    segment::{BranchName, ClassName, GroupName, HostName, PrincipalName, RoleName, Segment, TagName, Version},
    sequence::Sequence,
    text::BadName,
};
