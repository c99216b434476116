//! Which files of a crate take names from which, read from their text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A module's place in its crate; the root's is empty.
type Module = Vec<String>;

/// The files of a crate and the names that they take from each other.
pub struct Imports {
    files: BTreeMap<Module, PathBuf>,
    /// Paths of `use` items and of names in the code, by the module that they stand in.
    paths: BTreeMap<Module, Vec<Taken>>,
}

struct Taken {
    path: Vec<String>,
    /// The name under which it is known here.
    name: String,
    /// Whether it is handed on to others and not used here.
    handed_on: bool,
}

impl Imports {
    /// Of the crate whose sources lie in a folder.
    ///
    /// # Panics
    /// If a file cannot be read.
    pub fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        walk(folder, &mut vec![], &mut files);
        let paths = files
            .iter()
            .map(|(module, file)| {
                let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
                (module.clone(), taken(&code(&text)))
            })
            .collect();
        Self { files, paths }
    }

    /// Files by the files that they take names from; tests are left out, and so are names that a module and the modules in
    /// its folder take from each other.
    pub fn arrows(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut arrows: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (module, taken) in &self.paths {
            let from = self.files[module].as_path();
            for taken in taken.iter().filter(|taken| !taken.handed_on) {
                // A module and those above it are one room.
                if let Some(home) = self.home(module, &taken.path, 0)
                    && !home.starts_with(module)
                    && !module.starts_with(&home)
                {
                    arrows.entry(from).or_default().insert(self.files[&home].as_path());
                }
            }
        }
        arrows
    }

    /// Groups of files of which each takes names, directly or not, from every other.
    pub fn circles(&self) -> Vec<Vec<PathBuf>> {
        let arrows = self.arrows();
        let reached = |from: &Path| -> BTreeSet<PathBuf> {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
            while let Some(file) = open.pop() {
                for to in arrows.get(file.as_path()).into_iter().flatten() {
                    if seen.insert(to.to_path_buf()) {
                        open.push(to.to_path_buf());
                    }
                }
            }
            seen
        };
        let all: BTreeMap<PathBuf, BTreeSet<PathBuf>> =
            self.files.values().map(|file| (file.clone(), reached(file))).collect();
        let mut circles: Vec<Vec<PathBuf>> = vec![];
        for (file, to) in all.iter().filter(|(file, to)| to.contains(*file)) {
            if circles.iter().any(|circle| circle.contains(file)) {
                continue;
            }
            circles.push(to.iter().filter(|other| all[*other].contains(file)).cloned().collect());
        }
        circles
    }

    /// The module whose file a path leads to, where a name is handed on the one that has it.
    fn home(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (vec![], &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let mut at = from.clone();
                let ups = path.iter().take_while(|part| *part == "super").count();
                at.truncate(at.len().checked_sub(ups)?);
                (at, &path[ups..])
            }
            first => {
                let child: Module = from.iter().cloned().chain([first.to_owned()]).collect();
                self.files.contains_key(&child).then_some((child, &path[1..]))?
            }
        };
        while let Some(next) = rest.first() {
            let child: Module = at.iter().cloned().chain([next.clone()]).collect();
            if !self.files.contains_key(&child) {
                break;
            }
            (at, rest) = (child, &rest[1..]);
        }
        let name = rest.first().filter(|_| depth < 8);
        let on = name.and_then(|name| self.paths[&at].iter().find(|taken| taken.handed_on && taken.name == *name));
        on.and_then(|taken| self.home(&at, &taken.path, depth + 1)).or(Some(at))
    }
}

fn walk(folder: &Path, module: &mut Module, files: &mut BTreeMap<Module, PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            module.push(stem);
            walk(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|end| end == "rs") {
            let mut place = module.clone();
            if !matches!(stem.as_str(), "lib" | "main" | "mod") || !(module.is_empty() || stem == "mod") {
                place.push(stem);
            }
            files.insert(place, path);
        }
    }
}

/// A file without comments, texts, and what only tests have.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                chars.by_ref().find(|&c| c == '\n');
                out.push('\n');
            }
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                out.push_str("\"\"");
            }
            c => out.push(c),
        }
    }
    // Tests stand last in a file.
    match out.find("#[cfg(test)]\nmod ") {
        Some(at) => out[..at].to_owned(),
        None => out,
    }
}

fn taken(code: &str) -> Vec<Taken> {
    let mut found = vec![];
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let start = statement.rfind("\nuse ").map(|at| at + 1).or_else(|| statement.rfind(" use ").map(|at| at + 1));
        let start = start.or_else(|| statement.starts_with("use ").then_some(0));
        match start.filter(|&at| !statement[at..].contains(['(', '}']) || statement[at..].contains('{')) {
            Some(at) if statement.ends_with(';') => {
                let before = statement[..at].trim_end();
                let handed_on = before.ends_with("pub") || before.ends_with(')') && before.contains("pub(");
                expand(&statement[at + 4..statement.len() - 1], &mut vec![], handed_on, &mut found);
                rest.push_str(&statement[..at]);
            }
            _ => rest.push_str(statement),
        }
    }
    let words: Vec<&str> = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).collect();
    for word in words.into_iter().filter(|word| word.contains("::")) {
        let path: Vec<String> = word.trim_matches(':').split("::").map(str::to_owned).collect();
        if path.iter().all(|part| !part.is_empty()) {
            found.push(Taken { name: path.last().cloned().unwrap_or_default(), path, handed_on: false });
        }
    }
    found
}

/// The paths of a tree of a `use` item.
fn expand(tree: &str, before: &mut Vec<String>, handed_on: bool, found: &mut Vec<Taken>) {
    let tree = tree.trim();
    if tree.is_empty() {
        return;
    }
    if let Some(inner) = tree.strip_prefix('{').and_then(|tree| tree.strip_suffix('}')) {
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&inner[start..at], before, handed_on, found);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return expand(&inner[start..], before, handed_on, found);
    }
    match tree.split_once("::").filter(|(first, _)| !first.contains('{')) {
        Some((first, rest)) => {
            before.push(first.trim().to_owned());
            expand(rest, before, handed_on, found);
            before.pop();
        }
        None => {
            let (last, name) = tree.split_once(" as ").map_or((tree, tree), |(last, name)| (last.trim(), name.trim()));
            let mut path = before.clone();
            path.extend((last != "self" && last != "*").then(|| last.to_owned()));
            found.push(Taken { path, name: name.to_owned(), handed_on });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn circles_are_found_through_names_that_are_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &[
                ("lib.rs", "mod a;\nmod b;\nmod c;\npub use b::B;\n"),
                ("a.rs", "use crate::{B, c::{self, C}};\n"),
                ("b.rs", "fn f() { let _ = \"crate::c\"; super::a::g(); }\n// use crate::c;\n"),
                ("c.rs", "#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n"),
            ],
        );
        let imports = Imports::of(folder.path());
        let path = |name: &str| folder.path().join(name);
        let (a, b, c) = (path("a.rs"), path("b.rs"), path("c.rs"));
        assert_eq!(imports.arrows()[a.as_path()], BTreeSet::from([b.as_path(), c.as_path()]));
        assert_eq!(imports.circles(), [vec![a, b]]);
    }

    #[test]
    fn what_a_parent_hands_on_is_no_arrow_back() {
        let folder = tempfile::tempdir().unwrap();
        let parent = "mod child;\npub(crate) use child::C;\npub struct P;\n";
        write(
            folder.path(),
            &[("lib.rs", "mod p;\n"), ("p.rs", parent), ("p/child.rs", "use super::P;\npub struct C(P);\n")],
        );
        assert!(Imports::of(folder.path()).circles().is_empty());
    }
}
