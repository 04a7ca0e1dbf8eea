//! The drawing of the folders in `docs/architecture.md`.

use crate::{arrows, modules::Tree, package::Package};

/// From the workspace's folder.
pub(crate) const PAGE: &str = "docs/architecture.md";

const BEGIN: &str = "<!-- folders: begin -->";
const END: &str = "<!-- folders: end -->";
/// Lines of the drawing are wrapped here.
const WIDTH: usize = 100;

/// All crates, one block each.
pub(crate) fn draw(packages: &[Package]) -> String {
    packages.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// A crate: its folders in their order, what each is for, and which others it imports.
fn block(package: &Package) -> String {
    let tree = &package.tree;
    let folders = tree.folders();
    let arrows = arrows::of(tree).folders(tree);
    let shown: Vec<String> = folders.iter().map(|&folder| name(tree, folder)).collect();
    let column = shown.iter().map(String::len).max().unwrap_or(0) + 2;
    let mut text = format!("**{}** (`{}/src/`)\n\n```text\n", package.name, package.folder.display());
    for (&folder, shown) in folders.iter().zip(&shown) {
        let imported = folders.iter().filter(|&&other| arrows.contains_key(&(folder, other)));
        let uses: Vec<&str> = imported.map(|&other| tree.modules[other].name.as_str()).collect();
        let purpose = wrapped(&tree.modules[folder].purpose, WIDTH - column);
        let uses =
            if uses.is_empty() { Vec::new() } else { wrapped(&format!("uses: {}", uses.join(", ")), WIDTH - column) };
        for (at, line) in purpose.iter().chain(&uses).enumerate() {
            let first = if at == 0 { shown } else { "" };
            text += format!("{first:column$}{line}").trim_end();
            text += "\n";
        }
    }
    text + "```\n"
}

/// `judge/` for a folder, `clock` for a file.
fn name(tree: &Tree, folder: usize) -> String {
    let module = &tree.modules[folder];
    let is_file = |&child: &usize| !tree.modules[child].is_inline;
    let has_files = tree.file_of(folder).ends_with("mod.rs") || module.children.iter().any(is_file);
    format!("{}{}", module.name, if has_files { "/" } else { "" })
}

/// One line at least.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The page with the drawing in its place.
pub(crate) fn renewed(page: &str, drawing: &str) -> Result<String, String> {
    let missing = || format!("{PAGE} has to have the lines {BEGIN} and {END}, between which the folders are drawn");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{drawing}\n{END}{after}"))
}

/// The folders (`crate/folder`) of the programs and libraries that no row of their crate's table names. A crate's table follows
/// the heading with its folder; `poc` has none.
pub(crate) fn without_promise(page: &str, packages: &[Package]) -> Vec<String> {
    let missing_of = |package: &Package| {
        let heading = format!("(`{}/src`)", package.folder.display());
        let section =
            page.split("\n### ").find(|section| section.lines().next().is_some_and(|line| line.contains(&heading)));
        let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
        let named: Vec<&str> =
            rows.filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split('`')).collect();
        let names = package.tree.folders().into_iter().map(|folder| package.tree.modules[folder].name.clone());
        let missing = names.filter(|name| !named.contains(&name.as_str()));
        missing.map(|name| format!("{}/{name}", package.name)).collect::<Vec<_>>()
    };
    packages.iter().filter(|package| package.name != "poc").flat_map(missing_of).collect()
}

/// Says what is not as the page has it, and how to renew it.
pub(crate) fn stale(page: &str, renewed: &str) -> String {
    let pairs = page.lines().zip(renewed.lines()).enumerate();
    let place = pairs.map(|(at, (is, should))| (at + 1, is, should)).find(|(_, is, should)| is != should);
    let place = place.map_or_else(String::new, |(at, is, should)| {
        format!("\n\n  {PAGE}:{at}\n  it says:   {is}\n  should be: {should}")
    });
    format!(
        "{PAGE} draws the folders, and they are no longer so.{place}\n\n\
         Renew it:\n  ARCHITECTURE=write cargo test -p tests --test architecture\n\
         and read the difference: a new arrow is a decision.\n"
    )
}
