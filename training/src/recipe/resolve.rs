//! A recipe with everything it names found: base, template and data.

use std::path::PathBuf;

use harness_core::{Digest, Hasher};
use harness_engine::{ChatContext, ChatTemplate, DateUse, TextTokenizer};
use harness_python::CivilTime;
use harness_store::{DataFiles, DataLocator, DataQuery, FileHashes};

use super::{Method, Recipe};
use crate::{
    TrainingError,
    data::{Chat, Prepared, Template, prepare},
};

/// A recipe that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRecipe {
    /// The recipe as written.
    pub recipe: Recipe,
    /// The model to start from, as the experiment or the recipe names it; `None` from scratch.
    pub base: Option<String>,
    /// How rows become text.
    pub template: Template,
    /// The files of the data.
    pub data: DataFiles,
    /// Where prepared data are kept, if anywhere.
    pub cache: Option<PathBuf>,
}

impl Recipe {
    /// Finds what the recipe names. `base` is what the experiment says; it goes before what the recipe says.
    ///
    /// # Errors
    /// If there is no base and nothing to make from scratch, if both are there, if the template or the data does not
    /// exist. Nothing large is read.
    pub fn resolve(&self, base: Option<&str>, locator: &DataLocator) -> Result<ResolvedRecipe, TrainingError> {
        let base = base.or(self.base.as_deref());
        match (base, &self.model) {
            (None, None) => {
                let or = if self.method == Method::Full { ", or a [model] table to make one from scratch" } else { "" };
                return Err(self.problem(
                    "base",
                    format!("is missing; expected a model to start from, in the recipe, in the experiment or with --base{or}"),
                ));
            }
            (Some(base), Some(_)) => {
                let message =
                    format!("is {base:?}; expected none, since the recipe makes its model from scratch ([model])");
                return Err(self.problem("model", message));
            }
            _ => {}
        }
        let template = Template::load(&self.data.template, &self.folder).map_err(|error| self.place(error))?;
        let name = match (&self.data.source, &self.data.dataset) {
            (Some(source), _) => {
                let path = self.path(source);
                let path = std::path::absolute(&path).map_err(TrainingError::io("find", &path))?;
                if !path.exists() {
                    let (source, path) = (source.display(), path.display());
                    let message = format!("is \"{source}\", but there is no {path}; paths are relative to the recipe");
                    return Err(self.problem("data.source", message));
                }
                path.to_string_lossy().into_owned()
            }
            (None, Some(name)) => name.clone(),
            (None, None) => {
                return Err(self.problem("data", "has neither source (a file) nor dataset (a name); give one"));
            }
        };
        let data = locator.locate(&DataQuery::new(name, &self.data.dataset_split))?;
        Ok(ResolvedRecipe { recipe: self.clone(), base: base.map(str::to_owned), template, data, cache: None })
    }
}

impl ResolvedRecipe {
    /// Keeps prepared data in this folder, and looks for them there.
    pub fn with_cache(self, folder: PathBuf) -> Self {
        Self { cache: Some(folder), ..self }
    }

    /// What conversations are rendered with over a base that has this tokenizer and chat template; `None` if the recipe's
    /// template needs nothing of the kind.
    ///
    /// # Errors
    /// If the recipe gives variables or a date that the chat template does not know, or lacks a date that it needs.
    pub fn chat<'a>(
        &self,
        tokenizer: &'a TextTokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<Option<Chat<'a>>, TrainingError> {
        const KWARGS: &str = "data.chat_template_kwargs";
        const DATE: &str = "data.date";
        let options = &self.recipe.data;
        let variables = options.chat_template_kwargs.variables();
        let now = options.date.as_deref().map(CivilTime::parse_date).transpose();
        let now = now.map_err(|reason| self.recipe.problem(DATE, format!("is {reason}")))?;
        if !self.template.uses_chat_template() {
            let stray = [(KWARGS, !variables.is_empty()), (DATE, now.is_some())];
            return match stray.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => {
                    Err(self.recipe.problem(key, "has no effect: the recipe's template is not a chat template"))
                }
                None => Ok(None),
            };
        }
        let context = ChatContext { variables: variables.clone(), now, ..ChatContext::default() };
        let chat = Chat::new(template, tokenizer, self.recipe.dpo.is_some(), context)?;
        if let Some(name) = variables.keys().find(|name| !chat.template().mentions(name)) {
            return Err(self.recipe.problem(KWARGS, format!("names {name:?}, which the chat template does not use")));
        }
        if now.is_none() && chat.template().date_use() == DateUse::Always {
            let message = "is missing; the chat template shows the date: expected a day such as \"2025-01-30\"";
            return Err(self.recipe.problem(DATE, message));
        }
        Ok(Some(chat))
    }

    /// Reads the data and makes its three parts.
    ///
    /// # Errors
    /// If a file is bad (naming the line) or does not have what recipe and template need (naming the row).
    pub fn prepare(&self, chat: Option<&Chat<'_>>) -> Result<Prepared, TrainingError> {
        let mut prepared = prepare(self.data.rows()?, &self.template, &self.recipe.data, &self.data, chat)?;
        if self.recipe.dpo.is_none() && self.template.rejected.is_some() {
            let counts = &mut prepared.counts;
            let used = counts.train + counts.validation + counts.test;
            counts.remarks.insert("the rejected answer is not used, as the recipe has no [dpo]".to_owned(), used);
        }
        Ok(prepared)
    }

    /// Hash of recipe, templates and the content of the data files; with the identity of the base it names the result.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn digest(&self, chat_template: Option<&ChatTemplate>, hashes: &FileHashes) -> Result<Digest, TrainingError> {
        let mut hasher = Hasher::new("resolved recipe");
        hasher.part(self.recipe.hash().as_bytes()).part(self.template.digest().as_bytes());
        if let Some(template) = chat_template.filter(|_| self.template.uses_chat_template()) {
            hasher.part(template.digest().as_bytes());
        }
        for entry in self.data.entries(hashes)? {
            hasher.part(entry.hash.as_bytes());
        }
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn finds_files_beside_the_recipe_and_named_sets() {
        let folder = tempfile::tempdir().unwrap();
        let row = "{\"instruction\": \"a\", \"response\": \"b\"}\n";
        fs::write(folder.path().join("rows.jsonl"), row.repeat(20)).unwrap();
        fs::create_dir_all(folder.path().join("sets/dolly")).unwrap();
        fs::write(folder.path().join("sets/dolly/train.jsonl"), row.repeat(10)).unwrap();
        let recipe = |data: &str, base: &str| {
            let text = format!(
                "name = \"r\"\n{base}\nmethod = \"lora\"\n[data]\n{data}\n[lora]\nrank = 1\nalpha = 1\n[training]\n\
                 epochs = 1\nlearning_rate = 1"
            );
            let path = folder.path().join("r.toml");
            fs::write(&path, text).unwrap();
            Recipe::load(&path).unwrap()
        };
        let locator = DataLocator { data_dirs: vec![folder.path().join("sets")], ..DataLocator::default() };
        let hashes = FileHashes::open(folder.path());

        let file = recipe("source = \"rows.jsonl\"", "base = \"x\"").resolve(None, &locator).unwrap();
        assert_eq!((file.base.as_deref(), file.prepare(None).unwrap().counts.train), (Some("x"), 16));
        let named = recipe("dataset = \"dolly\"", "base = \"x\"").resolve(Some("y"), &locator).unwrap();
        assert_eq!((named.base.as_deref(), named.prepare(None).unwrap().counts.train), (Some("y"), 8));
        assert_ne!(file.digest(None, &hashes).unwrap(), named.digest(None, &hashes).unwrap());

        let refused = |data, base| recipe(data, base).resolve(None, &locator).unwrap_err().to_string();
        assert!(refused("dataset = \"dolly\"", "").contains("a model to start from"));
        assert!(refused("dataset = \"dally\"", "base = \"x\"").contains("dally"));
        assert!(refused("source = \"none.jsonl\"", "base = \"x\"").contains("none.jsonl"));
        let template = refused("source = \"rows.jsonl\"\ntemplate = \"plian\"", "base = \"x\"");
        assert!(template.contains("did you mean \"plain\"?"), "{template}");
    }
}
