//! Where prompts come from.

use super::prompt::Prompt;

/// Gives prompts, each with a number of its own; it may get more of them while others are continued.
pub(crate) trait Source {
    /// The next prompt, if there is one now and it fits.
    fn next(&mut self, fits: &dyn Fn(&Prompt) -> bool) -> Option<(usize, Prompt)>;

    /// Called when nothing is left to do: waits until there may be a prompt. False if none will come.
    fn wait(&mut self) -> bool {
        false
    }

    /// Whether somebody still wants the text of a prompt that was given. If not, its place is free at once.
    fn wants(&self, _index: usize) -> bool {
        true
    }
}

/// A fixed list; the numbers of its prompts are their positions.
pub(crate) struct List {
    prompts: Vec<Option<Prompt>>,
    /// What is left, the next one last.
    order: Vec<usize>,
}

impl List {
    /// Prompts that begin alike are given one after the other, those of a model before those of the next: where there is not
    /// room for all, earlier answers are drafts for later ones.
    pub(crate) fn new(prompts: Vec<Prompt>) -> Self {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        let key = |at: usize| (prompts[at].model, &prompts[at].tokens, at);
        order.sort_by(|&a, &b| key(b).cmp(&key(a)));
        Self { prompts: prompts.into_iter().map(Some).collect(), order }
    }
}

impl Source for List {
    fn next(&mut self, fits: &dyn Fn(&Prompt) -> bool) -> Option<(usize, Prompt)> {
        let index = *self.order.last()?;
        let prompt = self.prompts[index].take_if(|prompt| fits(prompt))?;
        self.order.pop();
        Some((index, prompt))
    }
}
