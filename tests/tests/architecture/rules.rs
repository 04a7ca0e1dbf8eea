//! What is wrong in a crate.

use std::collections::BTreeSet;

use crate::{
    arrows::{self, Arrow, Arrows, Imports, Upward},
    circles,
    modules::Tree,
    package::Package,
};

/// A file longer than this holds a second thing (docs/architecture.md, CONTRIBUTING.md: "One module
/// is one room").
const LONGEST_FILE: usize = 450;
/// A function longer than this cannot be seen at once.
const LONGEST_FUNCTION: usize = 80;
/// Comments are read beside code, and beside each other.
const WIDEST_COMMENT: usize = 100;

/// The rules, in the order in which what breaks them is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    Order,
    Circle,
    Super,
    Facade,
    LongFile,
    LongFunction,
    WideComment,
}

/// One place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) rule: Rule,
    /// What a person reads.
    pub(crate) text: String,
}

impl Rule {
    pub(crate) const ALL: [Rule; 7] =
        [Rule::Order, Rule::Circle, Rule::Super, Rule::Facade, Rule::LongFile, Rule::LongFunction, Rule::WideComment];

    /// What is wrong, and what to do.
    pub(crate) fn advice(self) -> String {
        match self {
            Rule::Order => "A folder imports one that comes later in its crate. The `mod` lines of lib.rs (or main.rs) are \
                            the order, and a folder may import only those above it.\n\
                            Move what is imported to an earlier folder, or pass it in as a value. Move the `mod` line only \
                            if the order itself is wrong."
                .to_owned(),
            Rule::Circle => "Modules import each other in a circle, so that none can be read without the others.\n\
                             Choose the arrow that is wrong, and move the names that it needs to a module that both \
                             import."
                .to_owned(),
            Rule::Super => "A module imports by `super::`, and so from the module around it. A folder's mod.rs is for \
                            those outside.\n\
                            Import from the file that defines the name: `use crate::folder::file::Name`."
                .to_owned(),
            Rule::Facade => "A module imports from its own folder's mod.rs, which is for those outside.\n\
                             Import from the file that defines the name: `use crate::folder::file::Name`. If mod.rs \
                             itself defines it, move it to a file of its own."
                .to_owned(),
            Rule::LongFile => format!(
                "A file is longer than {LONGEST_FILE} lines (tests are not counted). Find the second thing in it, and give \
                 that a file."
            ),
            Rule::LongFunction => format!(
                "A function is longer than {LONGEST_FUNCTION} lines. Find a step in it that has a name, and make that a \
                 function."
            ),
            Rule::WideComment => format!(
                "A line of comment is wider than {WIDEST_COMMENT} columns. Break it; where it is hard to break, make two \
                 sentences of it."
            ),
        }
    }
}

/// What to tell about findings: for each rule the remedy, and the places.
pub(crate) fn report(found: &[Finding]) -> String {
    let of_rule = |rule: Rule| {
        let texts = found.iter().filter(|finding| finding.rule == rule).flat_map(|finding| finding.text.lines());
        let places = texts.map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
        (!places.is_empty()).then(|| format!("{}\n\n{places}\n", rule.advice()))
    };
    Rule::ALL.into_iter().filter_map(of_rule).collect::<Vec<_>>().join("\n")
}

/// Everything that is wrong in a crate.
pub(crate) fn findings(package: &Package) -> Vec<Finding> {
    let imports = arrows::of(&package.tree);
    let mut findings = out_of_order(package, &imports);
    findings.extend(in_circles(package, &imports));
    findings.extend(upward(package, Rule::Super, &imports.by_super));
    findings.extend(upward(package, Rule::Facade, &imports.by_facade));
    findings.extend(long_files(&package.tree));
    findings.extend(long_functions(&package.tree));
    findings.extend(wide_comments(&package.tree));
    findings
}

fn out_of_order(package: &Package, imports: &Imports) -> Vec<Finding> {
    let tree = &package.tree;
    let order = tree.folders();
    let place = |folder: &usize| order.iter().position(|other| other == folder);
    let arrows = imports.folders(tree);
    let wrong = arrows.iter().filter(|((from, to), _)| place(from) < place(to));
    wrong
        .map(|(&between, arrow)| Finding {
            rule: Rule::Order,
            text: format!("{}: {}", package.name, told(tree, between, arrow)),
        })
        .collect()
}

fn in_circles(package: &Package, imports: &Imports) -> Vec<Finding> {
    let tree = &package.tree;
    let of_files = circles::of(&imports.files);
    let mut findings: Vec<Finding> =
        of_files.iter().map(|circle| told_circle(package, "files", circle, &imports.files)).collect();
    // And circles of folders that no circle of files has shown. Directly below a root the order
    // shows them.
    for parent in (0..tree.modules.len()).filter(|&at| tree.modules[at].parent.is_some()) {
        let arrows = imports.below(tree, parent);
        let shown: Vec<BTreeSet<usize>> = of_files
            .iter()
            .map(|circle| circle.iter().filter_map(|&file| tree.child_with(parent, file)).collect())
            .collect();
        let circles = circles::of(&arrows);
        let new = circles.iter().filter(|circle| !shown.contains(&circle.iter().copied().collect()));
        findings.extend(new.map(|circle| told_circle(package, "folders", circle, &arrows)));
    }
    findings
}

fn told_circle(package: &Package, what: &str, circle: &[usize], arrows: &Arrows) -> Finding {
    let tree = &package.tree;
    let mut members: Vec<String> = circle.iter().map(|&module| tree.path_of(module)).collect();
    members.sort();
    let members = members.join(", ");
    let mut lines = vec![format!("{}: {} {what} in a circle: {members}", package.name, circle.len())];
    let within = arrows.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
    lines.extend(within.map(|(&between, arrow)| format!("    {}", told(tree, between, arrow))));
    let text = lines.join("\n");
    Finding { rule: Rule::Circle, text }
}

fn upward(package: &Package, rule: Rule, paths: &Upward) -> Vec<Finding> {
    let told = paths.iter().map(|((module, line), paths)| {
        let file = package.tree.file_of(*module).display();
        let text = format!("{file}:{line}: {}", paths.join(", "));
        Finding { rule, text }
    });
    told.collect()
}

fn long_files(tree: &Tree) -> Vec<Finding> {
    let lines = tree.files.iter().map(|file| (&file.source, file.source.product_lines()));
    lines
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(source, lines)| Finding {
            rule: Rule::LongFile,
            text: format!("{}: {lines} lines", source.path.display()),
        })
        .collect()
}

fn long_functions(tree: &Tree) -> Vec<Finding> {
    let functions = tree.files.iter().flat_map(|file| file.functions.iter().map(move |function| (file, function)));
    functions
        .map(|(file, function)| (file.source.path.display(), function, function.lines.clone().count()))
        .filter(|(_, _, lines)| *lines > LONGEST_FUNCTION)
        .map(|(path, function, lines)| Finding {
            rule: Rule::LongFunction,
            text: format!("{path}:{}: {} has {lines} lines", function.lines.start(), function.name),
        })
        .collect()
}

fn wide_comments(tree: &Tree) -> Vec<Finding> {
    let sources = tree.files.iter().map(|file| &file.source);
    let comments = sources.flat_map(|source| source.comments().into_iter().map(move |comment| (source, comment)));
    comments
        .map(|(source, (number, line))| (source.path.display(), number, line.chars().count()))
        .filter(|(_, _, columns)| *columns > WIDEST_COMMENT)
        .map(|(path, number, columns)| Finding {
            rule: Rule::WideComment,
            text: format!("{path}:{number}: {columns} columns"),
        })
        .collect()
}

/// `judge -> landing`
fn ends(tree: &Tree, (from, to): (usize, usize)) -> String {
    format!("{} -> {}", tree.path_of(from), tree.path_of(to))
}

/// `judge -> landing: names A, B (conf-master/src/judge/mod.rs:12)`
fn told(tree: &Tree, between: (usize, usize), arrow: &Arrow) -> String {
    let (module, line) = arrow.first;
    let file = tree.file_of(module).display();
    format!("{}: names {} ({file}:{line})", ends(tree, between), arrow.told())
}
