//! Other systems, on the same machine and disk in the same run.

mod plain_git;
mod consul;
mod etcd;
mod git2consul;

pub(crate) use self::{
    consul::{BlockingQuery, ConsulPut, Watches},
    etcd::Etcd,
    git2consul::Git2consul,
    plain_git::PlainGit,
};
