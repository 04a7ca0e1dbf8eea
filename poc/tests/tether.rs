//! Children end with their parent, in whatever way that ends. Without the usual test harness, since
//! the program that tethers a child runs itself once more.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use poc::tether;

fn main() {
    tether::obey();
    if env::args().nth(1).as_deref() == Some("parent") {
        let mut child = tether::command("sh").args(["-c", "echo alive; exec sleep 1000"]).spawn().expect("sh starts");
        child.wait().expect("sh is waited for");
        return;
    }
    kill_9_of_the_parent_ends_the_child();
    println!("test kill_9_of_the_parent_ends_the_child ... ok\n1 passed, 0 failed");
}

fn kill_9_of_the_parent_ends_the_child() {
    let me = env::current_exe().expect("this program has a file");
    let mut parent = Command::new(me).arg("parent").stdout(Stdio::piped()).spawn().expect("the parent starts");
    let mut out = BufReader::new(parent.stdout.take().expect("its output is a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("the child speaks");
    assert_eq!(line, "alive\n");
    parent.kill().expect("kill -9");
    parent.wait().expect("it ends");
    // The pipe is closed when the last process that holds it has ended: the child.
    out.read_to_string(&mut line).expect("the pipe is closed");
    assert_eq!(line, "alive\n");
}
