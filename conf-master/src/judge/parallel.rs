//! Work on many datacenters, on all processors.

use std::num::NonZero;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Scope};

use git2::Repository;
use parking_lot::Mutex;

/// From so many datacenters on, other threads help: to open the repository again costs about as
/// much as to judge one of them.
const MANY: usize = 4;

/// The helpers of this process: with the thread that judges, one for each processor.
static HELPERS: LazyLock<Helpers> =
    LazyLock::new(|| Helpers::new(thread::available_parallelism().map_or(1, NonZero::get) - 1));

/// Opens the repository of a judgement again, for another thread.
pub(crate) type Open<'a> = &'a (dyn Fn() -> Result<Repository, git2::Error> + Sync);

/// The threads that may still help. All judgements share them: several large pushes together start
/// no more threads than one.
#[derive(Debug)]
struct Helpers(AtomicUsize);

/// The place of one thread that helps.
struct Helper<'a>(&'a Helpers);

impl Helpers {
    fn new(most: usize) -> Self {
        Helpers(AtomicUsize::new(most))
    }

    /// Takes a place, if one is free.
    fn take(&self) -> Option<Helper<'_>> {
        let free = &self.0;
        let taken = free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
        taken.is_ok().then(|| Helper(self))
    }
}

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does `work` for each item, in whichever order; returns the results in the order of the items.
/// The first item is done alone: what it has in common with the others is worked out once.
pub(crate) fn each<T: Sync, R: Send>(
    repo: &Repository,
    open: Option<Open<'_>>,
    items: &[T],
    work: impl Fn(&Repository, &T) -> R + Sync,
) -> Vec<R> {
    each_with(&HELPERS, repo, open, items, work)
}

fn each_with<T: Sync, R: Send>(
    helpers: &Helpers,
    repo: &Repository,
    open: Option<Open<'_>>,
    items: &[T],
    work: impl Fn(&Repository, &T) -> R + Sync,
) -> Vec<R> {
    let (Some(open), Some((first, rest))) = (open.filter(|_| items.len() >= MANY), items.split_first()) else {
        return items.iter().map(|item| work(repo, item)).collect();
    };
    let first = work(repo, first);
    let shared = Shared { open, rest, work: &work, next: AtomicUsize::new(0), done: Mutex::default() };
    thread::scope(|scope| {
        while shared.left() > 0 {
            // One that another judgement has let go helps from now on.
            shared.call(scope, helpers);
            shared.one(repo);
        }
    });
    let mut done = shared.done.into_inner();
    done.sort_unstable_by_key(|(number, _)| *number);
    std::iter::once(first).chain(done.into_iter().map(|(_, result)| result)).collect()
}

/// The items of one judgement, and what is done of them.
struct Shared<'a, T, R, W> {
    open: Open<'a>,
    rest: &'a [T],
    work: &'a W,
    next: AtomicUsize,
    done: Mutex<Vec<(usize, R)>>,
}

impl<T: Sync, R: Send, W: Fn(&Repository, &T) -> R + Sync> Shared<'_, T, R, W> {
    /// Returns how many items nobody has begun.
    fn left(&self) -> usize {
        self.rest.len().saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Does the next item.
    fn one(&self, repo: &Repository) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(item) = self.rest.get(number) {
            let result = (self.work)(repo, item);
            self.done.lock().push((number, result));
        }
    }

    /// Starts every free helper, as long as enough is left for one more.
    fn call<'s>(&'s self, scope: &'s Scope<'s, '_>, helpers: &'s Helpers) {
        while self.left() >= MANY
            && let Some(place) = helpers.take()
        {
            // Without a thread, or without a repository, the work is left to the others.
            let help = move || {
                let _place = place;
                let Ok(repo) = (self.open)() else { return };
                while self.left() > 0 {
                    self.one(&repo);
                }
            };
            if thread::Builder::new().spawn_scoped(scope, help).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_whoever_works() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let opens: [Option<Open<'_>>; 3] = [
            None,
            Some(&|| Repository::open_bare(folder.path())),
            Some(&|| Err(git2::Error::from_str("there are no descriptors left"))),
        ];
        for open in opens {
            for helpers in [0, 1, 5] {
                for count in [0, 1, MANY, 100] {
                    let items: Vec<usize> = (0..count).collect();
                    let helpers = Helpers::new(helpers);
                    let doubled = each_with(&helpers, &repo, open, &items, |_, item| item * 2);
                    assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
                }
            }
        }
    }

    /// Set in a process that can start no thread.
    const WITHOUT_THREADS: &str = "CONF_TEST_WITHOUT_THREADS";

    #[test]
    fn a_system_without_threads_ends_no_judgement() {
        if std::env::var_os(WITHOUT_THREADS).is_none() {
            // No stack is so large.
            let own = std::env::current_exe().unwrap();
            let mut again = std::process::Command::new(own);
            again.args([
                "--exact",
                "--test-threads=1",
                "judge::parallel::tests::a_system_without_threads_ends_no_judgement",
            ]);
            again.env("RUST_MIN_STACK", (1_u64 << 46).to_string()).env(WITHOUT_THREADS, "1");
            let output = again.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        assert!(thread::Builder::new().spawn(|| {}).is_err(), "this process can start threads");
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let items: Vec<usize> = (0..100).collect();
        let doubled = each(&repo, Some(&|| Repository::open_bare(folder.path())), &items, |_, item| item * 2);
        assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn the_helpers_of_all_judgements_are_bounded_together_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let open: Open<'_> = &|| Repository::open_bare(folder.path());
        let (items, helpers) = ((0..50).collect::<Vec<_>>(), Helpers::new(2));
        let workers = |work: &(dyn Fn(usize) + Sync)| {
            let who = each_with(&helpers, &repo, Some(open), &items, |_, item| {
                work(*item);
                format!("{:?}", thread::current().id())
            });
            who.into_iter().collect::<BTreeSet<_>>().len()
        };
        // The two of another judgement are at work.
        let others = [helpers.take(), helpers.take()];
        assert!(helpers.take().is_none());
        assert_eq!(workers(&|_| ()), 1, "nobody else may help");
        let [one, other] = others;
        drop(one);
        // Two threads meet here, so that both are there.
        let meeting = Barrier::new(2);
        let met = AtomicUsize::new(0);
        let meet = |_: usize| {
            if met.fetch_add(1, Ordering::Relaxed) < 2 {
                meeting.wait();
            }
        };
        // The first item is done alone, and does not wait.
        let meet = |item: usize| {
            if item > 0 {
                meet(item);
            }
        };
        assert_eq!(workers(&meet), 2, "the one that is free helps");
        drop(other);
        assert_eq!(helpers.0.load(Ordering::Relaxed), 2, "all came back");
    }
}
