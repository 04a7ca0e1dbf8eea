//! The cost of reading, beside the least possible cost.
//!
//! `cargo bench -p libconf --features http --bench reading`

use std::{collections::HashMap, fs, hint::black_box, os::unix::fs::symlink, path::Path, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use libconf::{client::Client, name::Sequence};
use serde::Deserialize;

#[derive(Clone, Deserialize)]
struct Web {
    port: u16,
}

/// Makes two snapshots as the agent lays them out; the second is the child of the first.
fn export(dir: &Path) {
    for (sequence, parent) in [(1, 0), (9, 1)] {
        let store = dir.join(format!("store/{sequence}/files"));
        fs::create_dir_all(&store).expect("a folder can be made");
        fs::write(store.join("../settings.json"), format!(r#"{{"port":{sequence}}}"#)).expect("a file can be written");
        let snapshot = dir.join(format!("snapshots/{sequence}"));
        fs::create_dir_all(snapshot.join("services/web")).expect("a folder can be made");
        symlink(&store, snapshot.join("services/web/latest")).expect("a link can be made");
        symlink(store.join("../settings.json"), snapshot.join("services/web/latest.json")).expect("a link can be made");
        let header = format!(r#"{{"commit":"{sequence:040x}","parent":"{parent:040x}"}}"#);
        fs::write(snapshot.join("snapshot.json"), header).expect("a file can be written");
    }
    symlink("snapshots/9", dir.join("current")).expect("a link can be made");
}

fn reading(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder can be made");
    export(dir.path());
    let client = Client::at(dir.path()).expect("the export can be read");
    let web = client.component("services/web").and_then(|web| web.typed::<Web>()).expect("the settings fit");
    let mut headers = http::HeaderMap::new();
    headers.insert("baggage", http::HeaderValue::from_static("userId=alice,serverNode=DF%2028,isProduction=false"));
    let newest = client.begin();
    let older = client.begin_at(Sequence(5));
    newest.get_blocking::<Web>("services/web").expect("the newest is there");
    older.get_blocking::<Web>("services/web").expect("the older one is there");
    let (mut pinned, mut pinned_older) = (headers.clone(), headers.clone());
    newest.inject(&mut pinned);
    older.inject(&mut pinned_older);

    let mut group = c.benchmark_group("current");
    let floor = Arc::new(Web { port: 1 });
    group.bench_function("floor: clone an Arc", |b| b.iter(|| black_box(Arc::clone(&floor)).port));
    group.bench_function("current()", |b| b.iter(|| black_box(web.current()).port));
    group.finish();

    let mut group = c.benchmark_group("get");
    let map = HashMap::from([("services/web".to_owned(), Arc::new(Web { port: 1 }))]);
    group.bench_function("floor: look up in a HashMap, clone an Arc", |b| {
        b.iter(|| map.get(black_box("services/web")).map(|web| Arc::clone(web).port));
    });
    for (name, operation) in [("newest", &newest), ("kept", &older)] {
        group.bench_function(format!("get, {name}"), |b| {
            b.iter(|| operation.get_blocking::<Web>(black_box("services/web")).map(|web| web.port));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("operation");
    let value = http::HeaderValue::from_static("conf-version=5");
    group.bench_function("floor: look up a header, insert another", |b| {
        let mut headers = headers.clone();
        b.iter(|| {
            black_box(headers.get("baggage"));
            headers.insert("x-version", value.clone());
        });
    });
    group.bench_function("begin", |b| b.iter(|| black_box(client.begin()).sequence()));
    for (name, headers) in [("newest", &pinned), ("kept", &pinned_older)] {
        group.bench_function(format!("join, {name}"), |b| b.iter(|| client.join(black_box(headers)).map(drop)));
    }
    group.bench_function("inject", |b| {
        let mut headers = headers.clone();
        b.iter(|| newest.inject(black_box(&mut headers)));
    });
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
