//! `git push` of one changed file from a clone of one branch, beside plain Git.

use std::time::Duration;

use tests::{
    Site,
    figures::{Kind, Row, Spread},
    usage::processor_time,
};

use crate::{
    fleet::{BRANCH, CHANGED, settings},
    floors,
    options::Size,
    peers::PlainGit,
    pusher::Pusher,
};

/// How many times plain Git's time a push may take.
const GOAL: f64 = 1.2;

/// Measures pushes to both in turns.
pub(crate) fn measure(size: Size, site: &Site, plain: &PlainGit) -> Row {
    let home = site.folder.path();
    plain.copy_of(&site.master.repo, "conf.git");
    let ours = Pusher::clone_of(&site.master.git_url(), BRANCH, &home.join("push-ours"));
    let theirs = Pusher::clone_of(&plain.url("conf.git"), BRANCH, &home.join("push-plain"));
    let servers = [site.master.daemon.pid(), plain.daemon.pid()];
    let mut took = [Vec::new(), Vec::new()];
    let mut used = [Duration::ZERO; 2];
    // The first round is not counted: it opens what stays open.
    for round in 0..=size.rounds() {
        for (side, pusher) in [&ours, &theirs].into_iter().enumerate() {
            pusher.commit("config.yaml", &settings(CHANGED, 10_000 + round));
            let before = processor_time(&servers[side..=side]);
            let time = pusher.push();
            if round > 0 {
                took[side].push(time);
                used[side] += processor_time(&servers[side..=side]).saturating_sub(before);
            }
        }
    }
    let of_each = |used: Duration| used.as_secs_f64() * 1e3 / f64::from(u32::try_from(size.rounds()).unwrap_or(1));
    let what = format!("`git push` from a clone of one branch, {} branches on the server", size.services());
    let plain = Spread::of_times(&took[1]);
    Row::new("push", &what, "ms", Spread::of_times(&took[0]))
        .beside(Kind::Peer, "plain `git http-backend`, refs packed", plain)
        .beside(Kind::Floor, "`git version`", floors::git(size.rounds()))
        .goal(GOAL * plain.median)
        .tier("conf-master", of_each(used[0]))
        .tier("plain `git http-backend`", of_each(used[1]))
        .means(
            "An engineer waits this long at the prompt. The answer comes when the change is checked, signed and durable; \
             plain Git checks nothing and syncs less.",
        )
}
