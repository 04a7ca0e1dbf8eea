//! One change's way, tier by tier: when each tier had it, and what each did for it.
//!
//! The times are taken without any tracing, from what each tier shows to others. The work is counted
//! in further changes, with strace at the daemons, which makes them slow: no time is taken then.

mod calls;
mod moments;
mod traced;

use std::{fmt::Write as _, fs, path::Path};

use tests::{Reader, figures::Trace};

use crate::{
    fleet::{self, BRANCH, CHANGED},
    options::Options,
    pusher::Pusher,
};

/// Measures, prints and writes.
pub(crate) fn run(options: &Options) -> std::io::Result<()> {
    let size = options.size;
    eprintln!("bench: a datacenter of {} services", size.services());
    let mut site = fleet::start(size.services(), 1);
    let reader = {
        let host = site.add_host();
        let reader = Reader::start(&host.export());
        host.watch(&[CHANGED], reader.pid());
        reader
    };
    site.wait_applied(site.master.sequence());
    let pusher = Pusher::clone_of(&site.master.git_url(), BRANCH, &site.folder.path().join("trace-clone"));
    eprintln!("bench: the way of {} changes", size.rounds());
    let moments = moments::measure(size, &site, &pusher, &reader);
    let raw = options.out.join("trace");
    fs::create_dir_all(&raw)?;
    let work = match std::env::var_os("STRACE") {
        Some(strace) => traced::measure(size, &site, &pusher, &reader, Path::new(&strace), &raw)?,
        None => Vec::new(),
    };
    drop(reader);
    fleet::end(site);
    let trace = Trace { services: size.services(), moments, work };
    let mut text = format!("the way of a change of one of {} services\n\n{}\n", trace.services, trace.moments().text());
    if trace.work.is_empty() {
        text.push_str("not counted: system calls; set STRACE to its program\n");
    } else {
        text.push_str("until the signal + after it, for one change\n\n");
        let _ = write!(text, "{}\n{}", trace.work().text(), trace.frequent().text());
    }
    print!("{text}");
    fs::write(options.out.join("trace.txt"), &text)?;
    fs::write(options.out.join("trace.json"), format!("{}\n", serde_json::to_string_pretty(&trace)?))
}
