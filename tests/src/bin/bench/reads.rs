//! Reads of settings on a host, beside reads from Consul.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper::Method;
use tests::{
    Consul,
    figures::{Kind, Row, Spread},
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{client::Connection, fleet::CHANGED, options::Size};

const CONNECTIONS: usize = 16;

/// Measures both in turns. `host` is the address of an agent that runs [`CHANGED`].
pub(crate) fn measure(size: Size, host: SocketAddr, consul: &Consul) -> Row {
    let path = format!("/v1/config/{CHANGED}");
    let body = {
        let mut client = crate::client::Client::open(host);
        client.send(Method::GET, &path, String::new()).body
    };
    consul.put("bench/read", &String::from_utf8_lossy(&body));
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..size.slices() {
        rates[0].push(rate(host, &path, size.lasting()));
        rates[1].push(rate(consul.address(), "/v1/kv/bench/read?raw", size.lasting()));
    }
    let [ours, theirs] = rates.map(Spread::of);
    let what = format!("settings of a component as JSON from conf-local, {CONNECTIONS} connections");
    Row::new("reads", &what, "1/s", ours)
        .more_is_better()
        .beside(Kind::Peer, "Consul: GET of one key", theirs)
        .goal(theirs.median)
        .means(
            "Programs on a host may ask for their settings this often. The client of the benchmark shares the cores. Files and \
             libconf cost less: they ask nobody.",
        )
}

fn rate(address: SocketAddr, path: &str, lasting: Duration) -> f64 {
    let runtime = Runtime::new().expect("a runtime can be built");
    runtime.block_on(async {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let path = path.to_owned();
            tasks.spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut answers = 0_u32;
                while began.elapsed() < lasting || answers == 0 {
                    let answer = connection.send(Method::GET, &path, String::new()).await;
                    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
                    answers += 1;
                }
                answers
            });
        }
        let answers: u32 = tasks.join_all().await.into_iter().sum();
        f64::from(answers) / began.elapsed().as_secs_f64()
    })
}
