//! Commands for the reader while it runs: every line works when it is pasted into another terminal.

use std::{env, path::Path};

use anyhow::Result;
use owo_colors::Style;

use crate::{
    place::{DATACENTER, PLACES, Unit},
    print::{paint, say},
    site::Site,
    story::SECRET,
};

/// Prints the block "Try it".
pub(crate) fn print(site: &Site, reader: &Path) -> Result<()> {
    say!();
    say!("{}  (in another terminal; every line works as it is)", paint("Try it", Style::new().bold()));
    for (purpose, line) in commands(site, reader)? {
        say!("  {}", paint(&format!("# {purpose}"), Style::new().dimmed()));
        say!("  {line}");
    }
    say!("  Ctrl-C stops everything and removes {}.", site.layout.dir.display());
    Ok(())
}

/// Lists commands for the reader, each with its purpose.
fn commands(site: &Site, reader: &Path) -> Result<Vec<(&'static str, String)>> {
    let layout = &site.layout;
    let central = layout.url(Unit::Master)?;
    let program = |name: &str| quote(&layout.programs.join(name));
    let reader = quote(reader);
    // The user's proxy is for the internet, and does not reach this machine's own addresses.
    let proxied = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].iter().any(|name| env::var_os(name).is_some());
    let git = if proxied { "git -c http.proxy=" } else { "git" };
    let authority = layout.tls.as_ref().map(|tls| quote(&tls.authority));
    let git = authority.as_ref().map_or_else(|| git.to_owned(), |path| format!("{git} -c http.sslCAInfo={path}"));
    let start = |branch: &str| format!("cd {reader} && git fetch -q && git checkout -q -B {branch} origin/{branch}");
    let web = "services/web/main";
    let class = "datacenter-configuration/small";
    let slave = site.pid(Unit::Slave).unwrap_or_default();
    let job = site.pid(Unit::Job(0)).unwrap_or_default();
    let trust = authority.map(|path| format!(" --ca {path}")).unwrap_or_default();
    let token = format!("--token-file {}{trust}", quote(&layout.token(None)));
    let agent = format!("{} status --socket {}", program("conf-local"), quote(&layout.socket(0)));
    Ok(vec![
        (
            "clone everything, with plain git",
            format!(
                "{git} clone -c credential.helper={} {central}conf.git {}",
                quote(Path::new(&layout.credential_helper())),
                quote(&layout.dir.join("mine"))
            ),
        ),
        (
            "push a change of your own, and watch this terminal",
            format!(
                "{} && echo 'greeting: Hello from me' > config.yaml && git commit -qam 'hello' && git push -q",
                start(web)
            ),
        ),
        (
            "push a mistake: a branch that does not exist",
            format!(
                "{} && sed -i 's/name: web, branch: main/name: web, branch: mian/' datacenter.yaml \
                 && git commit -qam oops && git push -q",
                start(class)
            ),
        ),
        (
            "change the settings through the API, as a program would",
            format!(
                "echo 'greeting: Hello from the API' | {} update services/web@main --server {central} {token} --file -",
                program("conf-master")
            ),
        ),
        ("kill the cache of the datacenter; everything goes on", format!("kill -9 {slave}")),
        ("kill a job; it starts again with the present files", format!("kill -9 {job}")),
        (
            "read what a process on web-1 reads",
            format!("cat {}", quote(&layout.host(0).join("export/current/services/web/latest/config.yaml"))),
        ),
        (
            "and a file from a template there, with a secret that only this host can open",
            format!("cat {}", quote(&layout.host(0).join("export/current/services/web/latest/page.txt"))),
        ),
        (
            "give that secret a new value",
            format!("{} secret rotate {DATACENTER} {SECRET} --server {central} {token}", program("conf-master")),
        ),
        (
            "read one value from the agent's memory",
            format!("{} get services/web greeting --socket {}", program("conf-local"), quote(&layout.socket(0))),
        ),
        ("ask the agent for its status", agent),
        (
            "list the deployments, newest first",
            format!("{} log --server {central} {token} {DATACENTER}", program("conf-master")),
        ),
        ("read the daemons' logs", format!("tail -n 3 {}/*.log", quote(&layout.dir.join("logs")))),
    ])
}

/// Lists the programs that run.
pub(crate) fn print_overview(site: &Site) -> Result<()> {
    let row = |name: &str, what: String| say!("  {} {what}", paint(&format!("{name:<12}"), Style::new().bold()));
    say!();
    row("conf-master", format!("the central Git repository, {}conf.git", site.layout.url(Unit::Master)?));
    let pointers = site
        .layout
        .consul_url
        .as_ref()
        .map_or("holds the pointers, in place of Consul".to_owned(), |url| format!("pointers in Consul at {url}"));
    row("conf-slave", format!("the cache of datacenter {DATACENTER}, {}; {pointers}", site.layout.url(Unit::Slave)?));
    for place in &PLACES {
        row(place.host, format!("a host with conf-local; its {} is {}", place.component, place.how));
    }
    Ok(())
}

/// Quotes a path for a shell.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-');
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_paths_are_quoted() {
        assert_eq!(quote(Path::new("/tmp/conf-poc-a1")), "/tmp/conf-poc-a1");
        assert_eq!(quote(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }
}
