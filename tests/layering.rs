//! Keeps the layers of `src/` true: who may import whom, and which room owns which foreign crate.
//!
//! The sources are cut into tokens, so a comment or a string never counts and a path may be written
//! in any way (`use a::{b, c::d}`, over several lines, with `super`). What macros would produce is
//! not seen. Each rule is a function from one source to its violations; `mod rules_can_fail` shows
//! for each of them that it bites.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::{fs, iter};

/// Every layer, lowest first, and the layers below it that it may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("reactor", &["sys"]),
    ("scheduler", &[]),
    ("transport", &["sys", "reactor", "scheduler"]),
    ("tls", &["sys", "reactor", "scheduler", "transport"]),
    ("http", &["sys", "reactor", "scheduler", "transport", "tls"]),
    ("event_loop", &["sys", "reactor", "scheduler", "transport"]),
    ("pool", &["sys", "reactor", "scheduler", "transport", "event_loop"]),
    ("py", &["sys", "reactor", "scheduler", "transport", "tls", "http", "event_loop", "pool"]),
];

/// The rooms of `src/py`, lowest first: each may name those before it.
const PY_ROOMS: &[&str] = &[
    "cpython",
    "asyncio",
    "event_loop",
    "socket_ops",
    "transport",
    "streams",
    "tls",
    "http",
    "pool",
    "module",
];

/// The modules that every layer may name besides, and what each of them may name itself.
const SERVANTS: &[(&str, &[&str])] =
    &[("sync", &[]), ("config", &[]), ("error", &[]), ("id", &[]), ("metrics", &["sync"])];

/// Foreign crates that only one module names, in its tests too. libc has a rule of its own.
const ROOMS: &[(&str, &str)] = &[
    ("mio", "reactor"),
    ("slab", "reactor"),
    ("rustls", "tls"),
    ("aws_lc_sys", "tls"),
    ("rcgen", "tls"),
    ("httparse", "http"),
    ("tungstenite", "http"),
    ("flate2", "http"),
    ("crossbeam_deque", "scheduler"),
    ("num_cpus", "pool"),
    ("dashmap", "pool"),
    ("pyo3", "py"),
    ("loom", "sync"),
];

/// What a module below `py` may take from `std::sync`: the rest is loom's under loom.
const SYNC_BELOW_PY: &[&str] = &["Arc", "Weak"];

/// `py` never runs under loom, so it may use `OnceLock` and plain atomics. Not locks: those are
/// `crate::sync::Mutex`, by way of `lock_attached`, or the interpreter's own.
const SYNC_IN_PY: &[&str] = &["Arc", "Weak", "OnceLock", "atomic"];

const MAX_LINES: usize = 500;

// --- the rules ----------------------------------------------------------------------------------

/// Imports point down, in tests too; nothing imports `py`.
fn imports(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let names = |table: &[(&'static str, _)]| table.iter().map(|(name, _)| *name).collect();
    let servants: Vec<_> = names(SERVANTS);
    let row = |table: &[(&str, &'static [&str])]| {
        table.iter().find(|(name, _)| *name == layer).map(|(_, may)| may.to_vec())
    };
    let allowed = row(SERVANTS)
        .or_else(|| row(LAYERS).map(|may| [servants, may].concat()))
        .unwrap_or_else(|| names(LAYERS).into_iter().filter(|name| *name != "py").collect());
    source.check_paths(&source.tokens(), |path| {
        let ["crate", target, ..] = *path else { return None };
        let known =
            target == layer || layer == "lib" && target != "py" || allowed.contains(&target);
        let may = allowed.join(", ");
        (!known).then(|| format!("`{layer}` may not name `crate::{target}`; it may name: {may}"))
    })
}

/// In `src/py`, imports point to rooms below.
fn py_rooms(source: &Source) -> Vec<String> {
    let place = |room: &str| PY_ROOMS.iter().position(|known| *known == room);
    let ["py", room, ..] = source.module()[..] else { return Vec::new() };
    let Some(own) = place(room) else {
        return vec![source.at(1, &format!("put `{room}` into the table of rooms"))];
    };
    source.check_paths(&source.tokens(), |path| {
        let ["crate", "py", other, ..] = *path else { return None };
        let above = place(other).is_some_and(|other| other > own);
        above.then(|| format!("room `{room}` may not name `{}`", path[1..].join("::")))
    })
}

/// No files name each other in a circle, be it a long one. (Not those of tests, nor what a `mod.rs`
/// says of its files.)
fn circles(sources: &[Source]) -> Vec<String> {
    let is_root = |source: &&Source| source.path.ends_with("mod.rs") || source.layer() == "lib";
    let files: Vec<_> = sources.iter().filter(|each| !each.is_test && !is_root(each)).collect();
    let by_module: HashMap<_, _> =
        files.iter().enumerate().map(|(at, file)| (file.module().join("::"), at)).collect();
    let exported: HashMap<_, _> = sources.iter().filter(is_root).flat_map(exports).collect();
    let edges: Vec<BTreeSet<usize>> = files
        .iter()
        .map(|file| {
            let named = paths(file.module(), &file.shipped());
            named.iter().filter_map(|(path, _)| find_file(path, &by_module, &exported)).collect()
        })
        .collect();
    let mut found = Vec::new();
    let mut state = vec![Visit::New; files.len()];
    for start in 0..files.len() {
        walk(start, &edges, &mut state, &mut Vec::new(), &mut |circle| {
            let names: Vec<_> = circle.iter().map(|at| files[*at].path.as_str()).collect();
            found.push(format!("{} name each other in a circle", names.join(", ")));
        });
    }
    found
}

/// What a `mod.rs` gives another name: from the short path to the long one.
fn exports(root: &Source) -> Vec<(String, String)> {
    let module = root.module();
    let named = paths(module.clone(), &root.shipped()).into_iter();
    let own = |(path, _): (Vec<&str>, usize)| match *path.as_slice() {
        ["crate", ref path @ ..] => path.join("::"),
        ref path => [&module[..], path].concat().join("::"),
    };
    named
        .map(own)
        .filter_map(|path| {
            let (_, name) = path.rsplit_once("::")?;
            Some(([&module[..], &[name]].concat().join("::"), path))
        })
        .filter(|(short, long)| short != long)
        .collect()
}

/// The file of which a path names something.
fn find_file(
    path: &[&str],
    files: &HashMap<String, usize>,
    exported: &HashMap<String, String>,
) -> Option<usize> {
    let ["crate", path @ ..] = path else { return None };
    (1..=path.len()).rev().find_map(|length| {
        let name = path[..length].join("::");
        let long = exported.get(&name);
        let within = |long: &String| {
            let (module, _) = long.rsplit_once("::")?;
            files.get(module).or_else(|| files.get(long)).copied()
        };
        files.get(&name).copied().or_else(|| within(long?))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    OnTheWay,
    Done,
}

/// Goes along the edges from a file; tells of each circle that it closes.
fn walk(
    at: usize,
    edges: &[BTreeSet<usize>],
    state: &mut [Visit],
    way: &mut Vec<usize>,
    tell: &mut impl FnMut(&[usize]),
) {
    match state[at] {
        Visit::Done => return,
        Visit::OnTheWay => {
            let begin = way.iter().position(|one| *one == at).unwrap_or(0);
            return tell(&way[begin..]);
        }
        Visit::New => {}
    }
    state[at] = Visit::OnTheWay;
    way.push(at);
    for next in edges[at].iter().filter(|next| **next != at) {
        walk(*next, edges, state, way, tell);
    }
    way.pop();
    state[at] = Visit::Done;
}

/// Atomics, locks, cells and threads come through `crate::sync`, in tests too.
fn synchronisation(source: &Source) -> Vec<String> {
    let (sync, thread): (&[&str], &[&str]) = match source.layer() {
        "sync" => return Vec::new(),
        "py" => (SYNC_IN_PY, &["yield_now"]),
        _ => (SYNC_BELOW_PY, &[]),
    };
    source.check_paths(&source.tokens(), |path| {
        let wrong = match *path {
            ["std" | "core" | "alloc", "sync", name, ..] => !sync.contains(&name),
            ["std", "thread", name, ..] => !thread.contains(&name),
            ["std" | "core" | "alloc", "sync"] | ["std", "thread"] => true,
            ["std" | "core", "cell", "UnsafeCell", ..] => source.layer() != "py",
            _ => false,
        };
        if matches!(*path, [.., "atomic", "fence"] | [.., "Ordering", "SeqCst"]) {
            return Some("two threads that look at each other: `crate::sync::announce`".to_owned());
        }
        wrong.then(|| format!("`{}`: take it from `crate::sync`", path.join("::")))
    })
}

/// Models run the code that ships. What loom takes the place of is in two files; elsewhere it may change
/// a size, and no body.
fn bodies(source: &Source) -> Vec<String> {
    if source.layer() == "sync" || source.path == "src/scheduler/deque.rs" {
        return Vec::new();
    }
    let is_size =
        |line| source.text.lines().nth(line - 1).is_some_and(|it| it.starts_with("const "));
    let tokens = source.shipped();
    let wrong = tokens.iter().filter(|token| token.text == "loom" && !is_size(token.line));
    wrong
        .map(|token| source.at(token.line, "another body for loom: no model shows this one"))
        .collect()
}

/// Each foreign crate in its room. Models that are built for loom alone may name loom.
fn rooms(source: &Source) -> Vec<String> {
    source.check_paths(&source.tokens(), |path| {
        let (foreign, room) = ROOMS.iter().find(|(foreign, _)| *foreign == path[0])?;
        let model = *foreign == "loom" && source.is_test;
        (source.layer() != *room && !model).then(|| format!("only `src/{room}` names `{foreign}`"))
    })
}

/// `sys` alone makes system calls. Others may name libc's error numbers, which `io::Error` deals
/// in; tests may make their own calls.
fn system_calls(source: &Source) -> Vec<String> {
    let is_errno = |name: &str| {
        let plain = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        plain && name.starts_with('E') && !name.starts_with("EPOLL")
    };
    source.check_paths(&source.shipped(), |path| {
        let wrong = path[0] == "libc" && source.layer() != "sys";
        (wrong && !path.get(1).is_some_and(|name| is_errno(name)))
            .then(|| format!("`{}`: only `src/sys` calls the operating system", path.join("::")))
    })
}

/// To close a socket may take long, so there is one way: `sys::owned_socket`, and what it was given to
/// close by. What is no socket (the reactor's own) may be closed anywhere.
fn owned_descriptors(source: &Source) -> Vec<String> {
    if matches!(source.layer(), "sys" | "reactor") || source.path == "src/py/cpython/closing.rs" {
        return Vec::new();
    }
    source.check_paths(&source.shipped(), |path| {
        let owns = path.starts_with(&["std", "os", "fd", "OwnedFd"])
            || path.starts_with(&["std", "os", "fd", "FromRawFd"])
            || path.starts_with(&["std", "net"]) && path.len() > 2 && path[2].starts_with("Tcp")
            || path.starts_with(&["std", "os", "unix", "net"]);
        owns.then(|| format!("`{}`: a socket that is ours is an `OwnedSocket`", path.join("::")))
    })
}

/// What Python, the kernel or a caller returned is a value, never a panic.
fn unwraps(source: &Source) -> Vec<String> {
    let tokens = source.shipped();
    let calls = tokens.windows(3).filter(|window| {
        matches!(texts(window)[..], ["." | "::", "unwrap" | "expect", "(" | ")" | ","])
    });
    let wrong = |call: &Token<'_>| {
        source.at(call.line, &format!("`{}` outside of tests: return the error", call.text))
    };
    calls.map(|window| wrong(&window[1])).collect()
}

/// A file says first what it is for; a layer also says what it must never do.
fn module_docs(source: &Source) -> Vec<String> {
    let docs = source.text.lines().take_while(|line| line.starts_with("//!"));
    let says_never = docs.into_iter().any(|line| line.contains("Must never:"));
    let missing = if !source.text.starts_with("//! ") {
        "a file begins with `//!` and what it is for"
    } else if source.module().len() == 1 && !says_never {
        "the docs of a layer say what it `Must never:`"
    } else {
        return Vec::new();
    };
    vec![source.at(1, missing)]
}

/// Words of our own that gave way to those of tokio, Go and asyncio (`docs/architecture.md`, *Words*), one
/// a line. The Python sources and the pages are held to the same list.
const GIVEN_UP: &str = include_str!("retired_words.txt");

/// A word that was given up stays out, of comments too.
fn words(source: &Source) -> Vec<String> {
    let lines = source.text.lines().enumerate();
    let found = lines.flat_map(|(at, line)| {
        let words = line.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
        let given_up = |word: &String| {
            GIVEN_UP
                .lines()
                .find(|known| word.strip_suffix('s').unwrap_or(word) == *known || word == *known)
        };
        let says = |word: String| given_up(&word).map(|known| (at + 1, known));
        words.filter_map(says).collect::<Vec<_>>()
    });
    found.map(|(line, word)| source.at(line, &format!("`{word}` has a better name"))).collect()
}

/// A file that grows past the limit is two things.
fn length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let wrong = lines > MAX_LINES;
    let split = || source.at(lines, &format!("longer than {MAX_LINES} lines: split it"));
    wrong.then(split).into_iter().collect()
}

/// The root declares the modules of the tables and no other, and its docs draw the layers in order.
fn tables(source: &Source) -> Vec<String> {
    if source.layer() != "lib" {
        return Vec::new();
    }
    let tokens = source.tokens();
    let modules = tokens.windows(3).filter(|item| item[0].text == "mod" && item[2].text == ";");
    let declared: Vec<_> = modules.map(|item| item[1]).collect();
    let known: Vec<_> = LAYERS.iter().chain(SERVANTS).map(|(name, _)| *name).collect();
    let missing = known.iter().filter(|name| !texts(&declared).contains(name));
    let unknown = declared.iter().filter(|module| !known.contains(&module.text));
    let indented = source.text.lines().filter_map(|line| line.strip_prefix("//!  "));
    let drawn: Vec<_> = indented
        .filter(|line| line.starts_with(char::is_alphabetic))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let picture = (drawn != known[..LAYERS.len()])
        .then(|| source.at(1, &format!("the docs draw {drawn:?}, the layers are {LAYERS:?}")));
    missing
        .map(|name| source.at(1, &format!("there is no `{name}`: take it out of the tables")))
        .chain(unknown.map(|module| {
            source.at(module.line, &format!("put `{}` into a table of this test", module.text))
        }))
        .chain(picture)
        .collect()
}

// --- sources ------------------------------------------------------------------------------------

struct Source {
    /// From the repository's root.
    path: String,
    text: String,
    /// Whether the file, or a module that it is in, is declared under `#[cfg(test)]`.
    is_test: bool,
}

impl Source {
    /// The file's module path: `src/a/b.rs` is `[a, b]`, `src/lib.rs` is the root.
    fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        path.split('/').filter(|part| !matches!(*part, "mod" | "lib")).collect()
    }

    /// The first part of its module path; `lib` for the root.
    fn layer(&self) -> &str {
        self.module().first().copied().unwrap_or("lib")
    }

    fn tokens(&self) -> Vec<Token<'_>> {
        tokens(&self.text)
    }

    /// The tokens that are compiled without `cfg(test)`.
    fn shipped(&self) -> Vec<Token<'_>> {
        let tokens = if self.is_test { Vec::new() } else { self.tokens() };
        let mut end = 0;
        let mut is_shipped = |(at, _): &(usize, &Token<'_>)| {
            end = end.max(test_item(&tokens, *at).unwrap_or(0));
            *at >= end
        };
        tokens.iter().enumerate().filter(|each| is_shipped(each)).map(|(_, token)| *token).collect()
    }

    /// The modules in files of their own that this file declares for tests only.
    fn test_modules(&self) -> Vec<String> {
        let tokens = self.tokens();
        let items = (0..tokens.len()).filter_map(|at| Some(&tokens[at..test_item(&tokens, at)?]));
        let module = |item| match texts(item)[..] {
            [.., "mod", name, ";"] => Some([&self.module()[..], &[name]].concat().join("::")),
            _ => None,
        };
        items.filter_map(module).collect()
    }

    /// Whether the file is one of these modules, or in one of them.
    fn is_within(&self, modules: &[String]) -> bool {
        let module = self.module();
        (1..=module.len()).any(|length| modules.contains(&module[..length].join("::")))
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    /// What `check` says about each path that the tokens name.
    fn check_paths(
        &self,
        tokens: &[Token<'_>],
        check: impl Fn(&[&str]) -> Option<String>,
    ) -> Vec<String> {
        let paths = paths(self.module(), tokens).into_iter();
        paths.filter_map(|(path, line)| Some(self.at(line, &check(&path)?))).collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut sources, mut folders) = (Vec::new(), vec![root.join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|extension| extension == "rs") {
                let path = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&file).unwrap();
                sources.push(Source { path, text, is_test: false });
            }
        }
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let tests: Vec<_> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        source.is_test = source.is_within(&tests);
    }
    sources
}

// --- tokens -------------------------------------------------------------------------------------

/// A word, a `::`, another single character, or a literal (shown as `""`).
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn texts<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    tokens.iter().map(|token| token.text).collect()
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let length_of = |end: Option<usize>| end.unwrap_or(rest.len());
        let (length, token) = if rest.starts_with("//") {
            (length_of(rest.find('\n')), None)
        } else if rest.starts_with("/*") {
            (length_of(rest.find("*/").map(|at| at + 2)), None)
        } else if first.is_whitespace() {
            (first.len_utf8(), None)
        } else if let Some(length) = literal(rest) {
            (length, Some("\"\""))
        } else if is_word(first) {
            let length = length_of(rest.find(|c| !is_word(c)));
            (length, Some(&rest[..length]))
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            (length, Some(&rest[..length]))
        };
        found.extend(token.map(|text| Token { text, line }));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// The length of the string or character literal that `text` begins with. The prefixes `b` and `c`
/// stand before it as words.
fn literal(text: &str) -> Option<usize> {
    for prefix in ["r", "br", "cr"] {
        let Some(body) = text.strip_prefix(prefix) else { continue };
        let opened = body.len() - body.trim_start_matches('#').len() + 1;
        if body[opened - 1..].starts_with('"') {
            let end = format!("\"{}", &body[..opened - 1]);
            return Some(prefix.len() + opened + body[opened..].find(&end)? + end.len());
        }
    }
    if let Some(body) = text.strip_prefix('\'') {
        let escaped = body.starts_with('\\');
        let skipped = if escaped { 2 } else { body.chars().next()?.len_utf8() };
        let closed = body[skipped..].find('\'')?;
        // What has no quote after its first character is a lifetime.
        return (escaped || closed == 0).then_some(1 + skipped + closed + 1);
    }
    let mut characters = text.strip_prefix('"')?.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some(at + 2),
            '\\' => drop(characters.next()),
            _ => {}
        }
    }
    None
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 1 => return at,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
    }
    panic!("a bracket that is not closed in line {}", tokens[open].line)
}

/// Where the item ends that begins at `at` with `#[cfg(test)]` or `#[cfg(all(test, ...))]`.
fn test_item(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let start = texts(&tokens[at..tokens.len().min(at + 8)]);
    if !start.starts_with(&["#", "[", "cfg", "(", "test", ")"])
        && !start.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
    {
        return None;
    }
    let mut end = closing(tokens, at + 1) + 1;
    let mut is_use = false;
    loop {
        match tokens.get(end)?.text {
            ";" => return Some(end + 1),
            "{" if !is_use => return Some(closing(tokens, end) + 1),
            "{" | "(" | "[" => end = closing(tokens, end),
            "use" => is_use = true,
            _ => {}
        }
        end += 1;
    }
}

// --- paths --------------------------------------------------------------------------------------

type Named<'a> = (Vec<&'a str>, usize);

/// Every path of two names or more, and every path that is imported, with its line. Those within
/// the crate are resolved to begin with `crate`.
fn paths<'a>(file: Vec<&'a str>, tokens: &[Token<'a>]) -> Vec<Named<'a>> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let is_name = |at: usize| text(at).starts_with(|c: char| c.is_alphabetic() || c == '_');
    let (mut found, mut at) = (Vec::new(), 0);
    // The inline modules that we are in, and where each of them ends.
    let (mut module, mut ends) = (file, Vec::new());
    while at < tokens.len() {
        while ends.pop_if(|end| *end <= at).is_some() {
            module.pop();
        }
        let new = found.len();
        if text(at) == "mod" && text(at + 2) == "{" {
            module.push(text(at + 1));
            ends.push(closing(tokens, at + 2));
            at += 2;
        } else if text(at) == "use" && text(at + 1) != "<" {
            at = use_tree(tokens, at + 1, &[], &mut found);
        } else if is_name(at) && text(at + 1) == "::" && is_name(at + 2) {
            let rest = (at + 2..).step_by(2).take_while(|at| text(at - 1) == "::" && is_name(*at));
            let path: Vec<_> = iter::once(at).chain(rest).map(text).collect();
            let line = tokens[at].line;
            at += path.len() * 2 - 2;
            found.push((path, line));
        }
        for (path, _) in &mut found[new..] {
            let ups = path.iter().take_while(|name| **name == "super").count();
            if ups > 0 || path[0] == "self" {
                let kept = &module[..module.len().saturating_sub(ups)];
                *path = [&["crate"], kept, &path[ups.max(1)..]].concat();
            }
        }
        at += 1;
    }
    found
}

/// Reads one branch of a `use` item; returns the index of what ends it.
fn use_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<Named<'a>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        let Token { text, line } = tokens[at];
        match text {
            "{" => {
                let end = closing(tokens, at);
                while at < end {
                    at = use_tree(tokens, at + 1, &path, found);
                }
            }
            "," | ";" | "}" => return at,
            "::" => {}
            "as" => at += 1,
            _ => {
                path.push(text);
                if tokens[at + 1].text != "::" {
                    found.push((path.clone(), line));
                }
            }
        }
        at += 1;
    }
}

// --- the tests ----------------------------------------------------------------------------------

fn hold(rule: fn(&Source) -> Vec<String>) {
    let wrong: Vec<_> = sources().iter().flat_map(rule).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn imports_point_down() {
    hold(imports);
}

#[test]
fn imports_among_the_rooms_of_py_point_down() {
    hold(py_rooms);
}

#[test]
fn no_files_name_each_other_in_a_circle() {
    let wrong = circles(&sources());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn atomics_locks_and_threads_come_through_sync() {
    hold(synchronisation);
}

#[test]
fn models_run_the_code_that_ships() {
    hold(bodies);
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    hold(rooms);
}

#[test]
fn only_sys_calls_the_operating_system() {
    hold(system_calls);
}

#[test]
fn sockets_are_closed_in_one_way() {
    hold(owned_descriptors);
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    hold(unwraps);
}

#[test]
fn each_file_says_what_it_is_for() {
    hold(module_docs);
}

#[test]
fn words_that_were_given_up_stay_out() {
    hold(words);
}

#[test]
fn no_file_is_two_things() {
    hold(length);
}

#[test]
fn the_tables_list_the_modules_that_there_are() {
    hold(tables);
}

mod rules_can_fail {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), is_test: false }
    }

    /// Asserts that `text`, as the file at `path`, breaks the rule in these lines.
    #[track_caller]
    fn breaks(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, lines: &[usize]) {
        let found = rule(&source(path, text));
        let line_of =
            |wrong: &String| wrong.strip_prefix(path)?[1..].split(':').next()?.parse().ok();
        let at: Vec<usize> = found.iter().filter_map(line_of).collect();
        assert_eq!(at, lines, "{found:?}");
    }

    #[test]
    fn an_import_that_points_up() {
        let text = "use crate::sys::clock;\nuse crate::pool::Placement;\nuse crate::new;\n";
        breaks(imports, "src/reactor/driver.rs", text, &[2, 3]);
        breaks(imports, "src/scheduler/idle.rs", text, &[1, 2, 3]);
        breaks(imports, "src/metrics.rs", text, &[1, 2, 3]);
        breaks(imports, "src/py/run.rs", text, &[3]);
    }

    #[test]
    fn an_import_in_any_spelling() {
        let file = "src/sys/clock.rs";
        breaks(imports, file, "use crate::{id, reactor::{Driver, Handle as H}};\n", &[1, 1]);
        breaks(
            imports,
            file,
            "use crate::{\n    id,\n    pool,\n};\nuse crate::id::{A, B};\n",
            &[3],
        );
        breaks(imports, file, "use super::super::event_loop;\nuse super::level_trigger;\n", &[1]);
        breaks(imports, "src/sys/mod.rs", "use super::event_loop as e;\nuse self::clock;\n", &[1]);
        breaks(imports, file, "fn f() -> crate::pool::Placement {}\n", &[1]);
        breaks(imports, file, "mod a {\n    use super::super::super::pool::*;\n}\n", &[2]);
        breaks(imports, file, "mod a {\n    use super::super::x;\n}\nuse super::super::x;\n", &[4]);
        breaks(imports, file, "#[cfg(test)]\nmod tests {\n    use crate::pool;\n}\n", &[3]);
    }

    #[test]
    fn an_import_of_py() {
        for path in ["src/pool/builder.rs", "src/sync.rs", "src/lib.rs"] {
            breaks(imports, path, "\nuse crate::py::core;\n", &[2]);
        }
        breaks(imports, "src/lib.rs", "mod py;\nuse self::py::core;\npub use pool::x;\n", &[2]);
        breaks(imports, "src/py/io.rs", "use super::core;\nuse crate::py::run;\n", &[]);
    }

    #[test]
    fn a_word_that_was_given_up() {
        let text = "// Crews, an errand\nlet next_errand = 1;\nlet stint = 2;\nlet summon = 3;\nlanes();\n";
        breaks(words, "src/pool/x.rs", text, &[1, 1, 2, 3, 5]);
    }

    #[test]
    fn a_room_of_py_that_names_one_above() {
        let text = "use crate::py::pool::spawn;\nuse super::core;\nuse crate::py::asyncio::x;\n";
        breaks(py_rooms, "src/py/event_loop/run.rs", text, &[1]);
        breaks(py_rooms, "src/py/pool/spawn.rs", text, &[]);
        breaks(py_rooms, "src/py/event_loop/run.rs", "use super::super::pool::spawn;\n", &[1]);
        breaks(py_rooms, "src/py/attic/x.rs", "", &[1]);
    }

    #[test]
    fn files_that_name_each_other() {
        let files = |last: &str| {
            [
                ("src/pool/mod.rs", "mod a;\nmod b;\nmod c;\npub use c::Shown;\n"),
                ("src/pool/a.rs", "use super::b::B;\n"),
                ("src/pool/b.rs", "use super::Shown;\n"),
                ("src/pool/c.rs", last),
            ]
            .map(|(path, text)| source(path, text))
        };
        let long = circles(&files("use crate::pool::a::A;\n"));
        let named = ["src/pool/a.rs", "src/pool/b.rs", "src/pool/c.rs"];
        assert_eq!(long, [format!("{} name each other in a circle", named.join(", "))]);
        assert_eq!(circles(&files("// use super::a::A;\n")), Vec::<String>::new());
        let in_tests = "#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}\n";
        assert_eq!(circles(&files(in_tests)), Vec::<String>::new());
    }

    #[test]
    fn only_by_code_and_not_by_words() {
        let text = "//! crate::pool\n/* crate::pool */\nfn f<'a>() {\n\"crate::pool \\\" \
                    crate::pool\";\nr#\"\"crate::pool\"#; b'\\''; '\"'; '\\u{41}'; b\"\\\\\";\n}\n";
        breaks(imports, "src/id.rs", text, &[]);
        breaks(imports, "src/id.rs", &format!("{text}use crate::pool;\n"), &[7]);
    }

    #[test]
    fn atomics_past_the_door() {
        let text = "use std::sync::{Arc, Mutex};\nuse std::sync::atomic::AtomicU8;\n\
                    use std::sync;\nuse core::sync::atomic;\nuse std::{sync::OnceLock, thread};\n\
                    use std::cell::UnsafeCell;\nfn f() { std::thread::spawn(g); }\n";
        breaks(synchronisation, "src/event_loop/inbox.rs", text, &[1, 2, 3, 4, 5, 5, 6, 7]);
        breaks(synchronisation, "src/py/state.rs", text, &[1, 3, 5, 7]);
        breaks(synchronisation, "src/sync.rs", text, &[]);
        breaks(synchronisation, "src/id.rs", "use crate::sync::{Mutex, atomic, thread};\n", &[]);
        let text = "use crate::sync::atomic::{\nOrdering::{Relaxed, SeqCst},\nfence};\n";
        breaks(synchronisation, "src/pool/team.rs", text, &[2, 3]);
        breaks(synchronisation, "src/py/io.rs", &text.replace("crate", "std"), &[2, 3]);
        breaks(synchronisation, "src/sync/announce.rs", text, &[]);
    }

    #[test]
    fn a_body_that_no_model_runs() {
        let text = "const SIZE: usize = if cfg!(loom) { 2 } else { 9 };\n#[cfg(not(loom))]\n\
                    fn f() {}\nfn g() { if cfg!(loom) { f() } }\n#[cfg(all(test, loom))]\nmod m;\n";
        breaks(bodies, "src/event_loop/current.rs", text, &[2, 4]);
        breaks(bodies, "src/scheduler/deque.rs", text, &[]);
    }

    #[test]
    fn a_crate_out_of_its_room() {
        let text = "use mio::Poll;\nuse pyo3::prelude::*;\nfn f() { num_cpus::get() }\nuse loom;\n\
                    use crossbeam_deque::Worker;\n";
        breaks(rooms, "src/reactor/driver.rs", text, &[2, 3, 4, 5]);
        breaks(rooms, "src/scheduler/deque.rs", text, &[1, 2, 3, 4]);
        breaks(rooms, "src/py/io.rs", text, &[1, 3, 4, 5]);
        let model = Source { is_test: true, ..source("src/pool/loom_tests.rs", "use loom::x;\n") };
        assert!(rooms(&model).is_empty());
    }

    #[test]
    fn a_system_call_outside_of_sys() {
        let text = "fn f() {\n    libc::close(3);\n    libc::EBADF;\n    libc::EPOLLIN;\n}\n\
                    #[cfg(test)]\nmod tests {\n    fn g() { libc::dup(3); }\n}\n";
        breaks(system_calls, "src/reactor/handle.rs", text, &[2, 4]);
        breaks(system_calls, "src/reactor/handle.rs", "use libc::{EPERM, c_int};\n", &[1]);
        breaks(system_calls, "src/sys/clock.rs", text, &[]);
    }

    #[test]
    fn a_descriptor_that_anybody_closes() {
        let text = "use std::os::fd::{AsRawFd, OwnedFd};\nuse std::net::TcpStream;\n\
                    fn f(fd: std::os::fd::OwnedFd) {}\n\
                    #[cfg(test)]\nmod tests {\n    use std::os::fd::OwnedFd;\n}\n";
        breaks(owned_descriptors, "src/py/stream.rs", text, &[1, 2, 3]);
        breaks(owned_descriptors, "src/pool/acceptor.rs", text, &[1, 2, 3]);
        breaks(owned_descriptors, "src/py/cpython/closing.rs", text, &[]);
        breaks(owned_descriptors, "src/sys/socket.rs", text, &[]);
    }

    #[test]
    fn an_unwrap_outside_of_tests() {
        let text = "fn f() {\n x.unwrap();\n x\n  .expect(\"y\");\n x.unwrap_or(1);\n\
                    x.map(Option::unwrap);\n}\n#[cfg(all(test, not(loom)))]\nmod tests {\n\
                    fn g() { x.unwrap(); }\n}\n#[cfg(test)]\npub use a::{b};\nfn h() { x.unwrap(); }\n\
                    #[cfg(not(test))]\nfn i() { x.unwrap(); }\n#[cfg(any(test, loom))]\n\
                    fn j() { x.unwrap(); }\n";
        breaks(unwraps, "src/id.rs", text, &[2, 4, 6, 14, 16, 18]);
    }

    #[test]
    fn a_file_without_docs() {
        breaks(module_docs, "src/reactor/handle.rs", "use std::io;\n", &[1]);
        breaks(module_docs, "src/reactor/mod.rs", "//! Mio.\n", &[1]);
        breaks(module_docs, "src/id.rs", "//! Ids.\n//!\n//! Must never: be zero.\n", &[]);
    }

    #[test]
    fn a_file_too_long() {
        breaks(length, "src/id.rs", &"\n".repeat(MAX_LINES), &[]);
        breaks(length, "src/id.rs", &"\n".repeat(MAX_LINES + 1), &[MAX_LINES + 1]);
    }

    #[test]
    fn a_module_in_no_table() {
        let drawn: Vec<_> = LAYERS.iter().map(|(name, _)| format!("//!  {name} x\n")).collect();
        let all = LAYERS.iter().chain(SERVANTS);
        let modules: Vec<_> = all.map(|(name, _)| format!("pub mod {name};\n")).collect();
        let after = drawn.len() + modules.len() + 1;
        let (drawn, modules) = (drawn.concat(), modules.concat());
        breaks(tables, "src/lib.rs", &format!("{drawn}{modules}"), &[]);
        breaks(tables, "src/lib.rs", &format!("{drawn}{modules}mod new;\n"), &[after]);
        breaks(tables, "src/lib.rs", &format!("{drawn}{}", modules.replace("mod id;", "")), &[1]);
        breaks(tables, "src/lib.rs", &format!("//!  py x\n{modules}"), &[1]);
    }

    #[test]
    fn a_file_of_tests_is_known_by_its_declaration() {
        let text = "mod a;\n#[cfg(all(test, loom))]\nmod loom_tests;\n#[cfg(test)]\nmod b {}\n";
        let tests = source("src/pool/mod.rs", text).test_modules();
        assert_eq!(tests, ["pool::loom_tests"]);
        for (path, is_test) in [
            ("src/pool/loom_tests.rs", true),
            ("src/pool/loom_tests/more.rs", true),
            ("src/pool/loom_tests_not.rs", false),
            ("src/pool/mod.rs", false),
        ] {
            assert_eq!(source(path, "").is_within(&tests), is_test, "{path}");
        }
    }
}
