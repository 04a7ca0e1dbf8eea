//! The Jinja engine. All of this runs in the process that renders.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};

use crate::{
    sandbox::spent,
    settings::{SettingsFault, TEMPLATE_ENDING},
    template::{
        job::{Answer, Limits, Made, NAMES, Question, Rendering, Task, names_others},
        prepared::prepared,
        stand_in::{FILTERS, Passages, Passed, QUOTED, passes, shown},
        values,
        watched::{self, NOT_OPENED, Read},
    },
};

/// The deepest nesting of includes and macro calls, out of the engine's own 500.
const RECURSION: usize = 200;
/// The most characters of a reason.
const REASON_CHARS: usize = 300;

/// The tags whose reads the engine reports correctly. For others (`set`, `with`, `macro`, `filter`,
/// …) it misses some arguments, or takes a name for the template's own too early.
const TOLD_RIGHTLY: [&str; 9] = ["for", "endfor", "if", "elif", "else", "endif", "raw", "endraw", "do"];

/// Answers one question.
pub(crate) fn answer(question: Question) -> Answer {
    match question {
        Question::Render(task, limits) => {
            let passages = Passages::default();
            let rendering = render(&task, limits, &passages);
            Answer::Render(rendering, passages.take())
        }
        Question::Uses(files) => Answer::Uses(uses(&files)),
    }
}

pub(crate) fn environment<'a>(passages: &Passages) -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_recursion_limit(RECURSION);
    // Debug mode names undefined variables. The other things that it knows, values among them, are
    // never printed.
    environment.set_debug(true);
    environment.remove_global("debug");
    // The engine drops nothing by itself: `prepared` marks the lines that go.
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    values::show_as_settings(&mut environment, passages);
    environment
}

fn render(job: &Task, limits: Limits, passages: &Passages) -> Rendering {
    let begun = spent();
    let mut environment = environment(passages);
    environment.set_fuel(Some(limits.fuel));
    environment.set_path_join_callback(|name, parent| joined(name, parent).into());
    let files: Arc<BTreeMap<String, String>> = Arc::new(job.files.clone());
    environment.set_loader(move |path| match files.get(path) {
        Some(text) => Ok(Some(prepared(text).text)),
        None if path.split('/').any(|part| part == ".." || part.is_empty()) => {
            let words =
                format!("`{path}` leads out of the component; a template can read the component's own files only");
            Err(Error::new(ErrorKind::InvalidOperation, words))
        }
        None => Ok(None),
    });
    let (mut left, mut endless) = (limits.component_bytes, false);
    let templates = job.files.keys().filter(|path| path.ends_with(TEMPLATE_ENDING));
    let results = templates
        .map(|path| {
            let read = Read::default();
            let mut output = Output { bytes: Vec::new(), left: limits.file_bytes.min(left) };
            let done = environment
                .get_template(path)
                .and_then(|template| template.render_captured_to(variables(job, &read), &mut output).map(drop));
            let secrets = read.names();
            let result = match (done, read.misuse()) {
                (Ok(()), Some(how)) => {
                    Err(SettingsFault { file: path.clone(), line: None, reason: format!("it {how}; {}", passes()) })
                }
                (Ok(()), None) => {
                    left -= output.bytes.len();
                    // The output is made of text alone.
                    Ok(Made { text: String::from_utf8_lossy(&output.bytes).into_owned(), secrets })
                }
                (Err(error), _) => {
                    endless |= matches!(error.kind(), ErrorKind::OutOfFuel | ErrorKind::WriteFailure);
                    Err(fault(path, &error, job, limits))
                }
            };
            (path.clone(), result)
        })
        .collect();
    Rendering { results, spent: spent().saturating_sub(begun), endless }
}

/// Lets a text with its values pass through a filter. The caller runs this, where the values are.
pub(crate) fn pass(environment: &Environment<'_>, passed: &Passed, text: &str) -> Result<String, String> {
    let inner = |quoted: &str| quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).map(str::to_owned);
    let Passed { filter, arguments, named, .. } = passed;
    if filter == QUOTED {
        return inner(&values::quoted(text)).ok_or_else(|| "it cannot be quoted".to_owned());
    }
    if !FILTERS.contains(&filter.as_str()) {
        return Err(passes());
    }
    let mut values = vec![Value::from(text)];
    values.extend(arguments.iter().map(|argument| Value::from(Serde(argument))));
    if !named.is_empty() {
        let named = named.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        values.push(named.collect::<Kwargs>().into());
    }
    // The error's detail could hold a part of the text.
    let made = environment.empty_state().apply_filter(filter, &values).map_err(|error| error.kind().to_string())?;
    match filter.as_str() {
        "tojson" => inner(&made.to_string()).ok_or_else(|| "it cannot be quoted".to_owned()),
        _ => Ok(made.to_string()),
    }
}

/// The variables of a template.
fn variables(job: &Task, read: &Read) -> Value {
    let mut variables: BTreeMap<String, Value> = BTreeMap::new();
    for (name, value) in &job.variables {
        let value = match name.as_str() {
            "settings" => watched::settings(value, &job.secrets, read),
            _ => Value::from(Serde(value)),
        };
        variables.insert(name.clone(), value);
    }
    variables.insert("secrets".to_owned(), watched::secrets(&job.secrets, read));
    Value::from(variables)
}

/// The path of an include: from the component's root, or from the template's own folder when it
/// begins with a dot.
fn joined(name: &str, parent: &str) -> String {
    if !name.starts_with("./") && !name.starts_with("../") {
        return name.to_owned();
    }
    let mut parts: Vec<&str> = parent.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "." => {}
            // A `..` too many stays, and the loader refuses it.
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The fault of a template.
fn fault(template: &str, error: &Error, job: &Task, limits: Limits) -> SettingsFault {
    // The innermost error tells the fault and its place.
    let mut innermost = error;
    while let Some(inner) = std::error::Error::source(innermost).and_then(|inner| inner.downcast_ref::<Error>()) {
        innermost = inner;
    }
    let file = innermost.name().or(error.name()).filter(|name| job.files.contains_key(*name)).unwrap_or(template);
    let line = innermost.line().or(error.line());
    let quoted = || {
        let source = job.files.get(file)?;
        let edited = prepared(source);
        let quoted = edited.original(innermost.range()?, source)?.trim();
        (!quoted.is_empty() && quoted.len() <= 80 && !quoted.contains('\n')).then(|| format!(" in `{quoted}`"))
    };
    let detail = innermost.detail().unwrap_or_default();
    let reason = match innermost.kind() {
        ErrorKind::UndefinedError if detail.starts_with('`') => undefined(detail, job),
        ErrorKind::UndefinedError => format!("a value is undefined{}", quoted().unwrap_or_default()),
        ErrorKind::OutOfFuel => {
            format!("it takes more than {} steps; is there a loop that never ends?", limits.fuel)
        }
        ErrorKind::WriteFailure => {
            let (file, all) = (limits.file_bytes >> 20, limits.component_bytes >> 20);
            format!("it makes more than {file} MiB, or all of the component's templates more than {all} MiB")
        }
        ErrorKind::InvalidOperation if detail.starts_with(NOT_OPENED) => detail.to_owned(),
        ErrorKind::SyntaxError => format!("it is no template: {detail}"),
        ErrorKind::TemplateNotFound => {
            format!("{detail}; a template can read the component's own files only")
        }
        kind if detail.is_empty() => format!("{kind}{}", quoted().unwrap_or_default()),
        kind => format!("{kind}: {detail}{}", quoted().unwrap_or_default()),
    };
    SettingsFault { file: file.to_owned(), line, reason: shown(&reason).chars().take(REASON_CHARS).collect() }
}

/// An undefined variable, with advice.
fn undefined(detail: &str, job: &Task) -> String {
    let name = detail.trim_start_matches('`').split('`').next().unwrap_or_default();
    let first = name.split(['.', '[']).next().unwrap_or_default();
    let advice = match first {
        "secrets" => "; declare it in `secrets:` of datacenter.yaml with this component among its `readers`".to_owned(),
        first if job.variables.contains_key(first) => {
            "; set it, or give it a default: {{ x | default(\"…\") }}".to_owned()
        }
        _ => {
            let known: Vec<&str> = job.variables.keys().map(String::as_str).chain(["secrets"]).collect();
            format!("; a template knows {}", known.join(", "))
        }
    };
    format!("{detail}{advice}")
}

/// The variables that templates may read, or a superset of them; `None` when they may read any.
fn uses(files: &BTreeMap<String, String>) -> Option<BTreeSet<String>> {
    let mut environment = environment(&Passages::default());
    environment.set_fuel(Some(0));
    let mut names = BTreeSet::new();
    for (path, text) in files {
        // Variables that another file reads cannot be seen from here.
        if names_others(text) {
            return None;
        }
        if !tags(text).all(|tag| TOLD_RIGHTLY.contains(&tag)) {
            // A template that reads a variable has the variable's name in it.
            let words: BTreeSet<&str> = text.split(|letter: char| !is_of_name(letter)).collect();
            names.extend(NAMES.into_iter().filter(|name| words.contains(name)).map(str::to_owned));
            continue;
        }
        let text = prepared(text).text;
        // A file that is no template reads nothing; rendering refuses it.
        let Ok(template) = environment.template_from_named_str(path, &text) else { continue };
        names.extend(template.undeclared_variables(true));
    }
    Some(names)
}

/// The first word of every tag.
fn tags(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("{%").map(|(start, _)| {
        let tag = text[start + 2..].trim_start_matches(|letter: char| letter.is_whitespace() || "-+".contains(letter));
        &tag[..tag.find(|letter: char| !is_of_name(letter)).unwrap_or(tag.len())]
    })
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// A text that may not grow beyond a bound.
struct Output {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
