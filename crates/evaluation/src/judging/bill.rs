//! What answers took: tokens as the server told them, and cost; and what one run did for them.

use std::fmt::Write as _;

use harness_core::{Request, Response};
use harness_http::{EndpointStats, billed};
use serde_json::{Value, json};

use crate::models::Ready;

/// Tokens and cost of some answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bill {
    /// Answers.
    pub answers: usize,
    /// Tokens of prompts, and tokens generated; upper bounds where they are not told.
    pub tokens: [u64; 2],
    /// Answers whose count of the one or the other is not told.
    pub untold: [usize; 2],
    /// Tokens that the prices hold for.
    billed: [u64; 2],
    /// Cost, where there are prices; at most this where counts are not told. Of attempts that led to no answer nothing is
    /// known later, so they are not in it.
    pub cost: f64,
}

impl Bill {
    /// Counts an answer in; all of one bill are of one model.
    pub fn add(&mut self, ready: &Ready, request: &Request, response: &Response) {
        let usage = &response.usage;
        let (prompt, completion) = (usage.prompt_tokens, usage.completion_tokens);
        self.answers += 1;
        for (at, tokens, untold) in [(0, prompt, usage.prompt_untold), (1, completion, usage.completion_untold)] {
            self.tokens[at] += tokens as u64;
            self.untold[at] += usize::from(untold);
        }
        if let Some(endpoint) = ready.model.endpoint() {
            let (prompt, completion) = billed(request, usage);
            self.billed[0] += prompt as u64;
            self.billed[1] += completion as u64;
            // Of the sums, so that it is the same in whatever order answers came.
            self.cost = endpoint.options().cost(self.billed[0] as f64, self.billed[1] as f64);
        }
    }

    /// Counts others in.
    pub fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        for at in 0..2 {
            self.tokens[at] += other.tokens[at];
            self.untold[at] += other.untold[at];
            self.billed[at] += other.billed[at];
        }
        self.cost += other.cost;
    }

    /// Whether every count is told.
    pub fn is_told(&self) -> bool {
        self.untold == [0, 0]
    }

    /// The counts in words; empty without any.
    pub fn text(&self) -> String {
        let Self { answers, tokens: [prompt, answer], untold, .. } = self;
        if *untold == [*answers; 2] && *answers > 0 {
            return format!(
                "; token counts not reported by the server, at most {prompt} prompt and {answer} answer tokens"
            );
        }
        let mut text = match (prompt, answer) {
            (0, 0) => return String::new(),
            (prompt, 0) => format!("; {prompt} prompt tokens"),
            (prompt, answer) => format!("; {prompt} prompt and {answer} answer tokens"),
        };
        for (untold, what) in untold.iter().zip(["prompt", "answer"]).filter(|(untold, _)| **untold > 0) {
            let _ = write!(
                text,
                ", of which the {what} tokens of {untold} answers are upper bounds (not reported, or impossible)"
            );
        }
        text
    }

    /// The counts for programs: null where the server did not tell all of them, with the upper bound beside it.
    pub fn object(&self) -> Value {
        let told = |at: usize| (self.untold[at] == 0).then_some(self.tokens[at]);
        let mut object = json!({"prompt_tokens": told(0), "completion_tokens": told(1), "cost": self.cost});
        if !self.is_told() {
            object["prompt_tokens_at_most"] = json!(self.tokens[0]);
            object["completion_tokens_at_most"] = json!(self.tokens[1]);
        }
        object
    }
}

/// What one run did to get answers that it did not find in the store; another run of the same does something else.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunBill {
    /// Answers that were asked for.
    pub requested: usize,
    /// Attempts that had to be repeated: throttled, and failed for other reasons.
    pub repeated: [u64; 2],
    /// What was spent, attempts that failed and were paid included.
    pub spent: f64,
    /// Seconds.
    pub seconds: f64,
}

impl RunBill {
    /// Sets attempts and money from what an endpoint had done before and has done now.
    pub fn since(&mut self, before: Option<EndpointStats>, ready: &Ready) {
        if let (Some(before), Some(endpoint)) = (before, ready.model.endpoint()) {
            let after = endpoint.usage();
            self.repeated = [after.throttled - before.throttled, after.retried - before.retried];
            self.spent = after.cost - before.cost;
        }
    }

    /// Counts others in.
    pub fn merge(&mut self, other: &Self) {
        self.requested += other.requested;
        for at in 0..2 {
            self.repeated[at] += other.repeated[at];
        }
        self.spent += other.spent;
        self.seconds += other.seconds;
    }

    /// In words, of so many answers in all.
    pub fn text(&self, answers: usize) -> String {
        let stored = answers.saturating_sub(self.requested);
        let mut text = format!("{} answers requested, {stored} from the store", self.requested);
        if self.repeated != [0, 0] {
            let _ = write!(text, "; {} attempts repeated, {} throttled", self.repeated[1], self.repeated[0]);
        }
        if self.spent > 0.0 {
            let _ = write!(text, "; spent {:.4}", self.spent);
        }
        text
    }

    /// For programs, of so many answers in all.
    pub fn object(&self, answers: usize) -> Value {
        json!({
            "requested": self.requested, "from_store": answers.saturating_sub(self.requested),
            "throttled": self.repeated[0], "repeated": self.repeated[1], "spent": self.spent, "seconds": self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_no_count() {
        let bill = |untold: [usize; 2]| Bill { answers: 4, tokens: [90, 20], untold, ..Bill::default() };
        assert_eq!(bill([0, 0]).text(), "; 90 prompt and 20 answer tokens");
        assert_eq!(
            bill([4, 4]).text(),
            "; token counts not reported by the server, at most 90 prompt and 20 answer tokens"
        );
        assert!(
            bill([0, 3])
                .text()
                .ends_with("of which the answer tokens of 3 answers are upper bounds (not reported, or impossible)")
        );
        assert_eq!(Bill::default().text(), "");
        let object = bill([0, 3]).object();
        assert_eq!((&object["prompt_tokens"], &object["completion_tokens"]), (&json!(90), &Value::Null));
        assert_eq!(object["completion_tokens_at_most"], 20);
    }
}
