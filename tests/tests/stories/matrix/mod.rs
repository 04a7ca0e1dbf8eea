//! A matrix of rights: every route that a daemon describes and every service of Git, for each kind
//! of principal, inside its patterns and outside of them. The answers must be those of a model.

mod model;
mod requests;
mod scene;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use crate::matrix::{
    model::{About, BRANCHES, Outcome, PRINCIPALS, Principal, Proof, Tier, expected},
    requests::{Ask, Operation, operations},
    scene::{Doors, Scene},
};

/// Requests at once.
const AT_ONCE: usize = 8;

/// A request of a principal.
struct Cell {
    operation: usize,
    /// Which of its requests.
    variant: usize,
    principal: Principal,
    expected: Outcome,
}

/// An answer that is not as expected.
#[derive(Debug)]
struct Fault {
    operation: String,
    #[expect(dead_code, reason = "it is shown")]
    words: String,
}

/// All operations, with their requests at this time.
struct Matrix {
    operations: Vec<Operation>,
    asks: Vec<Vec<Ask>>,
}

impl Matrix {
    fn of(scene: &Scene) -> Self {
        let operations = operations();
        let asks = operations.iter().map(|operation| operation.asks(scene)).collect();
        Matrix { operations, asks }
    }

    /// All cells: those that are refused, and those that are allowed, by principal.
    fn cells(&self) -> (Vec<Cell>, Vec<Cell>) {
        let mut cells = Vec::new();
        for principal in PRINCIPALS {
            for (operation, asks) in self.asks.iter().enumerate() {
                for (variant, ask) in asks.iter().enumerate() {
                    let expected = expected(ask.tier, &ask.verb, ask.about, principal.proof);
                    cells.push(Cell { operation, variant, principal, expected });
                }
            }
        }
        cells.into_iter().partition(|cell| cell.expected != Outcome::Allowed)
    }

    fn ask(&self, cell: &Cell) -> &Ask {
        &self.asks[cell.operation][cell.variant]
    }

    /// Sends the requests of these cells, a few at once.
    fn try_all(&self, doors: &Doors, cells: &[Cell]) -> Vec<Fault> {
        let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = try_one(doors, self.ask(cell), cell);
                        faults.lock().expect("nobody panics with it").extend(found);
                    }
                });
            }
        });
        faults.into_inner().expect("nobody panics with it")
    }
}

fn try_one(doors: &Doors, ask: &Ask, cell: &Cell) -> Option<Fault> {
    let found = doors.send(ask, cell.principal);
    (found != cell.expected).then(|| {
        let (name, method, uri, about) = (cell.principal.name, &ask.method, &ask.uri, ask.about);
        let words = format!("{name}: {method} {uri} ({about:?}): {:?} was expected, and not {found:?}", cell.expected);
        Fault { operation: ask.operation.clone(), words }
    })
}

/// Fetches and pushes by keys of SSH: all names but those of hosts and conf-slaves are the policy's.
fn over_ssh() -> impl Iterator<Item = (About, Principal, Outcome)> {
    let by_key = PRINCIPALS.into_iter().filter(|one| matches!(one.proof, Proof::Policy(_)));
    // Nobody has given anything to this one.
    let by_key = by_key.chain([Principal { name: "stranger", proof: Proof::Host("nowhere", "stranger") }]);
    by_key.flat_map(|principal| {
        let doors =
            [(About::Everything, "read"), (About::Branch(BRANCHES[0]), "push"), (About::Branch(BRANCHES[1]), "push")];
        doors.map(move |(about, verb)| {
            let proven = match principal.proof {
                Proof::Policy(_) => expected(Tier::Master, verb, about, principal.proof),
                _ => Outcome::Denied,
            };
            (about, principal, proven)
        })
    })
}

fn try_over_ssh(scene: &Scene, is_allowed: bool) -> Vec<Fault> {
    let cells = over_ssh().filter(|(_, _, expected)| (*expected == Outcome::Allowed) == is_allowed);
    let tried = cells.filter_map(|(about, principal, expected)| {
        let found = scene.send_over_ssh(about, principal);
        (found != expected).then(|| {
            let words = format!("{}: {about:?}: {expected:?} was expected, and not {found:?}", principal.name);
            Fault { operation: "over SSH".to_owned(), words }
        })
    });
    tried.collect()
}

/// What differs between two states.
fn changed(before: &BTreeMap<&'static str, String>, after: &BTreeMap<&'static str, String>) -> Vec<Fault> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<String>>();
    let differ = before.iter().zip(after.values()).filter(|((_, before), after)| before != after);
    let fault = |((name, before), after): ((&&'static str, &String), &String)| {
        let (before, after) = (lines(before), lines(after));
        let words = format!(
            "gone: {:#?}, new: {:#?}",
            before.difference(&after).collect::<Vec<_>>(),
            after.difference(&before).collect::<Vec<_>>()
        );
        Fault { operation: (*name).to_owned(), words }
    };
    differ.map(fault).collect()
}

#[test]
fn each_route_gives_each_principal_what_the_policy_says_and_no_more() {
    let began = Instant::now();
    let scene = Scene::start();
    let (matrix, before) = (Matrix::of(&scene), scene.state());
    let (refused, allowed) = matrix.cells();
    let mut faults = matrix.try_all(&scene.doors, &refused);
    faults.extend(try_over_ssh(&scene, false));
    faults.extend(changed(&before, &scene.state()));
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());

    // What is allowed is done, and seen: so what was refused would have been seen too.
    let (changing, reading): (Vec<Cell>, Vec<Cell>) = allowed.into_iter().partition(|cell| matrix.ask(cell).changes());
    faults.extend(matrix.try_all(&scene.doors, &reading));
    for cell in &changing {
        let asks = matrix.operations[cell.operation].asks(&scene);
        faults.extend(try_one(&scene.doors, &asks[cell.variant], cell));
    }
    faults.extend(try_over_ssh(&scene, true));
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    assert_eq!(changed(&before, &scene.state()).len(), before.len(), "every part of the state shows what was done");
    scene.site.master.expect_unbroken_ledger();
    println!(
        "{} operations, {} principals: {} requests were refused, {} read, {} changed something; {:.1} s",
        matrix.operations.len(),
        PRINCIPALS.len(),
        refused.len(),
        reading.len(),
        changing.len(),
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn the_matrix_finds_a_server_that_lets_everybody_in() {
    let mut scene = Scene::start();
    scene.open();
    let (matrix, before) = (Matrix::of(&scene), scene.state());
    let (refused, _) = matrix.cells();
    let faults = matrix.try_all(&scene.doors, &refused);
    let ssh = try_over_ssh(&scene, false);
    let found: BTreeSet<&str> = faults.iter().map(|fault| fault.operation.as_str()).collect();
    let missed: BTreeSet<&str> = refused.iter().map(|cell| matrix.ask(cell).operation.as_str()).collect();
    let missed: Vec<_> = missed.difference(&found).collect();
    assert!(missed.is_empty(), "no fault was found of {missed:#?}");
    assert!(!ssh.is_empty(), "no fault was found over SSH");
    let changed = changed(&before, &scene.state());
    assert_eq!(changed.len(), before.len(), "some part of the state shows nothing: {changed:#?}");
    println!("{} of {} requests were found to be let in", faults.len(), refused.len());
}
