use libconf::name::{CommitId, ComponentVersion, Sequence};

use super::*;

fn commit(of: u8) -> CommitId {
    CommitId::from([of; 20])
}

fn pointer(sequence: u64) -> Pointer {
    Pointer { sequence: Sequence(sequence), commit: commit(u8::try_from(sequence).unwrap()) }
}

fn pins(names: impl IntoIterator<Item = (String, u8)>) -> Pins {
    names
        .into_iter()
        .map(|(name, of)| {
            let component: ComponentVersion = format!("services/{name}/latest").parse().unwrap();
            let pin = Pin { component: component.clone(), branch: "master".parse().unwrap(), commit: commit(of) };
            (Arc::new(component), Arc::new(pin))
        })
        .collect()
}

fn held(value: impl Into<Vec<u8>>, index: u64) -> StoredValue {
    StoredValue { value: value.into(), index }
}

fn key(name: &str) -> String {
    format!("configurations/services/{name}/latest")
}

fn value(of: u8) -> String {
    format!("master/{}", commit(of))
}

fn put(name: &str, of: u8, index: u64) -> Write {
    Write::Put { key: key(name), value: value(of), index }
}

fn observed(authority: Authority, components: &[(&str, u8, u64)]) -> Observed {
    Observed {
        authority,
        projection: Some(held("dc/v1", 5)),
        components: components.iter().map(|(name, of, index)| (key(name), held(value(*of), *index))).collect(),
        agreed: None,
    }
}

fn decide(sequence: u64, wanted: &Pins, observed: &Observed) -> Decision {
    let datacenter = "dc/v1".parse().unwrap();
    let desired = Desired { datacenter: &datacenter, pointer: pointer(sequence), pins: wanted };
    super::decide(&Keys::new(None).unwrap(), &desired, observed)
}

fn write(batches: Vec<Batch>) -> Decision {
    Decision::Write { batches, projection_of: None, spared: 0 }
}

fn many(count: u8, of: u8) -> Pins {
    pins((0..count).map(|number| (format!("s{number:03}"), of)))
}

fn names_1() -> Authority {
    Authority::Names { pointer: pointer(1), index: 9 }
}

#[test]
fn a_small_change_is_one_transaction() {
    let there = observed(names_1(), &[("a", 1, 11), ("b", 1, 12), ("gone", 1, 13)]);
    let decision = decide(2, &pins([("a".into(), 1), ("b".into(), 2), ("new".into(), 2)]), &there);
    let delete = Write::Delete { key: key("gone"), index: 13 };
    let writes = vec![put("b", 2, 12), put("new", 2, 0), delete];
    assert_eq!(decision, write(vec![Batch { guard: Guard::Move { from: 9 }, writes }]));
}

#[test]
fn after_keys_that_agreed_only_those_of_other_pins_are_looked_at() {
    let before = pins([("a".into(), 1), ("b".into(), 1), ("gone".into(), 1), ("by-hand".into(), 1)]);
    let mut there = observed(names_1(), &[("a", 1, 11), ("b", 1, 12), ("gone", 1, 13), ("by-hand", 7, 14)]);
    there.agreed = Some(Arc::new(before));
    let wanted = pins([("a".into(), 1), ("b".into(), 2), ("new".into(), 2), ("by-hand".into(), 1)]);
    let delete = Write::Delete { key: key("gone"), index: 13 };
    let writes = vec![put("b", 2, 12), put("new", 2, 0), delete];
    assert_eq!(decide(2, &wanted, &there), write(vec![Batch { guard: Guard::Move { from: 9 }, writes }]));
    // What memory and Consul have already is not written again.
    there.components.insert(key("b"), held(value(2), 20));
    there.components.insert(key("new"), held(value(2), 21));
    there.components.remove(&key("gone"));
    assert_eq!(decide(2, &wanted, &there), write(vec![Batch { guard: Guard::Move { from: 9 }, writes: vec![] }]));
    // A reading of all keys knows of none that agree: it finds what was edited by hand.
    there.agreed = None;
    let writes = vec![put("by-hand", 1, 14)];
    assert_eq!(decide(2, &wanted, &there), write(vec![Batch { guard: Guard::Move { from: 9 }, writes }]));
}

#[test]
fn nothing_to_do_is_no_transaction() {
    let there = observed(names_1(), &[("a", 1, 11)]);
    assert_eq!(decide(1, &pins([("a".into(), 1)]), &there), write(vec![]));
}

#[test]
fn an_edit_by_hand_is_overwritten_under_guard() {
    let there = observed(names_1(), &[("a", 7, 11)]);
    let batch = Batch { guard: Guard::Hold, writes: vec![put("a", 1, 11)] };
    assert_eq!(decide(1, &pins([("a".into(), 1)]), &there), write(vec![batch]));
}

#[test]
fn sixty_three_fit_and_sixty_four_go_after_the_authoritative_key() {
    let Decision::Write { batches, .. } = decide(2, &many(63, 2), &observed(names_1(), &[])) else { panic!() };
    assert_eq!(batches.iter().map(|batch| batch.writes.len()).collect::<Vec<_>>(), [63]);
    let Decision::Write { batches, .. } = decide(2, &many(64, 2), &observed(names_1(), &[])) else { panic!() };
    assert_eq!(batches.iter().map(|batch| batch.writes.len()).collect::<Vec<_>>(), [0, 63, 1]);
    assert_eq!(batches[0].guard, Guard::Move { from: 9 });
    assert!(batches[1..].iter().all(|batch| batch.guard == Guard::Hold));
}

#[test]
fn never_back() {
    let none = pins([]);
    let ahead = Authority::Names { pointer: pointer(5), index: 9 };
    assert_eq!(decide(4, &none, &observed(ahead, &[("a", 1, 2)])), Decision::CatchUp(pointer(5)));
    let unknown = Authority::Unknown { pointer: pointer(1) };
    assert_eq!(decide(4, &none, &observed(unknown, &[("a", 1, 2)])), Decision::Wait(pointer(1)));
    let fork = Pointer { sequence: Sequence(4), commit: commit(77) };
    let there = Authority::Names { pointer: fork, index: 9 };
    assert_eq!(decide(4, &none, &observed(there, &[("a", 1, 2)])), Decision::Fork(fork));
}

#[test]
fn damage_is_overwritten_at_its_index() {
    let there = observed(Authority::Absent { index: 42 }, &[]);
    let batch = Batch { guard: Guard::Move { from: 42 }, writes: vec![] };
    assert_eq!(decide(1, &pins([]), &there), write(vec![batch]));
}

#[test]
fn component_keys_belong_to_one_instance() {
    let wanted = pins([("a".into(), 1)]);
    let mut there = observed(Authority::Absent { index: 0 }, &[("b", 1, 2)]);
    there.projection = Some(held("dc/v2", 5));
    let alone = Batch { guard: Guard::Move { from: 0 }, writes: vec![] };
    let other = Some("dc/v2".parse().unwrap());
    assert_eq!(decide(1, &wanted, &there), Decision::Write { batches: vec![alone], projection_of: other, spared: 0 });
    for (absent, index) in [(None, 0), (Some(held("?", 6)), 6)] {
        there.projection = absent;
        let Decision::Write { batches, .. } = decide(1, &wanted, &there) else { panic!() };
        let claim = Write::Put { key: "configurations/projection".into(), value: "dc/v1".into(), index };
        assert_eq!(batches[0].writes[0], claim);
    }
}

#[test]
fn few_keys_go_at_once() {
    let stray: Vec<String> = (0..200).map(|number| format!("s{number}")).collect();
    let stray: Vec<(&str, u8, u64)> = stray.iter().map(|name| (name.as_str(), 1, 3)).collect();
    let Decision::Write { batches, spared, .. } = decide(1, &pins([]), &observed(names_1(), &stray)) else { panic!() };
    assert_eq!(batches.iter().map(|batch| batch.writes.len()).sum::<usize>(), 64);
    assert_eq!(spared, 136);
}
