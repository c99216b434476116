//! Environments and the templates that are compiled in them.

use std::{fmt, sync::Arc};

use harness_core::Limits;
use minijinja::{
    AutoEscape, Environment, Error, Output, State, Value,
    machinery::{eval, make_string_output},
    syntax::SyntaxConfig,
};
use self_cell::self_cell;

use crate::{
    budget::with_budget,
    compile::{Compiled, compile},
    filters::admit_method,
    weight,
};

/// Prints a value.
pub type Formatter = fn(&mut Output, &mut State, &Value) -> Result<(), Error>;

/// Calls a method of a value that is none of Jinja's own.
pub type Methods = fn(&mut State, &Value, &str, &[Value]) -> Result<Value, Error>;

/// What the templates of one kind share: filters, tests, functions, syntax, how values print, and limits.
#[derive(Clone)]
pub struct Jinja {
    environment: Arc<Environment<'static>>,
    syntax: SyntaxConfig,
    limits: Limits,
}

impl Jinja {
    /// Puts limits around an [`environment`](crate::environment) with all of its filters; nothing is escaped, and templates
    /// stored in it cannot be used.
    pub fn new(
        mut environment: Environment<'static>,
        syntax: SyntaxConfig,
        formatter: Formatter,
        methods: Methods,
        limits: Limits,
    ) -> Self {
        environment.clear_templates();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_syntax(syntax.clone());
        environment.set_fuel(Some(limits.template_instructions));
        environment.set_debug(true);
        environment.set_unknown_method_callback(move |state, value, name, arguments| {
            admit_method(value, name, arguments)?;
            methods(state, value, name, arguments)
        });
        environment.set_formatter(move |out, state, value| {
            weight::weigh(value)?;
            formatter(out, state, value)
        });
        Self { environment: Arc::new(environment), syntax, limits }
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// If it is not valid Jinja, or longer than the limits allow.
    pub fn compile(&self, source: &str) -> Result<Template, Error> {
        let owner =
            Owner { environment: Arc::clone(&self.environment), source: source.to_owned(), limits: self.limits };
        let compiled = Inner::try_new(owner, |owner| compile(&owner.source, &self.syntax, owner.limits))?;
        Ok(Template(Arc::new(compiled)))
    }
}

impl fmt::Debug for Jinja {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jinja").field("limits", &self.limits).finish_non_exhaustive()
    }
}

struct Owner {
    environment: Arc<Environment<'static>>,
    source: String,
    limits: Limits,
}

self_cell!(
    struct Inner {
        owner: Owner,
        #[covariant]
        dependent: Compiled,
    }
);

/// A compiled template; clones share it.
#[derive(Clone)]
pub struct Template(Arc<Inner>);

impl Template {
    /// The source.
    pub fn source(&self) -> &str {
        &self.0.borrow_owner().source
    }

    /// Renders with the variables of `root`.
    ///
    /// # Errors
    /// What the template stumbled over, or the limit that it exceeds.
    pub fn render(&self, root: Value) -> Result<String, Error> {
        let limits = self.0.borrow_owner().limits;
        self.0.with_dependent(|owner, compiled| {
            let mut text = String::new();
            let mut out = make_string_output(&mut text);
            with_budget(limits, || {
                eval(&owner.environment, &compiled.main, root, &compiled.blocks, &mut out, AutoEscape::None).map(drop)
            })?;
            drop(out);
            Ok(text)
        })
    }

    /// Names that the template uses and does not define.
    pub fn undeclared(&self) -> Vec<String> {
        let owner = self.0.borrow_owner();
        let template = owner.environment.template_from_str(&owner.source);
        let mut names: Vec<String> =
            template.map(|template| template.undeclared_variables(false).into_iter().collect()).unwrap_or_default();
        names.sort();
        names
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({} bytes)", self.source().len())
    }
}
