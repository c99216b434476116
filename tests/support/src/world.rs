//! A folder with models, tasks and an experiment, in which the program is run.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    model::{Dims, tiny_adapter, tiny_model},
    outcome::Outcome,
    tasks,
};

/// The experiment of the folder.
pub const EXPERIMENT: &str = r#"include_path = ["tasks"]

[models.base]
path = "models/base"
[models.other]
path = "models/other"
[models.a4]
adapter = "adapters/a4"
base = "base"
[models.a8]
adapter = "adapters/a8"
base = "base"
[models.zero]
adapter = "adapters/zero"
base = "base"
[models.r4]
recipe = "recipes/r4.toml"
base = "base"
[suites.toy]
tasks = ["toy_choice", "toy_answer", "toy_text"]
[compare]
suite = "toy"
resamples = 200
"#;

/// The recipe of the folder.
pub const RECIPE: &str = r#"name = "r4"
method = "lora"

[data]
source = "../data/instructions.jsonl"
template = "instruction"
max_length = 256
[lora]
rank = 4
alpha = 8
[training]
max_steps = 6
batch_size = 2
learning_rate = 1e-3
eval_steps = 2
log_steps = 2
"#;

/// Models `base` and `other`, adapters `a4`, `a8` and `zero` over `base`, a recipe `r4`, tasks `toy_choice`,
/// `toy_answer` and `toy_text`; all of it gone when it is dropped.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    program: PathBuf,
}

impl World {
    /// A whole world.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn new(program: &str) -> Self {
        let world = Self::empty(program);
        let dims = Dims::default();
        tiny_model(&world.path("models/base"), 1, dims);
        tiny_model(&world.path("models/other"), 2, dims);
        tiny_adapter(&world.path("adapters/a4"), "base", dims, 4, 3, false);
        tiny_adapter(&world.path("adapters/a8"), "base", dims, 8, 4, false);
        tiny_adapter(&world.path("adapters/zero"), "base", dims, 4, 5, true);
        world.write("harness.toml", EXPERIMENT);
        world.write("recipes/r4.toml", RECIPE);
        world.write("data/instructions.jsonl", tasks::lines(&tasks::instruction_rows(60)));
        world.write("tasks/toy_choice.yaml", tasks::CHOICE);
        world.write("tasks/toy_choice.jsonl", tasks::lines(&tasks::choice_rows(12)));
        world.write("tasks/toy_answer.yaml", tasks::ANSWER);
        world.write("tasks/toy_answer.jsonl", tasks::lines(&tasks::answer_rows(8)));
        world.write("tasks/toy_text.yaml", tasks::TEXT);
        world.write("tasks/toy_text.jsonl", tasks::lines(&tasks::text_rows(4)));
        world
    }

    /// A folder with nothing in it.
    ///
    /// # Panics
    /// If there is no place for it.
    pub fn empty(program: &str) -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), program: program.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders above it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Reads a file.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.bytes(name)).into_owned()
    }

    /// Reads a file.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Copies a file, or a folder of files.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn copy(&self, from: &str, to: &str) {
        let (from_path, to_path) = (self.path(from), self.path(to));
        if from_path.is_file() {
            fs::create_dir_all(to_path.parent().expect("a file in a folder")).expect("a folder");
            fs::copy(&from_path, &to_path).expect("a copy");
            return;
        }
        fs::create_dir_all(&to_path).expect("a folder");
        for entry in fs::read_dir(&from_path).expect("a folder to copy") {
            let name = entry.expect("an entry").file_name();
            let name = name.to_string_lossy();
            self.copy(&format!("{from}/{name}"), &format!("{to}/{name}"));
        }
    }

    /// Replaces text in a file.
    ///
    /// # Panics
    /// If the file does not contain it.
    #[track_caller]
    pub fn replace(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} does not contain {from:?}");
        self.write(name, text.replace(from, to));
    }

    /// A call of the program in the folder, in an environment without the caller's settings.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        self.surround(&mut command);
        command
    }

    /// Puts a command into the folder and an environment without the caller's settings.
    pub fn surround(&self, command: &mut Command) {
        command.current_dir(self.folder());
        for name in
            ["HARNESS_HOME", "HARNESS_DATA_DIR", "COLUMNS", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OPENAI_API_KEY"]
        {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.path("hub")).env("NO_COLOR", "1").stdin(Stdio::null());
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        Outcome::new(&self.command(args).output().expect("the program"))
    }

    /// Runs the program with text on standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Outcome {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
        // A program that refuses its arguments ends before it has read everything.
        let _ = child.stdin.take().expect("its standard input").write_all(input.as_bytes());
        Outcome::new(&child.wait_with_output().expect("its end"))
    }

    /// Starts the program with its output in the files `<name>.out` and `<name>.err`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, name: &str, args: &[S]) -> Child {
        let file = |end: &str| File::create(self.path(format!("{name}.{end}"))).expect("a file for output");
        self.command(args).stdout(file("out")).stderr(file("err")).spawn().expect("the program")
    }

    /// The end of a process made by [`World::start`].
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn finish(&self, name: &str, mut child: Child) -> Outcome {
        let status = child.wait().expect("its end");
        Outcome {
            code: status.code(),
            stdout: self.read(&format!("{name}.out")),
            stderr: self.read(&format!("{name}.err")),
        }
    }

    /// The segments of the run store, sorted.
    pub fn segments(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = vec![];
        let models = fs::read_dir(self.path(".harness/store/responses")).into_iter().flatten().flatten();
        for model in models {
            let files = fs::read_dir(model.path()).into_iter().flatten().flatten().map(|entry| entry.path());
            found.extend(files.filter(|path| path.extension().is_some_and(|e| e == "jsonl")));
        }
        found.sort();
        found
    }

    /// Responses in the run store: whole lines of all segments.
    pub fn stored(&self) -> usize {
        let lines = |path: &PathBuf| fs::read(path).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
        self.segments().iter().map(lines).sum()
    }

    /// Text with the folder's path replaced.
    pub fn hide_path(&self, text: &str) -> String {
        let real = fs::canonicalize(self.folder()).unwrap_or_else(|_| self.folder().to_owned());
        [self.folder(), real.as_path()].iter().fold(text.to_owned(), |text, path| {
            let path = path.to_string_lossy();
            text.replace(&*path, "[DIR]").replace(&path.replace('/', "--"), "[DIR]")
        })
    }
}
